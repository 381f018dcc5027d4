"""What a driver makes of commands, and which events it answers them with."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import weakref
import zlib

import numpy as np
import pytest
from grid import random_bytes
from node_peer import SECRET, describe, soon, until
from script import Answer, GatedCoder, Script, ScriptedInvoker, Stage, facts_of

from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.ids import InstanceId, NodeId, OpId, RequestId, SessionId
from infiniray.errors import (
    CacheUnavailable,
    KeyNotFound,
    ObjectLost,
    PlatformError,
    PlatformThrottled,
    SchemeError,
    WriteFailed,
)
from infiniray.runtime import driver as driver_module
from infiniray.runtime.driver import ShardDriver
from infiniray.wire.describe import SeqSpans
from infiniray.wire.frames import Kind
from lambda_agent.invocation import Invocation

INVOKE = cmd.Invoke(node=NodeId("n0"), session=SessionId("s7"), reason="serve")
PLATFORM = {"operation": "invoke", "function": "n0", "detail": "no"}


# ---------------------------------------------------------------- clients


async def test_a_write_is_asked_for_and_answered(stage: Stage) -> None:
    data, facts = random_bytes(100), facts_of(100)
    task = asyncio.ensure_future(stage.driver.put("k", "a head", data, expires_s=9e9, timeout_s=5))
    put = await stage.script.next(ev.PutRequested)
    assert (put.key, put.size_bytes, put.head, put.expires_s) == ("k", 100, "a head", 9e9)
    assert put.deadline_s == pytest.approx(stage.script.times_s[0] + 5, abs=1)
    stage.do(cmd.Complete(op=put.op, facts=facts), cmd.Release(op=put.op))
    assert await soon(task) is facts


async def test_buffers_that_nobody_uses_go_back_to_the_machine(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = stage.driver.pool
    held, _ = pool.take(1 << 20), pool.take(1 << 20)
    del _
    gc.collect()
    assert pool.free_bytes >= 1 << 20
    monkeypatch.setattr(driver_module, "_IDLE_BUFFERS_S", 0.01)
    await until(lambda: pool.free_bytes == 0)
    del held
    gc.collect()
    assert pool.free_bytes >= 1 << 20
    await until(lambda: pool.free_bytes == 0)


async def test_a_read_that_failed_leaves_nothing_for_the_garbage_collector(stage: Stage) -> None:
    """What the error's traceback has of the read would be memory that clients map, until a collection."""
    gc.disable()
    try:
        task = asyncio.ensure_future(stage.driver.get("k", timeout_s=5))
        get = await stage.script.next(ev.GetRequested)
        buffers = weakref.ref(stage.driver._buffers[get.op])
        stage.do(cmd.Fail(op=get.op, error=ObjectLost(key="k", have=1, need=2)), cmd.Release(op=get.op))
        await asyncio.wait([task], timeout=5)
        assert isinstance(task.exception(), ObjectLost)
        del task
        assert buffers() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("data", [b"abcdef", bytearray(b"abcdef"), np.arange(6, dtype=np.uint16).reshape(2, 3)])
async def test_whatever_is_contiguous_can_be_stored(stage: Stage, data: object) -> None:
    task, put = await stage.begin_put("k", data)
    held = stage.driver._buffers[put.op].object(facts_of(put.size_bytes))
    assert held.tobytes() == memoryview(data).tobytes()  # type: ignore[arg-type]
    assert np.shares_memory(held, np.frombuffer(memoryview(data), np.uint8))  # type: ignore[arg-type]
    stage.do(cmd.Complete(op=put.op, facts=facts_of(6)), cmd.Release(op=put.op))
    await soon(task)


async def test_what_is_not_contiguous_is_refused_before_anything_happens(stage: Stage) -> None:
    with pytest.raises((ValueError, BufferError)):
        await stage.driver.put("k", "", np.zeros((4, 4), np.uint8)[:, 1], expires_s=None, timeout_s=5)
    assert not stage.script.seen


async def test_operations_have_numbers_of_their_own(stage: Stage) -> None:
    tasks = [asyncio.ensure_future(stage.driver.delete("k")) for _ in range(3)]
    ops = [(await stage.script.next(ev.DeleteRequested)).op for _ in tasks]
    assert len({*ops}) == 3
    for op in reversed(ops):
        stage.do(cmd.Complete(op=op, found=op != ops[1]))
    assert [await soon(task) for task in tasks] == [True, False, True]


