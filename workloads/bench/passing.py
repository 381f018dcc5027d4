"""The processes of :mod:`~workloads.bench.relay`: nodes that keep bytes, and one in between that passes them on.

Standard library only, so that they start at once.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
from collections.abc import Sequence

__all__ = ["GET", "PUT", "REQUEST", "connected_pair", "receive"]

GET, PUT = 1, 2
#: op, pieces to read, pieces to write, the first node, number of the value, bytes of a piece, bytes of the value
REQUEST = struct.Struct("<BBBBIII")
#: op, number of the value, bytes
_PIECE = struct.Struct("<BII")
_BUFFER_BYTES = 4 << 20
_ANSWER_S = 20.0


def connected_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    for end in (one, other):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, other


def receive(connection: socket.socket, into: memoryview) -> bool:
    """Fill ``into``, waiting for it; False if the other end closed."""
    filled = 0
    while filled < len(into):
        n_bytes = connection.recv_into(into[filled:])
        if n_bytes == 0:
            return False
        filled += n_bytes
    return True


def _serve_as_node(connection: socket.socket) -> None:
    """Keep pieces, and give them back."""
    kept: dict[int, memoryview] = {}
    request = bytearray(_PIECE.size)
    while receive(connection, memoryview(request)):
        op, number, n_bytes = _PIECE.unpack(request)
        if op == GET:
            connection.sendall(kept[number])
            continue
        if number not in kept or len(kept[number]) != n_bytes:
            kept[number] = memoryview(bytearray(n_bytes))
        if not receive(connection, kept[number]):
            return
        connection.sendall(b".")


def _serve_as_relay(client: socket.socket, nodes: Sequence[socket.socket]) -> None:
    """Pass requests on to nodes, and their answers back."""
    request, value = bytearray(REQUEST.size), memoryview(bytearray(_BUFFER_BYTES))
    poll = select.epoll()
    for node in nodes:
        poll.register(node, 0)
    while receive(client, memoryview(request)):
        op, k, n, first, number, piece_bytes, n_bytes = REQUEST.unpack(request)
        if piece_bytes * k > len(value):
            value = memoryview(bytearray(piece_bytes * k))
        taking_part = [nodes[(first + i) % len(nodes)] for i in range(n if op == PUT else k)]
        ask = _PIECE.pack(op, number, piece_bytes)
        pieces = [value[i * piece_bytes : (i + 1) * piece_bytes] for i in range(k)]
        if op == PUT:
            if not receive(client, value[:n_bytes]):
                return
            for i, node in enumerate(taking_part):  # parity is the first piece once more: nobody computes it
                _send(node, [memoryview(ask), pieces[i] if i < k else pieces[0]])
            answers = [memoryview(bytearray(1)) for _ in taking_part]
        else:
            for node in taking_part:
                node.sendall(ask)
            answers = pieces
        _gather(poll, {node.fileno(): (node, answer) for node, answer in zip(taking_part, answers, strict=True)})
        client.sendall(b"." if op == PUT else value[:n_bytes])


def _send(node: socket.socket, parts: list[memoryview]) -> None:
    n_sent = node.sendmsg(parts)
    for part in parts:
        if n_sent < len(part):
            node.sendall(part[n_sent:])
        n_sent = max(0, n_sent - len(part))


def _gather(poll: select.epoll, waiting: dict[int, tuple[socket.socket, memoryview]]) -> None:
    """Fill what is waited for, from whichever node has something."""
    for number in waiting:
        poll.modify(number, select.EPOLLIN)
    while waiting:
        for number, _ in poll.poll(_ANSWER_S):
            node, answer = waiting[number]
            n_bytes = node.recv_into(answer)
            if not n_bytes:
                raise ConnectionError("a node has gone")
            if n_bytes < len(answer):
                waiting[number] = node, answer[n_bytes:]
            else:
                del waiting[number]
                poll.modify(number, 0)


if __name__ == "__main__":
    role, *numbers = sys.argv[1:]
    connections = [socket.socket(fileno=int(number)) for number in numbers]
    if role == "node":
        _serve_as_node(connections[0])
    else:
        _serve_as_relay(connections[0], connections[1:])
