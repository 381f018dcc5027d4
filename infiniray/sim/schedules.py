"""Seeded schedules: clients read and write while the platform misbehaves, and every promise is checked at every step.

What is promised (DESIGN sections 5 and 8): never wrong bytes, never a mix of versions; a read returns the last
acknowledged write, or one that overlaps it, or a miss that has a reason (it expired, was given up, a shard died), and
never what has expired; with at most r chunks lost it is a hit; chunks of an object are on distinct nodes; no instance
holds more than its memory; every operation ends once, by its deadline; the shard's books add up
(:mod:`~infiniray.sim.ledger`); once the platform has recovered all is served; afterwards nothing is left open, nothing
is left over on a node, and what is whole can be read.

In one schedule of four nothing worse happens than that connections break: there nothing fails but for want of room,
nothing takes long, nothing is lost and no node is started twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from infiniray.core.ids import NodeId
from infiniray.sim.history import Read, Write
from infiniray.sim.misfortune import Misfortune
from infiniray.sim.promises import Promises
from infiniray.sim.scene import KEYS, MORTAL, QUICK_S, Scene, ScheduleResult
from infiniray.sim.violation import Violation

__all__ = ["STEPS", "ScheduleResult", "replay_command", "run_schedule"]

#: What a schedule has, where nothing else is said.
STEPS = 150

_TIMEOUT_S = 20.0
#: A node more than the widest scheme needs: a chunk has somewhere to go.
_FEWEST_NODES, _MOST_NODES = 8, 13
#: Of one node within a second. More than that nobody needs, and somebody pays for.
_MOST_INVOCATIONS = 40


class _Schedule:
    """I am one seeded run: what clients do, and what befalls them, in an order that chance has made."""

    def __init__(
        self,
        seed: int,
        n_steps: int,
        *,
        emphasis: Mapping[str, int],
        keeps_story: bool,
        story_limit: int | None = None,
    ) -> None:
        self.emphasis = emphasis
        self.scene = Scene(seed, n_steps, keeps_story=keeps_story, story_limit=story_limit)
        self.promises = Promises(self.scene)
        self.misfortune = Misfortune(self.scene, self.promises)
        self.n_values = 0
        self.n_done = 0  # steps that were begun

    def story(self) -> list[str]:
        """Every event and command, if they were kept."""
        return [f"{time_s:.6f} {what}" for time_s, what in self.scene.driver.log or ()]

    def run(self) -> ScheduleResult:
        scene = self.scene
        luck = self.misfortune
        use: list[tuple[Callable[[], None], int]] = [
            (self._put, 30), (self._get, 45), (self._walk_away, 2), (self._delete, 4), (self._touch, 4),
            (luck.cut, 4), (luck.cut_all, 1), (self._change_pool, 2),
        ]  # fmt: skip
        bad_luck: list[tuple[Callable[[], None], int]] = [
            (luck.reclaim_one, 6), (luck.reclaim_some, 2), (luck.hang, 2), (luck.slow, 2), (luck.corrupt, 1),
            (luck.throttle, 2), (luck.fail_codec, 1), (luck.recover, 3), (luck.crash, 1), (luck.succeed, 1),
            (luck.deny_slot, 1), (luck.lose_supervisor, 1), (luck.lose_registry, 1), (luck.spike, 1),
        ]  # fmt: skip
        actions, usual = zip(*use, *([] if scene.result.is_lucky else bad_luck), strict=True)
        weights = [n * self.emphasis.get(act.__name__.lstrip("_"), 1) for act, n in zip(actions, usual, strict=True)]
        for _ in range(scene.result.n_steps):
            self.n_done += 1
            scene.random.choices(actions, weights)[0]()
            scene.driver.clock.run(scene.driver.clock.now_s + scene.random.choice([0.0, 0.001, 0.01, 0.05, 0.5, 3.0]))
            self._get_of_former()
            self.promises.check()
        self.promises.come_to_rest()
        self._read_all()
        self.promises.come_to_rest()
        self.promises.check_nodes()
        if scene.driver.platform.n_invoked_most > _MOST_INVOCATIONS:
            raise Violation(f"a node was invoked {scene.driver.platform.n_invoked_most} times in one second")
        scene.result.n_events = scene.driver.n_events
        scene.result.counters = scene.state.counters
        scene.result.backups = scene.state.backups.counters
        return scene.result

    def _read_all(self) -> None:
        """What is whole can be read, and what is not is called lost."""
        scene = self.scene
        self.misfortune.recover()
        scene.is_healed = True
        for key in KEYS:
            self._get_key(key)
            while scene.deadlines:
                scene.driver.clock.run(scene.driver.clock.now_s + 0.25)
                self.promises.check()

    # ------------------------------------------------------------ clients

    def _put(self) -> None:
        scene = self.scene
        key = scene.random.choice(KEYS)
        self.n_values += 1
        size_bytes = scene.random.choice([0, 1, 1000, 1 << 16, 1 << 17, 1 << 20, (1 << 20) + 1, 5 << 20])
        ttl_s = scene.random.choice([None, 5.0]) if key in MORTAL else None
        now_s = scene.driver.clock.now_s
        record = scene.keys[key]
        expires_s = math.inf if ttl_s is None else now_s + ttl_s
        write = Write(f"value {self.n_values}", now_s, None, scene.n_given_up(key), expires_s, expires_s, expires_s)
        record.writes.append(write)
        op = scene.driver.put(key, size_bytes, write.value, ttl_s=ttl_s, timeout_s=_TIMEOUT_S)
        record.writing[op] = write
        scene.deadlines[op] = now_s + self._limit_s()

    def _limit_s(self) -> float:
        return QUICK_S if self.scene.result.is_lucky else _TIMEOUT_S

    def _get(self) -> None:
        scene = self.scene
        self._get_key(scene.random.choice(KEYS))
        for _ in range(scene.apart.choice([0, 0, 1, 4]) if scene.policy.near_bytes else 0):
            scene.driver.clock.run(scene.driver.clock.now_s + scene.apart.choice([0.0, 0.002, 0.05]))
            self._get_key(scene.apart.choice(KEYS))

    def _get_of_former(self) -> None:
        """A client that has not heard of the new incarnation asks a former one, which has not either: for what that may
        have without asking a node."""
        scene = self.scene
        for driver in scene.former:
            if driver.near_keys and not driver.is_dead and not driver.state.is_deposed:
                key = scene.apart.choice(driver.near_keys)
                read = Read(key, scene.driver.clock.now_s, 0)
                scene.late_reads[driver.get(key, timeout_s=_TIMEOUT_S)] = driver, read

    def _get_key(self, key: str) -> None:
        scene = self.scene
        now_s = scene.driver.clock.now_s
        record = scene.state.table.find(key)
        version = record.facts.version if record is not None else 0
        places = tuple(place.node for place in record.places) if record is not None else ()
        scene.reads[scene.driver.get(key, timeout_s=_TIMEOUT_S)] = Read(key, now_s, version, places)
        scene.deadlines[max(scene.reads)] = now_s + self._limit_s()

    def _delete(self) -> None:
        scene = self.scene
        key = scene.random.choice(KEYS)
        now_s = scene.driver.clock.now_s
        write = Write(None, now_s)
        scene.keys[key].writes.append(write)
        op = scene.driver.delete(key, timeout_s=_TIMEOUT_S)
        scene.keys[key].writing[op] = write
        scene.deadlines[op] = now_s + self._limit_s()

    def _touch(self) -> None:
        scene = self.scene
        key = scene.random.choice(KEYS)
        ttl_s = scene.random.choice([None, 1.0]) if key in MORTAL else None
        expires_s = math.inf if ttl_s is None else scene.driver.clock.now_s + ttl_s
        if not scene.driver.finish(scene.driver.touch(key, ttl_s)).found:
            return
        writes = [write for write in scene.keys[key].current(scene.driver.clock.now_s) if write.value is not None]
        for write in writes:
            if len(writes) == 1:
                write.expires_from_s = write.expires_by_s = expires_s
            write.expires(expires_s)

    def _walk_away(self) -> None:
        """A caller stops waiting. If that was for a write, it may take effect or not."""
        scene = self.scene
        running = [op for op in scene.deadlines if op not in scene.driver.endings]
        if not running:
            return
        op = scene.random.choice(running)
        scene.driver.cancel(op)
        scene.forget(op)

    def _change_pool(self) -> None:
        """A node joins, or one has to leave: perhaps one that has just come, or before it is empty."""
        scene = self.scene
        name = NodeId(f"n{scene.random.randrange(_MOST_NODES)}")
        if name in scene.pool and len(scene.pool) > _FEWEST_NODES:
            del scene.pool[name]
        else:
            scene.pool[name] = scene.driver.platform.limits_bytes.get(name, min(scene.pool.values()))
        scene.driver.change_pool(scene.pool)


def run_schedule(
    seed: int,
    n_steps: int = STEPS,
    *,
    emphasis: Mapping[str, int] | None = None,
    keeps_story: bool = False,
    story_limit: int | None = None,
) -> ScheduleResult:
    """Run one seeded schedule.

    Args:
        emphasis: how many times as often as else an action is taken, by its name, like ``{"crash": 5}``.
        story_limit: keep only so much of the story's end.

    Raises:
        Violation: a promise was broken, or an assumption of the code itself; the message begins with the seed.
    """
    schedule = _Schedule(seed, n_steps, emphasis=emphasis or {}, keeps_story=keeps_story, story_limit=story_limit)
    try:
        result = schedule.run()
    except Exception as error:
        what = str(error) if isinstance(error, Violation) else f"{type(error).__name__}: {error}"
        how = f"run_schedule({seed}, {n_steps}, emphasis={emphasis})" if emphasis else replay_command(seed, n_steps)
        again = Violation(f"seed {seed}, step {schedule.n_done}: {what}\nreplay: {how}")
        again.seed, again.n_steps, again.story = seed, schedule.n_done, schedule.story()
        raise again from error
    result.story = schedule.story()
    return result


def replay_command(seed: int, n_steps: int = STEPS) -> str:
    """What a person types to see a schedule's story."""
    steps = "" if n_steps == STEPS else f" --steps {n_steps}"
    return f"infiniray soak --replay {seed}{steps}"
