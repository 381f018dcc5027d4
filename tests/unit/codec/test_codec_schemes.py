from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infiniray.codec.schemes import Scheme, SchemeKind, SchemePolicy
from infiniray.errors import SchemeError

schemes = st.one_of(
    st.builds(Scheme, st.just(SchemeKind.RS), st.integers(1, 128), st.integers(1, 128)),
    st.builds(Scheme, st.just(SchemeKind.XOR), st.integers(1, 255), st.just(1)),
    st.builds(Scheme, st.just(SchemeKind.MIRROR), st.just(1), st.integers(0, 255)),
    st.builds(Scheme, st.just(SchemeKind.STRIPE), st.integers(1, 256), st.just(0)),
)


@given(schemes)
def test_text_round_trip(scheme: Scheme) -> None:
    assert Scheme.parse(str(scheme)) == scheme


@pytest.mark.parametrize(
    ("text", "k", "r"),
    [("rs:10+2", 10, 2), ("xor:5+1", 5, 1), ("mirror:3", 1, 2), ("stripe:8", 8, 0), ("rs:254+2", 254, 2)],
)
def test_parse(text: str, k: int, r: int) -> None:
    scheme = Scheme.parse(text)
    assert (scheme.k, scheme.r, scheme.n, scheme.losses_tolerated) == (k, r, k + r, r)
    assert str(scheme) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "rs", "rs:", "rs:10", "rs:10+", "rs:0+2", "rs:10+0", "rs:-1+2", "rs:255+2", "rs:10+2+1", "RS:10+2",
        "rs:1O+2", "xor:5", "xor:5+2", "xor:0+1", "xor:256+1", "mirror:0", "mirror:2+1", "mirror:257",
        "stripe:0", "stripe:8+1", "stripe:257", "raid:5", "rs:" + "9" * 5000 + "+1", "rs:\u0661\u0660+2",
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(SchemeError, match=r"scheme"):
        Scheme.parse(text)


@pytest.mark.parametrize("value", [None, 10, b"rs:10+2"])
def test_only_text_is_parsed(value: object) -> None:
    with pytest.raises(SchemeError, match="not a scheme"):
        Scheme.parse(value)  # type: ignore[arg-type]


def test_the_message_says_what_is_wrong() -> None:
    with pytest.raises(SchemeError, match=r"rs scheme \(k=255, r=2\): at most 256 chunks in all, not 257"):
        Scheme.parse("rs:255+2")
    with pytest.raises(SchemeError, match="exactly one parity"):
        Scheme.parse("xor:5+2")


@given(schemes, st.integers(0, 10**12))
def test_chunks_tile_the_object(scheme: Scheme, object_bytes: int) -> None:
    ranges = [scheme.chunk_range(index, object_bytes) for index in range(scheme.k)]
    assert ranges[0][0] == 0
    assert ranges[-1][1] == object_bytes
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))
    assert all(0 <= stop - start <= scheme.chunk_bytes(object_bytes) for start, stop in ranges)
    stored = [scheme.stored_bytes(index, object_bytes) for index in range(scheme.n)]
    assert sum(stored) == scheme.total_stored_bytes(object_bytes)
    assert stored[scheme.k :] == [scheme.chunk_bytes(object_bytes)] * scheme.r


def test_short_and_empty_chunks() -> None:
    scheme = Scheme.parse("rs:4+2")
    assert [scheme.stored_bytes(index, 9) for index in range(6)] == [3, 3, 3, 0, 3, 3]
    assert [scheme.stored_bytes(index, 1) for index in range(6)] == [1, 0, 0, 0, 1, 1]
    assert [scheme.stored_bytes(index, 0) for index in range(6)] == [0] * 6


@pytest.mark.parametrize("index", [-1, 6])
def test_indices_outside_are_refused(index: int) -> None:
    with pytest.raises(SchemeError, match="chunks 0 to 5"):
        Scheme.parse("rs:4+2").stored_bytes(index, 9)


def test_parity_has_no_range_in_the_object() -> None:
    with pytest.raises(SchemeError, match="data chunks 0 to 3, not 4"):
        Scheme.parse("rs:4+2").chunk_range(4, 9)


def test_negative_size_is_refused() -> None:
    with pytest.raises(SchemeError, match="-1 bytes"):
        Scheme.parse("rs:4+2").chunk_bytes(-1)


@pytest.mark.parametrize(
    ("text", "capacity_share", "losses"),
    [("stripe:5", 1.0, 0), ("mirror:2", 0.5, 1), ("xor:4+1", 0.8, 1), ("rs:4+2", 4 / 6, 2)],
)
def test_raid_levels(text: str, capacity_share: float, losses: int) -> None:
    """Capacity and losses of RAID-0, 1, 5 and 6."""
    scheme = Scheme.parse(text)
    assert scheme.capacity_share == pytest.approx(capacity_share)
    assert scheme.overhead == pytest.approx(1 / capacity_share)
    assert scheme.losses_tolerated == losses


class TestPolicy:
    policy = SchemePolicy.of([(64 << 10, "mirror:3"), (1 << 20, "rs:4+2"), (None, "rs:10+2")])

    @pytest.mark.parametrize(
        ("size", "text"),
        [(0, "mirror:3"), (65_536, "mirror:3"), (65_537, "rs:4+2"), (1 << 20, "rs:4+2"), ((1 << 20) + 1, "rs:10+2")],
    )
    def test_first_rule_that_fits(self, size: int, text: str) -> None:
        assert str(self.policy.choose(size)) == text

    def test_widest_is_the_one_with_most_chunks(self) -> None:
        assert self.policy.widest == Scheme.parse("rs:10+2")
        assert SchemePolicy.of([(9, "stripe:20"), (None, "rs:10+2")]).widest == Scheme.parse("stripe:20")

    @pytest.mark.parametrize(
        "rules",
        [
            [],
            [(10, "mirror:3")],
            [(None, "mirror:3"), (None, "rs:4+2")],
            [(None, "mirror:3"), (10, "rs:4+2")],
            [(10, "mirror:3"), (10, "rs:4+2"), (None, "rs:10+2")],
            [(20, "mirror:3"), (10, "rs:4+2"), (None, "rs:10+2")],
            [(-1, "mirror:3"), (None, "rs:10+2")],
            [(None, "raid:5")],
        ],
    )
    def test_bad_rules_are_refused_when_built(self, rules: list[tuple[int | None, str]]) -> None:
        with pytest.raises(SchemeError):
            SchemePolicy.of(rules)


def test_schemes_need_neither_numpy_nor_a_kernel() -> None:
    code = (
        "import sys, infiniray.errors; before = set(sys.modules); import infiniray.codec, infiniray.codec.schemes;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "sys.exit(str(new) if new & {'numpy', 'zfec', 'ctypes', 'pyeclib'} else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
