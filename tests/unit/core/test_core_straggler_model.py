"""The lecture's model of reads against the reads themselves: the same chunk times, the same end."""

from __future__ import annotations

import random

import numpy as np
import pytest
from core_world import MIB, World

from infiniray.codec.schemes import Scheme
from infiniray.core import commands as cmd
from infiniray.core.policy import Hedge
from workloads.lectures.straggler_model import ChunkTimes, HedgeRule, Layout, NodeModel, model_reads

_AT_ONCE = NodeModel(decode_bytes_per_s=float("inf"))


def read_for_real(scheme: str, hedge: Hedge, size_bytes: int, takes_s: list[float]) -> tuple[float, int]:
    """A read whose chunk ``i`` comes ``takes_s[i]`` after it is asked for: how long it took, how many were asked."""
    world = World(scheme=scheme, hedge=hedge, n_nodes=len(takes_s), capacity_bytes=256 * MIB)
    world.facts(world.put("a", size_bytes))
    started_s, since = world.now_s, len(world.commands)
    for node in world.nodes.values():
        node.holds = True
    get = world.get("a")
    come_s: dict[int, float] = {}
    while world.is_open(get):
        fetches = world.said(cmd.FetchChunk, since)
        for fetch in fetches:
            come_s.setdefault(fetch.index, world.now_s + takes_s[fetch.index])
        held = {fetch.index for fetch in fetches if world.nodes[world.node_of("a", fetch.index)].holds}
        first = min(held, key=come_s.__getitem__)
        timer_s = min(world.timers.values(), default=float("inf"))
        world.advance(min(come_s[first], timer_s) - world.now_s)
        if come_s[first] <= timer_s:
            world.let_go(world.node_of("a", first))
    world.facts(get)
    return world.now_s - started_s, len(world.said(cmd.FetchChunk, since))


@pytest.mark.parametrize("hedge", Hedge)
@pytest.mark.parametrize("scheme", ["rs:4+2", "rs:4+1", "rs:2+3", "mirror:2", "mirror:3", "stripe:4"])
@pytest.mark.parametrize("size_bytes", [MIB, 40 * MIB])
def test_the_model_ends_when_the_read_does(scheme: str, hedge: Hedge, size_bytes: int) -> None:
    rng, parsed = random.Random(1), Scheme.parse(scheme)
    for _ in range(25):
        takes_s = [rng.uniform(0.005, 0.06) * rng.choice((1, 1, 1, 1, 10)) for _ in range(parsed.n)]
        times = ChunkTimes(start_s=np.zeros((1, 1, parsed.n)), transfer_s=np.array([[takes_s]]))
        modelled = model_reads(_AT_ONCE, Layout(scheme=parsed), HedgeRule(hedge=hedge), size_bytes, times)
        latency_s, n_asked = read_for_real(scheme, hedge, size_bytes, takes_s)
        assert modelled.latency_s.item() == pytest.approx(latency_s, abs=1e-6)
        assert modelled.uncancelled_bytes.item() == n_asked * parsed.chunk_bytes(size_bytes)
