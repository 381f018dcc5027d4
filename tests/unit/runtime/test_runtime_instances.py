"""Two real instances of one node, and a shard that says what becomes of them: copies, holds, retention, inventories."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from grid import GridNode, GridPlatform, random_bytes
from node_peer import SECRET, soon, until
from script import GatedCoder, Script, Stage, facts_of

from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.ids import LinkId, NodeId, OpId, RequestId, SessionId
from infiniray.runtime.buffers import OperationBuffers
from infiniray.runtime.driver import ShardDriver
from infiniray.wire.describe import ChunkId, SeqSpans

N0 = NodeId("n0")
SIZE = (2 << 20) + 7
FACTS = facts_of(SIZE)
BODY = random_bytes(SIZE)


class Pool(Stage):
    """A stage on which invocations reach agents: one node, whose sessions do not linger unless they are told to."""

    node: GridNode

    async def invoke(self, session: str, reason: str = "backup") -> ev.LinkOpened:
        """A session in an instance of its own: those that run are busy."""
        self.do(cmd.Invoke(node=N0, session=SessionId(session), reason=reason))
        return await self.script.next(ev.LinkOpened)

    async def warm(self) -> ev.CopyReport:
        self.do(cmd.Invoke(node=N0, session=SessionId("warm"), reason="warm"))
        returned = await self.script.next(ev.InvokeReturned)
        assert returned.copy is not None
        return returned.copy

    async def leave(self, link: LinkId) -> None:
        """Send one instance home."""
        self.do(cmd.Hold(link=link, for_s=0))
        ended = [await soon(self.script.events.get()) for _ in range(2)]  # over two connections: in either order
        assert ev.InvokeOutcome.OK in [event.outcome for event in ended if isinstance(event, ev.InvokeReturned)]
        assert [event.link for event in ended if isinstance(event, ev.ByeReceived)] == [link]

    async def store(self, link: LinkId, *seqs: int) -> None:
        """A chunk for each number, as that version of one object."""
        op = OpId(1)
        self.driver._buffers[op] = OperationBuffers(self.driver.pool, BODY)
        for seq in seqs:
            facts = facts_of(SIZE, version=seq)
            request = RequestId(seq)
            self.do(cmd.StoreChunk(link=link, request=request, op=op, index=0, seq=seq, facts=facts))
            assert (await self.script.next(ev.ChunkStored)).request == request
        self.do(cmd.Release(op=op))

    async def seqs(self, link: LinkId, limit: int = 2) -> list[int]:
        """The numbers of what an instance holds, by page."""
        after, more, found = None, True, []
        while more:
            self.do(cmd.ListChunks(link=link, request=RequestId(900 + len(found)), after=after, limit=limit))
            page = await self.script.next(ev.InventoryArrived)
            found += [info.seq for info in page.chunks]
            after, more = (page.chunks[-1].id if page.chunks else None), page.more
        return found


@pytest.fixture
async def pool(leaks: None) -> AsyncIterator[Pool]:
    node = GridNode("n0", 64 << 20)
    platform = GridPlatform({"n0": node})
    script, coder = Script(), GatedCoder()
    driver = ShardDriver(script, platform, coder, SECRET, linger_s=0.0)  # type: ignore[arg-type]
    await driver.start()
    await script.next(ev.Started)
    made = Pool(script, platform, coder, driver)  # type: ignore[arg-type]
    made.node = node
    yield made
    await soon(driver.close())
    await asyncio.get_running_loop().run_in_executor(None, platform.threads.shutdown)
    node.close()


def copy(source: LinkId, target: LinkId, seq: int) -> cmd.CopyChunk:
    return cmd.CopyChunk(
        source=source, target=target, request=RequestId(100 + seq), chunk=ChunkId("k", seq, 0), seq=seq,
        chunk_bytes=SIZE,
    )  # fmt: skip


async def test_one_instance_gets_what_the_other_has(pool: Pool) -> None:
    source, target = await pool.invoke("s1"), await pool.invoke("s2")
    assert source.instance != target.instance
    pool.do(*(cmd.Hold(link=link, for_s=60) for link in (source.link, target.link)))
    await pool.store(source.link, 1, 2, 3)
    pool.do(*(copy(source.link, target.link, seq) for seq in (1, 3, 4)))
    ended = [await soon(pool.script.events.get()) for _ in range(3)]
    assert ev.ChunkCopied(request=RequestId(101)) in ended
    assert ev.ChunkCopied(request=RequestId(103)) in ended
    (failed,) = (event for event in ended if isinstance(event, ev.CopyFailed))
    assert (failed.request, failed.is_missing) == (104, True)
    assert await pool.seqs(target.link) == [1, 3]
    await pool.leave(target.link)
    await pool.leave(source.link)
    there = {instance.id: instance.store for instance in pool.node.instances}
    for chunk in (ChunkId("k", 1, 0), ChunkId("k", 3, 0)):
        twins = [store._chunks[chunk] for store in there.values()]
        assert twins[0].info == twins[1].info
        assert bytes(twins[0].body) == bytes(twins[1].body) == BODY.tobytes()
    assert there[target.instance].spans == SeqSpans([(1, 1), (3, 3)])


async def test_a_copy_that_finds_no_room_is_not_counted_as_seen(pool: Pool) -> None:
    source, target = await pool.invoke("s1"), await pool.invoke("s2")
    pool.do(*(cmd.Hold(link=link, for_s=60) for link in (source.link, target.link)))
    await pool.store(source.link, 1)
    (full,) = (instance for instance in pool.node.instances if instance.id == target.instance)
    full.store.limit_bytes = SIZE // 2
    pool.do(copy(source.link, target.link, 1))
    failed = await pool.script.next(ev.CopyFailed)
    assert not failed.is_missing
    await pool.leave(source.link)
    await pool.leave(target.link)
    assert full.store.spans == SeqSpans()
    assert full.store.used_bytes == 0


async def test_retention_reaches_an_instance(pool: Pool) -> None:
    opened = await pool.invoke("s1")
    pool.do(cmd.Hold(link=opened.link, for_s=60))
    await pool.store(opened.link, 1, 2, 3, 5)
    pool.do(
        cmd.Retain(link=opened.link, request=RequestId(50), first=1, last=3, keep=(2,)),
        cmd.Retain(link=opened.link, request=RequestId(51), first=1, last=0, keep=(), seen=((1, 9),)),
    )
    assert [(await pool.script.next(ev.Retained)).request for _ in range(2)] == [50, 51]
    assert await pool.seqs(opened.link) == [2, 5]
    await pool.leave(opened.link)
    assert await pool.warm() == ev.CopyReport(instance=opened.instance, spans=SeqSpans([(1, 9)]))


async def test_a_warm_up_finds_who_is_there(pool: Pool) -> None:
    newcomer = await pool.warm()
    assert newcomer.spans == SeqSpans()
    opened = await pool.invoke("s1")
    assert opened.instance == newcomer.instance
    await pool.leave(opened.link)
    assert await pool.warm() == newcomer
    assert pool.node.n_invocations == 3
    assert pool.driver.stats()["links"] == 1


async def test_a_backup_stays_until_it_is_told_to_leave(pool: Pool) -> None:
    opened = await pool.invoke("s1")
    for _ in range(3):
        pool.do(cmd.Ping(link=opened.link))
        await pool.script.next(ev.PongReceived)
    await pool.leave(opened.link)


async def test_an_older_incarnation_is_told_so(pool: Pool) -> None:
    opened = await pool.invoke("s1")
    await pool.store(opened.link, 1)
    (instance,) = pool.node.instances
    instance.epoch = 8  # as if a newer one had been here
    pool.do(cmd.ListChunks(link=opened.link, request=RequestId(9), after=None, limit=10))
    assert (await pool.script.next(ev.RequestRefused)).reason == "epoch"
    await pool.script.next(ev.Deposed)
    pool.do(cmd.Hold(link=opened.link, for_s=0), cmd.Ping(link=opened.link))  # nor may it send the instance home
    await pool.script.next(ev.PongReceived)
    pool.do(cmd.CloseLink(link=opened.link))
    await pool.script.next(ev.LinkClosed)
    await pool.script.next(ev.InvokeReturned)
    pool.do(cmd.Invoke(node=N0, session=SessionId("s2"), reason="serve"))
    returned = await pool.script.next(ev.InvokeReturned)
    assert returned.outcome is ev.InvokeOutcome.FUNCTION_ERROR
    assert returned.detail.startswith("StaleEpoch: ")


async def test_every_byte_comes_back_from_the_copy(pool: Pool) -> None:
    source, target = await pool.invoke("s1"), await pool.invoke("s2")
    await pool.store(source.link, 3)
    pool.do(copy(source.link, target.link, 3))
    await pool.script.next(ev.ChunkCopied)
    await pool.leave(source.link)
    op = OpId(-2)
    (chunk,) = (instance.store for instance in pool.node.instances if instance.id == target.instance)
    crc = chunk._chunks[ChunkId("k", 3, 0)].info.crc
    pool.do(
        cmd.OpenBuffers(op=op),
        cmd.FetchChunk(link=target.link, request=RequestId(7), op=op, index=0, crc=crc, facts=FACTS),
    )
    await pool.script.next(ev.ChunkArrived)
    assert np.array_equal(pool.driver._buffers[op].object(FACTS), BODY)
    pool.do(cmd.Release(op=op))
    await pool.leave(target.link)
    await until(lambda: pool.driver.pool.free_bytes > 0)
