"""Timing PUT and GET of several systems that take turns.

Systems take turns within every round (A B C, A B C, ...), so that a machine whose speed drifts slows all of them alike.
Every call is timed by itself; values are new in every round, and compared after the clock has stopped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from workloads.baselines import ByteArray, ManyTarget, Target
from workloads.bench.rows import BenchRow, Samples, with_ratios
from workloads.errors import TargetFailed

__all__ = ["MANY", "OPS", "Case", "Conditions", "measure", "random_values"]

#: Values in one call of get_many and put_many.
MANY = 100
OPS = ("put", "get", "put_many", "get_many")

#: What a client moves in one round of small values: many calls, so that a median and a p99 of 4 KiB mean something.
_ROUND_BYTES = 8 << 20
_ROUND_CALLS = 100
_ROUND_CALLS_OF_MANY = 5
#: Each of these waits until all nodes sleep.
_ASLEEP_CALLS = 10
_BARRIER_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What holds for a whole run: the scheme of the cache ("default": by size), its nodes, its network, and whether its
    shards keep near copies."""

    scheme: str
    awake: bool = True
    shaped: bool = False
    near: bool = False

    def __str__(self) -> str:
        extras = (", shaped" if self.shaped else "") + (", near copies" if self.near else "")
        return f"{self.scheme}, {'awake' if self.awake else 'asleep'}{extras}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is measured: calls with ``n_values`` values of ``size_bytes`` each, from ``clients`` threads at once."""

    size_bytes: int
    clients: int = 1
    rounds: int = 9
    n_values: int = 1

    def __str__(self) -> str:
        many = f"{self.n_values} x " if self.n_values > 1 else ""
        return f"{many}{self.size_bytes:,} bytes, {self.clients} clients, {self.rounds} rounds"

    def calls_per_round(self, *, awake: bool) -> int:
        """Of one client."""
        fitting = _ROUND_BYTES // (self.size_bytes * self.n_values)
        most = _ROUND_CALLS if self.n_values == 1 else _ROUND_CALLS_OF_MANY
        return max(1, min(fitting, most if awake else min(most, _ASLEEP_CALLS)))


#: One client's work of a round: values by key, for each of its calls.
_Calls = list[dict[str, ByteArray]]


def measure(
    targets: Sequence[Target],
    case: Case,
    conditions: Conditions,
    *,
    ops: Sequence[str],
    settle: Callable[[], None] = lambda: None,
) -> list[BenchRow]:
    """Run a case on all targets, in turns, after one round that does not count.

    Args:
        ops: which of :data:`OPS` to report, all with one value or all with many. What is read was stored in the same
            round, so puts are made in any case.
        settle: brings the nodes of the first target, the cache, to where ``conditions`` has them; called before
            each of its timed stretches: before every call if they are to be asleep.

    Raises:
        TargetFailed: a system gave back other bytes than were stored.
    """
    suffix = "_many" if case.n_values > 1 else ""
    if suffix:
        targets = [target for target in targets if hasattr(target, "get_many")]
    work = _work(case, conditions)
    samples = {(target.name, op): Samples() for target in targets for op in ops}
    with ThreadPoolExecutor(case.clients) as clients:
        for round_ in range(-1, case.rounds):
            _stamp(work, round_)
            for target in targets:
                turn = _Turn(target, clients, work, settle if target is targets[0] else None, conditions.awake)
                for op in ("put" + suffix, "get" + suffix):
                    taken = turn.take(op, wait=op in ops)
                    if round_ >= 0 and op in ops:
                        samples[target.name, op].calls_s += taken.calls_s
                        samples[target.name, op].bytes_per_s += taken.bytes_per_s
                _verify(target, work, turn.results)
    for target in targets:
        for key in (key for calls in work for call in calls for key in call):
            target.delete(key)
    return with_ratios(
        BenchRow.of(
            samples[target.name, op],
            system=target.name,
            op=op,
            size_bytes=case.size_bytes,
            scheme=conditions.scheme if target is targets[0] else "",
            beside=conditions.scheme,
            clients=case.clients,
            awake=conditions.awake,
            shaped=conditions.shaped,
            near=conditions.near and target is targets[0],
            n_values=case.n_values,
            rounds=case.rounds,
        )
        for target in targets
        for op in ops
    )


