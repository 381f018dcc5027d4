"""The shard's end: who gets in, what is garbage, and what a client leaves behind that goes in the middle of it."""

from __future__ import annotations

import asyncio
import pickle
import struct

import pytest
from world import MIB, SHARED_MIN, Shard, Speaker, until

from infiniray.channel import peer
from infiniray.channel.frames import RELEASE, Kind, pack
from infiniray.channel.peer import MAX_BODY_BYTES, MAX_KEYS


async def test_who_knows_the_secret_gets_in(shard: Shard) -> None:
    speaker = Speaker(shard.endpoint)
    welcome = await speaker.greet()
    assert welcome is not None
    assert welcome.kind == Kind.WELCOME
    await speaker.say(pack(Kind.ASK, [1, 5.0, "ttl", "k", {"a": 1}]))
    answer = await speaker.hear()
    assert answer is not None
    assert (answer.kind, answer.meta) == (Kind.DONE, [0, ["ttl", "k", {"a": 1}]])
    speaker.close()
    await until(lambda: shard.stats()["connections"] == 0)
    assert shard.stats()["refused"] == shard.stats()["garbage"] == 0


async def test_who_does_not_is_hung_up_on(shard: Shard) -> None:
    speaker = Speaker(shard.endpoint)
    assert await speaker.greet(secret=b"another") is None
    assert shard.stats()["refused"] == 1
    assert shard.objects.begun == 0
    speaker.close()


async def test_a_proof_is_worth_nothing_a_second_time(shard: Shard) -> None:
    first, second = Speaker(shard.endpoint), Speaker(shard.endpoint)
    heard: list[bytes] = []
    say = first.say

    async def recorded(data: bytes) -> None:
        heard.append(data)
        await say(data)

    first.say = recorded  # type: ignore[method-assign]
    assert await first.greet() is not None
    await second.hear()
    await second.say(heard[0])
    assert await second.hear() is None
    first.close()
    second.close()


HEADER = struct.Struct("<HBxIQ")
GARBAGE_AFTER_PROOF = [
    b"GET / HTTP/1.1\r\n\r\n",
    HEADER.pack(0x4943, Kind.GET, 1 << 30, 0),
    HEADER.pack(0x4943, Kind.PUT, 2, MAX_BODY_BYTES + 1),
    pack(Kind.GET, [1, 5.0, ["k"]], 10) + bytes(10),
    pack(Kind.WELCOME, ["x", "y"]),
    pack(Kind.GET, ["1", 5.0, ["k"]]),
    pack(Kind.GET, [1, 5.0, [7]]),
    pack(Kind.GET, [1, 5.0, []]),
    pack(Kind.GET, [1, 5.0, ["k"] * (MAX_KEYS + 1)]),
    pack(Kind.PUT, [1, 5.0, [["k", "h", "r", None, False, 3]]], 2) + b"xx",
    pack(Kind.PUT, [1, 5.0, [["k", "h", "r", None, False, -3]]], 2) + b"xx",
    pack(Kind.PUT, [1, 5.0, [["k"]]], 2) + b"xx",
    pack(Kind.PUT_RESERVED, [1, 5.0, [["k", "h", "r", None, False, 3]]]),
    pack(Kind.RESERVE, ["much"]),
    pack(Kind.ASK, [1, 5.0, "ttl", "k", []]),
    pack(Kind.ASK, [1, 5.0, "ttl", "k", {}]) * 2,
    HEADER.pack(0x4943, 99, 2, 0) + b"[]",
]


