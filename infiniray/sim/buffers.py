"""What stands for the bytes of a shard's operations, and checks what is done with them."""

from __future__ import annotations

from dataclasses import dataclass, field

from infiniray.core import commands as cmd
from infiniray.core.ids import OpId
from infiniray.sim.platform import Token
from infiniray.sim.violation import Violation

__all__ = ["Buffer", "Buffers"]


@dataclass(slots=True)
class Buffer:
    """What stands for an operation's buffers: the value written, or the tokens received, by chunk.

    ``is_coded``: the parity chunks are there. ``is_sealed``: the object is put together of what was received, or is
    being: a chunk that came now would be written over it.
    """

    value: object = None
    received: dict[int, Token] = field(default_factory=dict)
    is_coded: bool = False
    is_sealed: bool = False
    is_for_one_chunk: bool = False
    #: what a read was given without asking a node
    near: tuple[object] | None = None


class Buffers:
    """I keep a buffer for each operation that has not been released, and the near copies. What may not be done with
    one is a Violation."""

    def __init__(self) -> None:
        self._of: dict[OpId, Buffer] = {}
        #: {key: (version, value)} of the near copies
        self._near: dict[str, tuple[int, object]] = {}

    @property
    def open_operations(self) -> list[OpId]:
        """Those whose buffers are not released."""
        return list(self._of)

    def begin(self, op: OpId, value: object = None) -> None:
        """A client's operation: ``value`` is what it writes."""
        self._of[op] = Buffer(value=value)

    def held(
        self, command: cmd.StoreChunk | cmd.FetchChunk | cmd.Encode | cmd.Decode | cmd.KeepNear | cmd.ReadNear
    ) -> Buffer:
        """Raises: Violation: the operation's buffers are released."""
        buffer = self._of.get(command.op)
        if buffer is None:
            raise Violation(f"the buffers of operation {command.op} are gone: {command}")
        return buffer

    def delivered(self, command: cmd.Complete) -> object:
        """The value that a read's chunks make, or that it was given; None if the operation was no read.

        Raises:
            Violation: they do not make one.
        """
        buffer = self._of.get(command.op)
        if buffer is None or command.facts is None:
            return None
        if buffer.near is not None:
            return buffer.near[0]
        if not buffer.received:
            return None
        buffer.is_sealed = True
        return _put_together(command.facts, buffer)

    def open(self, command: cmd.OpenBuffers) -> None:
        if command.op in self._of:
            raise Violation(f"operation {command.op} has buffers already")
        self._of[command.op] = Buffer(is_for_one_chunk=command.is_for_one_chunk)

    def share(self, command: cmd.ShareBuffers) -> None:
        source = self._of[command.source]
        if source.value is None:
            received = list(source.received.values())
            source.value = received[0][3]
        self._of[command.op] = Buffer(value=source.value)

    def release(self, command: cmd.Release) -> None:
        if self._of.pop(command.op, None) is None:
            raise Violation(f"operation {command.op} was released twice")

    # ------------------------------------------------------------ near copies

    @property
    def near_keys(self) -> list[str]:
        return sorted(self._near)

    def keep_near(self, command: cmd.KeepNear) -> None:
        buffer, facts = self.held(command), command.facts
        if facts.key in self._near:
            raise Violation(f"there is a near copy of {facts.key!r} already: {command}")
        value = _put_together(facts, buffer) if buffer.received else buffer.value
        self._near[facts.key] = facts.version, value

    def drop_near(self, command: cmd.DropNear) -> None:
        if self._near.pop(command.key, None) is None:
            raise Violation(f"there is no near copy: {command}")

    def read_near(self, command: cmd.ReadNear) -> None:
        if command.key not in self._near:
            raise Violation(f"there is no near copy: {command}")
        self.held(command).near = (self._near[command.key][1],)


def _put_together(facts: cmd.ObjectFacts, buffer: Buffer) -> object:
    tokens = buffer.received.values()
    if len(tokens) < facts.scheme.k:
        raise Violation(f"{facts.key!r} was delivered from {len(tokens)} chunks of {facts.scheme}")
    if any(token[:2] != (facts.key, facts.version) for token in tokens) or len({t[3] for t in tokens}) != 1:
        raise Violation(f"{facts.key!r} v{facts.version} was put together from {sorted(map(str, tokens))}")
    return next(iter(tokens))[3]
