"""The client's end: values that stay as they are for as long as anybody looks at them, and what fails how."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import pytest
from world import MIB, SHARED_MIN, Shard, Speaker, until

from infiniray.channel import client as client_module
from infiniray.channel import peer
from infiniray.channel.client import Channel
from infiniray.channel.frames import Kind, pack
from infiniray.channel.line import ChannelBusy, ChannelLost, ChannelUnreachable, Received, Write
from infiniray.channel.waiting import TimedOut, drive, drive_all_async, drive_async
from infiniray.errors import KeyNotFound


def left_s() -> float:
    return 10.0


@pytest.fixture
def channel(shard: Shard) -> Iterator[Channel]:
    channel = Channel(shard.endpoint)
    yield channel
    channel.close()


async def get(channel: Channel, *keys: str) -> list[Any]:
    return await drive_async(channel.get(1, 5.0, keys), left_s)


async def value_of(channel: Channel, key: str) -> Any:
    (received,) = await get(channel, key)
    assert isinstance(received, Received)
    return received.buffer


def write(key: str, data: Any, request: str = "r") -> Write:
    return Write(key, "head", np.frombuffer(data, np.uint8), request, None, False)


@pytest.mark.parametrize("n_bytes", [0, 1, SHARED_MIN - 1, SHARED_MIN, MIB, 10 * MIB])
async def test_values_come_as_they_were_stored(shard: Shard, channel: Channel, n_bytes: int) -> None:
    data = shard.store("k", n_bytes)
    assert bytes(await value_of(channel, "k")) == data.tobytes()


@pytest.mark.parametrize("n_bytes", [0, 1, SHARED_MIN, 3 * MIB])
async def test_values_are_stored_as_they_are(shard: Shard, channel: Channel, n_bytes: int) -> None:
    data = os.urandom(n_bytes)
    assert await drive_async(channel.put(1, 5.0, [write("k", data)]), left_s) == [None]
    if n_bytes:
        assert await drive_async(channel.put_shared(1, left_s, write("s", data)), left_s) == [None]
        assert shard.objects.stored["s"][1].tobytes() == data
    assert shard.objects.stored["k"][1].tobytes() == data
    await until(lambda: shard.stats()["shared"]["bytes_in_use"] == 0)


async def test_many_in_one_frame(shard: Shard, channel: Channel) -> None:
    sizes = [0, 1, 99, SHARED_MIN, 2 * MIB, 5]
    datas = [shard.store(f"k{i}", size) for i, size in enumerate(sizes)]
    outcomes = await get(channel, *(f"k{i}" for i in range(len(sizes))), "missing")
    assert [bytes(outcome.buffer) for outcome in outcomes[:-1]] == [data.tobytes() for data in datas]
    assert isinstance(outcomes[-1], KeyNotFound)
    writes = [write(f"w{i}", data) for i, data in enumerate(datas)]
    assert await drive_async(channel.put(1, 5.0, writes), left_s) == [None] * len(writes)
    assert [shard.objects.stored[f"w{i}"][1].tobytes() for i in range(len(sizes))] == [d.tobytes() for d in datas]
    assert shard.stats()["requests"] == 2


async def test_views_are_read_only(shard: Shard, channel: Channel) -> None:
    shard.store("k", MIB)
    value = await value_of(channel, "k")
    assert memoryview(value).readonly
    with pytest.raises(ValueError, match="read-only"):
        value[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        value.flags.writeable = True


VIEWS = {
    "array": lambda value: value,
    "slice": lambda value: value[1000:2000],
    "memoryview": memoryview,
    "cast": lambda value: memoryview(value).cast("B")[5:],
    "array over a memoryview": lambda value: np.frombuffer(memoryview(value)[8:], np.uint64),
    "reshaped": lambda value: value.reshape(1024, -1).T[3:],
    "array of an array": lambda value: np.asarray(value[::2]),
    "ndarray(buffer=)": lambda value: np.ndarray((1024, 1024), np.uint8, buffer=memoryview(value).toreadonly()),
    "pickle buffer": lambda value: pickle.PickleBuffer(value),
}


@pytest.mark.parametrize("kind", VIEWS)
async def test_a_lease_lasts_as_long_as_any_view(shard: Shard, channel: Channel, kind: str) -> None:
    data = shard.store("k", MIB)
    view = VIEWS[kind](await value_of(channel, "k"))
    gc.collect()
    want = bytes(np.asarray(VIEWS[kind](data)).tobytes())
    for _ in range(5):  # the slot that is free last is taken first
        shard.store("k", MIB)[:] = 0
        held = await value_of(channel, "k")
        assert not held.any()
        del held
        gc.collect()
    assert bytes(np.asarray(view).tobytes()) == want
    assert shard.stats()["leases"] >= 1
    del view
    gc.collect()
    await until(lambda: shard.stats()["leases"] == 0)
    assert shard.stats()["shared"]["bytes_in_use"] == 0


async def test_out_of_band_buffers_hold_their_lease(shard: Shard, channel: Channel) -> None:
    data = shard.store("k", MIB)
    buffers: list[pickle.PickleBuffer] = []
    text = pickle.dumps(await value_of(channel, "k"), protocol=5, buffer_callback=buffers.append)
    gc.collect()
    shard.store("other", MIB)
    await value_of(channel, "other")
    again = pickle.loads(text, buffers=buffers)
    buffers.clear()
    gc.collect()
    await value_of(channel, "other")
    assert again.tobytes() == data.tobytes()


async def test_memory_is_mapped_once_and_used_again(shard: Shard, channel: Channel) -> None:
    shard.store("k", 10 * MIB)
    for _ in range(5):
        await value_of(channel, "k")
        gc.collect()
        await until(lambda: shard.stats()["leases"] == 0)
    assert shard.stats()["shared"]["segments"] == 1
    assert len(channel._mappings) == 1


async def test_what_is_written_and_read_in_turns_has_one_slot(shard: Shard, channel: Channel) -> None:
    """At no time a second one: nothing is waited for between them."""
    for n in range(1, 6):
        data = bytes([n]) * (10 * MIB)
        assert await drive_async(channel.put_shared(1, left_s, write("k", data)), left_s) == [None]
        for _ in range(2):
            value = await value_of(channel, "k")
            assert bytes(value) == data
            del value
    assert shard.stats()["shared"]["segments"] == 1
    assert shard.stats()["shared"]["bytes_mapped"] == 10 * MIB
    assert len(channel._mappings) == 2  # to write, and to read


async def test_what_the_shard_has_let_go_of_is_not_kept_mapped(shard: Shard, channel: Channel) -> None:
    for n_mib in (5, 6, 7):
        shard.store("k", n_mib * MIB)
        value = await value_of(channel, "k")
        assert value.nbytes == n_mib * MIB
        del value
        gc.collect()
        await until(lambda: shard.stats()["leases"] == 0)
        shard.server.pool.trim(0.0)
        assert len(channel._mappings) == 1
    assert shard.stats()["shared"]["bytes_mapped"] == 0


async def test_views_keep_the_connection_that_says_when_they_end(shard: Shard) -> None:
    channel = Channel(shard.endpoint)
    shard.store("k", MIB)
    value = await value_of(channel, "k")
    del channel  # as when a task's handle is gone, and what it got is not
    gc.collect()
    await asyncio.sleep(0.05)
    assert shard.stats()["leases"] == 1
    del value
    gc.collect()
    await until(lambda: shard.stats()["leases"] == 0)
    assert shard.stats()["shared"]["segments_given_up"] == 0
    await until(lambda: shard.stats()["connections"] == 0)


async def test_beyond_the_shards_memory_values_are_copied(channel: Channel, shard: Shard) -> None:
    data = shard.store("k", 20 * MIB)
    held = [await value_of(channel, "k") for _ in range(5)]
    assert shard.stats()["leases"] == 3
    assert shard.stats()["shared"]["bytes_mapped"] <= 64 * MIB
    assert all(bytes(value) == data.tobytes() for value in held)
    assert await drive_async(channel.put_shared(1, left_s, write("w", bytes(20 * MIB))), left_s) is None
    del held[:3]
    gc.collect()
    await until(lambda: shard.stats()["leases"] == 0)


async def test_views_outlive_the_channel_and_the_shard(shard: Shard) -> None:
    channel = Channel(shard.endpoint)
    data = shard.store("k", 10 * MIB)
    value, other = await value_of(channel, "k"), await value_of(channel, "k")
    channel.close()
    await until(lambda: shard.stats()["connections"] == 0)
    assert shard.stats()["leases"] == 0
    second = Channel(shard.endpoint)
    shard.store("k", 10 * MIB)[:] = 0
    assert not np.asarray(await value_of(second, "k")).any()
    shard.server.close()
    assert value.tobytes() == other.tobytes() == data.tobytes()
    second.close()
    del value, other
    gc.collect()


async def test_a_channel_that_is_let_go_of_closes_its_connections(shard: Shard) -> None:
    channel = Channel(shard.endpoint)
    shard.store("k", 10)
    await value_of(channel, "k")
    assert shard.stats()["connections"] == 2
    del channel
    gc.collect()
    await until(lambda: shard.stats()["connections"] == 0)


async def test_connections_are_used_again_and_as_many_as_there_are_requests(shard: Shard, channel: Channel) -> None:
    shard.store("k", 10)
    for _ in range(5):
        await value_of(channel, "k")
    assert shard.stats()["connections"] == 2  # one for leases
    shard.objects.gate.clear()
    tasks = [asyncio.ensure_future(value_of(channel, "k")) for _ in range(20)]
    await until(lambda: shard.objects.begun == 25)
    shard.objects.gate.set()
    await asyncio.gather(*tasks)
    await until(lambda: shard.stats()["connections"] == 1 + client_module._MAX_IDLE)


async def test_more_requests_than_connections_go_another_way(
    shard: Shard, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_MAX_LINES", 3)
    shard.objects.gate.clear()
    tasks = [asyncio.ensure_future(get(channel, "k")) for _ in range(3)]
    await until(lambda: shard.objects.begun == 3)
    with pytest.raises(ChannelBusy):
        await get(channel, "k")
    shard.objects.gate.set()
    await asyncio.gather(*tasks)


async def test_time_that_is_over_ends_the_request_there_too(shard: Shard, channel: Channel) -> None:
    shard.objects.gate.clear()
    with pytest.raises(TimedOut):
        await drive_async(channel.get(1, 5.0, ["k"]), lambda: 0.1)
    await until(lambda: shard.objects.cancelled == 1)
    shard.objects.gate.set()
    shard.store("k", 10)
    assert len(await value_of(channel, "k")) == 10


async def test_a_task_that_is_cancelled_ends_its_request(shard: Shard, channel: Channel) -> None:
    shard.objects.gate.clear()
    task = asyncio.ensure_future(get(channel, "k"))
    await until(lambda: shard.objects.begun == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: shard.objects.cancelled == 1)


async def test_threads_and_several_at_once(shard: Shard, channel: Channel) -> None:
    datas = {f"k{i}": shard.store(f"k{i}", 50_000 + 40_000 * i) for i in range(8)}
    wrong: list[str] = []

    def work(key: str) -> None:
        for _ in range(20):
            (received,) = drive(channel.get(1, 5.0, [key]), left_s)
            assert isinstance(received, Received)
            if bytes(received.buffer) != datas[key].tobytes():
                wrong.append(key)

    await asyncio.gather(*(asyncio.to_thread(work, key) for key in datas))
    assert wrong == []
    gc.collect()
    await until(lambda: shard.stats()["leases"] == 0)


async def test_several_exchanges_at_once(shard: Shard, channel: Channel) -> None:
    for i in range(4):
        shard.store(f"k{i}", 10)
    results = await drive_all_async([channel.get(1, 5.0, [f"k{i}"]) for i in range(4)], left_s)
    assert all(isinstance(result, list) for result in results)


# ---------------------------------------------------------------- failures


async def test_there_is_no_such_socket(shard: Shard, channel: Channel) -> None:
    shard.server.close()
    with pytest.raises(ChannelUnreachable):
        await get(channel, "k")
    assert not channel.was_reached


async def test_a_shard_that_ended_is_noticed_before_anything_is_sent(shard: Shard, channel: Channel) -> None:
    shard.store("k", 10)
    await value_of(channel, "k")
    shard.server.close()
    with pytest.raises(ChannelUnreachable):
        await drive_async(channel.put(1, 5.0, [write("k", b"1")]), left_s)
    assert channel.was_reached


async def test_the_last_to_hear_of_a_shard_that_ended_closes_its_connection(shard: Shard, channel: Channel) -> None:
    """What is said there is the end of a view, which may be long after the shard's."""
    shard.store("k", 10 * MIB)
    value = await value_of(channel, "k")
    leases = channel._leases
    assert leases is not None
    shard.server.close()
    await until(lambda: shard.stats()["connections"] == 0)
    del value
    gc.collect()
    assert leases.is_over
    assert leases._socket.fileno() == -1