@pytest.mark.parametrize("garbage", GARBAGE_AFTER_PROOF, ids=range(len(GARBAGE_AFTER_PROOF)))
async def test_garbage_closes_the_connection_is_counted_and_does_nothing_else(shard: Shard, garbage: bytes) -> None:
    speaker, other = Speaker(shard.endpoint), Speaker(shard.endpoint)
    await speaker.greet()
    await other.greet()
    await speaker.say(garbage)
    while (answer := await speaker.hear()) is not None:
        assert answer.kind == Kind.DONE
    assert shard.stats()["garbage"] == 1
    assert shard.objects.stored == {}
    await other.say(pack(Kind.ASK, [1, 5.0, "ttl", "k", {}]))
    assert await other.hear() is not None
    speaker.close()
    other.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 100,
        HEADER.pack(0x4943, Kind.HELLO, 5000, 0),
        HEADER.pack(0x4943, Kind.PUT, 2, 10) + b"[]",
        pack(Kind.GET, [1, 5.0, ["k"]]),
        pack(Kind.HELLO, ["king", "nonce", "mac", ""]),
        pack(Kind.HELLO, []),
    ],
    ids=range(6),
)
async def test_before_the_proof_nothing_else_is_listened_to(shard: Shard, garbage: bytes) -> None:
    shard.store("k", 10)
    speaker = Speaker(shard.endpoint)
    await speaker.hear()
    await speaker.say(garbage)
    assert await speaker.hear() is None
    assert shard.objects.begun == 0
    speaker.close()


async def test_half_a_request_and_gone(shard: Shard) -> None:
    request = pack(Kind.PUT, [1, 5.0, [["k", "h", "r", None, False, 1000]]], 1000) + bytes(1000)
    for cut in (1, 15, 16, 40, len(request) - 1000, len(request) - 1):
        speaker = Speaker(shard.endpoint)
        await speaker.greet()
        await speaker.say(request[:cut])
        speaker.close()
    await until(lambda: shard.stats()["connections"] == 0)
    assert shard.objects.begun == 0
    assert shard.stats()["garbage"] == 0


async def test_a_request_before_the_answer_to_the_last(shard: Shard) -> None:
    shard.objects.gate.clear()
    speaker = Speaker(shard.endpoint)
    await speaker.greet()
    await speaker.say(pack(Kind.GET, [1, 5.0, ["k"]]))
    await until(lambda: shard.objects.begun == 1)
    await speaker.say(pack(Kind.GET, [1, 5.0, ["k"]]))
    assert await speaker.hear() is None
    await until(lambda: shard.objects.cancelled == 1)
    assert shard.stats()["garbage"] == 1
    speaker.close()


async def test_a_client_that_goes_has_its_request_cancelled(shard: Shard) -> None:
    shard.objects.gate.clear()
    speaker = Speaker(shard.endpoint)
    await speaker.greet()
    await speaker.say(pack(Kind.GET, [1, 5.0, [f"k{i}" for i in range(100)]]))
    await until(lambda: shard.objects.begun > 0)
    speaker.close()
    await until(lambda: shard.stats()["connections"] == 0)
    await until(lambda: shard.objects.cancelled == shard.objects.begun)
    assert shard.objects.begun < 100  # what had not begun never does


async def test_only_so_many_keys_are_worked_on_at_once(shard: Shard) -> None:
    keys = [f"k{i}" for i in range(MAX_KEYS)]
    for key in keys:
        shard.store(key, 100)
    speaker = Speaker(shard.endpoint)
    await speaker.greet()
    await speaker.say(pack(Kind.GET, [1, 5.0, keys]))
    answers = [await speaker.hear() for _ in keys]
    assert sorted(answer.meta[0] for answer in answers if answer is not None) == list(range(MAX_KEYS))
    assert 1 < shard.objects.most_at_once <= 32
    speaker.close()


async def test_large_values_are_read_one_after_the_other(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "_READING_BYTES", 3 * MIB)
    keys = [f"k{i}" for i in range(40)]
    shard.objects.stored |= dict.fromkeys(keys, ("head", shard.store("k", MIB)))
    shard.objects.pauses_after_landing = True
    speaker = Speaker(shard.endpoint)
    await speaker.greet()
    await speaker.say(pack(Kind.GET, [1, 5.0, keys]))
    for _ in keys:
        assert await speaker.hear() is not None
    assert 3 <= shard.objects.most_landed <= 12  # those that were begun before their sizes were known, and a few
    speaker.close()


