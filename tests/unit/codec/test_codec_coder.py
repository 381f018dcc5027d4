from __future__ import annotations

import hashlib
import itertools
import json
import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infiniray.codec import isal
from infiniray.codec.coder import Coder
from infiniray.codec.kernels import find_kernel
from infiniray.codec.schemes import Scheme, SchemeKind
from infiniray.errors import SchemeError

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "codec.json").read_text())

MakeObject = Callable[[int], bytes]


def all_chunks(coder: Coder, scheme: Scheme, data: bytes) -> dict[int, bytes]:
    """Every chunk as it is stored."""
    slices = [data[slice(*scheme.chunk_range(index, len(data)))] for index in range(scheme.k)]
    return dict(enumerate([*slices, *(bytes(chunk) for chunk in coder.encode(scheme, data))]))


def rebuild(
    coder: Coder, scheme: Scheme, size: int, present: Mapping[int, bytes], wanted: tuple[int, ...]
) -> dict[int, bytes]:
    # filled with what must not survive
    buffers = {index: bytearray(b"\xa5" * scheme.stored_bytes(index, size)) for index in wanted}
    coder.reconstruct(scheme, size, present, buffers)
    return {index: bytes(buffer) for index, buffer in buffers.items()}


def assert_any_k_bring_all_back(coder: Coder, scheme: Scheme, data: bytes) -> None:
    chunks = all_chunks(coder, scheme, data)
    for subset in itertools.combinations(range(scheme.n), scheme.k):
        present = {index: chunks[index] for index in subset}
        lost = tuple(index for index in chunks if index not in subset)
        assert rebuild(coder, scheme, len(data), present, lost) == {index: chunks[index] for index in lost}


# ---------------------------------------------------------------- the bytes are the agreed ones


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["seed"])
def test_frozen_vectors(coder: Coder, vector: dict[str, object]) -> None:
    data = hashlib.shake_256(str(vector["seed"]).encode()).digest(vector["object_bytes"])  # type: ignore[arg-type]
    parity = [bytes(chunk) for chunk in coder.encode(Scheme.parse(str(vector["scheme"])), data)]
    assert [len(chunk) for chunk in parity] == vector["parity_bytes"]
    assert [chunk[:16].hex() for chunk in parity] == vector["parity_head"]
    assert [hashlib.sha256(chunk).hexdigest() for chunk in parity] == vector["parity_sha256"]


SMALL_SCHEMES = ["rs:1+2", "rs:2+3", "rs:4+2", "rs:10+2", "rs:20+4", "rs:7+8", "xor:5+1", "mirror:3", "stripe:8"]


@pytest.mark.skipif(isal.load() is None, reason="ISA-L is not on this machine")
@settings(deadline=None, max_examples=80)
@given(st.sampled_from([*SMALL_SCHEMES, "rs:100+20", "xor:255+1"]), st.binary(max_size=20_000))
def test_kernels_agree(text: str, data: bytes) -> None:
    scheme = Scheme.parse(text)
    ours, theirs = (Coder(find_kernel(name)).encode(scheme, data) for name in ("isal", "zfec"))
    assert [bytes(chunk) for chunk in ours] == [bytes(chunk) for chunk in theirs]