async def test_a_shard_that_ends_in_the_middle_may_have_done_it(shard: Shard, channel: Channel) -> None:
    shard.objects.gate.clear()
    task = asyncio.ensure_future(drive_async(channel.put(1, 5.0, [write("k", b"1")]), left_s))
    await until(lambda: shard.objects.begun == 1)
    shard.server.close()
    with pytest.raises(ChannelLost) as lost:
        await task
    assert lost.value.may_have_run


async def test_a_shard_that_ends_before_it_has_granted_memory_has_not_done_it(
    shard: Shard, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer.Peer, "_reserve", lambda self, n_bytes: shard.server.close())
    with pytest.raises(ChannelLost) as lost:
        await drive_async(channel.put_shared(1, left_s, write("k", bytes(MIB))), left_s)
    assert not lost.value.may_have_run


async def test_whoever_listens_there_is_not_the_shard(shard: Shard) -> None:
    channel = Channel(replace(shard.endpoint, secret=b"another"))
    with pytest.raises(ChannelUnreachable):
        await get(channel, "k")
    assert shard.objects.begun == 0
    channel.close()
    channel = Channel(replace(shard.endpoint, protocol=99))
    with pytest.raises(ChannelUnreachable):
        await get(channel, "k")
    channel.close()


async def test_other_machines_are_served_by_copies() -> None:
    shard = Shard(listen_host="127.0.0.1")
    data = shard.store("k", 3 * MIB)
    channel = Channel(replace(shard.endpoint, name="not-on-this-machine"))
    assert bytes(await value_of(channel, "k")) == data.tobytes()
    assert await drive_async(channel.put(1, 5.0, [write("w", b"12")]), left_s) == [None]
    assert await drive_async(channel.put_shared(1, left_s, write("w", bytes(MIB))), left_s) is None
    assert not channel.has_shared_memory
    assert shard.stats()["leases"] == 0
    channel.close()
    shard.server.close()