async def test_touch(stage: Stage) -> None:
    task = asyncio.ensure_future(stage.driver.touch("k", 5e9))
    touch = await stage.script.next(ev.TouchRequested)
    assert (touch.key, touch.expires_s) == ("k", 5e9)
    stage.do(cmd.Complete(op=touch.op, found=True))
    assert await soon(task) is True


@pytest.mark.parametrize("error", [KeyNotFound(key="k"), WriteFailed(key="k", stored=1, need=6, detail="why")])
async def test_errors_are_raised_as_they_are(stage: Stage, error: Exception) -> None:
    task, get = await stage.begin_get(facts_of(1))
    stage.do(cmd.Fail(op=get.op, error=error), cmd.Release(op=get.op))  # type: ignore[arg-type]
    with pytest.raises(type(error)) as raised:
        await soon(task)
    assert raised.value is error


async def test_a_caller_who_leaves_is_reported(stage: Stage) -> None:
    task, get = await stage.begin_get(facts_of(1))
    stage.script.react = lambda event: [cmd.Release(op=event.op)]
    task.cancel()
    assert (await stage.script.next(ev.OpCancelled)).op == get.op
    with pytest.raises(asyncio.CancelledError):
        await task
    stage.do(cmd.Complete(op=get.op, facts=facts_of(1)))  # crossed with it: no harm


async def test_an_answer_at_once(stage: Stage) -> None:
    """From within the call, as for a key that nobody stored."""
    stage.script.react = lambda event: [cmd.Fail(op=event.op, error=KeyNotFound(key="k")), cmd.Release(op=event.op)]
    with pytest.raises(KeyNotFound):
        await stage.driver.get("k", timeout_s=1)


# ---------------------------------------------------------------- order and time


async def test_events_that_commands_cause_come_after_all_commands(stage: Stage) -> None:
    peer, opened = await stage.connect()
    happened = []
    stage.script.react = lambda event: happened.append(type(event)) or []
    stage.driver._execute[cmd.Ping] = lambda command: happened.append(cmd.Ping)
    stage.do(cmd.CloseLink(link=opened.link), cmd.Ping(link=opened.link))
    assert happened == [cmd.Ping, ev.LinkClosed]
    assert await peer.is_hung_up()


async def test_timers_fire_once_move_and_can_be_cancelled(stage: Stage) -> None:
    now_s = stage.driver.now_s()
    far_s = now_s + 3600
    stage.do(
        cmd.SetTimer(timer=("hedge", 1), at_s=far_s),
        cmd.SetTimer(timer=("hedge", 2), at_s=now_s - 5),
        cmd.SetTimer(timer=("hedge", 3), at_s=now_s),
        cmd.SetTimer(timer=("hedge", 1), at_s=now_s),
        cmd.CancelTimer(timer=("hedge", 3)),
        cmd.CancelTimer(timer=("retry", "never set")),
        cmd.SetTimer(timer=("hedge", 4), at_s=far_s),
    )
    assert (await stage.script.next(ev.TimerFired)).timer == ("hedge", 2)
    assert (await stage.script.next(ev.TimerFired)).timer == ("hedge", 1)
    assert stage.script.events.empty()
    assert len(stage.driver._timers) == 1


async def test_a_timer_set_by_what_it_caused(stage: Stage) -> None:
    stage.script.react = lambda event: [cmd.SetTimer(timer=("sweep", 0), at_s=0)] if len(stage.script.seen) < 3 else []
    stage.do(cmd.SetTimer(timer=("sweep", 0), at_s=0))
    for _ in range(3):
        await stage.script.next(ev.TimerFired)


async def test_a_jump_of_the_wall_clock_is_not_noticed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    before_s = stage.driver.now_s()
    assert before_s == pytest.approx(time.time(), abs=1)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert before_s <= stage.driver.now_s() < before_s + 60


# ---------------------------------------------------------------- the platform


