"""What may happen to a pool and a shard: reclaims, broken connections, crashes; and that all is well again."""

from __future__ import annotations

from infiniray.sim.driver import SimDriver
from infiniray.sim.ledger import WitnessedShard
from infiniray.sim.promises import Promises
from infiniray.sim.scene import Scene
from infiniray.sim.violation import Violation

__all__ = ["Misfortune"]

#: Operations that wait have ended so long after the platform has recovered and slow instances have caught up.
_RECOVERY_S = 10.0


class Misfortune:
    """I do to a scene what the world does to a cache."""

    def __init__(self, scene: Scene, promises: Promises) -> None:
        self.scene = scene
        self.promises = promises

    def reclaim_one(self) -> None:
        scene = self.scene
        instance = scene.some_instance()
        if instance is not None:
            scene.driver.platform.reclaim(instance, is_silent=scene.random.random() < 0.3)

    def reclaim_some(self) -> None:
        scene = self.scene
        alive = scene.driver.platform.alive()
        for instance in scene.random.sample(alive, min(len(alive), scene.random.choice([2, 3, 5, 100]))):
            scene.driver.platform.reclaim(instance)

    def spike(self) -> None:
        """Within two seconds the platform takes most instances away, perhaps those too that have just started."""

        scene = self.scene

        def reclaim() -> None:
            instance = scene.some_instance()
            if instance is not None:
                scene.driver.platform.reclaim(instance)

        for _ in range(scene.random.choice([8, 20])):
            scene.driver.clock.after(scene.random.uniform(0.0, 2.0), reclaim)

    def hang(self) -> None:
        scene = self.scene
        scene.disturbed_s = scene.driver.clock.now_s
        instance = scene.some_instance()
        if instance is not None:
            scene.driver.platform.hang(instance)

    def slow(self) -> None:
        scene = self.scene
        scene.disturbed_s = scene.driver.clock.now_s
        instance = scene.some_instance()
        if instance is not None:
            instance.slowness = scene.random.choice([1.0, 5.0, 100.0])
            scene.slowed.add(instance.node)

    def corrupt(self) -> None:
        instance = self.scene.some_instance()
        if instance is not None:
            instance.is_corrupt = not instance.is_corrupt
            self.scene.damaged.add(instance.node)

    def cut(self) -> None:
        scene = self.scene
        scene.disturbed_s = scene.driver.clock.now_s
        instance = scene.some_instance()
        if instance is not None:
            scene.driver.platform.cut(instance)

    def cut_all(self) -> None:
        scene = self.scene
        scene.disturbed_s = scene.driver.clock.now_s
        for instance in scene.driver.platform.alive():
            scene.driver.platform.cut(instance)

    def recover(self) -> None:
        """The platform is as it should be again: what waits for it is served."""
        scene = self.scene
        scene.driver.platform.heal()
        scene.driver.supervisor.restart()
        scene.driver.registry.is_away = False
        scene.driver.codec_failures = 0
        backlog_until_s = max((i.free_at_s for i in scene.driver.platform.alive()), default=0.0)
        scene.driver.clock.run(max(scene.driver.clock.now_s, backlog_until_s) + _RECOVERY_S)
        self.promises.check()
        if scene.deadlines:
            raise Violation(f"{_RECOVERY_S:g} s after recovery these are not served: {sorted(scene.deadlines)}")

    def fail_codec(self) -> None:
        self.scene.driver.codec_failures = 1

    def throttle(self) -> None:
        scene = self.scene
        scene.disturbed_s = scene.driver.clock.now_s
        scene.driver.platform.throttle_next = scene.random.choice([0, 1, 3, 10])

    def deny_slot(self) -> None:
        self.scene.driver.slots_denied = self.scene.random.choice([0, 1, 5])

    def lose_supervisor(self) -> None:
        """It crashes, and is restarted: clients and shards go on, and a shard that restarts waits for it."""
        scene = self.scene
        scene.driver.supervisor.crash()
        scene.driver.clock.after(scene.random.choice([0.5, 5.0]), scene.driver.supervisor.restart)

    def lose_registry(self) -> None:
        """For a while nothing can be written down."""
        scene = self.scene
        registry = scene.driver.registry
        registry.is_away = True
        scene.driver.clock.after(scene.random.choice([0.2, 3.0]), lambda: setattr(registry, "is_away", False))

    def crash(self) -> None:
        """The shard dies, and is restarted after a while."""
        scene = self.scene
        for op in scene.driver.crash():
            scene.forget(op)
        scene.driver.clock.run(scene.driver.clock.now_s + scene.random.choice([0.0, 0.1, 2.0]))
        self._wait_for_supervisor()
        self._replace_shard()

    def succeed(self) -> None:
        """The shard is restarted although it has not died: for a while there are two."""
        driver = self.scene.driver
        self._wait_for_supervisor()
        self.scene.former.append(driver)
        self._replace_shard()

    def _wait_for_supervisor(self) -> None:
        scene = self.scene
        while scene.driver.supervisor.is_away:
            scene.driver.clock.run(scene.driver.clock.now_s + 0.1)

    def _replace_shard(self) -> None:
        scene = self.scene
        self.promises.check_endings()
        scene.n_replaced += 1
        scene.tally.clear()
        for write in (write for record in scene.keys.values() for write in record.writes):
            write.expires(write.expires_s)
        limits_bytes = scene.driver.platform.limits_bytes
        nodes = {name: limits_bytes[name] for name in (*scene.state.nodes, *sorted(scene.departed()))}
        epoch = scene.driver.supervisor.enroll()
        scene.state = WitnessedShard(shard="s", epoch=epoch, nodes=nodes, policy=scene.policy, given_up=scene.given_up)
        scene.driver = SimDriver(scene.state, before=scene.driver)
        scene.on_record = dict(scene.driver.registry.copies)
        is_alone = all(driver.is_dead or driver.state.is_deposed for driver in scene.former)
        scene.kept = {i.id: dict(i.chunks) for i in scene.driver.platform.alive()} if is_alone else {}
        scene.started_before_s, scene.started_s = scene.started_s, scene.driver.clock.now_s
        driver = scene.driver
        driver.on_recovered = lambda: self.promises.check_recovery() if driver is scene.driver else None
        scene.driver.start()
        scene.driver.change_pool(scene.pool)
