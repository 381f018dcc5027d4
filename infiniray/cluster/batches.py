"""Many keys of one shard over its channel: as few frames as will do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from infiniray.channel.client import Channel
from infiniray.channel.line import ChannelLost
from infiniray.channel.waiting import Exchange
from infiniray.cluster.calls import PUT_IN_FRAME_BYTES, UNSAID, PutCall, stored
from infiniray.cluster.deadline import Deadline
from infiniray.errors import CacheUnavailable, InfiniRayError, ObjectReplaced, ShardRecovering, StaleEpoch

__all__ = ["Outcomes", "get_batches", "is_settled", "put_batches"]

#: {key: what became of it}; filled as answers come. A key that is not in it has not been asked for.
Outcomes = dict[str, Any]
#: Of one frame of writes. A key takes up to six characters for each of its own.
_MAX_META_CHARS = 1 << 20
_WRITE_CHARS = 200


def is_settled(outcome: Any) -> bool:
    """Whether it is what the caller gets; else the call has to be made again."""
    again = (StaleEpoch, CacheUnavailable, ShardRecovering, ObjectReplaced)
    return outcome is not UNSAID and not isinstance(outcome, again)


def get_batches(
    channel: Channel, epoch: int, deadline: Deadline, keys: Iterable[str], outcomes: Outcomes
) -> Exchange[None]:
    """Read ``keys``, so many at a time as a frame may have."""
    left = iter(keys)
    while batch := list(islice(left, channel.endpoint.max_keys)):
        answers = yield from channel.get(epoch, deadline.left_s(), batch)
        outcomes.update(zip(batch, answers, strict=True))


def put_batches(
    channel: Channel, epoch: int, deadline: Deadline, keys: Iterable[str], begin: Callable[[str], PutCall],
    end: Callable[[str, Any], None],
) -> Exchange[None]:  # fmt: skip
    """Store values; small ones together.

    Args:
        begin: makes the call for a key: serialized only now, so that few values are kept twice at a time.
        end: called with a key and what became of it.
    """
    for batch in _batches(_begun(keys, begin, end), channel.endpoint.max_body_bytes, channel.endpoint.max_keys):
        try:
            if len(batch) == 1:
                answers = [(yield from stored(channel, epoch, deadline, batch[0], False))]
            else:
                answers = yield from channel.put(epoch, deadline.left_s(), [call.write(False) for call in batch])
        except ChannelLost as lost:
            if lost.may_have_run:
                for call in batch:
                    end(call.key, CacheUnavailable(detail=f"PUT: the connection ended: {lost}"))
            raise
        for call, answer in zip(batch, answers, strict=True):
            end(call.key, answer)


def _begun(keys: Iterable[str], begin: Callable[[str], PutCall], end: Callable[[str, Any], None]) -> Iterator[PutCall]:
    for key in keys:
        try:
            call = begin(key)
        except InfiniRayError as error:  # it cannot be serialized; the others can
            end(key, error)
        else:
            yield call


def _batches(calls: Iterable[PutCall], max_bytes: int, max_keys: int) -> Iterator[list[PutCall]]:
    batch: list[PutCall] = []
    n_bytes = n_chars = 0
    for call in calls:
        if call.n_bytes > PUT_IN_FRAME_BYTES or call.value.is_for_task:
            yield [call]
            continue
        chars = 6 * len(call.key) + len(call.value.head) + _WRITE_CHARS
        if batch and (
            n_bytes + call.n_bytes > max_bytes or len(batch) == max_keys or n_chars + chars > _MAX_META_CHARS
        ):
            yield batch
            batch, n_bytes, n_chars = [], 0, 0
        batch.append(call)
        n_bytes, n_chars = n_bytes + call.n_bytes, n_chars + chars
    if batch:
        yield batch
