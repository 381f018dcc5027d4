"""How a shard that was restarted gets its table back: from what its nodes hold (DESIGN section 6).

Each chunk describes itself, so the inventories of all nodes make the table. What makes it the right one:

- Only a chunk *on record* counts: one that the instance holds which the last incarnation had written down as having the
  node's current copy (:mod:`~infiniray.core.custody`). Any other instance may have missed deletions.
- Of an object's versions the highest counts that has k chunks on record. A higher one that has fewer was never
  acknowledged, or has lost too much; an older one has fewer than k, if a newer one was acknowledged
  (:mod:`~infiniray.core.erasing`).
- By asking a node I make it refuse my predecessor, which has a lower epoch. So it acknowledges nothing that I have not
  seen.
- If shards keep near copies, which ask no node, I answer nobody before my predecessor has stopped relying on being the
  only one (:class:`~infiniray.core.near.Lead`).
- Nodes whose copy on record did not answer are struck off the record before I answer anybody. Should that copy come
  back, its chunks do not count any more, because somebody may have been told by then that they are gone.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from infiniray.codec.schemes import Scheme
from infiniray.core.commands import ObjectFacts, RegisterCopy
from infiniray.core.custody import NOBODY
from infiniray.core.ids import InstanceId, NodeId
from infiniray.core.near import LEAD_S
from infiniray.core.node import Node
from infiniray.core.policy import footprint_bytes
from infiniray.core.requests import RECOVERY, Outcome, Request, RequestKind, Settled
from infiniray.core.table import NOWHERE, ChunkPlace, ObjectRecord
from infiniray.errors import SchemeError
from infiniray.wire.describe import ChunkInfo

if TYPE_CHECKING:
    from infiniray.core.shard import ShardState

__all__ = ["Recovery"]

#: Nodes asked at a time.
WINDOW = 128
#: The pause before a node is asked again that did not answer.
RETRY_S = 0.5
#: How often a node is invoked while it is busy, for the platform to serve with another of its instances. Incarnations
#: that replaced each other in the middle of their own searches leave many of these behind.
MAX_SEARCHES = 12
#: And how often in vain: a platform that starts nobody keeps clients waiting no longer.
MAX_VAIN_SEARCHES = 3
#: How long the instance that answered is kept busy meanwhile.
SEARCH_S = 3.0


@dataclass(slots=True)
class _Inventory:
    """What one node says, page by page."""

    #: of whom the pages are; they count only together
    instance: InstanceId | None = None
    chunks: list[ChunkInfo] = field(default_factory=list)
    is_whole: bool = False
    n_searches: int = 0
    n_vain_searches: int = 0
    #: answers of instances that have just been started: no other was idle
    n_newcomers: int = 0


class Recovery:
    """I rebuild the table of a shard that had nodes on record, and then have it open for clients."""

    def __init__(self, shard: ShardState, registered: dict[NodeId, InstanceId]) -> None:
        self._shard = shard
        self._context = shard.context
        self._inventories = {node: _Inventory() for node in registered if node in shard.nodes}
        self._unasked = deque(self._inventories)
        self._asked: set[NodeId] = set()
        self._again: set[NodeId] = set()
        self._searched: set[NodeId] = set()  # invoked while busy
        self._to_search: set[NodeId] = set()
        self._unregistered: set[NodeId] = set()
        self._is_table_built = False
        self._quiet_until_s = self._context.now_s + (LEAD_S if self._context.policy.near_bytes else 0.0)
        for name, instance in registered.items():
            if name in shard.nodes:
                shard.nodes[name].custody.registered = instance
        for node in shard.nodes.values():
            node.custody.is_paused = True

    def start(self) -> None:
        self._context.set_timer(("recovery", 0), self._context.policy.recovery_timeout_s)
        self._ask_more()
        self._build_if_whole()

    # ------------------------------------------------------------ inventories

    def settle(self, settled: Settled) -> None:
        """A page came, or will not come."""
        node = self._shard.nodes[settled.request.node]
        if node.id not in self._asked:
            return
        inventory = self._inventories[node.id]
        instance = node.copy.instance if node.copy is not None else None
        if settled.outcome is Outcome.DONE and self._search(node):
            return
        if settled.outcome is not Outcome.DONE:
            self._asked.discard(node.id)
            self._again.add(node.id)
            self._context.set_timer(("recover-again", 0), RETRY_S)
        elif inventory.instance is not None and inventory.instance != instance:
            inventory.instance = None  # another instance answered in the middle: begin again
            inventory.chunks.clear()
            self._ask(node)
        else:
            inventory.instance = instance
            inventory.chunks.extend(settled.request.page)
            if settled.request.has_more:
                self._ask(node)
            else:
                inventory.is_whole = True
                self._asked.discard(node.id)
        self._ask_more()
        self._build_if_whole()

    def _search(self, node: Node) -> bool:
        """The platform may have served with another instance than the one on record: have it serve with one more. If
        it had to start one, the one on record is gone, or busy for my predecessor: then I wait, once."""
        inventory = self._inventories[node.id]
        is_on_record = node.copy is not None and node.copy.instance == node.custody.registered
        if is_on_record or inventory.n_searches >= MAX_SEARCHES or inventory.n_newcomers > 1:
            return False
        if node.copy is None or not node.hold(SEARCH_S):
            return False
        inventory.instance = None
        inventory.chunks.clear()
        inventory.n_searches += 1
        if node.copy.spans.last:
            self._search_now(node)
        else:
            inventory.n_newcomers += 1
            self._to_search.add(node.id)
        self._context.set_timer(("recover-again", 0), RETRY_S)
        return True

    def _search_now(self, node: Node) -> None:
        if node.invoke_peer(n_others=MAX_SEARCHES) is None:
            self._ask(node)
        else:
            self._searched.add(node.id)

    def on_turned(self, node: Node) -> None:
        """Another instance of it has answered."""
        if node.id in self._searched:
            self._searched.discard(node.id)
            self._ask(node)

    def on_again(self) -> None:
        """Time has passed: nobody else has answered those that were searched for; search once more; ask once more."""
        unanswered, self._searched = sorted(self._searched), set()
        for name in unanswered:
            inventory = self._inventories[name]
            if inventory.n_vain_searches < MAX_VAIN_SEARCHES:
                inventory.n_vain_searches += 1
                self._to_search.add(name)
            else:
                self._ask(self._shard.nodes[name])
        for name in sorted(self._to_search):
            self._search_now(self._shard.nodes[name])
        self._to_search.clear()
        if self._searched:
            self._context.set_timer(("recover-again", 0), RETRY_S)
        self._unasked.extend(sorted(self._again))
        self._again.clear()
        self._ask_more()

    def on_timeout(self) -> None:
        """Nodes that have not answered by now count as gone."""
        if not self._is_table_built:
            self._unasked.clear()
            self._again.clear()
            self._to_search.clear()
            self._searched.clear()
            for node in self._asked:
                self._shard.nodes[node].outbox.cancel_all(RECOVERY)
            self._asked.clear()
            self._build()

    def _ask_more(self) -> None:
        while self._unasked and len(self._asked) < WINDOW:
            name = self._unasked.popleft()
            self._asked.add(name)
            former = self._inventories[name]
            self._inventories[name] = _Inventory(
                n_searches=former.n_searches, n_vain_searches=former.n_vain_searches, n_newcomers=former.n_newcomers
            )
            self._ask(self._shard.nodes[name])

    def _ask(self, node: Node) -> None:
        chunks = self._inventories[node.id].chunks
        node.submit(
            Request(
                id=self._context.new_request_id(), kind=RequestKind.LIST, node=node.id, op=RECOVERY,
                after=chunks[-1].id if chunks else None,
            )
        )  # fmt: skip

    # ------------------------------------------------------------ the table

    def _build_if_whole(self) -> None:
        if not self._is_table_built and not self._unasked and not self._asked and not self._again:
            self._build()

    def _build(self) -> None:
        self._is_table_built = True
        self._context.cancel_timer(("recovery", 0))
        self._context.cancel_timer(("recover-again", 0))
        versions: dict[str, dict[int, list[tuple[Node, ChunkInfo]]]] = defaultdict(lambda: defaultdict(list))
        for name, inventory in self._inventories.items():
            node = self._shard.nodes[name]
            if self._is_on_record(node, inventory):
                assert node.copy is not None
                node.custody.adopt(node.copy)
                for info in inventory.chunks:
                    versions[info.key][info.version].append((node, info))
            else:
                self._unregistered.add(name)
        for found in versions.values():
            self._take_in(found)
        for name in self._unregistered:
            self._shard.nodes[name].custody.enter(NOBODY)
            self._context.out.append(RegisterCopy(node=name, instance=NOBODY))
        self._finish_if_recorded()

    @staticmethod
    def _is_on_record(node: Node, inventory: _Inventory) -> bool:
        is_same = inventory.instance is not None and inventory.instance == node.custody.registered
        return inventory.is_whole and is_same and node.copy is not None and node.copy.instance == inventory.instance

    def _take_in(self, found: dict[int, list[tuple[Node, ChunkInfo]]]) -> None:
        """All that was found of one key."""
        for version in sorted(found):
            chunks = found[version]
            record = self._assemble(chunks)
            for node, info in chunks:
                is_part = record is not None and info.index < len(record.places)
                place = record.places[info.index] if record is not None and is_part else NOWHERE
                if place.node == node.id and place.seq == info.seq:
                    node.custody.hold(info.id, info.seq, info.chunk_bytes)
                    node.used_bytes += footprint_bytes(info.chunk_bytes)
                else:
                    node.custody.discard(info.id)
            if record is not None:
                self._shard.commit(record)  # which retires the version before

    def _assemble(self, chunks: list[tuple[Node, ChunkInfo]]) -> ObjectRecord | None:
        """The object that the chunks of one version make; None if they do not make one."""
        first = chunks[0][1]
        try:
            scheme = Scheme.parse(first.scheme)
        except SchemeError:
            return None
        places = [NOWHERE] * scheme.n
        strays: list[tuple[int, NodeId]] = []
        for node, info in chunks:
            alike = info.scheme == first.scheme and info.object_bytes == first.object_bytes
            if not alike or info.index >= scheme.n or any(place.node == node.id for place in places):
                continue
            if places[info.index] is NOWHERE:
                places[info.index] = ChunkPlace(node=node.id, seq=info.seq, crc=info.crc)
            else:
                strays.append((info.index, node.id))
        if sum(place is not NOWHERE for place in places) < scheme.k:
            return None
        facts = ObjectFacts(
            key=first.key, version=first.version, scheme=scheme, size_bytes=first.object_bytes, head=first.head,
            expires_s=first.expires_s,
        )  # fmt: skip
        expires_s = first.expires_s or None
        return ObjectRecord(facts=facts, places=places, expires_s=expires_s, strays=strays, used_s=first.version / 1e6)

    # ------------------------------------------------------------ the end

    def on_registered(self, node: NodeId) -> None:
        self._unregistered.discard(node)
        self._finish_if_recorded()

    def _finish_if_recorded(self) -> None:
        if not self._is_table_built or self._unregistered:
            return
        if self._context.now_s < self._quiet_until_s:
            self._context.set_timer(("recovery-lead", 0), self._quiet_until_s - self._context.now_s)
        else:
            self._shard.recovered()

    def on_lead_over(self) -> None:
        """My predecessor relies on nothing any more."""
        self._finish_if_recorded()
