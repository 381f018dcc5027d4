"""What a cache's verbs do: find the shard, call it, and stay with it while it is restarted or membership moves on.

Nothing here waits: verbs are generators (:mod:`infiniray.cluster.steps`).
"""

from __future__ import annotations

import random
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from infiniray.cluster import rayapi
from infiniray.cluster.deadline import Deadline
from infiniray.cluster.membership import Membership, shard_actor_name, supervisor_name
from infiniray.cluster.steps import Block, Pause, Steps, Wait
from infiniray.cluster.turns import Turn
from infiniray.errors import (
    CacheUnavailable,
    DeadlineExceeded,
    InfiniRayError,
    KeyNotFound,
    ObjectReplaced,
    ShardRecovering,
    StaleEpoch,
)
from infiniray.values import serialize

__all__ = ["Client", "Entry"]

#: For the first look at a cache, before its own default deadline is known.
CONNECT_TIMEOUT_S = 30.0
#: For a later one, where what is known will do if need be.
_RENEWAL_S = 2.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
#: Calls of one get_many or put_many under way at once, and the bytes of values among them.
_WINDOW_CALLS = 64
_WINDOW_BYTES = 512 << 20


#: Calls a method of the given shard actor: (actor, epoch, seconds left) -> reference to the answer.
Submit = Callable[[rayapi.Actor, int, float], rayapi.Ref]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One request to the shard that owns ``key`` (or to ``shard``); it can be submitted again."""

    operation: str
    key: str
    submit: Submit
    #: in place of ``submit`` when the call may have been carried out, but was not answered
    submit_again: Submit | None = None
    shard: str | None = None
    n_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Placed:
    """A serialized value, ready for any number of attempts. ``payload``: bytes, or a reference into Ray's store."""

    head: str
    payload: Any
    n_bytes: int
    #: the reference once more, where the shard may want to hand it to a codec task
    refs: list[rayapi.Ref] = field(default_factory=list)


class Entry(NamedTuple):
    """What a listing says of an object. ``expires_s`` is Unix time, None for never."""

    key: str
    size_bytes: int
    expires_s: float | None