async def test_an_invocation_says_all_that_a_node_needs(stage: Stage) -> None:
    stage.do(INVOKE)
    assert (await stage.script.next(ev.InvokeReturned)).outcome is ev.InvokeOutcome.OK
    (payload,) = stage.invoker.payloads
    invocation = Invocation.from_event(json.loads(payload), SECRET)
    assert invocation == ("serve", "n0", "s7", stage.driver.address, 7, 0.008, "")


@pytest.mark.parametrize(
    ("answer", "outcome", "retry_after_s"),
    [
        (Answer(), ev.InvokeOutcome.OK, 0),
        (Answer("Unhandled", b'{"errorMessage": "no"}'), ev.InvokeOutcome.FUNCTION_ERROR, 0),
        (PlatformThrottled(retry_after_s=1.5, **PLATFORM), ev.InvokeOutcome.THROTTLED, 1.5),
        (PlatformError(**PLATFORM), ev.InvokeOutcome.UNREACHABLE, 0),
        (AttributeError("no credentials, and no"), ev.InvokeOutcome.UNREACHABLE, 0),
    ],
)
async def test_how_an_invocation_ends(
    stage: Stage, answer: Answer | Exception, outcome: ev.InvokeOutcome, retry_after_s: float
) -> None:
    stage.invoker.answer = answer
    stage.do(INVOKE)
    returned = await stage.script.next(ev.InvokeReturned)
    assert (returned.node, returned.session) == ("n0", "s7")
    assert (returned.outcome, returned.retry_after_s) == (outcome, retry_after_s)
    assert ("no" in returned.detail) == (outcome is not ev.InvokeOutcome.OK)
    assert stage.driver.counters[outcome.value] == 1


WARM = cmd.Invoke(node=NodeId("n0"), session=SessionId("s8"), reason="warm")


def told(**fields: object) -> Answer:
    return Answer(payload=json.dumps({"instance": "i1", "spans": [[1, 5], [7, 9]], "n_chunks": 3, **fields}).encode())


async def test_a_warm_up_tells_what_the_instance_has(stage: Stage) -> None:
    stage.invoker.answer = told()
    stage.do(WARM)
    returned = await stage.script.next(ev.InvokeReturned)
    assert json.loads(stage.invoker.payloads[0])["reason"] == "warm"
    assert returned.outcome is ev.InvokeOutcome.OK
    assert returned.copy == ev.CopyReport(instance=InstanceId("i1"), spans=SeqSpans([(1, 5), (7, 9)]))


@pytest.mark.parametrize(
    "answer",
    [
        told(instance=None),
        told(instance=""),
        told(spans=None),
        told(spans=[[2, 1]]),
        Answer(payload=b""),
        Answer(payload=b"[1]"),
        Answer(payload=b"\xff{"),
        Answer(payload=b"[" * 100_000),
    ],
)
async def test_a_warm_up_that_tells_nothing_useful(stage: Stage, answer: Answer) -> None:
    stage.invoker.answer = answer
    stage.do(WARM)
    returned = await stage.script.next(ev.InvokeReturned)
    assert (returned.outcome, returned.copy) == (ev.InvokeOutcome.OK, None)


async def test_only_a_warm_up_that_returned_reports_a_copy(stage: Stage) -> None:
    stage.invoker.answer = told()
    stage.do(INVOKE)
    assert (await stage.script.next(ev.InvokeReturned)).copy is None
    stage.invoker.answer = Answer("Unhandled", told().payload)
    stage.do(WARM)
    assert (await stage.script.next(ev.InvokeReturned)).copy is None


async def test_a_node_that_knows_a_later_incarnation_says_so(stage: Stage) -> None:
    stage.invoker.answer = Answer("Unhandled", b'{"errorType": "StaleEpoch", "errorMessage": "no"}')
    stage.do(INVOKE)
    returned = await stage.script.next(ev.InvokeReturned)
    assert returned.outcome is ev.InvokeOutcome.FUNCTION_ERROR
    await stage.script.next(ev.Deposed)
    stage.do(INVOKE)
    await stage.script.next(ev.InvokeReturned)
    stage.do(INVOKE)
    await stage.script.next(ev.InvokeReturned)  # and that was said once


