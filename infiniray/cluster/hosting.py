"""A cache that stays when the process that brought it up has ended: whose processes run for it, and how they end.

What was started is on record (:mod:`~infiniray.cluster.state`) before the next thing is started, so that whatever
interrupts :func:`host`, :func:`unhost` finds all of it. Processes are ended by number and start time, never by name.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from infiniray.cluster import rayapi
from infiniray.cluster.lifecycle import bring_up, take_down
from infiniray.cluster.membership import Membership, supervisor_name
from infiniray.cluster.priority import WORKER_NICENESS
from infiniray.cluster.state import CacheRecord, ProcessMark, StateDirectory
from infiniray.config import Config
from infiniray.errors import CacheUnavailable, InfiniRayError, ShardUnreachable
from infiniray.faas.local.admin import PlatformAdmin
from infiniray.faas.local.launch import LocalPlatform

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Unhosted", "clear_leftovers", "host", "leftovers", "unhost"]

Say = Callable[[str], None]

_RAY_START_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 10.0


def host(config: Config, *, address: str | None, state: StateDirectory, say: Say) -> tuple[Membership, bool]:
    """Bring a cache up that stays. Done again, it completes what is missing.

    Args:
        address: the Ray to run on; None: a head of the cache's own, on this machine.
        say: told of each step.

    Returns:
        Its membership, and whether it was running before.

    Raises:
        CacheUnavailable: Ray or the actors do not come up, another process is at it, or the cache runs on another Ray.
        PlatformError: the platform does not come up, or refuses.
        NotDeployed: the functions are deployed apart, and are not all there as configured.
        ShardUnreachable: functions cannot dial a shard. What was made for a new cache is gone again.
    """
    from infiniray.faas.deploy.adopt import deployed_secret, is_deployed_apart  # and boto3: to end one needs none of it

    with state.lock(config.name):
        record = state.read(config.name)
        if record is not None and not _is_whole(record):
            say("clearing what a crashed cache left behind")
            if record.ray_head is None:  # the actors of a Ray of its own end with that
                _end_actors(record)
            _end(record, state)
            record = None
        secret = None
        if is_deployed_apart(config):  # before anything is started for it
            say("checking the deployed functions")
            secret = deployed_secret(config, config.platform.endpoint_url)
        if record is None:
            record = _start_ray(config, address, state, say)
        elif address not in (None, record.ray_address):
            detail = f"cache {config.name!r} is on the Ray at {record.ray_address}: `infiniray down` ends it there"
            raise CacheUnavailable(detail=detail)
        try:
            return _start_cache(config, record, secret, state, say)
        except _Removed as removed:
            _end(state.read(config.name) or record, state)
            raise removed.reason from None


class _Removed(Exception):
    """A new cache could not work, and its actors have ended."""

    def __init__(self, reason: ShardUnreachable) -> None:
        super().__init__(reason)
        self.reason = reason


def _start_cache(
    config: Config, record: CacheRecord, secret: str | None, state: StateDirectory, say: Say
) -> tuple[Membership, bool]:
    """What runs on the Ray of ``record``, as :func:`host` says. Raises: _Removed."""
    rayapi.attach(record.ray_address, has_token_auth=record.has_token_auth)
    try:
        was_running = supervisor_name(config.name) in rayapi.actor_names()  # brought up elsewhere, perhaps
        if not was_running and secret is None and record.platform is None:
            record = _start_platform(config, record, state, say)
        say("starting functions and shards")
        endpoint = record.platform_endpoint or config.platform.endpoint_url
        try:
            return bring_up(config, platform_endpoint=endpoint, secret=secret), was_running
        except ShardUnreachable as error:
            if was_running:
                raise
            say("removing what was made")
            take_down(config.name, delete_functions=record.platform is None)
            raise _Removed(error) from error
    finally:
        rayapi.disconnect()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unhosted:
    """``was_there``: there was something to take down. ``trouble``: why actors on a Ray that is not the cache's own
    may still be there; empty: they are not."""

    was_there: bool
    trouble: str = ""


def unhost(name: str, *, state: StateDirectory, say: Say) -> Unhosted:
    """Take a cache down, with every process that was started for it.

    Raises:
        CacheUnavailable: another process is bringing it up or down.
    """
    with state.lock(name):
        record = state.read(name)
        if record is None:
            return Unhosted(was_there=False)
        say("ending shards")
        trouble = _end_actors(record)
        say("ending processes")
        _end(record, state)
        return Unhosted(was_there=True, trouble=trouble)


def leftovers(state: StateDirectory) -> list[CacheRecord]:
    """Records of caches some of whose processes have ended: crashed, or interrupted while coming up."""
    return [record for record in state.records() if not _is_whole(record)]


def clear_leftovers(state: StateDirectory) -> list[str]:
    """End what is left of crashed caches; their names."""
    cleared = []
    for record in leftovers(state):
        with state.lock(record.name):
            if record.ray_head is None:  # the actors of a Ray of its own end with that
                _end_actors(record)
            _end(record, state)
        cleared.append(record.name)
    return cleared


def _is_whole(record: CacheRecord) -> bool:
    return all(mark.is_alive() for mark in (record.ray_head, record.platform) if mark is not None)


# ---------------------------------------------------------------- beginning


def _start_ray(config: Config, address: str | None, state: StateDirectory, say: Say) -> CacheRecord:
    """A record of the Ray that the cache runs on, started if there is no ``address``."""
    if address is not None:
        rayapi.require_answer(address)  # before it is on record
        record = CacheRecord(name=config.name, ray_address=address, created_s=time.time())
        state.write(record)
        return record
    say("starting Ray")
    port = _free_port()
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--port", str(port), "--include-dashboard", "false"]
    command += ["--disable-usage-stats"]
    has_token = _has_token()
    environ = {**WORKER_NICENESS, **os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    if has_token:
        environ["RAY_AUTH_MODE"] = "token"
    directory = _directory(state, config.name)
    with (directory / "ray.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    record = CacheRecord(
        name=config.name,
        ray_address=f"127.0.0.1:{port}",
        created_s=time.time(),
        ray_head=ProcessMark.of(process.pid),
        has_token_auth=has_token,
    )
    state.write(record)
    _await_ray(record, process, directory / "ray.log")
    return record


def _has_token() -> bool:
    """Have Ray make a token if this user has none: its ports are open to the network, and whoever gets in can run code.

    False for a Ray that knows no tokens yet.
    """
    command = [sys.executable, "-m", "ray.scripts.scripts", "get-auth-token", "--generate"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_RAY_START_TIMEOUT_S, check=False
    )
    return done.returncode == 0


def _await_ray(record: CacheRecord, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until Ray says on its port that it is there."""
    deadline_s = time.monotonic() + _RAY_START_TIMEOUT_S
    host, port = record.ray_address.rsplit(":", 1)
    while time.monotonic() < deadline_s and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            if "Ray runtime started" in log.read_text(errors="replace"):
                return
        time.sleep(0.1)
    tail = log.read_text(errors="replace")[-1000:]
    raise CacheUnavailable(detail=f"Ray did not start within {_RAY_START_TIMEOUT_S:g} s; its log ends: {tail}")