class Client:
    """I speak to one cache on behalf of one process.

    I keep its membership and route by myself; I learn of changes when a shard calls my epoch stale or does not answer.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._membership: Membership | None = None
        self._is_outdated = False
        self._actors: dict[str, rayapi.Actor] = {}

    # ------------------------------------------------------------ one key

    def put(self, key: str, value: Any, ttl_s: float | None, timeout_s: float | None) -> Steps[None]:
        deadline = yield from self._begin(timeout_s)
        call = yield from self._put_call(key, value, ttl_s, deadline)
        yield from self._finish(call, None, deadline)

    def get(self, key: str, timeout_s: float | None, *, raw: bool = False) -> Steps[Any]:
        deadline = yield from self._begin(timeout_s)
        return (yield from self._finish(_get_call(key, raw), None, deadline))

    def get_ref(self, key: str, timeout_s: float | None, *, raw: bool = False) -> Steps[rayapi.Ref]:
        """A reference to the answer, which is not waited for: what it ends in is seen where it is used. So the shard is
        asked for a sign of life before, which is tried again as any call is: one that restarts is waited for, and an
        outdated membership renewed."""
        deadline = yield from self._begin(timeout_s)
        yield from self._finish(_exists_call(key), None, deadline)
        return (yield from self._submit(_get_call(key, raw), deadline))

    def delete(self, key: str, timeout_s: float | None) -> Steps[bool]:
        request = _request_id()
        answer: bool = yield from self._ask("delete", key, timeout_s, request=request)
        return answer

    def touch(self, key: str, ttl_s: float | None, timeout_s: float | None) -> Steps[bool]:
        answer: bool = yield from self._ask("touch", key, timeout_s, ttl_s=ttl_s)
        return answer

    def exists(self, key: str, timeout_s: float | None) -> Steps[bool]:
        answer: bool = yield from self._ask("exists", key, timeout_s)
        return answer

    def ttl(self, key: str, timeout_s: float | None) -> Steps[float | None]:
        answer: float | None = yield from self._ask("ttl", key, timeout_s)
        return answer

    # ------------------------------------------------------------ one key, computed once

    def take_turn(self, key: str, holder: str, lease_s: float, timeout_s: float | None) -> Steps[Turn]:
        """The value, or the right to compute it, as :meth:`.Shard.take_turn` says."""
        turn: Turn = yield from self._ask("take_turn", key, timeout_s, holder=holder, lease_s=lease_s)
        return turn

    def renew_turn(self, key: str, holder: str, lease_s: float, timeout_s: float) -> Steps[None]:
        yield from self._ask("renew_turn", key, timeout_s, holder=holder, lease_s=lease_s)

    def give_up_turn(self, key: str, holder: str, timeout_s: float) -> Steps[None]:
        yield from self._ask("give_up_turn", key, timeout_s, holder=holder)

    def put_computed(
        self, key: str, holder: str, value: Any, ttl_s: float | None, stale_s: float, timeout_s: float | None
    ) -> Steps[None]:
        deadline = yield from self._begin(timeout_s)
        request = _request_id()
        placed = yield from self._place(value, deadline)

        def submit(actor: rayapi.Actor, epoch: int, left_s: float) -> rayapi.Ref:
            return actor.put_computed.remote(
                epoch, key, placed.head, placed.payload, placed.refs,
                holder=holder, request=request, ttl_s=ttl_s, stale_s=stale_s, timeout_s=left_s,
            )  # fmt: skip

        call = _Call(operation="PUT_COMPUTED", key=key, submit=submit, n_bytes=placed.n_bytes)
        yield from self._finish(call, None, deadline)

    # ------------------------------------------------------------ many keys

    def get_many(self, keys: Iterable[str], timeout_s: float | None, *, raw: bool = False) -> Steps[dict[str, Any]]:
        deadline = yield from self._begin(timeout_s)
        calls = (_get_call(key, raw) for key in dict.fromkeys(keys))
        answers = yield from self._finish_all(map(_ready, calls), deadline)
        found: dict[str, Any] = {}
        for key, answer in answers:
            if isinstance(answer, KeyNotFound):
                continue
            if isinstance(answer, InfiniRayError):
                raise answer
            found[key] = answer
        return found

    def put_many(self, values: Mapping[str, Any], ttl_s: float | None, timeout_s: float | None) -> Steps[None]:
        deadline = yield from self._begin(timeout_s)
        calls = (self._put_call(key, value, ttl_s, deadline) for key, value in values.items())
        answers = yield from self._finish_all(calls, deadline)
        for _, answer in answers:
            if isinstance(answer, InfiniRayError):
                raise answer

    def entries(self, prefix: str, limit: int | None, timeout_s: float | None) -> Steps[list[Entry]]:
        deadline = yield from self._begin(timeout_s)

        def submit(actor: rayapi.Actor, epoch: int, left_s: float) -> rayapi.Ref:
            return actor.list.remote(epoch, prefix, limit)

        for pause_s in _pauses():
            membership = yield from self._known(deadline)
            calls = [_Call(operation="LIST", key="", submit=submit, shard=shard) for shard in membership.shards]
            answers = [answer for _, answer in (yield from self._finish_all(map(_ready, calls), deadline))]
            troubles = [answer for answer in answers if isinstance(answer, InfiniRayError)]
            if not troubles and all(shards == membership.ring.shards for shards, _ in answers):
                break
            if deadline.left_s() <= pause_s:
                detail = "the membership kept changing"
                raise troubles[0] if troubles else deadline.exceeded("LIST", prefix, detail)
            if troubles and not isinstance(troubles[0], (StaleEpoch, CacheUnavailable)):
                raise troubles[0]
            self._doubt()  # keys move between shards, or a shard has left: begin again
            yield Pause(seconds=pause_s)
        return sorted(Entry(*row) for _, rows in answers for row in rows)[:limit]

    # ------------------------------------------------------------ the whole cache

    def stats(self, timeout_s: float | None) -> Steps[dict[str, Any]]:
        return (yield from self._report("stats", timeout_s))

    def status(self, timeout_s: float | None) -> Steps[dict[str, Any]]:
        return (yield from self._report("status", timeout_s))

    def _report(self, what: str, timeout_s: float | None) -> Steps[dict[str, Any]]:
        deadline = yield from self._begin(timeout_s)
        supervisor = yield from self._supervisor()
        ref = getattr(supervisor, what).remote()
        answer: dict[str, Any] = yield Wait(ref=ref, deadline=deadline, operation=what.upper())
        return answer

    def connect(self, timeout_s: float = CONNECT_TIMEOUT_S) -> Steps[Membership]:
        """Look the cache up: its membership."""
        return (yield from self._known(Deadline.after(timeout_s)))

    # ------------------------------------------------------------ calls

    def _begin(self, timeout_s: float | None) -> Steps[Deadline]:
        if timeout_s is not None:
            return Deadline.after(timeout_s)
        membership = self._membership or (yield from self._known(Deadline.after(CONNECT_TIMEOUT_S)))
        return Deadline.after(membership.deadline_s)

    def _ask(self, method: str, key: str, timeout_s: float | None, **details: Any) -> Steps[Any]:
        """Call a method that takes a key."""
        deadline = yield from self._begin(timeout_s)

        def submit(actor: rayapi.Actor, epoch: int, left_s: float) -> rayapi.Ref:
            return getattr(actor, method).remote(epoch, key, timeout_s=left_s, **details)

        return (yield from self._finish(_Call(operation=method.upper(), key=key, submit=submit), None, deadline))

    def _put_call(self, key: str, value: Any, ttl_s: float | None, deadline: Deadline) -> Steps[_Call]:
        request = _request_id()
        placed = yield from self._place(value, deadline)

        def submit(actor: rayapi.Actor, epoch: int, left_s: float, *, is_again: bool = False) -> rayapi.Ref:
            return actor.put.remote(
                epoch, key, placed.head, placed.payload, placed.refs,
                request=request, is_again=is_again, ttl_s=ttl_s, timeout_s=left_s,
            )  # fmt: skip

        again = partial(submit, is_again=True)
        return _Call(operation="PUT", key=key, submit=submit, submit_again=again, n_bytes=placed.n_bytes)

    def _place(self, value: Any, deadline: Deadline) -> Steps[_Placed]:
        """Serialize; what is large goes into Ray's store here, so that the call carries only a reference."""
        membership = yield from self._known(deadline)
        head, data = serialize(value)
        if data.nbytes < membership.inline_max_bytes:
            return _Placed(head, data.tobytes(), data.nbytes)
        ref = yield Block(partial(rayapi.place, data))
        return _Placed(head, ref, data.nbytes, [ref] if data.nbytes >= membership.task_min_bytes else [])

    def _finish(self, call: _Call, ref: rayapi.Ref | None, deadline: Deadline) -> Steps[Any]:
        """The answer to a call, which may have been submitted as ``ref``.

        A shard that is restarting is waited for, and an outdated view of the membership is renewed, until the deadline.
        """
        pauses = _pauses()
        submit = call.submit
        while True:
            pause_s = next(pauses)
            try:
                if ref is None:
                    ref = yield from self._submit(call, deadline, submit)
                return (yield Wait(ref=ref, deadline=deadline, operation=call.operation, key=call.key))
            except (StaleEpoch, CacheUnavailable) as trouble:
                if call.shard is not None:
                    raise  # that shard may have left: whoever calls it by name knows what to do then
                if deadline.left_s() <= pause_s:
                    raise _gave_up(call, deadline, trouble) from trouble
                if ref is not None and isinstance(trouble, CacheUnavailable):  # nobody knows how far it got
                    submit = call.submit_again or submit
                self._doubt()
            except (ShardRecovering, ObjectReplaced) as trouble:
                pause_s = getattr(trouble, "retry_after_s", 0.0) * random.uniform(0.5, 1.5)
                if deadline.left_s() <= pause_s:
                    raise
            ref = None
            yield Pause(seconds=pause_s)

    def _finish_all(self, calls: Iterable[Steps[_Call]], deadline: Deadline) -> Steps[list[tuple[str, Any]]]:
        """Answers to calls, in their order; an error that one met stands in the place of its answer.

        All are submitted before any is waited for, as far as the window allows.
        """
        under_way: deque[tuple[_Call, rayapi.Ref | None]] = deque()
        answers: list[tuple[str, Any]] = []

        def settle_oldest() -> Steps[None]:
            call, ref = under_way.popleft()
            answers.append((call.key, (yield from _caught(self._finish(call, ref, deadline)))))

        for begin in calls:
            call = yield from begin
            while under_way and (
                len(under_way) >= _WINDOW_CALLS or sum(c.n_bytes for c, _ in under_way) + call.n_bytes > _WINDOW_BYTES
            ):
                yield from settle_oldest()
            submitted = yield from _caught(self._submit(call, deadline))
            under_way.append((call, None if isinstance(submitted, InfiniRayError) else submitted))
        while under_way:
            yield from settle_oldest()
        return answers

    def _submit(self, call: _Call, deadline: Deadline, submit: Submit | None = None) -> Steps[rayapi.Ref]:
        membership = yield from self._known(deadline)
        name = membership.actor_of(call.key) if call.shard is None else shard_actor_name(self.name, call.shard)
        actor = yield from self._actor(name)
        return (submit or call.submit)(actor, membership.epoch, deadline.left_s())

    # ------------------------------------------------------------ who is there

    def _known(self, deadline: Deadline) -> Steps[Membership]:
        """The membership: asked for at first and when it may be outdated, else as I know it."""
        known = self._membership
        if known is None:
            self._membership = known = yield from self._asked(deadline)
        elif self._is_outdated:
            try:
                patience = Deadline.after(min(_RENEWAL_S, deadline.left_s()))
                self._membership = known = yield from self._asked(patience)
            except (CacheUnavailable, DeadlineExceeded):
                return known  # the supervisor is away, but most of what it said still holds
            self._is_outdated = False
        return known

    def _asked(self, deadline: Deadline) -> Steps[Membership]:
        """The supervisor's answer. If there is none, that is final; one that is restarting is waited for."""
        for pause_s in _pauses():
            supervisor = yield from self._supervisor()
            try:
                ref = supervisor.membership.remote()
                membership: Membership = yield Wait(ref=ref, deadline=deadline, operation="connect", key=self.name)
                break
            except CacheUnavailable:
                if deadline.left_s() <= pause_s:
                    raise
            self._actors.clear()
            yield Pause(seconds=pause_s)
        return membership

    def _supervisor(self) -> Steps[rayapi.Actor]:
        try:
            return (yield from self._actor(supervisor_name(self.name)))
        except CacheUnavailable as error:
            detail = (
                f"no cache {self.name!r} runs here: start one with infiniray.start(), or with "
                f"`infiniray up` in a shell ({error})"
            )
            raise CacheUnavailable(detail=detail) from None

    def _actor(self, name: str) -> Steps[rayapi.Actor]:
        actor = self._actors.get(name)
        if actor is None:
            actor = self._actors[name] = yield Block(partial(rayapi.find_actor, name))
        return actor

    def _doubt(self) -> None:
        """What I know may be outdated: look again before the next call."""
        self._is_outdated = True
        self._actors.clear()