def random_values(size_bytes: int, keys: Sequence[str]) -> dict[str, ByteArray]:
    """Bytes that do not compress, other ones for each key."""
    rng = np.random.default_rng(size_bytes)
    return {key: rng.integers(0, 256, size_bytes, dtype=np.uint8) for key in keys}


def _work(case: Case, conditions: Conditions) -> list[_Calls]:
    """What each client stores and reads."""
    n_calls = case.calls_per_round(awake=conditions.awake)
    return [
        [
            random_values(case.size_bytes, [f"bench/{client}/{call}/{i}" for i in range(case.n_values)])
            for call in range(n_calls)
        ]
        for client in range(case.clients)
    ]


def _stamp(work: list[_Calls], round_: int) -> None:
    """Make all values new, so that what an earlier round stored is not taken for this one's."""
    n = 0
    for calls in work:
        for call in calls:
            for value in call.values():
                n += 1
                mark = np.frombuffer(((round_ + 1) << 32 | n).to_bytes(8, "little"), np.uint8)
                value[:8] = mark[: len(value)]


class _Turn:
    """One system's part of a round."""

    def __init__(
        self,
        target: Target,
        clients: ThreadPoolExecutor,
        work: list[_Calls],
        settle: Callable[[], None] | None,
        awake: bool,
    ) -> None:
        self.results: dict[str, Any] = {}
        self._act = _actions(target)
        self._clients = clients
        self._work = work
        self._settle = settle
        self._awake = awake

    def take(self, op: str, *, wait: bool) -> Samples:
        """Time every call of an operation; ``wait``: settle first."""
        samples = Samples()
        act = self._act[op]
        n_calls = len(self._work[0])
        stretch = 1 if self._settle is not None and not self._awake and wait else n_calls
        elapsed_s = 0.0
        for first in range(0, n_calls, stretch):
            if self._settle is not None and wait:
                self._settle()
            spans = self._at_once(act, [calls[first : first + stretch] for calls in self._work])
            samples.calls_s += [end_s - start_s for start_s, end_s in spans]
            elapsed_s += max(end_s for _, end_s in spans) - min(start_s for start_s, _ in spans)
        moved_bytes = sum(len(value) for calls in self._work for call in calls for value in call.values())
        samples.bytes_per_s.append(moved_bytes / elapsed_s)
        return samples

    def _at_once(self, act: _Action, work: list[_Calls]) -> list[tuple[float, float]]:
        """When each call began and ended, all clients beginning together."""
        together = threading.Barrier(len(work))

        def client(calls: _Calls) -> tuple[list[tuple[float, float]], dict[str, Any]]:
            spans: list[tuple[float, float]] = []
            results: dict[str, Any] = {}
            together.wait(_BARRIER_S)
            for call in calls:
                start_s = time.perf_counter()
                result = act(call)
                spans.append((start_s, time.perf_counter()))
                results.update(result)
            return spans, results

        running = [self._clients.submit(client, calls) for calls in work]
        all_spans: list[tuple[float, float]] = []
        for done in running:
            spans, results = done.result()
            all_spans += spans
            self.results.update(results)
        return all_spans


#: Makes one call; what it has read, by key.
_Action = Callable[[dict[str, ByteArray]], Mapping[str, Any]]
_NOTHING: Mapping[str, Any] = {}


def _actions(target: Target) -> dict[str, _Action]:
    """The operations, each on a call's values. With one value, the key is found outside the target."""

    def put(call: dict[str, ByteArray]) -> Mapping[str, Any]:
        ((key, value),) = call.items()
        target.put(key, value)
        return _NOTHING

    def get(call: dict[str, ByteArray]) -> Mapping[str, Any]:
        (key,) = call
        return {key: target.get(key)}

    def put_many(call: dict[str, ByteArray]) -> Mapping[str, Any]:
        cast(ManyTarget, target).put_many(call)
        return _NOTHING

    def get_many(call: dict[str, ByteArray]) -> Mapping[str, Any]:
        return cast(ManyTarget, target).get_many(list(call))

    return {"put": put, "get": get, "put_many": put_many, "get_many": get_many}


def _verify(target: Target, work: list[_Calls], results: dict[str, Any]) -> None:
    for calls in work:
        for call in calls:
            for key, value in call.items():
                if key not in results or not np.array_equal(np.frombuffer(results[key], np.uint8), value):
                    raise TargetFailed(system=target.name, detail=f"{key} came back with other bytes than were stored")
