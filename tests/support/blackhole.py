"""An address on loopback where nobody ever answers."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

__all__ = ["black_hole"]


@contextlib.contextmanager
def black_hole(host: str, port: int = 0) -> Iterator[int]:
    """A port that drops what comes, as a security group does: its queue of connections is full, and stays so."""
    with contextlib.ExitStack() as held:
        hole = held.enter_context(socket.create_server((host, port), backlog=0))
        for _ in range(3):  # one more than Linux lets in
            dialler = held.enter_context(socket.socket())
            dialler.setblocking(False)
            dialler.connect_ex(hole.getsockname())
        yield int(hole.getsockname()[1])