async def test_nothing_listens_on_the_network_unless_it_is_configured() -> None:
    def listening() -> set[int]:
        connections = psutil.Process().net_connections("inet")
        return {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN}

    before = listening()  # whatever other tests have left running
    silent, configured = Shard(), Shard(listen_host="127.0.0.1")
    assert silent.endpoint.address is None
    assert configured.endpoint.address is not None
    assert listening() - before == {configured.endpoint.address[1]}
    silent.server.close()
    configured.server.close()
    assert listening() - before == set()


# ---------------------------------------------------------------- forks


def _in_child(channel: Channel, value: Any, results: Any) -> None:
    """Looks at what the parent looked at, and reads by itself."""
    before = bytes(value)
    (received,) = drive(channel.get(1, 5.0, ["k"]), left_s)
    assert isinstance(received, Received)
    own = bytes(received.buffer)
    results.send((before, own))
    results.recv()  # the parent has let go and overwritten
    results.send(bytes(value))


async def test_what_is_forked_off_keeps_its_views_and_makes_its_own_connections(shard: Shard, channel: Channel) -> None:
    data = shard.store("k", MIB)
    value = await value_of(channel, "k")
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(channel, value, theirs))
    child.start()
    before, own = await asyncio.to_thread(ours.recv)
    assert before == own == data.tobytes()
    del value
    gc.collect()
    shard.store("k", MIB)[:] = 0
    held = [await value_of(channel, "k") for _ in range(40)]  # whatever memory there is is written now
    assert not any(np.asarray(view).any() for view in held)
    ours.send("go on")
    assert await asyncio.to_thread(ours.recv) == data.tobytes()
    child.join(10)
    assert child.exitcode == 0
    child.close()
    ours.close()
    theirs.close()
    del held
    gc.collect()
    await until(lambda: shard.stats()["leases"] == 0)


