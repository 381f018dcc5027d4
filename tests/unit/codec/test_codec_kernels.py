from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import zfec

from infiniray.codec import isal
from infiniray.codec.coder import Coder
from infiniray.codec.galois import identity, invert, multiply, power
from infiniray.codec.kernels import KERNEL_VARIABLE, default_kernel, find_kernel
from infiniray.codec.matrices import generator, recovery
from infiniray.codec.measure import measure_kernels
from infiniray.codec.schemes import Scheme
from infiniray.errors import ConfigError, SchemeError


@pytest.fixture
def no_isal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without ISA-L."""
    monkeypatch.setattr(isal, "_candidates", lambda: iter(["no-such-library.so.2"]))
    isal.load.cache_clear()
    find_kernel.cache_clear()
    yield
    isal.load.cache_clear()
    find_kernel.cache_clear()


class TestChoice:
    def test_without_isal_zfec_does_the_work(self, no_isal: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(KERNEL_VARIABLE, raising=False)
        coder = Coder()
        assert coder.kernel.name == "zfec"
        scheme, data = Scheme.parse("rs:4+2"), bytes(range(200))
        parity = coder.encode(scheme, data)
        lost = {0: bytearray(50), 3: bytearray(50)}
        coder.reconstruct(scheme, 200, {1: data[50:100], 2: data[100:150], 4: parity[0], 5: parity[1]}, lost)
        assert bytes(lost[0] + lost[3]) == data[:50] + data[150:]

    def test_without_isal_asking_for_it_is_an_error(self, no_isal: None) -> None:
        with pytest.raises(ConfigError, match="not on this machine"):
            find_kernel("isal")

    def test_a_library_without_the_functions_does_not_count(
        self, no_isal: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(isal, "_candidates", lambda: iter([None]))  # the running program itself
        assert isal.load() is None

    def test_environment_chooses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(KERNEL_VARIABLE, "zfec")
        assert default_kernel().name == "zfec"
        monkeypatch.setenv(KERNEL_VARIABLE, "abacus")
        with pytest.raises(ConfigError, match=r"'abacus' is not one of auto, isal, zfec"):
            default_kernel()

    @pytest.mark.skipif(isal.load() is None, reason="ISA-L is not on this machine")
    def test_isal_is_preferred(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(KERNEL_VARIABLE, raising=False)
        assert default_kernel().name == "isal"


class TestField:
    def test_powers_of_the_generator_are_all_elements_but_zero(self) -> None:
        assert sorted(power(exponent) for exponent in range(255)) == list(range(1, 256))
        assert power(8) == 0x1D
        assert power(-1) == power(254)

    @pytest.mark.parametrize("size", [1, 2, 10, 40])
    def test_inverse(self, size: int) -> None:
        matrix = np.random.default_rng(size).integers(0, 256, (size, size), dtype=np.uint8)
        assert np.array_equal(multiply(invert(matrix), matrix), identity(size))
        assert np.array_equal(multiply(matrix, invert(matrix)), identity(size))

    def test_inverse_swaps_rows_where_a_pivot_is_zero(self) -> None:
        matrix = np.array([[0, 1], [1, 0]], dtype=np.uint8)
        assert np.array_equal(invert(matrix), matrix)

    def test_singular_matrix(self) -> None:
        with pytest.raises(SchemeError, match="singular"):
            invert(np.array([[1, 2], [1, 2]], dtype=np.uint8))

    @pytest.mark.parametrize(
        ("a", "b", "product"), [(0, 7, 0), (1, 7, 7), (2, 0x80, 0x1D), (3, 7, 9), (0x53, 0xCA, 0x8F)]
    )
    def test_products(self, a: int, b: int, product: int) -> None:
        """Against multiplication by hand: shift, add, reduce by 0x11d."""
        by_hand = 0
        for bit in range(8):
            by_hand ^= (a << bit) if b >> bit & 1 else 0
        for bit in range(15, 7, -1):
            by_hand ^= (0x11D << (bit - 8)) if by_hand >> bit & 1 else 0
        assert by_hand == product
        one = lambda value: np.array([[value]], dtype=np.uint8)  # noqa: E731
        assert multiply(one(a), one(b))[0, 0] == product


@pytest.mark.parametrize("text", ["rs:1+1", "rs:1+3", "rs:4+2", "rs:10+2", "rs:20+4", "rs:128+128", "rs:255+1"])
def test_generator_is_that_of_zfec(text: str) -> None:
    """zfec encodes unit vectors into the columns of its matrix."""
    scheme = Scheme.parse(text)
    units = [bytes(row) for row in identity(scheme.k)]
    parity = zfec.Encoder(scheme.k, scheme.n).encode(units, list(range(scheme.k, scheme.n)))
    matrix = generator(scheme)
    assert np.array_equal(matrix[: scheme.k], identity(scheme.k))
    assert [bytes(row) for row in matrix[scheme.k :]] == parity


def test_matrices_are_shared_and_read_only() -> None:
    scheme = Scheme.parse("rs:4+2")
    rows = recovery(scheme, (1, 2, 3, 4), (0,))
    assert rows is recovery(scheme, (1, 2, 3, 4), (0,))
    assert not rows.flags.writeable
    assert not generator(scheme).flags.writeable


@pytest.mark.skipif(isal.load() is None, reason="ISA-L is not on this machine")
def test_isal_is_found_without_importing_pyeclib() -> None:
    code = (
        "import sys; from infiniray.codec.kernels import find_kernel; find_kernel('isal');"
        "sys.exit('pyeclib' in sys.modules or 'zfec' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
    assert isinstance(isal.load(), ctypes.CDLL)


class TestMeasure:
    def test_rows(self) -> None:
        rows = measure_kernels(100_003, Scheme.parse("rs:10+2"), rounds=2)
        names = [(row.kernel, row.operation) for row in rows]
        available = ["zfec"] if isal.load() is None else ["zfec", "isal"]
        assert names == [("zfec by itself", "encode"), *((k, op) for k in available for op in ("encode", "decode"))]
        assert rows[0].ratio == 1
        assert all(row.gb_per_s == pytest.approx(100_003 / row.median_s / 1e9) for row in rows)

    @pytest.mark.parametrize(
        ("object_bytes", "text", "rounds"), [(0, "rs:4+2", 1), (100, "mirror:3", 1), (100, "rs:4+2", 0)]
    )
    def test_nothing_to_measure(self, object_bytes: int, text: str, rounds: int) -> None:
        with pytest.raises(SchemeError, match="cannot measure"):
            measure_kernels(object_bytes, Scheme.parse(text), rounds)

    def test_a_machine_without_isal_is_measured_too(self, no_isal: None) -> None:
        rows = measure_kernels(1000, Scheme.parse("rs:4+2"), rounds=1)
        assert {row.kernel for row in rows} == {"zfec by itself", "zfec"}
