"""Storing, fetching, cancelling, deleting and listing chunks within one session."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from invoker import Agent
from shard_peer import ShardPeer, chunk_info

from infiniray.wire.describe import ChunkId, ChunkInfo
from infiniray.wire.frames import SEGMENT_BYTES, Kind, pack
from lambda_agent import handler
from lambda_agent.store import ChunkStore, cost_bytes

S = 10
MIB = 1 << 20


@pytest.fixture
def result(agent: Agent, shard: ShardPeer) -> Iterator[Future[dict[str, Any]]]:
    """A session in which the shard may ask what it likes."""
    result = agent.invoke(shard.address)
    shard.greet()
    yield result
    shard.hang_up()
    result.result(S)


def end(shard: ShardPeer, result: Future[dict[str, Any]]) -> dict[str, Any]:
    shard.hang_up()
    return result.result(S)


def store_of() -> ChunkStore:
    assert handler._instance is not None
    return handler._instance.store


@pytest.mark.parametrize(
    "size", [0, 1, 4096, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES + 12_345]
)
def test_what_was_stored_is_fetched(shard: ShardPeer, result: Future[dict[str, Any]], size: int) -> None:
    body = random.Random(size).randbytes(size)
    info = chunk_info("läyer", body, seq=1, version=3, index=2, head="pickle")
    shard.store(1, info, body)
    assert shard.fetch(2, info.id) == (info, body)
    assert shard.ping().meta == {"session": "s1"}
    summary = end(shard, result)
    assert (summary["requests"], summary["n_chunks"]) == (2, 1)
    assert summary["used_bytes"] == cost_bytes(size)
    assert summary["bytes_in"] > size
    assert summary["bytes_out"] > size


def test_stores_may_be_interleaved(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    bodies = [bytes([i]) * (2 * SEGMENT_BYTES + i) for i in range(3)]
    infos = [chunk_info("k", body, seq=i + 1, index=i) for i, body in enumerate(bodies)]
    for start in range(0, len(bodies[2]), SEGMENT_BYTES):
        for i, body in enumerate(bodies):
            if segment := body[start : start + SEGMENT_BYTES]:
                first = start == 0
                shard.send(Kind.STORE if first else Kind.DATA, i, {"chunk": infos[i]} if first else None, segment)
    assert {shard.expect(Kind.STORED).request for _ in bodies} == {0, 1, 2}
    for i, body in enumerate(bodies):
        assert shard.fetch(10 + i, infos[i].id) == (infos[i], body)


def test_many_small_stores_in_one_write(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    infos = [chunk_info(f"k{i}", b"x" * i, seq=i + 1) for i in range(200)]
    frames = [pack(Kind.STORE, i, 1, {"chunk": info}, i) + b"x" * i for i, info in enumerate(infos)]
    shard.send_raw(b"".join(frames))
    assert [shard.expect(Kind.STORED).request for _ in infos] == list(range(200))
    assert shard.fetch(500, infos[150].id) == (infos[150], b"x" * 150)


def test_a_chunk_that_is_not_there(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    shard.store(1, chunk_info("a", b"abc", seq=1), b"abc")
    shard.send_fetch(2, ChunkId("a", 2, 0))
    shard.expect(Kind.MISSING, 2)


def test_the_same_chunk_again_replaces_it_when_whole(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    old, new = b"old" * MIB, b"new!" * MIB
    info = chunk_info("a", old, seq=1)
    shard.store(1, info, old)
    newer = chunk_info("a", new, seq=2)
    shard.send_store(2, newer, new, n_segments=2)
    assert shard.fetch(3, info.id) == (info, old)
    for start in range(2 * SEGMENT_BYTES, len(new), SEGMENT_BYTES):
        shard.send(Kind.DATA, 2, body=new[start : start + SEGMENT_BYTES])
    shard.expect(Kind.STORED, 2)
    assert shard.fetch(4, info.id) == (newer, new)
    assert end(shard, result)["used_bytes"] == cost_bytes(len(new))


def test_fetches_are_answered_one_after_the_other(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    bodies = [bytes([65 + i]) * (2 * MIB) for i in range(3)]
    infos = [chunk_info("k", body, seq=i + 1, index=i) for i, body in enumerate(bodies)]
    for i, info in enumerate(infos):
        shard.store(i, info, bodies[i])
    for i in (2, 0, 1):
        shard.send_fetch(10 + i, infos[i].id)
    for i in (2, 0, 1):
        assert shard.receive_chunk(10 + i) == (infos[i], bodies[i])


# ---------------------------------------------------------------- cancellation


@pytest.fixture
def big(agent: Agent, shard: ShardPeer) -> Iterator[ChunkInfo]:
    """A chunk of 40 MiB, on a connection that holds little of it on the way."""
    result = agent.invoke(shard.address)
    shard.accept(receive_buffer_bytes=64 << 10)
    shard.shake_hands()
    body = b"b" * (40 * MIB)
    info = chunk_info("big", body, seq=1)
    shard.store(1, info, body)
    yield info
    shard.hang_up()
    result.result(S)


def test_a_cancelled_chunk_stops_on_the_wire(shard: ShardPeer, big: ChunkInfo) -> None:
    shard.send_fetch(2, big.id)
    shard.expect(Kind.CHUNK, 2)
    shard.send(Kind.CANCEL, 2)
    while (got := shard.receive()).kind is Kind.DATA:
        pass
    assert (got.kind, got.request) == (Kind.CANCELLED, 2)
    assert 0 < shard.n_body_bytes < 20 * MIB
    before = shard.n_body_bytes
    shard.ping()
    assert shard.n_body_bytes == before


def test_a_queued_fetch_is_cancelled_before_it_begins(shard: ShardPeer, big: ChunkInfo) -> None:
    shard.store(2, chunk_info("small", b"12", seq=2), b"12")
    shard.send_fetch(3, big.id)
    shard.send_fetch(4, big.id)
    shard.send_fetch(5, ChunkId("small", 1, 0))
    shard.send(Kind.CANCEL, 4)
    kinds = {3: [], 4: [], 5: []}  # type: dict[int, list[Kind]]
    while not kinds[5]:
        got = shard.receive()
        kinds[got.request].append(got.kind)
    assert kinds[4] == [Kind.CANCELLED]
    assert kinds[3] == [Kind.CHUNK] + [Kind.DATA] * 39
    assert kinds[5] == [Kind.CHUNK]


def test_cancelling_what_has_gone_says_nothing(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    info = chunk_info("a", b"abc", seq=1)
    shard.store(1, info, b"abc")
    shard.fetch(2, info.id)
    shard.send(Kind.CANCEL, 2)
    shard.send(Kind.CANCEL, 77)
    shard.ping()


def test_a_chunk_deleted_while_it_is_sent_arrives_whole(shard: ShardPeer, big: ChunkInfo) -> None:
    shard.send_fetch(2, big.id)
    shard.expect(Kind.CHUNK, 2)
    shard.send(Kind.DELETE, 3, {"seq": 2, "chunk_ids": [big.id]})
    n_bytes, kinds = SEGMENT_BYTES, []
    while n_bytes < big.chunk_bytes or Kind.DELETED not in kinds:
        got = shard.receive()
        kinds.append(got.kind)
        n_bytes += len(got.body)
        assert set(got.body) <= {ord("b")}
    assert n_bytes == big.chunk_bytes
    assert store_of().used_bytes == 0


# ---------------------------------------------------------------- the limit


def test_cost_is_whole_pages_and_one_more() -> None:
    assert [cost_bytes(n) for n in (0, 1, 4096, 4097)] == [4096, 8192, 8192, 12288]


def test_a_full_node_refuses_at_once(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    body = b"x" * (30 * MIB)
    shard.store(1, chunk_info("a", body, seq=1), body)
    shard.store(2, chunk_info("b", body, seq=2), body)
    third = chunk_info("c", body, seq=3)
    shard.send_store(3, third, body, n_segments=1)
    refused = shard.expect(Kind.REFUSED, 3)  # before the rest is sent
    assert refused.meta == {"reason": "full", "used_bytes": 2 * cost_bytes(30 * MIB), "limit_bytes": 64 * MIB}
    for start in range(SEGMENT_BYTES, len(body), SEGMENT_BYTES):
        shard.send(Kind.DATA, 3, body=body[start : start + SEGMENT_BYTES])
    shard.send_fetch(4, third.id)
    shard.expect(Kind.MISSING, 4)
    summary = end(shard, result)
    assert (summary["n_chunks"], summary["used_bytes"]) == (2, 2 * cost_bytes(30 * MIB))
    assert summary["protocol_errors"] == 0


def test_chunks_under_way_count(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    body = b"x" * (40 * MIB)
    shard.send_store(1, chunk_info("a", body, seq=1), body, n_segments=1)
    shard.send_store(2, chunk_info("b", body, seq=2), body, n_segments=1)
    assert shard.expect(Kind.REFUSED, 2).meta["used_bytes"] == cost_bytes(40 * MIB)
    shard.send(Kind.ABORT, 1)
    shard.store(3, chunk_info("b", body, seq=3), body)


def test_a_chunk_beyond_any_limit_is_refused(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    size = 1 << 60
    info = ChunkInfo("a", 1, 0, 1, "rs:4+2", size, size, 0, 0.0, "")
    shard.send(Kind.STORE, 1, {"chunk": info}, b"x" * SEGMENT_BYTES)
    assert shard.expect(Kind.REFUSED, 1).meta["reason"] == "full"
    shard.send(Kind.ABORT, 1)
    shard.ping()


def test_room_made_in_the_same_write_is_seen(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    """A shard evicts and stores without waiting: both frames may be read together."""
    body = b"x" * (60 * MIB)
    old = chunk_info("old", body, seq=1)
    shard.store(1, old, body)
    new = chunk_info("new", b"y" * (50 * MIB), seq=3)
    first = b"y" * SEGMENT_BYTES
    delete = pack(Kind.DELETE, 2, 1, {"seq": 2, "chunk_ids": [old.id]})
    shard.send_raw(delete + pack(Kind.STORE, 3, 1, {"chunk": new}, len(first)) + first)
    for _ in range(49):
        shard.send(Kind.DATA, 3, body=first)
    shard.expect(Kind.DELETED, 2)
    shard.expect(Kind.STORED, 3)


def test_delete_gives_memory_back(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    infos = [chunk_info(f"k{i}", b"x" * (8 * MIB), seq=i + 1) for i in range(4)]
    for i, info in enumerate(infos):
        shard.store(i, info, b"x" * (8 * MIB))
    full_bytes = anonymous_bytes()
    shard.send(Kind.DELETE, 9, {"seq": 5, "chunk_ids": [info.id for info in infos] + [ChunkId("no", 1, 0)]})
    shard.expect(Kind.DELETED, 9)
    assert store_of().used_bytes == 0
    assert store_of().n_chunks == 0
    end(shard, result)  # until then it may be used again
    assert full_bytes - anonymous_bytes() > 24 * MIB


def anonymous_bytes() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon"))


# ---------------------------------------------------------------- what an instance has seen


def test_spans_say_what_was_seen(agent: Agent, shard: ShardPeer) -> None:
    result = agent.invoke(shard.address)
    shard.greet()
    body = b"x" * (2 * SEGMENT_BYTES)
    shard.store(1, chunk_info("a", b"1", seq=1), b"1")
    shard.store(2, chunk_info("b", b"2", seq=2), b"2")
    shard.send(Kind.DELETE, 3, {"seq": 5, "chunk_ids": [ChunkId("a", 1, 0)]})
    shard.expect(Kind.DELETED, 3)
    shard.send_store(4, chunk_info("c", body, seq=9), body, n_segments=1)
    shard.send(Kind.ABORT, 4)
    shard.send_store(5, chunk_info("d", body, seq=12), body, n_segments=1)  # and no end
    shard.ping()
    end(shard, result)
    result = agent.invoke(shard.address)
    hello = shard.greet()
    assert hello.meta["spans"] == [[1, 2], [5, 5], [9, 9]]
    assert (hello.meta["n_chunks"], hello.meta["used_bytes"]) == (1, cost_bytes(1))
    end(shard, result)


def test_the_number_of_a_store_that_never_began_is_seen(agent: Agent, shard: ShardPeer) -> None:
    """Hundreds of writes that are given up must not split what the node tells of itself into hundreds of spans."""
    result = agent.invoke(shard.address)
    shard.greet()
    shard.store(1, chunk_info("a", b"1", seq=1), b"1")
    for seq in range(2, 600):
        shard.send(Kind.ABORT, seq, {"seq": seq})
    shard.store(600, chunk_info("b", b"2", seq=600), b"2")
    shard.send(Kind.ABORT, 601, {"seq": "nonsense"})
    shard.send(Kind.ABORT, 602)
    end(shard, result)
    result = agent.invoke(shard.address)
    assert shard.greet().meta["spans"] == [[1, 600]]
    end(shard, result)


def test_the_number_of_a_copy_that_came_to_nothing_is_not_seen(
    shard: ShardPeer, result: Future[dict[str, Any]]
) -> None:
    """Another instance has that chunk: this one must not claim to have had it."""
    body = b"x" * (2 * SEGMENT_BYTES)
    copy = {"copy": True}
    shard.send(Kind.STORE, 1, {"chunk": chunk_info("a", body, seq=1), **copy}, body[:SEGMENT_BYTES])
    shard.send(Kind.ABORT, 1, {"seq": 1})
    huge = b"x" * (65 * MIB)
    shard.send(Kind.STORE, 2, {"chunk": chunk_info("b", huge, seq=2), **copy}, huge[:SEGMENT_BYTES])
    assert shard.expect(Kind.REFUSED, 2).meta["reason"] == "full"
    shard.ping()
    assert store_of().spans.to_wire() == []
    shard.send(Kind.STORE, 3, {"chunk": chunk_info("c", b"3", seq=3), **copy}, b"3")
    shard.expect(Kind.STORED, 3)
    assert store_of().spans.to_wire() == [[3, 3]]
    assert store_of().used_bytes == cost_bytes(1)


def test_recency_is_kept(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    infos = [chunk_info(key, b"1", seq=i + 1) for i, key in enumerate("abc")]
    for i, info in enumerate(infos):
        shard.store(i, info, b"1")
    shard.fetch(9, infos[0].id)
    assert [chunk_id.key for chunk_id in store_of().recency()] == ["b", "c", "a"]


# ---------------------------------------------------------------- retaining


def retain(
    shard: ShardPeer, request: int, first: int, last: int, keep: list[int], seen: Any = (), epoch: int = -1
) -> None:
    distances = [seq - before for before, seq in zip([0, *keep], keep, strict=False)]
    meta = {"first": first, "last": last, "keep": distances, "seen": list(seen)}
    shard.send(Kind.RETAIN, request, meta, epoch=epoch)


def test_what_is_not_to_be_kept_is_dropped(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    infos = {seq: chunk_info(f"k{seq}", b"1", seq=seq) for seq in (3, 5, 6, 7, 8, 9, 12)}
    for seq, info in infos.items():
        shard.store(seq, info, b"1")
    body = b"x" * (2 * SEGMENT_BYTES)
    shard.send_store(50, chunk_info("under way", body, seq=10), body, n_segments=1)
    retain(shard, 51, 5, 11, [6, 8, 11], seen=[(1, 4), (20, 30)])
    shard.expect(Kind.RETAINED, 51)
    assert [chunk_id.key for chunk_id in store_of().recency()] == ["k3", "k6", "k8", "k12"]
    assert store_of().spans.to_wire() == [[1, 9], [12, 12], [20, 30]]
    shard.send(Kind.DATA, 50, body=body[SEGMENT_BYTES:])
    shard.expect(Kind.STORED, 50)
    shard.send_fetch(52, infos[7].id)
    shard.expect(Kind.MISSING, 52)
    listed, _ = inventory(shard, 100)
    assert {info.seq for info in listed} == {3, 6, 8, 10, 12}
    assert end(shard, result)["used_bytes"] == 4 * cost_bytes(1) + cost_bytes(len(body))


def test_an_empty_range_drops_nothing(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    shard.store(1, chunk_info("a", b"1", seq=2), b"1")
    retain(shard, 9, 1, 0, [], seen=[(1, 5)])
    shard.expect(Kind.RETAINED, 9)
    assert store_of().n_chunks == 1
    assert store_of().spans.to_wire() == [[1, 5]]


def test_retaining_nothing(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    for seq in range(1, 4):
        shard.store(seq, chunk_info(f"k{seq}", b"1", seq=seq), b"1")
    retain(shard, 9, 1, 3, [])
    shard.expect(Kind.RETAINED, 9)
    assert (store_of().n_chunks, store_of().used_bytes) == (0, 0)
    assert store_of().spans.to_wire() == [[1, 3]]


def test_a_long_list_to_keep_fits_a_frame(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    store = store_of()
    for seq in range(1, 100_001):
        store.commit(chunk_info(f"k{seq}", b"", seq=seq), memoryview(b""))
    retain(shard, 1, 1, 100_000, list(range(2, 100_001, 2)))
    shard.expect(Kind.RETAINED, 1)
    assert store.n_chunks == 50_000
    assert all(chunk_id.key[-1] in "02468" for chunk_id in store.recency())


# ---------------------------------------------------------------- epochs


def test_an_older_epoch_changes_nothing(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    info = chunk_info("a", b"abc", seq=1)
    shard.store(1, info, b"abc")
    shard.send(Kind.PING, 2, epoch=7)
    assert shard.expect(Kind.PONG, 2).epoch == 7
    body = b"z" * (2 * SEGMENT_BYTES)
    shard.send_store(3, chunk_info("b", body, seq=2), body, epoch=6)
    shard.send(Kind.DELETE, 4, {"seq": 3, "chunk_ids": [info.id]}, epoch=6)
    shard.send_fetch(5, info.id, epoch=1)
    shard.send(Kind.LIST, 6, {"after": None, "limit": 9}, epoch=0)
    retain(shard, 9, 1, 9, [], seen=[(1, 9)], epoch=6)
    for request in (3, 4, 5, 6, 9):
        assert shard.expect(Kind.REFUSED, request).meta == {"reason": "epoch", "epoch": 7}
    shard.send(Kind.PING, 7, epoch=1)
    shard.expect(Kind.PONG, 7)
    shard.epoch = 7
    assert shard.fetch(8, info.id) == (info, b"abc")
    assert store_of().spans.to_wire() == [[1, 1]]
    assert store_of().used_bytes == cost_bytes(3)


# ---------------------------------------------------------------- inventory


def inventory(shard: ShardPeer, limit: int) -> tuple[list[ChunkInfo], int]:
    """All pages, and how many there were."""
    infos: list[ChunkInfo] = []
    after, n_pages, more = None, 0, True
    while more:
        shard.send(Kind.LIST, n_pages, {"after": after, "limit": limit})
        page = shard.expect(Kind.INVENTORY, n_pages).meta
        infos += [ChunkInfo.from_wire(info) for info in page["chunks"]]
        after, more = (infos[-1].id if infos else None), page["more"]
        n_pages += 1
    return infos, n_pages


def test_inventory_comes_in_pages_ordered_by_id(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    assert inventory(shard, 10) == ([], 1)
    infos = [
        chunk_info(key, b"1", seq=1 + i, version=version, index=index)
        for i, (key, version, index) in enumerate((k, v, x) for k in "cab" for v in (10, 9) for x in (1, 0))
    ]
    for i, info in enumerate(infos):
        shard.store(100 + i, info, b"1")
    ordered = sorted(infos, key=lambda info: info.id)
    assert inventory(shard, 5) == (ordered, 3)
    assert inventory(shard, 12) == (ordered, 1)
    shard.send(Kind.DELETE, 300, {"seq": 99, "chunk_ids": [ordered[3].id]})
    shard.expect(Kind.DELETED)
    del ordered[3]
    assert inventory(shard, 100) == (ordered, 1)


def test_a_page_fits_a_frame(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    infos = [chunk_info(f"k{i:02}", b"1", seq=1 + i, head="h" * 100_000) for i in range(7)]
    for i, info in enumerate(infos):
        shard.store(100 + i, info, b"1")
    assert inventory(shard, 1000) == (infos, 4)


def test_a_description_that_no_page_could_hold_is_refused(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    info = chunk_info("k", b"1", seq=1, head="h" * ((1 << 18) - 200))
    shard.send_store(1, info, b"1")
    assert shard.expect(Kind.REFUSED, 1).meta["reason"] == "description"
    assert inventory(shard, 1000) == ([], 1)


# ---------------------------------------------------------------- what a shard does not send

A = chunk_info("a", b"abc", seq=1)
RETAIN = {"first": 5, "last": 9, "keep": [5, 1], "seen": []}


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(b"\0" * 20, id="garbage"),
        pytest.param(pack(Kind.STORED, 1, 1), id="an answer"),
        pytest.param(pack(Kind.CHALLENGE, 0, 1, {"nonce": "00"}), id="a second challenge"),
        pytest.param(pack(Kind.STORE, 1, 1, {"chunk": [1, 2]}, 3) + b"abc", id="no description"),
        pytest.param(pack(Kind.STORE, 1, 1, {"chunk": A}, 4) + b"abcd", id="more than the chunk"),
        pytest.param(pack(Kind.STORE, 1, 1, {"chunk": A}), id="no first segment"),
        pytest.param(pack(Kind.STORE, 1, 1, {"chunk": A._replace(seq=0)}, 3) + b"abc", id="sequence 0"),
        pytest.param(2 * (pack(Kind.STORE, 1, 1, {"chunk": A}, 1) + b"a"), id="a request twice"),
        pytest.param(pack(Kind.FETCH, 1, 1, {"chunk_id": ["a", 1]}), id="no id"),
        pytest.param(pack(Kind.DELETE, 1, 1, {"chunk_ids": []}), id="delete without a number"),
        pytest.param(pack(Kind.DELETE, 1, 1, {"seq": 1, "chunk_ids": [0]}), id="delete without ids"),
        pytest.param(pack(Kind.LIST, 1, 1, {"limit": 0}), id="no limit"),
        pytest.param(pack(Kind.HOLD, 0, 1), id="hold for no time"),
        pytest.param(pack(Kind.HOLD, 0, 1, {"for_ms": -1}), id="hold backwards"),
        pytest.param(pack(Kind.HOLD, 0, 1, {"for_ms": float("nan")}), id="hold for what is no number"),
        *(
            pytest.param(pack(Kind.RETAIN, 1, 1, {**RETAIN, **change}), id=f"retain {change}")
            for change in (
                {"first": 0},
                {"last": -1},
                {"last": None},
                {"keep": None},
                {"keep": [5, 0]},
                {"keep": [5, "1"]},
                {"keep": [5, -1]},
                {"keep": [True]},
                {"seen": [[2, 1]]},
                {"seen": None},
            )
        ),
    ],
)
def test_what_a_shard_does_not_send_ends_the_session(agent: Agent, shard: ShardPeer, frames: bytes) -> None:
    kept = chunk_info("kept", b"kept", seq=1)
    result = agent.invoke(shard.address)
    shard.greet()
    shard.store(50, kept, b"kept")
    shard.send_raw(frames)
    assert shard.is_hung_up()
    summary = result.result(S)
    assert (summary["protocol_errors"], summary["n_chunks"], summary["used_bytes"]) == (1, 1, cost_bytes(4))
    result = agent.invoke(shard.address)
    shard.greet()
    assert shard.fetch(1, kept.id) == (kept, b"kept")
    end(shard, result)


def memory_of(info: ChunkInfo) -> object:
    chunk = store_of().get(info.id)
    assert chunk is not None
    return chunk.body.obj


def delete(shard: ShardPeer, request: int, seq: int, *infos: ChunkInfo) -> None:
    shard.send(Kind.DELETE, request, {"seq": seq, "chunk_ids": [list(info.id) for info in infos]})
    shard.expect(Kind.DELETED, request)


def test_the_memory_of_a_deleted_chunk_is_used_again(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    bodies = [random.Random(seed).randbytes(2 * MIB + 5) for seed in range(3)]
    infos = [chunk_info("k", body, seq=2 * i + 1, version=i + 1) for i, body in enumerate(bodies)]
    shard.store(1, infos[0], bodies[0])
    memory = memory_of(infos[0])
    delete(shard, 2, 2, infos[0])
    assert store_of().spares.bytes == len(bodies[0])
    other = chunk_info("other", bodies[0][1:], seq=7)
    shard.store(3, other, bodies[0][1:])  # of another length: not in there
    shard.store(4, infos[1], bodies[1])
    assert memory_of(infos[1]) is memory
    assert memory_of(other) is not memory
    assert store_of().spares.bytes == 0
    shard.store(5, infos[2], bodies[2])
    assert memory_of(infos[2]) is not memory
    assert [shard.fetch(10 + i, infos[i].id) for i in (1, 2)] == [(infos[i], bodies[i]) for i in (1, 2)]
    assert shard.fetch(20, other.id) == (other, bodies[0][1:])


def test_memory_that_is_being_sent_is_not_used_again(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    old, new = (random.Random(seed).randbytes(24 * MIB) for seed in range(2))
    info = chunk_info("k", old, seq=1)
    shard.store(1, info, old)
    shard.send_fetch(2, info.id)
    shard.send(Kind.DELETE, 3, {"seq": 2, "chunk_ids": [list(info.id)]})
    later = chunk_info("l", new, seq=3)
    shard.send_store(4, later, new)  # while most of the old one is still to be sent: nobody reads it yet
    received, kinds = b"", []
    while not {Kind.DELETED, Kind.STORED} <= set(kinds) or len(received) < len(old):
        got = shard.receive()
        kinds.append(got.kind)
        received += got.body
    assert received == old
    assert shard.fetch(5, later.id) == (later, new)


def test_memory_is_kept_for_no_longer_than_a_session(agent: Agent, shard: ShardPeer) -> None:
    result = agent.invoke(shard.address)
    shard.greet()
    body = bytes(MIB)
    info = chunk_info("k", body, seq=1)
    shard.store(1, info, body)
    delete(shard, 2, 2, info)
    assert store_of().spares.bytes == MIB
    shard.send(Kind.HOLD, meta={"for_ms": 0})
    shard.expect(Kind.BYE)
    result.result(S)
    assert store_of().spares.bytes == 0


def test_kept_memory_makes_room_for_chunks(shard: ShardPeer, result: Future[dict[str, Any]]) -> None:
    large, small = bytes(40 * MIB), bytes(30 * MIB)
    info = chunk_info("k", large, seq=1)
    shard.store(1, info, large)
    delete(shard, 2, 2, info)
    shard.store(3, chunk_info("l", small, seq=3), small)  # of 64 MiB
    assert store_of().spares.bytes == 0
