"""Every verb, on a real cache."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from infiniray import (
    Cache,
    ConfigError,
    DeadlineExceeded,
    InvalidKey,
    InvalidTTL,
    KeyNotFound,
    ValueNotStorable,
    ValueTooLarge,
)

LARGE = 3_000_000


def noise(n_bytes: int) -> np.ndarray:
    return np.random.default_rng(n_bytes).integers(0, 256, n_bytes, dtype=np.uint8)


@pytest.mark.parametrize("size", [0, 1, 1000, 96 << 10, LARGE, 9_000_001])
def test_bytes_of_any_size_come_back(cache: Cache, size: int) -> None:
    value = noise(size).tobytes()
    cache.put("k", value)
    back = cache.get("k")
    assert type(back) is bytes
    assert back == value


@pytest.mark.parametrize("n", [10, LARGE])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_like_values_keep_their_type(cache: Cache, kind: Callable[[Any], Any], n: int) -> None:
    value = kind(noise(n).tobytes())
    cache["k"] = value
    assert type(cache["k"]) is type(value)
    assert cache["k"] == value


@pytest.mark.parametrize("shape", [(3, 5), (1000, 700)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_read_only_and_equal(cache: Cache, shape: tuple[int, int], order: Any) -> None:
    value = np.asarray(noise(shape[0] * shape[1] * 8).view(np.uint64).reshape(shape), order=order)
    cache["k"] = value
    back = cache["k"]
    assert (back.dtype, back.shape) == (value.dtype, value.shape)
    assert not back.flags.writeable
    np.testing.assert_array_equal(back, value)


def test_any_picklable_value(cache: Cache) -> None:
    value = {"weights": np.arange(200_000.0), "name": "m", "layers": [1, (2, None)]}
    cache["k"] = value
    back = cache["k"]
    assert back["layers"] == value["layers"]
    np.testing.assert_array_equal(back["weights"], value["weights"])


def test_raw_gives_a_view_of_the_bytes(cache: Cache) -> None:
    value = noise(LARGE).tobytes()
    cache["k"] = value
    back = cache.get("k", raw=True)
    assert isinstance(back, memoryview)
    assert back.readonly
    assert back == value
    cache["pickled"] = {"a": 1}
    with pytest.raises(ValueNotStorable, match="not bytes-like"):
        cache.get("pickled", raw=True)


def test_a_miss_is_a_key_error_or_the_default(cache: Cache) -> None:
    with pytest.raises(KeyNotFound):
        cache.get("absent")
    with pytest.raises(KeyError):
        cache["absent"]
    assert cache.get("absent", None) is None
    assert cache.get("absent", default=3) == 3
    with pytest.raises(KeyError):
        del cache["absent"]
    with pytest.raises(KeyNotFound):
        cache.ttl("absent")
    assert "absent" not in cache
    assert cache.delete("absent") is False
    assert cache.touch("absent", 5) is False


def test_a_new_value_replaces_the_old_one(cache: Cache) -> None:
    for i in range(3):
        cache["k"] = f"value {i}"
    assert cache["k"] == "value 2"
    assert cache.keys() == ["k"]


def test_delete(cache: Cache) -> None:
    cache["k"] = noise(LARGE)
    assert "k" in cache
    assert cache.exists("k")
    assert cache.delete("k") is True
    assert "k" not in cache
    assert cache.get("k", None) is None


@pytest.mark.parametrize("ttl", [7200, 7200.0, "2h", "120m", timedelta(hours=2)])
def test_ttl_forms(cache: Cache, ttl: Any) -> None:
    cache.put("k", "v", ttl=ttl)
    left_s = cache.ttl("k")
    assert left_s is not None
    assert 7000 < left_s <= 7200


def test_ttl_can_be_set_lengthened_and_lifted(cache: Cache) -> None:
    cache.put("k", "v")
    assert cache.ttl("k") is None
    assert cache.touch("k", "1h") is True
    assert 3000 < (cache.ttl("k") or 0) <= 3600
    assert cache.touch("k", None) is True
    assert cache.ttl("k") is None


def test_an_expired_object_is_gone(cache: Cache) -> None:
    cache.put("k", "v", ttl="1ms")
    cache.put("stays", "v", ttl="1h")
    assert cache.get("k", None) is None
    assert "k" not in cache
    assert cache.keys() == ["stays"]


@pytest.mark.parametrize("ttl", [0, -1, "soon", True, timedelta(0)])
def test_bad_ttls_are_refused_and_nothing_is_stored(cache: Cache, ttl: Any) -> None:
    with pytest.raises(InvalidTTL):
        cache.put("k", "v", ttl=ttl)
    assert "k" not in cache


@pytest.mark.parametrize("key", ["", None, 3, b"k", "x" * 1025])
def test_bad_keys_are_refused(cache: Cache, key: Any) -> None:
    with pytest.raises(InvalidKey):
        cache.put(key, "v")
    with pytest.raises(InvalidKey):
        cache.get(key, None)


@pytest.mark.parametrize("timeout", [0, -1, "x", True])
def test_bad_timeouts_are_refused(cache: Cache, timeout: Any) -> None:
    with pytest.raises(ConfigError, match="timeout"):
        cache.get("k", None, timeout=timeout)


def test_a_value_larger_than_the_pool_is_refused(whole_cache: Cache, cache: Cache) -> None:
    with pytest.raises(ValueTooLarge) as caught:
        cache.put("k", np.zeros(400 << 20, np.uint8))
    assert caught.value.size_bytes > 600 << 20
    assert "k" not in cache


def test_what_cannot_be_pickled_is_refused(cache: Cache) -> None:
    with pytest.raises(ValueNotStorable):
        cache.put("k", (i for i in range(3)))
    assert "k" not in cache


def test_an_impossible_deadline_is_kept(cache: Cache) -> None:
    value = noise(40 << 20)
    with pytest.raises(DeadlineExceeded) as caught:
        cache.put("k", value, timeout="1ms")
    assert caught.value.operation == "PUT"
    assert cache.get("k", None) is None
    cache.put("k", value)


def test_many(cache: Cache) -> None:
    values = {f"k{i}": noise(200_000 + i) for i in range(20)}
    cache.put_many(values, ttl="1h")
    found = cache.get_many([*values, "absent"])
    assert list(found) == list(values)
    for key, value in values.items():
        np.testing.assert_array_equal(found[key], value)
    assert 3000 < (cache.ttl("k3") or 0) <= 3600
    with pytest.raises(ConfigError, match="several keys"):
        cache.get_many("k1")
    assert cache.get_many([]) == {}
    cache.put_many({})


def test_put_many_stores_what_it_can(cache: Cache) -> None:
    with pytest.raises(ValueTooLarge):
        cache.put_many({"a": b"1", "huge": np.zeros(400 << 20, np.uint8), "b": b"2"})
    assert cache.get_many(["a", "huge", "b"]) == {"a": b"1", "b": b"2"}


def test_keys_and_entries(cache: Cache) -> None:
    cache.put_many({f"a/{i}": b"x" * i for i in range(10)})
    cache.put("b", b"xyz", ttl="1h")
    assert cache.keys() == [*(f"a/{i}" for i in range(10)), "b"]
    assert cache.keys("a/", limit=3) == ["a/0", "a/1", "a/2"]
    assert list(cache) == cache.keys()
    entry = cache.entries("b")[0]
    assert (entry.key, entry.size_bytes) == ("b", 3)
    assert entry.expires_s is not None


def test_namespaces_are_prefixes(whole_cache: Cache, cache: Cache) -> None:
    models = cache.namespace("models")
    models["a"] = 1
    cache["a"] = 2
    assert (models["a"], cache["a"], cache["models/a"]) == (1, 2, 1)
    assert models.keys() == ["a"]
    assert sorted(cache.keys()) == ["a", "models/a"]
    assert models.get_many(["a", "b"]) == {"a": 1}
    assert models.delete("a")
    assert cache.keys() == ["a"]


def test_both_shards_are_used(whole_cache: Cache, cache: Cache) -> None:
    cache.put_many({f"k{i}": i for i in range(60)})
    stats = whole_cache.stats()
    assert [shard["nodes"] for shard in stats["per_shard"]] == [4, 4]
    assert all(shard["objects"] > 0 for shard in stats["per_shard"])
    assert sum(shard["objects"] for shard in stats["per_shard"]) == stats["objects"]


def test_stats_count_what_happened(whole_cache: Cache, cache: Cache) -> None:
    before = whole_cache.stats()
    cache["k"] = noise(LARGE)
    cache["k"]
    cache.get("absent", None)
    cache.delete("k")
    after = whole_cache.stats()
    changes = {name: after[name] - before[name] for name in ("gets", "hits", "misses", "puts", "deletes", "resets")}
    assert changes == {"gets": 2, "hits": 1, "misses": 1, "puts": 1, "deletes": 1, "resets": 0}
    assert after["capacity_bytes"] == 8 * (256 - 128) << 20
    assert (after["nodes"], after["shards"], after["epoch"]) == (8, 2, 3)  # raised by each shard that enrolled
    expected = {"objects", "object_bytes", "stored_bytes", "evictions", "expired", "degraded_reads", "repairs"}
    assert expected <= after.keys()
    assert after["invocations"]["serve"] > 0
    assert after["platform"]


def test_large_values_are_coded_in_tasks(whole_cache: Cache, cache: Cache) -> None:
    before = whole_cache.stats()["codec"]
    value = noise(8 << 20)
    cache["k"] = value
    after = whole_cache.stats()["codec"]
    assert after["task_encodes"] + after["task_fallbacks"] == before["task_encodes"] + before["task_fallbacks"] + 1
    np.testing.assert_array_equal(cache["k"], value)