async def test_a_request_refused_for_its_epoch_deposes_once(stage: Stage) -> None:
    peer, opened = await stage.connect()
    for request in (RequestId(1), RequestId(2)):
        stage.do(cmd.DeleteChunks(link=opened.link, request=request, seq=1, chunk_ids=()))
        await peer.expect(Kind.DELETE, request)
        await peer.send(Kind.REFUSED, request, {"reason": "epoch", "epoch": 8})
        assert (await stage.script.next(ev.RequestRefused)).reason == "epoch"
        if request == 1:
            await stage.script.next(ev.Deposed)
    await peer.send(Kind.PONG, meta={"session": "s0"})
    await stage.script.next(ev.PongReceived)


# ---------------------------------------------------------------- the codec


async def test_parity_is_computed_and_lost_chunks_are_filled_in(stage: Stage) -> None:
    peer, opened = await stage.connect()
    data, facts = random_bytes(10_001), facts_of(10_001, "rs:4+2")
    chunks = [data[slice(*facts.scheme.chunk_range(i, data.size))].tobytes() for i in range(4)]
    chunks += [bytes(parity) for parity in stage.coder._coder.encode(facts.scheme, data)]
    task, get = await stage.begin_get(facts)
    have, want = (1, 2, 4, 5), (0, 3)
    crcs = [zlib.crc32(chunk) for chunk in chunks]
    for i in have:
        request = RequestId(i + 1)
        stage.do(cmd.FetchChunk(link=opened.link, request=request, op=get.op, index=i, crc=crcs[i], facts=facts))
        await peer.send_chunk(i + 1, describe(facts, i, chunks[i]), chunks[i])
        await stage.script.next(ev.ChunkArrived)
    stage.do(cmd.Decode(op=get.op, facts=facts, have=have, want=want, crcs=tuple(crcs[i] for i in want)))
    assert (await stage.script.next(ev.Decoded)).op == get.op
    # the same, with checksums that nobody knows
    stage.do(cmd.Decode(op=get.op, facts=facts, have=have, want=want, crcs=(None, None)))
    await stage.script.next(ev.Decoded)
    # with one that is another
    stage.do(cmd.Decode(op=get.op, facts=facts, have=have, want=want, crcs=(crcs[0], crcs[3] ^ 1)))
    assert "chunk 3" in (await stage.script.next(ev.CodecFailed)).detail
    stage.do(cmd.Complete(op=get.op, facts=facts), cmd.Release(op=get.op))
    _, got = await soon(task)
    assert np.array_equal(got, data)


@pytest.mark.parametrize("error", [SchemeError(detail="why"), MemoryError("why"), RuntimeError("why")])
async def test_a_codec_that_fails_says_so(stage: Stage, error: Exception) -> None:
    stage.coder.error = error
    task, put = await stage.begin_put("k", random_bytes(100))
    stage.do(cmd.Encode(op=put.op, facts=facts_of(100, "rs:4+2")))
    failed = await stage.script.next(ev.CodecFailed)
    assert failed.op == put.op
    assert "why" in failed.detail
    stage.do(cmd.Complete(op=put.op, facts=facts_of(100)), cmd.Release(op=put.op))
    await soon(task)


async def test_an_operation_may_be_over_before_its_codec_begins(stage: Stage) -> None:
    task, put = await stage.begin_put("k", random_bytes(100))
    error = WriteFailed(key="k", stored=0, need=6, detail="")
    stage.do(
        cmd.Encode(op=put.op, facts=facts_of(100, "rs:4+2")),
        cmd.Fail(op=put.op, error=error),
        cmd.Release(op=put.op),
    )
    with pytest.raises(WriteFailed):
        await soon(task)
    assert (await stage.script.next(ev.Encoded)).op == put.op


# ---------------------------------------------------------------- buffers of operations


async def test_shared_buffers_stay_until_both_have_let_go(stage: Stage) -> None:
    peer, opened = await stage.connect()
    data, facts = random_bytes(5000), facts_of(5000)
    task, put = await stage.begin_put("k", data)
    repair = OpId(-1)
    stage.do(
        cmd.ShareBuffers(op=repair, source=put.op),
        cmd.Complete(op=put.op, facts=facts),
        cmd.Release(op=put.op),
    )
    await soon(task)
    stage.do(cmd.StoreChunk(link=opened.link, request=RequestId(3), op=repair, index=0, seq=1, facts=facts))
    assert (await peer.expect(Kind.STORE, 3)).body == data.tobytes()
    stage.do(cmd.Release(op=repair))
    assert not stage.driver._buffers


