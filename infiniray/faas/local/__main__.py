"""The platform's process: ``python -m infiniray.faas.local DIRECTORY [--settings JSON] [--ready-fd N]
[--owner-fd N] [--scratch]``.

Writes its endpoint to ``--ready-fd`` when it serves. Ends on SIGTERM, SIGINT, an admin's shutdown, or when
``--owner-fd`` (the read end of a pipe that its owner holds) comes to its end; no instance outlives it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

import click
from aiohttp import web
from pydantic import ValidationError

from infiniray.errors import ConfigError
from infiniray.faas.local.admin_routes import add_admin
from infiniray.faas.local.api import add_function_api, refusals
from infiniray.faas.local.front import Front
from infiniray.faas.local.kinship import adopt_orphans, end_children
from infiniray.faas.local.platform import Platform
from infiniray.faas.local.policies import read_timeline, run_reclaims, watch_memory
from infiniray.faas.local.settings import LocalPlatformSettings

_MAX_REQUEST_BYTES = 100 << 20  # a 50 MB zip, in base64, and some
#: For answers to invocations that the platform's end has ended.
_LAST_ANSWERS_S = 1.0


async def serve(settings: LocalPlatformSettings, directory: Path, ready_fd: int | None, owner_fd: int | None) -> None:
    """Serve until something says stop.

    Raises:
        ConfigError: the time line cannot be read.
    """
    timeline = read_timeline(settings.reclaim_timeline) if settings.reclaim_timeline else []
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if owner_fd is not None:
        loop.add_reader(owner_fd, _owner_ended, owner_fd, stop)
    platform = Platform(settings, directory, on_broken=stop.set)
    chores = [loop.create_task(watch_memory(platform)), loop.create_task(run_reclaims(platform, timeline))]
    for chore in chores:
        chore.add_done_callback(lambda _: stop.set())  # without its chores it is not the platform that was asked for
    app = web.Application(client_max_size=_MAX_REQUEST_BYTES, middlewares=[refusals])
    add_function_api(app, platform)
    add_admin(app, stop)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_LAST_ANSWERS_S)
    front: Front | None = None
    server: asyncio.Server | None = None
    try:
        await runner.setup()
        assert runner.server is not None
        front = Front(platform, runner.server)
        server = await loop.create_server(front, "127.0.0.1", settings.port, backlog=1024)
        if ready_fd is not None:
            _tell(ready_fd, server)
        await stop.wait()
    finally:
        for chore in chores:
            chore.cancel()
        if server is not None:
            server.close()
        await platform.close()
        if front is not None:
            await front.close(_LAST_ANSWERS_S)
        await runner.cleanup()
        for failure in await asyncio.gather(*chores, return_exceptions=True):
            if isinstance(failure, Exception):
                raise failure


def _owner_ended(owner_fd: int, stop: asyncio.Event) -> None:
    asyncio.get_running_loop().remove_reader(owner_fd)
    stop.set()


def _tell(ready_fd: int, server: asyncio.Server) -> None:
    host, port = server.sockets[0].getsockname()[:2]
    os.write(ready_fd, f"http://{host}:{port}\n".encode())
    os.close(ready_fd)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--settings", default="{}", help="LocalPlatformSettings, as JSON")
@click.option("--ready-fd", type=int)
@click.option("--owner-fd", type=int)
@click.option("--scratch", is_flag=True, help="remove DIRECTORY at the end")
def main(directory: Path, settings: str, ready_fd: int | None, owner_fd: int | None, scratch: bool) -> None:
    """Run the embedded function platform until it is told to stop."""
    directory.mkdir(parents=True, exist_ok=True)
    adopt_orphans()
    try:
        asyncio.run(serve(LocalPlatformSettings.model_validate_json(settings), directory, ready_fd, owner_fd))
    except (ConfigError, ValidationError) as error:
        raise click.ClickException(str(error)) from None
    finally:
        end_children()  # if the zygote was killed, what it owned is ours
    if scratch:  # after a failure its log is still wanted
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
