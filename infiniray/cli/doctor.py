"""The doctor: what this machine has of what the cache needs, and what was left behind on it."""

from __future__ import annotations

import importlib.metadata
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click

from infiniray.cli.output import json_option, named_by_config, print_json, reports_errors, results

__all__ = ["Finding", "doctor"]

_LOW_SHM_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found, and what to do about it."""

    check: str
    level: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def _python() -> Iterator[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 10) <= sys.version_info[:2] <= (3, 13):
        yield Finding("python", "ok", found)
    else:
        yield Finding("python", "fail", found, "use Python 3.10 to 3.13")


def _packages() -> Iterator[Finding]:
    for package in ("ray", "boto3", "awslambdaric", "zfec", "numpy"):
        try:
            yield Finding(package, "ok", importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(package, "fail", "not installed", "install the package again: make install")


def _kernel() -> Iterator[Finding]:
    from infiniray.codec.kernels import find_kernel

    kernel = find_kernel("auto").name
    if kernel == "isal":
        yield Finding("codec kernel", "ok", "ISA-L")
    else:
        yield Finding("codec kernel", "warn", kernel, "ISA-L is ten times as fast: install pyeclib or libisal2")


def _shared_memory() -> Iterator[Finding]:
    from infiniray.units import format_bytes

    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError:
        yield Finding("shared memory", "warn", "no /dev/shm", "Ray's object store will be on disk, and slow")
        return
    found = f"{format_bytes(usage.free)} free of {format_bytes(usage.total)}"
    if usage.free < _LOW_SHM_BYTES:
        yield Finding("shared memory", "warn", found, "give /dev/shm a few GiB: Ray's object store lives there")
    else:
        yield Finding("shared memory", "ok", found)


def _loopback() -> Iterator[Finding]:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 2):
            yield Finding("loopback", "ok", "a port can be opened and reached")
    except OSError as error:
        yield Finding("loopback", "fail", str(error), "functions dial their shards over it")


def _clock() -> Iterator[Finding]:
    """Expiry is Unix time: a clock far off lets objects expire early or late."""
    if time.time() + 86_400 < Path(__file__).stat().st_mtime:
        yield Finding("clock", "warn", time.ctime(), "it is behind the files of this package: set it")
    else:
        yield Finding("clock", "ok", time.ctime())


def _leftovers() -> Iterator[Finding]:
    from infiniray.cluster.hosting import leftovers
    from infiniray.cluster.state import StateDirectory

    state = StateDirectory()
    for path in sorted(state.root.glob("*.json")):
        if state.read(path.stem) is None:
            yield Finding("records", "warn", f"{path} is no record of this version's", "see what it names; delete it")
    crashed = leftovers(state)
    for record in crashed:
        yield Finding(
            "leftovers", "warn", f"cache {record.name!r} crashed or was interrupted", "infiniray doctor --fix"
        )
    if not crashed:
        yield Finding("leftovers", "ok", "none")


def _clusters() -> Iterator[Finding]:
    """Of caches that are guests: no process of this machine tells whether their Ray is still there."""
    from infiniray.cluster.rayapi import require_answer
    from infiniray.cluster.state import StateDirectory
    from infiniray.errors import CacheUnavailable

    for record in StateDirectory().records():
        if record.ray_head is not None:
            continue
        try:
            require_answer(record.ray_address)
        except CacheUnavailable as error:
            advice = "if that cluster is gone: infiniray down"
            yield Finding("Ray cluster", "warn", f"cache {record.name!r}: {error}", advice)
        else:
            yield Finding("Ray cluster", "ok", f"cache {record.name!r}: {record.ray_address} answers")


def _running_code() -> Iterator[Finding]:
    """Functions keep the code that they were made with: an upgrade of this package does not reach them by itself."""
    from infiniray.cluster.state import StateDirectory
    from infiniray.errors import PlatformError
    from infiniray.faas.deploy.check import count_other_code

    for record in StateDirectory().records():
        if record.platform is None or record.platform_endpoint is None or not record.platform.is_alive():
            continue
        try:
            n_other, n_all = count_other_code(record.platform_endpoint, record.name)
        except PlatformError as error:
            yield Finding("agent code", "warn", f"cache {record.name!r}: {error}", "infiniray down, infiniray up")
            continue
        if n_other:
            found = f"cache {record.name!r}: {n_other} of {n_all} functions run other code than this installation's"
            yield Finding("agent code", "warn", found, "infiniray down, infiniray up (what it holds is gone)")
        else:
            yield Finding("agent code", "ok", f"cache {record.name!r} runs this installation's")


def _deployment(config: Path | None, settings: tuple[str, ...], name: str | None) -> Iterator[Finding]:
    """What a configuration says is deployed, as it is."""
    from infiniray.cli.running import configuration
    from infiniray.faas.deploy.adopt import is_deployed_apart
    from infiniray.faas.deploy.check import check_deployment

    if config is None and not settings:
        return
    chosen = configuration(config, settings, name=name, nodes=None, shards=None, memory_mb=None, scheme=None)
    if is_deployed_apart(chosen):
        for seen in check_deployment(chosen):
            yield Finding(seen.subject, seen.level, seen.found, seen.advice)


_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python,
    _packages,
    _kernel,
    _shared_memory,
    _loopback,
    _clock,
    _leftovers,
    _clusters,
    _running_code,
)


@click.command()
@click.option("--fix", is_flag=True, help="End and remove what crashed caches left behind.")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A YAML file: check what is deployed of it, too.",
)
@click.option("--set", "settings", multiple=True, metavar="SECTION.NAME=VALUE", help="Any setting; may be repeated.")
@named_by_config
@json_option
@reports_errors
def doctor(fix: bool, config: Path | None, settings: tuple[str, ...], name: str | None, as_json: bool) -> None:
    """Check this machine, and with --config what is deployed: credentials, clock, functions, their code.

    Exit code 1 if something is missing that the cache cannot do without.
    """
    from rich.table import Table

    cleared: list[str] = []
    if fix:
        from infiniray.cluster.hosting import clear_leftovers
        from infiniray.cluster.state import StateDirectory

        cleared = clear_leftovers(StateDirectory())
    findings = [finding for check in _CHECKS for finding in check()]
    findings += _deployment(config, settings, name)
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings], "cleared": cleared})
    else:
        table = Table(box=None, pad_edge=False)
        for heading in ("check", "", "found", "what to do"):
            table.add_column(heading)
        for finding in findings:
            table.add_row(finding.check, finding.level, finding.found, finding.advice)
        for cache in cleared:
            table.add_row("leftovers", "ok", f"cleared cache {cache!r}", "")
        results().print(table)
    sys.exit(1 if any(finding.level == "fail" for finding in findings) else 0)