def _start_platform(config: Config, record: CacheRecord, state: StateDirectory, say: Say) -> CacheRecord:
    say("starting the function platform")
    platform = LocalPlatform.start(
        config.platform.local, directory=_directory(state, config.name) / "platform", owned=False
    )
    record = replace(record, platform_endpoint=platform.endpoint, platform=ProcessMark.of(platform.pid))
    state.write(record)
    return record


def _directory(state: StateDirectory, name: str) -> Path:
    directory = state.root / name
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---------------------------------------------------------------- ending


def _end_actors(record: CacheRecord) -> str:
    """End a cache's actors, on whosever Ray they are; why that was not possible where nothing else ends them."""
    if record.ray_head is not None and not record.ray_head.is_alive():
        return ""
    try:
        rayapi.attach(record.ray_address, has_token_auth=record.has_token_auth)
        try:
            take_down(record.name, delete_functions=record.platform is None)
        finally:
            rayapi.disconnect()
    except InfiniRayError as error:
        return str(error) if record.ray_head is None else ""  # the cache's own ends with its processes
    return ""


def _end(record: CacheRecord, state: StateDirectory) -> None:
    """End the processes of a record, and forget it. Instances end with their platform, Ray's with its head."""
    if record.platform is not None and record.platform.is_alive() and record.platform_endpoint is not None:
        with contextlib.suppress(InfiniRayError):
            PlatformAdmin(record.platform_endpoint).shutdown()
            _wait(record.platform)
    for mark in (record.platform, record.ray_head):
        if mark is not None:
            _end_tree(mark)
    state.remove(record.name)
    shutil.rmtree(state.root / record.name, ignore_errors=True)


def _end_tree(mark: ProcessMark) -> None:
    """End a process and its descendants: ask first, then insist."""
    process = mark.process()
    if process is None:
        return
    family = [process]
    with contextlib.suppress(psutil.NoSuchProcess):
        family += process.children(recursive=True)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
    _, alive = psutil.wait_procs(family, timeout=_END_TIMEOUT_S)
    _kill(alive)


def _kill(processes: Iterable[psutil.Process]) -> None:
    alive = list(processes)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=_END_TIMEOUT_S)


def _wait(mark: ProcessMark) -> None:
    deadline_s = time.monotonic() + _END_TIMEOUT_S
    while mark.is_alive() and time.monotonic() < deadline_s:
        time.sleep(0.02)
