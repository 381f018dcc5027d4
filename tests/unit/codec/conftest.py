"""What the codec's tests share: both kernels, and objects of known bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from infiniray.codec import isal
from infiniray.codec.coder import Coder
from infiniray.codec.kernels import find_kernel

needs_isal = pytest.mark.skipif(isal.load() is None, reason="ISA-L is not on this machine")


@pytest.fixture(params=["zfec", pytest.param("isal", marks=needs_isal)])
def coder(request: pytest.FixtureRequest) -> Coder:
    """A coder for each kernel."""
    return Coder(find_kernel(request.param))


@pytest.fixture(scope="session")
def make_object() -> Callable[[int], bytes]:
    """Bytes that look random and are the same in each run."""
    return lambda size: hashlib.shake_256(f"object of {size}".encode()).digest(size)