async def test_a_client_that_takes_no_answers_does_not_make_them_pile_up(shard: Shard) -> None:
    keys = [f"k{i}" for i in range(MAX_KEYS)]
    data = shard.store("all", 99_999)
    shard.objects.stored |= dict.fromkeys(keys, ("head", data))
    speaker = Speaker(shard.endpoint)
    await speaker.greet()
    shard.objects.stored |= {key: ("head", shard.store("big", SHARED_MIN * 20)) for key in keys}  # no tenancy: copied
    await speaker.say(pack(Kind.GET, [1, 5.0, keys]))
    await until(lambda: shard.objects.begun > 0)
    await asyncio.sleep(0.2)
    assert shard.objects.begun < MAX_KEYS  # the rest waits until these have been taken
    n = 0
    while n < MAX_KEYS:
        answer = await speaker.hear()
        assert answer is not None
        assert len(answer.body) == SHARED_MIN * 20
        n += 1
    speaker.close()


async def test_what_is_not_ours_to_explain_is_an_error_of_the_cache(shard: Shard) -> None:
    speaker = Speaker(shard.endpoint)
    await speaker.greet()
    await speaker.say(pack(Kind.ASK, [1, 5.0, "fail", "k", {}]))
    answer = await speaker.hear()
    assert answer is not None
    assert answer.kind == Kind.FAILED
    assert "FAIL failed inside the cache: ZeroDivisionError: a mistake" in str(pickle.loads(answer.body))
    speaker.close()


# ---------------------------------------------------------------- leases


async def tenant(shard: Shard) -> tuple[Speaker, Speaker]:
    """The connections for leases and for requests of one process."""
    leases, requests = Speaker(shard.endpoint), Speaker(shard.endpoint)
    welcome = await leases.greet("leases")
    assert welcome is not None
    await requests.greet("requests", welcome.meta[1])
    return leases, requests


async def lease_of(requests: Speaker, key: str) -> int:
    await requests.say(pack(Kind.GET, [1, 5.0, [key]]))
    answer = await requests.hear()
    assert answer is not None
    assert answer.kind == Kind.SHARED
    return int(answer.meta[2])


async def test_a_lease_is_over_when_its_client_says_so(shard: Shard) -> None:
    shard.store("k", MIB)
    leases, requests = await tenant(shard)
    number = await lease_of(requests, "k")
    assert shard.stats()["leases"] == 1
    assert shard.stats()["shared"]["bytes_in_use"] == MIB
    text = RELEASE.pack(number)
    await leases.say(text[:3])
    await leases.say(text[3:])
    await until(lambda: shard.stats()["leases"] == 0)
    assert shard.stats()["shared"]["bytes_in_use"] == 0
    again = await lease_of(requests, "k")
    assert again != number
    assert shard.stats()["shared"]["segments"] == 1
    assert shard.stats()["shared"]["segments_given_up"] == 0
    leases.close()
    requests.close()


async def test_what_a_client_died_with_is_never_used_again_and_given_back(shard: Shard) -> None:
    shard.store("k", MIB)
    leases, requests = await tenant(shard)
    await lease_of(requests, "k")
    leases.close()
    requests.close()
    await until(lambda: shard.stats()["connections"] == 0)
    stats = shard.stats()
    assert stats["leases"] == 0
    assert stats["shared"]["segments_given_up"] == 1
    assert stats["shared"]["bytes_mapped"] == 0