@pytest.mark.parametrize("chunk_bytes", [*range(1, 80), 127, 128, 129, 255, 4095, 4096, 4097, 8191])
def test_every_short_length(coder: Coder, make_object: MakeObject, chunk_bytes: int) -> None:
    """Vector code treats the last bytes of a chunk apart; check them against one column at a time."""
    scheme = Scheme.parse("rs:3+2")
    data = make_object(3 * chunk_bytes)
    columns = np.frombuffer(data, dtype=np.uint8).reshape(3, chunk_bytes)
    picked = sorted({0, chunk_bytes // 2, *range(max(0, chunk_bytes - 40), chunk_bytes)})
    whole = np.array(coder.encode(scheme, data))
    for column in picked:
        alone = np.array(Coder(find_kernel("zfec")).encode(scheme, columns[:, column].tobytes()))
        assert whole[:, column].tolist() == alone[:, 0].tolist()


# ---------------------------------------------------------------- what is lost comes back


@pytest.mark.parametrize(
    "text",
    ["rs:10+1", "rs:10+2", "rs:10+4", "rs:5+1", "rs:4+2", "xor:5+1", "xor:10+1", "mirror:2", "mirror:3", "stripe:8"],
)
def test_every_subset_of_each_shipped_scheme(coder: Coder, make_object: MakeObject, text: str) -> None:
    scheme = Scheme.parse(text)
    assert_any_k_bring_all_back(coder, scheme, make_object(scheme.k * 7 - scheme.k // 2))


def test_a_sample_of_subsets_of_a_wide_scheme(coder: Coder, make_object: MakeObject) -> None:
    scheme, data = Scheme.parse("rs:20+4"), make_object(1003)
    chunks = all_chunks(coder, scheme, data)
    for start in range(scheme.n):
        lost = tuple(sorted((start + step) % scheme.n for step in (0, 1, 7, 12)))
        present = {index: chunk for index, chunk in chunks.items() if index not in lost}
        assert rebuild(coder, scheme, len(data), present, lost) == {index: chunks[index] for index in lost}


@settings(deadline=None, max_examples=120)
@given(st.data())
def test_decode_inverts_encode(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["zfec", "isal"] if isal.load() is not None else ["zfec"]))
    coder, scheme = Coder(find_kernel(name)), Scheme.parse(data.draw(st.sampled_from(SMALL_SCHEMES)))
    near_k = st.sampled_from([0, 1, max(scheme.k - 1, 0), scheme.k, scheme.k + 1])
    size = data.draw(st.one_of(near_k, st.integers(0, 300), st.integers(0, 200_000)))
    content = hashlib.shake_256(bytes([data.draw(st.integers(0, 255))])).digest(size)
    order = data.draw(st.permutations(range(scheme.n)))
    chunks = all_chunks(coder, scheme, content)
    n_present = data.draw(st.integers(scheme.k, scheme.n))
    present = {index: chunks[index] for index in order[:n_present]}
    restored = rebuild(coder, scheme, size, present, tuple(range(scheme.n)))
    assert b"".join(restored[index] for index in range(scheme.k)) == content
    assert restored == chunks


def test_padded_chunks_are_taken_and_filled(coder: Coder) -> None:
    scheme, data = Scheme.parse("rs:4+2"), b"nine byte"
    chunks = all_chunks(coder, scheme, data)
    assert [len(chunks[index]) for index in range(4)] == [3, 3, 3, 0]
    # what stands in the padding of a present chunk does not count
    present = {2: chunks[2], 3: b"\xff\xff\xff", 4: chunks[4], 5: chunks[5]}
    wanted = {0: bytearray(3), 1: bytearray(3), 3: bytearray(b"???")}
    coder.reconstruct(scheme, 9, present, wanted)
    assert bytes(wanted[0] + wanted[1]) == data[:6]
    assert wanted[3] == b"\0\0\0"
    del present[3]
    present[0], lost = chunks[0], bytearray(b"???")
    coder.reconstruct(scheme, 9, present, {3: lost})
    assert lost == b"\0\0\0"


def test_large_uneven_chunks_are_computed_in_place_but_for_their_ends(coder: Coder, make_object: MakeObject) -> None:
    """The last data chunk lacks k - 1 bytes: the most that is possible."""
    scheme = Scheme.parse("rs:10+2")
    data = make_object(10 * 50_000 - 9)
    chunks = all_chunks(coder, scheme, data)
    padded = all_chunks(coder, scheme, data + bytes(9))
    assert [chunks[10], chunks[11]] == [padded[10], padded[11]]
    present = {index: chunks[index] for index in chunks if index not in (3, 9)}
    assert rebuild(coder, scheme, len(data), present, (3, 9)) == {3: chunks[3], 9: chunks[9]}


@pytest.mark.skipif(isal.load() is None, reason="ISA-L is not on this machine")
def test_chunks_longer_than_one_call_takes(make_object: MakeObject, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = find_kernel("isal")
    scheme, data = Scheme.parse("rs:4+2"), make_object(4 * 10_000)
    whole = [bytes(chunk) for chunk in Coder(kernel).encode(scheme, data)]
    monkeypatch.setattr(type(kernel), "_MAX_BYTES", 3_000)
    buffers = [bytearray(b"\xa5" * 10_000) for _ in range(2)]
    Coder(kernel).encode_into(scheme, data, buffers)
    assert buffers == whole


# ---------------------------------------------------------------- buffers of all sorts


@pytest.mark.parametrize(
    "wrap",
    [
        bytes,
        bytearray,
        memoryview,
        lambda raw: np.frombuffer(raw, dtype=np.uint8),
        lambda raw: np.frombuffer(raw, dtype=np.float64).reshape(-1, 5),
        lambda raw: pickle.PickleBuffer(raw),
    ],
)
def test_any_contiguous_buffer_is_taken(coder: Coder, make_object: MakeObject, wrap: Callable[[bytes], bytes]) -> None:
    scheme, raw = Scheme.parse("rs:4+2"), make_object(400)
    assert [bytes(c) for c in coder.encode(scheme, wrap(raw))] == [bytes(c) for c in coder.encode(scheme, raw)]


def test_mirrors_and_stripes_compute_nothing(make_object: MakeObject) -> None:
    class NoKernel:
        name = "none"

        def combine(self, *_: object) -> None:
            raise AssertionError("nothing is to be computed")

    coder, data = Coder(NoKernel()), make_object(1000)
    source = np.frombuffer(data, dtype=np.uint8)
    copies = coder.encode(Scheme.parse("mirror:3"), data)
    assert len(copies) == 2
    assert all(np.shares_memory(copy, source) for copy in copies)
    assert coder.encode(Scheme.parse("stripe:8"), data) == []
    restored = bytearray(1000)
    coder.reconstruct(Scheme.parse("mirror:3"), 1000, {2: data}, {0: restored})
    assert restored == data


def test_encode_into_reused_buffers(coder: Coder, make_object: MakeObject) -> None:
    buffers = [bytearray(25_000), bytearray(25_000)]
    for text, size in (("rs:4+2", 99_999), ("mirror:3", 25_000)):
        scheme, data = Scheme.parse(text), make_object(size)
        coder.encode_into(scheme, data, buffers)
        assert buffers == [bytes(chunk) for chunk in coder.encode(scheme, data)]


def test_parallel_use_of_one_coder(coder: Coder, make_object: MakeObject) -> None:
    scheme = Scheme.parse("rs:10+4")
    objects = [make_object(size) for size in range(50_000, 50_040)]
    expected = [[bytes(c) for c in coder.encode(scheme, data)] for data in objects]
    with ThreadPoolExecutor(4) as pool:
        parity = list(pool.map(lambda data: [bytes(c) for c in coder.encode(scheme, data)], objects, timeout=60))
    assert parity == expected


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("text", ["rs:10+2", "xor:5+1", "stripe:8", "mirror:2"])
def test_too_few_chunks(coder: Coder, make_object: MakeObject, text: str) -> None:
    scheme, data = Scheme.parse(text), make_object(1000)
    chunks = all_chunks(coder, scheme, data)
    present = {index: chunks[index] for index in range(1, scheme.k)}
    buffer = bytearray(b"\xa5" * scheme.stored_bytes(0, 1000))
    with pytest.raises(SchemeError, match="are needed") as caught:
        coder.reconstruct(scheme, 1000, present, {0: buffer})
    assert (caught.value.have, caught.value.need) == (scheme.k - 1, scheme.k)  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.have) == (str(caught.value), scheme.k - 1)
    assert set(buffer) == {0xA5}


@pytest.mark.parametrize(
    ("present", "wanted", "message"),
    [
        ({0: 3, 1: 3, 2: 2, 4: 3}, {3: 0}, "chunk 2 of 9 bytes"),
        ({0: 3, 1: 3, 2: 3, 3: 1}, {4: 3}, "chunk 3 of 9 bytes"),
        ({0: 3, 1: 3, 2: 3, 4: 4}, {3: 0}, "chunk 4 of 9 bytes"),
        ({0: 3, 1: 3, 2: 3, 4: 3}, {5: 2}, "chunk 5 of 9 bytes"),
        ({0: 3, 1: 3, 2: 3, 6: 3}, {3: 0}, "chunks 0 to 5, not 6"),
        ({0: 3, 1: 3, 2: 3, 4: 3}, {-1: 3}, "chunks 0 to 5, not -1"),
    ],
)
def test_lengths_and_indices_must_fit(
    coder: Coder, present: dict[int, int], wanted: dict[int, int], message: str
) -> None:
    given_chunks = {index: bytes(length) for index, length in present.items()}
    buffers = {index: bytearray(length) for index, length in wanted.items()}
    with pytest.raises(SchemeError, match=message):
        coder.reconstruct(Scheme.parse("rs:4+2"), 9, given_chunks, buffers)


def test_buffers_must_be_contiguous_and_outputs_writable(coder: Coder) -> None:
    scheme = Scheme.parse("rs:4+2")
    with pytest.raises(SchemeError, match="not a contiguous buffer"):
        coder.encode(scheme, memoryview(b"0123456789")[::2])
    with pytest.raises(SchemeError, match="not a contiguous buffer"):
        coder.encode(scheme, "text")  # type: ignore[arg-type]
    with pytest.raises(SchemeError, match="read-only"):
        coder.encode_into(scheme, b"01234567", [bytes(2), bytes(2)])
    with pytest.raises(SchemeError, match="2 parity chunks, but 1 outputs"):
        coder.encode_into(scheme, b"01234567", [bytearray(2)])
    with pytest.raises(SchemeError, match="chunk 5 of 8 bytes"):
        coder.encode_into(scheme, b"01234567", [bytearray(2), bytearray(3)])


def test_a_damaged_chunk_gives_other_bytes_and_no_error(coder: Coder, make_object: MakeObject) -> None:
    """Erasure codes do not detect damage: that is what the chunks' checksums are for."""
    scheme, data = Scheme.parse("rs:4+2"), make_object(4000)
    chunks = all_chunks(coder, scheme, data)
    damaged = bytes([chunks[4][0] ^ 1]) + chunks[4][1:]
    restored = rebuild(coder, scheme, 4000, {0: chunks[0], 1: chunks[1], 2: chunks[2], 4: damaged}, (3,))
    assert restored[3][0] != chunks[3][0]
    assert restored[3][1:] == chunks[3][1:]


def test_scheme_kinds_are_all_covered() -> None:
    assert {Scheme.parse(text).kind for text in SMALL_SCHEMES} == set(SchemeKind)
