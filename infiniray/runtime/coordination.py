"""What a shard writes down for its next incarnation, and the slots that keep backups from gathering."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from infiniray.core.commands import AcquireSlot, ConfirmLead, RegisterCopy, ReleaseSlot
from infiniray.core.events import CopyRegistered, LeadConfirmed, SlotAnswered
from infiniray.core.ids import InstanceId, NodeId
from infiniray.errors import StaleEpoch

__all__ = ["Coordination", "Coordinator", "LoneCoordinator"]

#: A call that takes longer counts as failed.
REGISTER_TIMEOUT_S = 10.0
SLOT_TIMEOUT_S = 2.0
CONFIRM_TIMEOUT_S = 2.0
#: Between attempts to register: doubled each time, up to the longest.
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0


class Coordinator(Protocol):
    """Who a shard's incarnation shares the cache with; it speaks for one incarnation."""

    async def register(self, copies: Mapping[NodeId, InstanceId]) -> None:
        """Write down which instance has the current copy of each node, instead of what was there.

        One call at a time; one that failed or was cancelled must not take effect after a later one.

        Raises:
            StaleEpoch: there is a later incarnation of this shard. Nothing is changed.
        """

    async def confirm(self) -> None:
        """Raises: StaleEpoch: there is a later incarnation of this shard."""

    async def acquire_slot(self, node: NodeId) -> bool:
        """Whether a backup of ``node`` may begin. A slot that nobody releases must come free by itself one day."""

    async def release_slot(self, node: NodeId) -> None:
        """The backup is over. Nothing happens if ``node`` has no slot."""


class LoneCoordinator:
    """For a shard that has nobody beside it: what it writes down lives as long as this object."""

    def __init__(self, n_slots: int = 4) -> None:
        self.copies: dict[NodeId, InstanceId] = {}
        self.slots: set[NodeId] = set()
        self._n_slots = n_slots

    async def register(self, copies: Mapping[NodeId, InstanceId]) -> None:
        self.copies = dict(copies)

    async def confirm(self) -> None:
        """There is nobody else."""

    async def acquire_slot(self, node: NodeId) -> bool:
        if node in self.slots or len(self.slots) >= self._n_slots:
            return False
        self.slots.add(node)
        return True

    async def release_slot(self, node: NodeId) -> None:
        self.slots.discard(node)


class Coordination:
    """I execute a shard's commands to the rest of the cache, and report how they end."""

    def __init__(
        self,
        coordinator: Coordinator,
        registered: Mapping[NodeId, InstanceId],
        report: Callable[[CopyRegistered | SlotAnswered | LeadConfirmed], None],
        depose: Callable[[], None],
    ) -> None:
        self._coordinator = coordinator
        self._report = report
        self._depose = depose
        self._copies = dict(registered)
        self._unregistered: dict[NodeId, InstanceId] = {}
        self._is_registering = False
        self._tasks: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------ current copies

    def register(self, command: RegisterCopy) -> None:
        """Calls are coalesced: while one is out, the newest instance of each node waits for the next.

        One that is replaced before a call carried it is never reported.
        """
        self._copies[command.node] = command.instance
        self._unregistered[command.node] = command.instance
        if not self._is_registering:
            self._is_registering = True
            self._spawn(self._register_all())

    async def _register_all(self) -> None:
        try:
            await self._register_until_done()
        except StaleEpoch:
            self._depose()
        finally:
            self._is_registering = False

    async def _register_until_done(self) -> None:
        pause_s = FIRST_PAUSE_S
        while self._unregistered:
            covered, self._unregistered = self._unregistered, {}
            try:
                await asyncio.wait_for(self._coordinator.register(dict(self._copies)), REGISTER_TIMEOUT_S)
            except StaleEpoch:
                raise
            except Exception:  # whatever it was: a shard that cannot register can acknowledge nothing
                self._unregistered = {**covered, **self._unregistered}
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                pause_s = FIRST_PAUSE_S
                for node, instance in covered.items():
                    self._report(CopyRegistered(node=node, instance=instance))

    # ------------------------------------------------------------ being the current incarnation

    def confirm_lead(self, command: ConfirmLead) -> None:
        self._spawn(self._confirm_lead())

    async def _confirm_lead(self) -> None:
        try:
            await asyncio.wait_for(self._coordinator.confirm(), CONFIRM_TIMEOUT_S)
        except StaleEpoch:
            self._depose()
        except Exception:  # nobody could be asked: then it is not certain
            self._report(LeadConfirmed(is_sure=False))
        else:
            self._report(LeadConfirmed(is_sure=True))

    # ------------------------------------------------------------ slots

    def acquire_slot(self, command: AcquireSlot) -> None:
        self._spawn(self._acquire(command.node))

    def release_slot(self, command: ReleaseSlot) -> None:
        self._spawn(self._release(command.node))

    async def _acquire(self, node: NodeId) -> None:
        try:
            is_granted = await asyncio.wait_for(self._coordinator.acquire_slot(node), SLOT_TIMEOUT_S)
        except Exception:  # no answer is a no
            is_granted = False
            self._spawn(self._release(node))  # in case it was a yes
        self._report(SlotAnswered(node=node, granted=is_granted))

    async def _release(self, node: NodeId) -> None:
        """Once: repeated, it might release the slot of the node's next backup."""
        await asyncio.wait_for(self._coordinator.release_slot(node), SLOT_TIMEOUT_S)

    # ------------------------------------------------------------ tasks

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # a release that failed: the slot comes free by itself

    async def close(self) -> None:
        """Give up on what is going on."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
