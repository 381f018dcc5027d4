"""What a cache of this shape takes if it does nothing: a client, a process in between, nodes in processes of their own.

A value goes through as many processes, over as many sockets, in as many pieces as with the cache; but nobody looks a
key up, checks a byte, computes parity, waits for the late or remembers what for the next crash. It is the floor under
the figures of small values, which are made of processes that wake up rather than of bytes.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from infiniray.codec.schemes import Scheme
from workloads.baselines import ByteArray
from workloads.bench import passing
from workloads.bench.passing import GET, PUT, REQUEST, connected_pair, receive
from workloads.errors import TargetFailed

__all__ = ["RelayTarget"]

_ANSWER_S = 20.0
_STOP_S = 5.0


class RelayTarget:
    """I own the processes. One caller at a time.

    Args:
        choose: the scheme of a value, by its size.
        n_nodes: processes at the far end; those that take part in a call are others from call to call.
    """

    name = "relay"

    def __init__(self, choose: Callable[[int], Scheme], n_nodes: int = 12) -> None:
        self._choose = choose
        self._n_nodes = n_nodes
        self._numbers: dict[str, int] = {}
        self._first: dict[str, int] = {}
        self._landed: dict[str, ByteArray] = {}
        self._n_puts = 0
        with contextlib.ExitStack() as ends:
            ours, relays = connected_pair()
            ends.enter_context(relays)
            links = [connected_pair() for _ in range(n_nodes)]
            for link in links:
                for end in link:
                    ends.enter_context(end)
            self._connection = ours
            self._processes = [_start("node", [far]) for _, far in links]
            self._processes.append(_start("relay", [relays, *(near for near, _ in links)]))
        self._connection.settimeout(_ANSWER_S)

    def put(self, key: str, value: ByteArray) -> None:
        scheme = self._choose(len(value))
        self._numbers.setdefault(key, len(self._numbers))
        self._first[key] = self._n_puts % self._n_nodes
        self._n_puts += 1
        self._send(PUT, key, scheme, len(value))
        self._connection.sendall(value.data)
        self._fill(np.empty(1, np.uint8))
        if key not in self._landed or len(self._landed[key]) != len(value):
            self._landed[key] = np.zeros(len(value), np.uint8)

    def get(self, key: str) -> Any:
        landing = self._landed[key]
        self._send(GET, key, self._choose(len(landing)), len(landing))
        self._fill(landing)
        return landing

    def delete(self, key: str) -> None:
        self._landed.pop(key, None)

    def close(self) -> None:
        self._connection.close()  # the relay ends, and with it the nodes
        for process in self._processes:
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _send(self, op: int, key: str, scheme: Scheme, n_bytes: int) -> None:
        if scheme.n > self._n_nodes:
            raise TargetFailed(system=self.name, detail=f"{scheme} needs {scheme.n} nodes, there are {self._n_nodes}")
        piece_bytes = scheme.chunk_bytes(n_bytes)
        where = self._first[key], self._numbers[key]
        self._connection.sendall(REQUEST.pack(op, scheme.k, scheme.n, *where, piece_bytes, n_bytes))

    def _fill(self, landing: ByteArray) -> None:
        if not receive(self._connection, landing.data):
            raise TargetFailed(system=self.name, detail="the process in between has gone")


def _start(role: str, connections: Sequence[socket.socket]) -> subprocess.Popen[bytes]:
    numbers = [connection.fileno() for connection in connections]
    return subprocess.Popen([sys.executable, "-m", passing.__name__, role, *map(str, numbers)], pass_fds=numbers)