def _get_call(key: str, raw: bool) -> _Call:
    def submit(actor: rayapi.Actor, epoch: int, left_s: float) -> rayapi.Ref:
        return actor.get.remote(epoch, key, raw=raw, timeout_s=left_s)

    return _Call(operation="GET", key=key, submit=submit)


def _exists_call(key: str) -> _Call:
    def submit(actor: rayapi.Actor, epoch: int, left_s: float) -> rayapi.Ref:
        return actor.exists.remote(epoch, key, timeout_s=left_s)

    return _Call(operation="GET", key=key, submit=submit)


def _ready(call: _Call) -> Steps[_Call]:
    yield from ()
    return call


def _caught(steps: Steps[Any]) -> Steps[Any]:
    """The result of ``steps``, or the error it raised."""
    try:
        return (yield from steps)
    except InfiniRayError as error:
        return error


def _pauses() -> Iterator[float]:
    """Exponential, capped, with jitter, so that many clients do not come back in step."""
    pause_s = _FIRST_PAUSE_S
    while True:
        yield pause_s * random.uniform(0.5, 1.5)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _gave_up(call: _Call, deadline: Deadline, trouble: InfiniRayError) -> InfiniRayError:
    if isinstance(trouble, CacheUnavailable):
        detail = f"{call.operation} of {call.key!r} found no shard within {deadline.timeout_s:g} s: {trouble}"
        return CacheUnavailable(detail=detail)
    return deadline.exceeded(call.operation, call.key, f"the membership kept changing ({trouble})")


def _request_id() -> str:
    return uuid.uuid4().hex