async def test_answers_that_may_not_have_been_read_are_not_waited_for(shard: Shard) -> None:
    """A request was given up while its answer was on the way: nobody will ever say that this lease is over."""
    shard.store("k", MIB)
    leases, requests = await tenant(shard)
    number = await lease_of(requests, "k")
    requests.close()
    await until(lambda: shard.stats()["leases"] == 0)
    assert shard.stats()["shared"]["segments_given_up"] == 1
    await leases.say(RELEASE.pack(number))  # it had been read after all
    await asyncio.sleep(0.05)
    assert shard.stats()["connections"] == 1
    await leases.say(RELEASE.pack(number))  # but not twice
    assert await leases.hear() is None
    assert shard.stats()["garbage"] == 1
    leases.close()


@pytest.mark.parametrize("is_confirmed_by", [pack(Kind.GOODBYE), pack(Kind.ASK, [1, 5.0, "ttl", "k", {}])])
async def test_answers_that_have_been_read_stay_leased(shard: Shard, is_confirmed_by: bytes) -> None:
    shard.store("k", MIB)
    leases, requests = await tenant(shard)
    await lease_of(requests, "k")
    await requests.say(is_confirmed_by)
    await requests.hear()
    requests.close()
    await until(lambda: shard.stats()["connections"] == 1)
    assert shard.stats()["leases"] == 1
    assert shard.stats()["shared"]["segments_given_up"] == 0
    leases.close()


async def test_a_lease_that_nobody_has_is_garbage(shard: Shard) -> None:
    leases, requests = await tenant(shard)
    await leases.say(RELEASE.pack(77))
    assert await leases.hear() is None
    assert shard.stats()["garbage"] == 1
    shard.store("k", MIB)
    await requests.say(pack(Kind.GET, [1, 5.0, ["k"]]))
    answer = await requests.hear()
    assert answer is not None
    assert answer.kind == Kind.VALUE  # whoever cannot be told when leases end gets a copy
    leases.close()
    requests.close()


async def test_without_a_tenancy_there_is_no_memory_to_write_into(shard: Shard) -> None:
    speaker = Speaker(shard.endpoint)
    await speaker.greet("requests", "made-up")
    await speaker.say(pack(Kind.RESERVE, [MIB]))
    answer = await speaker.hear()
    assert answer is not None
    assert answer.kind == Kind.DENIED
    speaker.close()


async def test_a_writer_that_goes_before_it_has_written(shard: Shard) -> None:
    leases, requests = await tenant(shard)
    await requests.say(pack(Kind.RESERVE, [MIB]))
    answer = await requests.hear()
    assert answer is not None
    assert answer.kind == Kind.GRANTED
    requests.close()
    await until(lambda: shard.stats()["connections"] == 1)
    assert shard.stats()["shared"]["bytes_mapped"] == 0
    assert shard.objects.stored == {}
    leases.close()


async def test_more_than_was_granted_is_garbage(shard: Shard) -> None:
    leases, requests = await tenant(shard)
    await requests.say(pack(Kind.RESERVE, [1000]))
    await requests.hear()
    await requests.say(pack(Kind.PUT_RESERVED, [1, 5.0, [["k", "h", "r", None, False, 1001]]]))
    assert await requests.hear() is None
    assert shard.stats()["garbage"] == 1
    leases.close()
    requests.close()


async def test_the_shards_end_is_the_end_of_its_connections(shard: Shard) -> None:
    leases, requests = await tenant(shard)
    shard.server.close()
    assert await leases.hear() is None
    assert await requests.hear() is None
    with pytest.raises(ConnectionRefusedError):
        Speaker(shard.endpoint)
    leases.close()
    requests.close()


# ---------------------------------------------------------------- reads that begin without a task