async def test_a_shard_reads_for_itself(stage: Stage) -> None:
    peer, opened = await stage.connect()
    data, facts, op = random_bytes(5000), facts_of(5000), OpId(-3)
    stage.do(
        cmd.OpenBuffers(op=op),
        cmd.FetchChunk(
            link=opened.link, request=RequestId(1), op=op, index=0, crc=zlib.crc32(data), facts=facts
        ),
    )  # fmt: skip
    await peer.send_chunk(1, describe(facts, 0, data.tobytes()), data.tobytes())
    await stage.script.next(ev.ChunkArrived)
    assert np.array_equal(stage.driver._buffers[op].object(facts), data)
    stage.do(cmd.StoreChunk(link=opened.link, request=RequestId(2), op=op, index=0, seq=2, facts=facts))
    await peer.expect(Kind.FETCH)
    assert (await peer.expect(Kind.STORE, 2)).body == data.tobytes()
    stage.do(cmd.Release(op=op))
    assert not stage.driver._buffers


# ---------------------------------------------------------------- the end


async def test_closing_ends_what_callers_wait_for(stage: Stage) -> None:
    task, _ = await stage.begin_get(facts_of(1))
    await soon(stage.driver.close())
    with pytest.raises(CacheUnavailable):
        await soon(task)
    assert stage.invoker.is_closed


async def test_after_closing_nothing_is_accepted(stage: Stage) -> None:
    await soon(stage.driver.close())
    await soon(stage.driver.close())
    for call in (
        stage.driver.get("k", timeout_s=1),
        stage.driver.put("k", "", b"abc", expires_s=None, timeout_s=1),
        stage.driver.delete("k"),
        stage.driver.touch("k", None),
    ):
        with pytest.raises(CacheUnavailable):
            await soon(call)


async def test_closing_waits_for_invocations(stage: Stage) -> None:
    stage.invoker.answer = returned = asyncio.Event()
    stage.do(INVOKE)
    await until(lambda: bool(stage.invoker.payloads))
    closing = asyncio.ensure_future(stage.driver.close())
    await asyncio.sleep(0)
    assert not stage.invoker.is_closed
    returned.set()
    await soon(closing)
    assert stage.invoker.is_closed


async def test_closing_does_not_wait_for_ever(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "_CLOSE_TIMEOUT_S", 0.01)
    stage.invoker.answer = asyncio.Event()
    stage.coder.gate.clear()
    stage.do(INVOKE)
    task, put = await stage.begin_put("k", random_bytes(100))
    stage.do(cmd.Encode(op=put.op, facts=facts_of(100, "rs:4+2")))
    await until(lambda: bool(stage.invoker.payloads) and bool(stage.coder.n_encodes))
    await soon(stage.driver.close())
    with pytest.raises(CacheUnavailable):
        await soon(task)


async def test_nothing_reaches_the_state_after_closing(stage: Stage) -> None:
    _, _ = await stage.connect()
    stage.do(cmd.SetTimer(timer=("hedge", 1), at_s=stage.driver.now_s() + 3600))
    await soon(stage.driver.close())
    assert [type(event) for event in stage.script.seen] == [ev.LinkOpened]


async def test_ipv6_addresses_can_be_dialled(leaks: None) -> None:
    made = ShardDriver(Script(), ScriptedInvoker(), GatedCoder(), SECRET, listen_host="::1")  # type: ignore[arg-type]
    try:
        await made.start()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    assert made.address.startswith("[::1]:")
    await soon(made.close())


async def test_work_that_is_cancelled_before_it_begins(stage: Stage) -> None:
    """Warnings are errors: it must not leave a coroutine behind that nobody awaited."""
    task, put = await stage.begin_put("k", random_bytes(100))
    stage.do(cmd.Encode(op=put.op, facts=facts_of(100, "rs:4+2")))
    for coding in stage.driver._coding:
        coding.cancel()
    await soon(stage.driver.close())
    assert stage.coder.n_encodes == 0
    with pytest.raises(CacheUnavailable):
        await soon(task)
