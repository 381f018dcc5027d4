"""What a cache's verbs do: find the shard, call it, and stay with it while it is restarted or membership moves on.

Nothing here waits: verbs are generators (:mod:`infiniray.cluster.steps`).
"""

from __future__ import annotations

import random
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from infiniray.channel.client import Channel
from infiniray.channel.line import ChannelBusy, ChannelLost, ChannelUnreachable
from infiniray.channel.waiting import Exchange, TimedOut
from infiniray.cluster import rayapi
from infiniray.cluster.batches import Outcomes, get_batches, is_settled, put_batches
from infiniray.cluster.calls import (
    UNSAID,
    Call,
    PutCall,
    Submit,
    Value,
    ask_call,
    exists_call,
    get_call,
    made,
    put_call,
)
from infiniray.cluster.channels import Channels
from infiniray.cluster.deadline import Deadline
from infiniray.cluster.membership import Membership, shard_actor_name, supervisor_name
from infiniray.cluster.steps import Block, Pause, Steps, Talk, TalkAll, Wait
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


class Entry(NamedTuple):
    """What a listing says of an object. ``expires_s`` is Unix time, None for never."""

    key: str
    size_bytes: int
    expires_s: float | None


class Client:
    """I speak to one cache on behalf of one process.

    I keep its membership and route by myself; I learn of changes when a shard calls my epoch stale or does not answer.

    Args:
        channels: where shards are reached directly; None: all goes through Ray.
    """

    def __init__(self, name: str, channels: Channels | None = None) -> None:
        self.name = name
        self._channels = channels
        self._membership: Membership | None = None
        self._is_outdated = False
        self._actors: dict[str, rayapi.Actor] = {}

    def close(self) -> None:
        """Let go of direct connections; what is called later goes through Ray."""
        self._channels = None

    # ------------------------------------------------------------ one key

    def put(self, key: str, value: Any, ttl_s: float | None, timeout_s: float | None) -> Steps[None]:
        deadline = yield from self._begin(timeout_s)
        placed = Value(value, (yield from self._known(deadline)))
        yield from self._finish(put_call(key, placed, _request_id(), ttl_s), None, deadline)

    def get(self, key: str, timeout_s: float | None, *, raw: bool = False) -> Steps[Any]:
        deadline = yield from self._begin(timeout_s)
        return (yield from self._finish(get_call(key, raw), None, deadline))

    def get_ref(self, key: str, timeout_s: float | None, *, raw: bool = False) -> Steps[rayapi.Ref]:
        """A reference to the answer, which is not waited for: what it ends in is seen where it is used. So the shard is
        asked for a sign of life before, which is tried again as any call is: one that restarts is waited for, and an
        outdated membership renewed."""
        deadline = yield from self._begin(timeout_s)
        yield from self._finish(exists_call(key), None, deadline)
        return (yield from self._submit(get_call(key, raw), deadline))

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
        placed = Value(value, (yield from self._known(deadline)))
        yield from placed.prepare()

        def submit(actor: rayapi.Actor, epoch: int, left_s: float) -> rayapi.Ref:
            return actor.put_computed.remote(
                epoch, key, placed.head, placed.payload, placed.refs,
                holder=holder, request=request, ttl_s=ttl_s, stale_s=stale_s, timeout_s=left_s,
            )  # fmt: skip

        call = Call(operation="PUT_COMPUTED", key=key, submit=submit, n_bytes=placed.n_bytes)
        yield from self._finish(call, None, deadline)

    # ------------------------------------------------------------ many keys

    def get_many(self, keys: Iterable[str], timeout_s: float | None, *, raw: bool = False) -> Steps[dict[str, Any]]:
        deadline = yield from self._begin(timeout_s)
        outcomes: Outcomes = {}
        wanted = list(dict.fromkeys(keys))

        def say(channel: Channel, epoch: int, keys: list[str]) -> Exchange[None]:
            return get_batches(channel, epoch, deadline, keys, outcomes)

        yield from self._say_all("GET", wanted, say, deadline)
        answers: dict[str, Any] = {}
        for key, outcome in outcomes.items():
            if is_settled(outcome):
                answers[key] = yield from _caught(made(outcome, raw))
        left = (_ready(get_call(key, raw)) for key in wanted if key not in answers)
        answers |= yield from self._finish_all(left, deadline)
        found: dict[str, Any] = {}
        for key in wanted:
            answer = answers[key]
            if isinstance(answer, KeyNotFound):
                continue
            if isinstance(answer, InfiniRayError):
                raise answer
            found[key] = answer
        return found

    def put_many(self, values: Mapping[str, Any], ttl_s: float | None, timeout_s: float | None) -> Steps[None]:
        deadline = yield from self._begin(timeout_s)
        membership = yield from self._known(deadline)
        requests = {key: _request_id() for key in values}
        outcomes: Outcomes = {}

        def begin(key: str) -> PutCall:
            return put_call(key, Value(values[key], membership), requests[key], ttl_s)

        def say(channel: Channel, epoch: int, keys: list[str]) -> Exchange[None]:
            return put_batches(channel, epoch, deadline, keys, begin, outcomes.__setitem__)

        def say_otherwise(key: str) -> Call:
            call = begin(key)
            if isinstance(outcomes.get(key), CacheUnavailable):  # nobody knows how far it got
                return replace(call, submit=call.submit_again or call.submit, say=None)
            return call

        yield from self._say_all("PUT", list(values), say, deadline)
        answers = {key: outcome for key, outcome in outcomes.items() if is_settled(outcome)}
        left = (_ready(say_otherwise(key)) for key in values if key not in answers)
        answers |= yield from self._finish_all(left, deadline)
        for key in values:
            if isinstance(answers[key], InfiniRayError):
                raise answers[key]

    def entries(self, prefix: str, limit: int | None, timeout_s: float | None) -> Steps[list[Entry]]:
        deadline = yield from self._begin(timeout_s)

        def submit(actor: rayapi.Actor, epoch: int, left_s: float) -> rayapi.Ref:
            return actor.list.remote(epoch, prefix, limit)

        for pause_s in _pauses():
            membership = yield from self._known(deadline)
            calls = [Call(operation="LIST", key="", submit=submit, shard=shard) for shard in membership.shards]
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

        return (yield from self._finish(ask_call(method, key, details), None, deadline))

    def _finish(self, call: Call, ref: rayapi.Ref | None, deadline: Deadline) -> Steps[Any]:
        """The answer to a call, which may have been submitted as ``ref``.

        A shard that is restarting is waited for, and an outdated view of the membership is renewed, until the deadline.
        """
        pauses = _pauses()
        may_have_run = False
        while True:
            pause_s = next(pauses)
            try:
                was_said = False
                if ref is None:
                    was_said, outcome = yield from self._say(call, deadline, may_have_run)
                    if was_said:
                        return (yield from made(outcome, call.raw))
                    submit = call.submit_again if may_have_run else None
                    ref = yield from self._submit(call, deadline, submit)
                return (yield Wait(ref=ref, deadline=deadline, operation=call.operation, key=call.key))
            except (StaleEpoch, CacheUnavailable) as trouble:
                if call.shard is not None:
                    raise  # that shard may have left: whoever calls it by name knows what to do then
                if deadline.left_s() <= pause_s:
                    raise _gave_up(call, deadline, trouble) from trouble
                if isinstance(trouble, CacheUnavailable) and (ref is not None or was_said):
                    may_have_run = True  # nobody knows how far it got
                self._doubt()
            except (ShardRecovering, ObjectReplaced) as trouble:
                pause_s = getattr(trouble, "retry_after_s", 0.0) * random.uniform(0.5, 1.5)
                if deadline.left_s() <= pause_s:
                    raise
            ref = None
            yield Pause(seconds=pause_s)

    def _finish_all(self, calls: Iterable[Steps[Call]], deadline: Deadline) -> Steps[list[tuple[str, Any]]]:
        """Answers to calls, in their order; an error that one met stands in the place of its answer.

        All are submitted before any is waited for, as far as the window allows.
        """
        under_way: deque[tuple[Call, rayapi.Ref | None]] = deque()
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

    def _say(self, call: Call, deadline: Deadline, is_again: bool) -> Steps[tuple[bool, Any]]:
        """Whether a call was made over the shard's channel, and what became of it: an error, too."""
        channels = self._channels
        if call.say is None or channels is None:
            return False, None
        membership = yield from self._known(deadline)
        name = membership.actor_of(call.key)
        channel = yield from self._channel(channels, name, deadline)
        if channel is None:
            return False, None
        exchange = call.say(channel, membership.epoch, deadline, is_again)
        try:
            outcome = yield Talk(exchange=exchange, deadline=deadline, operation=call.operation, key=call.key)
        except ChannelBusy:
            return False, None
        except ChannelUnreachable as trouble:
            channels.unreachable(name, channel)
            if channel.was_reached:  # it has ended: its actor is asked first whether it is back, which risks nothing
                raise CacheUnavailable(detail=f"{call.operation}: {name} has ended: {trouble}") from None
            return False, None
        except ChannelLost as lost:
            channels.forget(name, channel)
            error = CacheUnavailable(detail=f"{call.operation}: the connection to {name} ended: {lost}")
            if not lost.may_have_run:
                raise error from None
            return True, error
        return outcome is not UNSAID, outcome

    def _say_all(
        self,
        operation: str,
        keys: list[str],
        say: Callable[[Channel, int, list[str]], Exchange[None]],
        deadline: Deadline,
    ) -> Steps[None]:
        """Have all shards that can be reached directly asked for their keys, all at once. What ``say`` did not get done
        is left to other ways.

        Raises:
            DeadlineExceeded: that took too long.
            InfiniRayError: what ``say`` raised.
        """
        channels = self._channels
        if channels is None or not keys:
            return
        membership = yield from self._known(deadline)
        by_shard: dict[str, list[str]] = {}
        for key in keys:
            by_shard.setdefault(membership.actor_of(key), []).append(key)
        found: list[tuple[str, Channel]] = []
        for name in by_shard:
            channel = yield from _caught(self._channel(channels, name, deadline))
            if isinstance(channel, Channel):
                found.append((name, channel))
        exchanges = [say(channel, membership.epoch, by_shard[name]) for name, channel in found]
        results = yield TalkAll(exchanges=exchanges, deadline=deadline)
        for (name, channel), result in zip(found, results, strict=True):
            if isinstance(result, TimedOut):
                raise deadline.exceeded(operation, by_shard[name][0], "no answer from the shard")
            if isinstance(result, ChannelUnreachable) and not isinstance(result, ChannelBusy):
                channels.unreachable(name, channel)
            elif isinstance(result, ChannelLost):
                channels.forget(name, channel)
            elif isinstance(result, Exception) and not isinstance(result, ChannelBusy):
                raise result

    def _channel(self, channels: Channels, name: str, deadline: Deadline) -> Steps[Channel | None]:
        """The way to a shard's actor beside Ray, if there is one: the actor says where."""
        channel = channels.find(name)
        if channel is not None or not channels.is_worth_asking(name):
            return channel
        actor = yield from self._actor(name)
        try:
            ref = actor.channel.remote()
        except AttributeError:  # it is of an earlier version
            channels.avoid(name)
            return None
        return channels.open(name, (yield Wait(ref=ref, deadline=deadline, operation="connect", key=name)))

    def _submit(self, call: Call, deadline: Deadline, submit: Submit | None = None) -> Steps[rayapi.Ref]:
        if call.prepare is not None:
            yield from call.prepare()
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


def _ready(call: Call) -> Steps[Call]:
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


def _gave_up(call: Call, deadline: Deadline, trouble: InfiniRayError) -> InfiniRayError:
    if isinstance(trouble, CacheUnavailable):
        detail = f"{call.operation} of {call.key!r} found no shard within {deadline.timeout_s:g} s: {trouble}"
        return CacheUnavailable(detail=detail)
    return deadline.exceeded(call.operation, call.key, f"the membership kept changing ({trouble})")


def _request_id() -> str:
    return uuid.uuid4().hex