@pytest.mark.parametrize("is_answered_at_once", [True, False])
async def test_reads_that_begin_at_once_are_answered_like_others(shard: Shard, is_answered_at_once: bool) -> None:
    shard.objects.begins = True
    sizes = {"a": 10, "b": 0, "c": SHARED_MIN + 1, "d": MIB}
    datas = {key: shard.store(key, size) for key, size in sizes.items()}
    speaker = Speaker(shard.endpoint)
    await speaker.greet()
    if not is_answered_at_once:
        shard.objects.gate.clear()
    await speaker.say(pack(Kind.GET, [1, 5.0, [*sizes, "none"]]))
    if not is_answered_at_once:
        await until(lambda: len(shard.objects.waiting) == len(sizes) + 1)
        shard.objects.answer("none", "d", "b")
        shard.objects.answer("a", "c")
    frames = [await speaker.hear() for _ in range(len(sizes) + 1)]
    found = {frame.meta[0]: frame for frame in frames if frame is not None}
    assert sorted(found) == list(range(5))
    assert found[4].kind == Kind.FAILED
    for index, key in enumerate(sizes):
        assert found[index].kind == Kind.VALUE  # this client maps nothing
        assert bytes(found[index].body) == datas[key].tobytes()
    speaker.close()


async def test_answers_of_one_turn_go_together(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    shard.objects.begins = True
    keys = [f"k{i}" for i in range(100)]
    for key in keys:
        shard.store(key, 10)
    speaker = Speaker(shard.endpoint)
    await speaker.greet()
    calls: list[int] = []
    hand_over = peer.Peer._hand_over

    def counted(self: peer.Peer) -> int:
        calls.append(hand_over(self))
        return calls[-1]

    monkeypatch.setattr(peer.Peer, "_hand_over", counted)
    await speaker.say(pack(Kind.GET, [1, 5.0, keys]))
    for _ in keys:
        await speaker.hear()
    assert len(calls) == -(-2 * len(keys) // peer._MAX_PARTS)  # head and body of each
    speaker.close()


async def test_who_hangs_up_has_his_reads_given_up(shard: Shard) -> None:
    shard.objects.begins = True
    shard.objects.gate.clear()
    for key in "abc":
        shard.store(key, 10)
    speaker = Speaker(shard.endpoint)
    await speaker.greet()
    await speaker.say(pack(Kind.GET, [1, 5.0, ["a", "b", "c"]]))
    await until(lambda: len(shard.objects.waiting) == 3)
    shard.objects.answer("b")
    speaker.close()
    await until(lambda: shard.stats()["connections"] == 0)
    assert shard.objects.cancelled == 2
    assert shard.objects.waiting == {}


async def test_a_request_while_reads_are_under_way_is_garbage(shard: Shard) -> None:
    shard.objects.begins = True
    shard.objects.gate.clear()
    shard.store("a", 10)
    speaker = Speaker(shard.endpoint)
    await speaker.greet()
    await speaker.say(pack(Kind.GET, [1, 5.0, ["a"]]))
    await until(lambda: len(shard.objects.waiting) == 1)
    await speaker.say(pack(Kind.ASK, [1, 5.0, "ttl", "k", {}]))
    assert await speaker.hear() is None
    assert shard.stats()["garbage"] == 1
    assert shard.objects.cancelled == 1
    speaker.close()


async def test_no_more_reads_are_begun_at_once_than_may_be(shard: Shard) -> None:
    shard.objects.begins = True
    shard.objects.gate.clear()
    keys = [f"k{i}" for i in range(20)]
    for key in keys:
        shard.store(key, 10)
    speaker = Speaker(shard.endpoint)
    await speaker.greet()
    await speaker.say(pack(Kind.GET, [1, 5.0, keys]))
    await until(lambda: bool(shard.objects.waiting))
    answered = 0
    while answered < len(keys):
        assert len(shard.objects.waiting) == min(peer._AT_FIRST, len(keys) - answered) or answered
        assert len(shard.objects.waiting) <= peer._AT_ONCE
        shard.objects.answer(next(iter(shard.objects.waiting)))
        answered += 1
        await until(lambda: bool(shard.objects.waiting) or answered == len(keys))  # noqa: B023
        await speaker.hear()
    speaker.close()
