"""The world of :mod:`core_world` with what outlives a shard and a second instance of each node: backups, crashes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core_world import Instance, ScriptedNode, World, crc_of

from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.ids import InstanceId, LinkId, NodeId, SessionId
from infiniray.core.shard import ShardState
from infiniray.wire.describe import ChunkId, ChunkInfo


class Fleet(World):
    """I answer as :class:`~core_world.World` does. A node that is invoked for a backup, or searched, has its *peer*
    serve: an instance of its own in ``peers``, that scripts its bad luck in the same way. ``on_record`` is what the
    shard wrote down.
    """

    def __init__(self, **policy: Any) -> None:
        policy = {"backup_interval_s": 1e6, "backup_retry_s": 1e6, **policy}
        super().__init__(**policy)
        self.on_record: dict[NodeId, InstanceId] = {}
        self.infos: dict[ChunkId, ChunkInfo] = {}
        self.peers = {node: ScriptedNode(self._new_instance()) for node in self.nodes}
        self.grants_slots: bool | None = True  # None: no answer
        self.holds_copies = False
        self.held_copies: list[cmd.CopyChunk] = []

    # ------------------------------------------------------------ what a test does

    def back_up(self) -> None:
        self.tell(ev.BackupRequested())

    def swap(self, node: NodeId) -> None:
        """From now on the platform has the node's peer serve."""
        self.nodes[node], self.peers[node] = self.peers[node], self.nodes[node]

    def give_copies(self) -> None:
        """Let copies be made that were held back, and those to come."""
        self.holds_copies = False
        held, self.held_copies = self.held_copies, []
        for command in held:
            self._copy(command)

    def cut(self, scripted: ScriptedNode) -> None:
        """An instance's connection breaks; it keeps its chunks."""
        link, scripted.instance.link = scripted.instance.link, None
        assert link is not None
        self.tell(ev.LinkClosed(link=link))

    def leave(self, scripted: ScriptedNode, node: NodeId) -> None:
        """An instance ends its session as it should."""
        session, scripted.session = scripted.session, None
        if session is not None and scripted.instance.link is not None:
            self.tell(ev.ByeReceived(link=scripted.instance.link, session=session))
            self.tell(ev.InvokeReturned(node=node, session=session, outcome=ev.InvokeOutcome.OK))

    def restart(self) -> None:
        """The shard has crashed, and with it all connections: its next incarnation begins with what is on record."""
        before = self.state.context
        for scripted in [*self.nodes.values(), *self.peers.values()]:
            scripted.instance.link = scripted.session = None
            scripted.held.clear()
        capacities = {node.id: node.capacity_bytes for node in self.state.nodes.values()}
        self.state = ShardState(shard="s", epoch=before.epoch + 1, nodes=capacities, policy=before.policy)
        self.timers.clear()
        self._events.clear()
        self.now_s += 1.0
        self.tell(ev.Started(registered=tuple(sorted(self.on_record.items()))))

    def stored_keys(self) -> set[str]:
        return {record.facts.key for record in self.state.table}

    # ------------------------------------------------------------ commands

    def _execute(self, command: cmd.Command) -> None:
        match command:
            case cmd.Invoke(node=node, session=session, reason="backup") if self.nodes[node].session is not None:
                self._invoke_peer(node, session)
            case cmd.AcquireSlot(node=node):
                if self.grants_slots is not None:
                    self.tell(ev.SlotAnswered(node=node, granted=self.grants_slots))
            case cmd.RegisterCopy(node=node, instance=instance):
                if not self.holds_registry:
                    self.on_record[node] = instance
                super()._execute(command)
            case cmd.CopyChunk():
                self.held_copies.append(command) if self.holds_copies else self._copy(command)
            case cmd.CancelCopy(request=request):
                self.held_copies = [held for held in self.held_copies if held.request != request]
            case cmd.Hold(link=link, for_s=for_s):
                if for_s == 0:
                    self._let_leave(link)
            case cmd.ListChunks():
                self._at(command.link, command, lambda scripted: self._list(scripted, command))
            case _:
                super()._execute(command)

    def _invoke_peer(self, node: NodeId, session: SessionId) -> None:
        self.swap(node)
        try:
            self._invoke(node, session)
        finally:
            self.swap(node)

    def _let_leave(self, link: LinkId) -> None:
        for node in self.nodes:
            for scripted in (self.nodes[node], self.peers[node]):
                if scripted.instance.link == link:
                    self.leave(scripted, node)

    def _scripted(self, link: LinkId) -> ScriptedNode | None:
        everybody = [*self.nodes.values(), *self.peers.values()]
        return next((scripted for scripted in everybody if scripted.instance.link == link), None)

    def _at(self, link: LinkId, command: cmd.Command, answer: Callable[[ScriptedNode], ev.Event | None]) -> None:
        scripted = self._scripted(link)
        if scripted is None:
            return
        if scripted.holds or scripted.session is None:
            scripted.held.append((command, lambda: answer(scripted)))
        else:
            self._answer(answer(scripted))

    def _store(self, scripted: ScriptedNode, command: cmd.StoreChunk) -> ev.Event | None:
        facts = command.facts
        chunk = ChunkId(facts.key, facts.version, command.index)
        self.infos[chunk] = ChunkInfo(
            key=facts.key, version=facts.version, index=command.index, seq=command.seq, scheme=str(facts.scheme),
            object_bytes=facts.size_bytes, chunk_bytes=facts.scheme.stored_bytes(command.index, facts.size_bytes),
            crc=crc_of(chunk), expires_s=facts.expires_s, head=facts.head,
        )  # fmt: skip
        return super()._store(scripted, command)

    def _list(self, scripted: ScriptedNode, command: cmd.ListChunks) -> ev.Event | None:
        if scripted.refuses:
            return ev.RequestRefused(request=command.request, reason="not now")
        infos = [self.infos[chunk]._replace(seq=seq) for chunk, seq in sorted(scripted.instance.chunks.items())]
        infos = [info for info in infos if command.after is None or info.id > command.after]
        page, rest = infos[: command.limit], infos[command.limit :]
        return ev.InventoryArrived(request=command.request, chunks=tuple(page), more=bool(rest))

    def _copy(self, command: cmd.CopyChunk) -> None:
        source, target = self._scripted(command.source), self._scripted(command.target)
        if source is None or target is None:
            self.tell(ev.CopyFailed(request=command.request, is_missing=False, detail="a connection closed"))
        elif source.instance.chunks.get(command.chunk) != command.seq:
            self.tell(ev.CopyFailed(request=command.request, is_missing=True, detail="not there"))
        else:
            keep(target.instance, command.chunk, command.seq)
            self.tell(ev.ChunkCopied(request=command.request))


def keep(instance: Instance, chunk: ChunkId, seq: int) -> None:
    instance.chunks[chunk] = seq
    instance.spans.add(seq)
