"""Calls of a shard, each said in two ways: to its actor, through Ray, and over its channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from infiniray.channel.client import Channel
from infiniray.channel.line import Received, Write
from infiniray.channel.waiting import Exchange
from infiniray.cluster import rayapi
from infiniray.cluster.deadline import Deadline
from infiniray.cluster.membership import Membership
from infiniray.cluster.steps import Block, Steps
from infiniray.errors import InfiniRayError
from infiniray.values import deserialize, serialize, view

__all__ = [
    "UNSAID",
    "Call",
    "PutCall",
    "Say",
    "Submit",
    "Value",
    "ask_call",
    "exists_call",
    "get_call",
    "made",
    "put_call",
]

#: Values of which no more than this is to be copied are made where the answer arrives, larger ones aside.
_LARGE_BYTES = 1 << 20
#: Larger ones are put into memory of the shard's, which takes one more round trip.
PUT_IN_FRAME_BYTES = 512 << 10
#: Methods that are called by name over a channel.
_SAID_DIRECTLY = frozenset({"delete", "touch", "exists", "ttl"})
#: What an exchange ends in that found that the call has to go through Ray.
UNSAID: Any = object()

#: Calls a method of the given shard actor: (actor, epoch, seconds left) -> reference to the answer.
Submit = Callable[[rayapi.Actor, int, float], rayapi.Ref]
#: Says the same over a channel: (channel, epoch, deadline, whether it may have been carried out already). The exchange
#: ends in what is stored, an error, an answer, or UNSAID.
Say = Callable[[Channel, int, Deadline, bool], Exchange[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to the shard that owns ``key`` (or to ``shard``); it can be made again."""

    operation: str
    key: str
    submit: Submit
    #: in place of ``submit`` when the call may have been carried out, but was not answered
    submit_again: Submit | None = None
    #: how it is said directly; None: it is not
    say: Say | None = None
    #: what has to be done before ``submit``, once
    prepare: Callable[[], Steps[None]] | None = None
    shard: str | None = None
    n_bytes: int = 0
    raw: bool = False


class Value:
    """A serialized value, ready for any number of attempts. For Ray, what is large goes into its store, once."""

    def __init__(self, value: Any, membership: Membership) -> None:
        self.head, self.data = serialize(value)
        self.n_bytes = self.data.nbytes
        self._membership = membership
        #: bytes, or a reference into Ray's store
        self.payload: Any = None
        #: the reference once more, where the shard may want to hand it to a codec task
        self.refs: list[rayapi.Ref] = []

    @property
    def is_for_task(self) -> bool:
        """Whether it may be coded by one of Ray's workers, which take it from Ray's store."""
        return self.n_bytes >= self._membership.task_min_bytes

    def prepare(self) -> Steps[None]:
        if self.payload is not None:
            return
        if self.n_bytes < self._membership.inline_max_bytes:
            self.payload = self.data.tobytes()
            return
        self.payload = yield Block(partial(rayapi.place, self.data))
        if self.is_for_task:
            self.refs.append(self.payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class PutCall(Call):
    """A call that stores a value; ``request`` names it however often it is made."""

    value: Value
    request: str
    ttl_s: float | None

    def write(self, is_again: bool) -> Write:
        return Write(self.key, self.value.head, self.value.data, self.request, self.ttl_s, is_again)


# ---------------------------------------------------------------- calls


def get_call(key: str, raw: bool) -> Call:
    def submit(actor: rayapi.Actor, epoch: int, left_s: float) -> rayapi.Ref:
        return actor.get.remote(epoch, key, raw=raw, timeout_s=left_s)

    def say(channel: Channel, epoch: int, deadline: Deadline, is_again: bool) -> Exchange[Any]:
        return (yield from channel.get(epoch, deadline.left_s(), [key]))[0]

    return Call(operation="GET", key=key, submit=submit, say=say, raw=raw)


def exists_call(key: str) -> Call:
    """Through Ray: a sign of life of the actor itself."""

    def submit(actor: rayapi.Actor, epoch: int, left_s: float) -> rayapi.Ref:
        return actor.exists.remote(epoch, key, timeout_s=left_s)

    return Call(operation="GET", key=key, submit=submit)


def ask_call(method: str, key: str, details: dict[str, Any]) -> Call:
    def submit(actor: rayapi.Actor, epoch: int, left_s: float) -> rayapi.Ref:
        return getattr(actor, method).remote(epoch, key, timeout_s=left_s, **details)

    def say(channel: Channel, epoch: int, deadline: Deadline, is_again: bool) -> Exchange[Any]:
        return channel.ask(epoch, deadline.left_s(), method, key, details)

    return Call(operation=method.upper(), key=key, submit=submit, say=say if method in _SAID_DIRECTLY else None)


def put_call(key: str, value: Value, request: str, ttl_s: float | None) -> PutCall:
    def submit(actor: rayapi.Actor, epoch: int, left_s: float, *, is_again: bool = False) -> rayapi.Ref:
        return actor.put.remote(
            epoch, key, value.head, value.payload, value.refs,
            request=request, is_again=is_again, ttl_s=ttl_s, timeout_s=left_s,
        )  # fmt: skip

    def say(channel: Channel, epoch: int, deadline: Deadline, is_again: bool) -> Exchange[Any]:
        return stored(channel, epoch, deadline, call, is_again)

    call = PutCall(
        operation="PUT", key=key, submit=submit, submit_again=partial(submit, is_again=True), say=say,
        prepare=value.prepare, n_bytes=value.n_bytes, value=value, request=request, ttl_s=ttl_s,
    )  # fmt: skip
    return call


def stored(channel: Channel, epoch: int, deadline: Deadline, call: PutCall, is_again: bool) -> Exchange[Any]:
    """Store one value over a channel, if it can go that way."""
    if call.value.is_for_task:
        return UNSAID
    if call.n_bytes > PUT_IN_FRAME_BYTES:
        outcomes = yield from channel.put_shared(epoch, deadline.left_s, call.write(is_again))
        if outcomes is not None:
            return outcomes[0]
        if channel.has_shared_memory or call.n_bytes > channel.endpoint.max_body_bytes:
            return UNSAID
    return (yield from channel.put(epoch, deadline.left_s(), [call.write(is_again)]))[0]


def made(outcome: Any, raw: bool) -> Steps[Any]:
    """What a call that was made over a channel returns or raises."""
    if isinstance(outcome, InfiniRayError):
        raise outcome
    if not isinstance(outcome, Received):
        return outcome
    make = partial(view if raw else deserialize, outcome.head, outcome.buffer)
    return (yield Block(make)) if outcome.buffer.nbytes > _LARGE_BYTES else make()
