"""Commands on objects: put, get, rm, ls, stats."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from infiniray.cli.output import fail, json_option, name_option, print_json, reports_errors, results, says
from infiniray.cli.reach import connected

__all__ = ["get", "ls", "put", "rm", "stats"]

_WRITE_BYTES = 8 << 20


@contextlib.contextmanager
def _working(what: str, total_bytes: int | None = None) -> Iterator[Any]:
    """A progress bar on standard error, if somebody watches: a callable that is told of bytes done.

    Without ``total_bytes`` it only shows that something goes on: the shard does not tell how far it is.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn()]
    if total_bytes is not None:
        columns.append(DownloadColumn(binary_units=True))
    with Progress(*columns, console=says(), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(what, total=total_bytes)
        yield lambda n_bytes: progress.update(task, advance=n_bytes)


@click.command()
@click.argument("file", type=click.Path(allow_dash=True, exists=True, dir_okay=False))
@click.argument("key")
@click.option("--ttl", help="Time to live: seconds, or text like 2h.")
@click.option("--timeout", help="Give up after: seconds, or text like 90s.")
@name_option
@json_option
@reports_errors
def put(file: str, key: str, ttl: str | None, timeout: str | None, name: str, as_json: bool) -> None:
    """Store FILE (- for standard input) under KEY, as bytes."""
    from infiniray.keys import full_key
    from infiniray.units import format_bytes, ttl_seconds

    full_key(key)
    ttl_seconds(ttl)  # before anything is read or reached
    data = _contents(file)
    n_bytes = len(data)
    with connected(name) as cache, _working(f"storing {format_bytes(n_bytes)} under {key}"):
        start_s = time.perf_counter()
        cache.put(key, data, ttl=ttl, timeout=timeout)
        elapsed_s = time.perf_counter() - start_s
    if as_json:
        print_json({"key": key, "bytes": n_bytes, "seconds": elapsed_s})
    else:
        says().print(f"stored {format_bytes(n_bytes)} under {key} in {elapsed_s * 1e3:.0f} ms", markup=False)


def _contents(file: str) -> memoryview:
    """The file's bytes, mapped rather than read; a pipe's, read."""
    if file == "-":
        return memoryview(sys.stdin.buffer.read())
    with open(file, "rb") as opened:
        if not os.fstat(opened.fileno()).st_size:  # empty; or a pipe, which does not say how much there is to come
            return memoryview(opened.read())
        return memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))  # until its last view goes


def _folder_exists(_ctx: click.Context, _param: click.Parameter, file: str) -> str:
    if file != "-" and not Path(file).parent.is_dir():
        raise click.BadParameter(f"there is no folder {str(Path(file).parent)!r}")
    return file


@click.command()
@click.argument("key")
@click.argument("file", type=click.Path(allow_dash=True, dir_okay=False), callback=_folder_exists)
@click.option("--timeout", help="Give up after: seconds, or text like 90s.")
@name_option
@json_option
@reports_errors
def get(key: str, file: str, timeout: str | None, name: str, as_json: bool) -> None:
    """Read the object under KEY into FILE (- for standard output).

    FILE is replaced when all of it has come, not before.
    """
    from infiniray.keys import full_key
    from infiniray.units import format_bytes

    full_key(key)
    if as_json and file == "-":
        raise click.UsageError("--json and the object cannot both go to standard output")
    with connected(name) as cache:
        start_s = time.perf_counter()
        data = cache.get(key, raw=True, timeout=timeout)
        elapsed_s = time.perf_counter() - start_s
        if not isinstance(data, memoryview):
            fail(f"the object under {key!r} is a {type(data).__name__}, not bytes: read it in Python")
        n_bytes = data.nbytes
        with _target(file) as target, _working(f"writing {file}", n_bytes) as done:
            flat = data.cast("B") if n_bytes else memoryview(b"")
            for start in range(0, n_bytes, _WRITE_BYTES):
                done(target.write(flat[start : start + _WRITE_BYTES]))
        del data, flat
    if as_json:
        print_json({"key": key, "bytes": n_bytes, "seconds": elapsed_s, "file": file})
    elif file != "-":
        says().print(f"read {format_bytes(n_bytes)} from {key} in {elapsed_s * 1e3:.0f} ms", markup=False)


@contextlib.contextmanager
def _target(file: str) -> Iterator[BinaryIO]:
    """Where to write; the file appears when everything is in it."""
    if file == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(file).resolve()  # what a link points to is replaced, not the link
    if path.exists() and not path.is_file():  # a device, a pipe: written to, for it must not be replaced
        with path.open("wb") as opened:
            yield opened
        return
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as created:
            yield created
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@click.command()
@click.argument("keys", nargs=-1, required=True)
@name_option
@json_option
@reports_errors
def rm(keys: tuple[str, ...], name: str, as_json: bool) -> None:
    """Delete the objects under KEYS. Exit code 1 if one was not there."""
    from infiniray.keys import full_key

    for key in keys:  # all of them, before any object is deleted
        full_key(key)
    with connected(name) as cache:
        found = {key: cache.delete(key) for key in keys}
    if as_json:
        print_json(
            {
                "deleted": [key for key, was in found.items() if was],
                "missing": [k for k, was in found.items() if not was],
            }
        )
    for key, was in found.items():
        if not was:
            click.echo(f"infiniray: no object under key {key!r}", err=True)
    sys.exit(0 if all(found.values()) else 1)


@click.command()
@click.argument("prefix", default="")
@click.option("--limit", type=click.IntRange(min=1), help="The first so many, by key.")
@name_option
@json_option
@reports_errors
def ls(prefix: str, limit: int | None, name: str, as_json: bool) -> None:
    """List the objects whose key begins with PREFIX: size, seconds to live, key."""
    from rich.table import Table

    from infiniray.units import format_bytes

    with connected(name) as cache:
        entries = cache.entries(prefix, limit)
    now_s = time.time()
    rows = [(e.key, e.size_bytes, None if e.expires_s is None else max(0.0, e.expires_s - now_s)) for e in entries]
    if as_json:
        print_json([{"key": key, "bytes": size, "ttl_s": ttl} for key, size, ttl in rows])
        return
    table = Table(box=None, pad_edge=False)
    for heading, justify in (("size", "right"), ("ttl", "right"), ("key", "left")):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for key, size, ttl in rows:
        table.add_row(format_bytes(size), "" if ttl is None else f"{ttl:.0f} s", key)
    results().print(table)


@click.command()
@name_option
@json_option
@reports_errors
def stats(name: str, as_json: bool) -> None:
    """Counters and sizes of the whole cache since its shards started."""
    from rich.table import Table

    with connected(name) as cache:
        numbers = cache.stats()
    if as_json:
        print_json(numbers)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in numbers.items():
        if isinstance(value, (int, float)):
            table.add_row(key.replace("_", " "), f"{value:,}")
    results().print(table)