async def test_a_process_that_is_killed_leaves_nothing(shard: Shard) -> None:
    shard.store("k", MIB)
    told, tell = multiprocessing.Pipe(duplex=False)

    def hold() -> None:
        channel = Channel(shard.endpoint)
        received = drive(channel.get(1, 5.0, ["k"]), left_s)
        tell.send(len(received))
        threading.Event().wait(60)

    child = multiprocessing.get_context("fork").Process(target=hold)
    child.start()
    assert await asyncio.to_thread(told.recv) == 1
    assert shard.stats()["leases"] == 1
    child.kill()
    child.join(10)
    await until(lambda: shard.stats()["connections"] == 0)
    assert shard.stats()["leases"] == 0
    assert shard.stats()["shared"]["bytes_mapped"] == 0
    child.close()
    told.close()
    tell.close()


# ---------------------------------------------------------------- a shard that talks nonsense


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", pack(Kind.VALUE, [7, "head"]), pack(Kind.SHARED, [0, "h", 1, 0, 4096, 0, 10]),
     pack(Kind.GRANTED, [0, 4096, 0]), pack(Kind.VALUE, ["x"])],
    ids=range(5),
)  # fmt: skip
async def test_nonsense_from_a_shard_ends_the_connection(
    shard: Shard, channel: Channel, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer.Peer, "_fail", lambda self, index, operation, error: self._send(answer))
    with pytest.raises(ChannelLost):
        await get(channel, "missing")
    await until(lambda: shard.stats()["connections"] <= 1)


async def test_a_speaker_and_a_channel_are_two_clients(shard: Shard, channel: Channel) -> None:
    speaker = Speaker(shard.endpoint)
    await speaker.greet()
    shard.store("k", MIB)
    value = await value_of(channel, "k")
    assert shard.stats()["connections"] == 3
    del value
    speaker.close()


async def test_what_was_let_go_of_before_a_request_is_free_for_its_answer(shard: Shard, channel: Channel) -> None:
    """Whichever of a client's two connections the event loop comes to first."""
    shard.store("k", 3 * MIB)
    value = await value_of(channel, "k")
    del value
    gc.collect()
    (leases,) = [p for p in shard.server._peers if p._is_for_leases]
    asyncio.get_running_loop().remove_reader(leases._socket)  # it is not come to at all
    again = await value_of(channel, "k")
    assert shard.stats()["leases"] == 1
    assert shard.stats()["shared"]["bytes_in_use"] == 3 * MIB
    assert len(again) == 3 * MIB
