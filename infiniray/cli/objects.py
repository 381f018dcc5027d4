"""Commands on objects: put, get, rm, ls, stats."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from infiniray.cli.output import fail, json_option, name_option, print_json, reports_errors, results, says

if TYPE_CHECKING:
    from infiniray.cache import Cache

__all__ = ["get", "ls", "put", "rm", "stats"]

_WRITE_BYTES = 8 << 20


@contextlib.contextmanager
def _connected(name: str) -> Iterator[Cache]:
    import infiniray

    cache = infiniray.connect(name)
    try:
        yield cache
    finally:
        cache.close()


@contextlib.contextmanager
def _working(what: str, total_bytes: int | None = None) -> Iterator[Any]:
    """A progress bar on standard error, if somebody watches: a callable that is told of bytes done."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TimeElapsedColumn())
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
    with _contents(file) as data, _connected(name) as cache, _working(f"storing {key}", len(data)):
        start_s = time.perf_counter()
        cache.put(key, data, ttl=ttl, timeout=timeout)
        elapsed_s = time.perf_counter() - start_s
        n_bytes = len(data)
    if as_json:
        print_json({"key": key, "bytes": n_bytes, "seconds": elapsed_s})
    else:
        says().print(f"stored {format_bytes(n_bytes)} under {key} in {elapsed_s * 1e3:.0f} ms", markup=False)


@contextlib.contextmanager
def _contents(file: str) -> Iterator[memoryview]:
    """The file's bytes, mapped rather than read; a pipe's, read."""
    if file == "-":
        yield memoryview(sys.stdin.buffer.read())
        return
    with open(file, "rb") as opened:
        if not os.fstat(opened.fileno()).st_size:
            yield memoryview(b"")
            return
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            view = memoryview(mapped)
            try:
                yield view
            finally:
                view.release()


@click.command()
@click.argument("key")
@click.argument("file", type=click.Path(allow_dash=True, dir_okay=False))
@click.option("--timeout", help="Give up after: seconds, or text like 90s.")
@name_option
@json_option
@reports_errors
def get(key: str, file: str, timeout: str | None, name: str, as_json: bool) -> None:
    """Read the object under KEY into FILE (- for standard output).

    FILE is replaced when all of it has come, not before.
    """
    from infiniray.errors import ValueNotStorable
    from infiniray.units import format_bytes

    with _connected(name) as cache:
        start_s = time.perf_counter()
        try:
            data = cache.get(key, raw=True, timeout=timeout)
        except KeyError as miss:
            fail(str(miss))
        elapsed_s = time.perf_counter() - start_s
        if not isinstance(data, memoryview):
            raise ValueNotStorable(
                detail=f"the object under {key!r} is a {type(data).__name__}, not bytes: read it in Python"
            )
        n_bytes = data.nbytes
        with _target(file) as target, _working(f"writing {file}", n_bytes) as done:
            flat = data.cast("B") if n_bytes else memoryview(b"")
            for start in range(0, n_bytes, _WRITE_BYTES):
                done(target.write(flat[start : start + _WRITE_BYTES]))
        del data, flat
    if as_json and file != "-":
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
    path = Path(file)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as opened:
            yield opened
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's are private
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@click.command()
@click.argument("keys", nargs=-1, required=True)
@name_option
@json_option
@reports_errors
def rm(keys: tuple[str, ...], name: str, as_json: bool) -> None:
    """Delete the objects under KEYS. Exit code 1 if one was not there."""
    with _connected(name) as cache:
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

    with _connected(name) as cache:
        entries = cache.entries(prefix, limit)
    now_s = time.time()
    rows = [(e.key, e.size_bytes, None if e.expires_s is None else max(0.0, e.expires_s - now_s)) for e in entries]
    if as_json:
        print_json([{"key": key, "bytes": size, "ttl_s": ttl} for key, size, ttl in rows])
        return
    table = Table(box=None, pad_edge=False)
    for heading, justify in (("size", "right"), ("ttl", "right"), ("key", "left")):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    from rich.text import Text

    for key, size, ttl in rows:
        table.add_row(format_bytes(size), "" if ttl is None else f"{ttl:.0f} s", Text(key))
    results().print(table)


@click.command()
@name_option
@json_option
@reports_errors
def stats(name: str, as_json: bool) -> None:
    """Counters and sizes of the whole cache since its shards started."""
    from rich.table import Table

    with _connected(name) as cache:
        numbers = cache.stats()
    if as_json:
        print_json(numbers)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in numbers.items():
        if isinstance(value, (int, float)):
            table.add_row(key.replace("_", " "), f"{value:,}")
    results().print(table)
