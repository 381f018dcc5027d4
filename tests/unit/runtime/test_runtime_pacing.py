"""The token bucket in front of a node."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

from infiniray.runtime.pacing import Pacer, Pacing

BUCKET, BURST, SUSTAINED, QUIET_S = 1000, 500, 100, 1.0
SHAPE = Pacing(bucket_bytes=BUCKET, burst_bytes_per_s=BURST, sustained_bytes_per_s=SUSTAINED, quiet_s=QUIET_S)


class Recorder:
    """A socket of which only the pacing rate is set."""

    def __init__(self) -> None:
        self.rates: list[int] = []

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        assert (level, option) == (socket.SOL_SOCKET, 47)
        self.rates += struct.unpack("=Q", value)


def paced() -> tuple[Callable[[int, float], None], list[int]]:
    recorder = Recorder()
    return Pacer(SHAPE, recorder).spend, recorder.rates  # type: ignore[arg-type]


def test_a_full_bucket_is_spent_at_the_burst_rate_and_then_no_longer() -> None:
    spend, rates = paced()
    spend(600, 100.0)
    spend(300, 100.1)
    assert rates == [BURST]
    spend(300, 100.2)
    spend(300, 100.3)
    assert rates == [BURST, SUSTAINED]


def test_what_fits_the_sustained_rate_costs_nothing() -> None:
    spend, rates = paced()
    for i in range(100):
        spend(SUSTAINED // 2, 100.0 + i / 2)
    assert rates == [BURST]


def test_half_the_bucket_is_back_after_silence() -> None:
    spend, rates = paced()
    spend(2000, 100.0)
    assert rates == [SUSTAINED]
    spend(400, 100.5 + QUIET_S)
    assert rates == [SUSTAINED, BURST]
    spend(200, 100.6 + QUIET_S)
    assert rates == [SUSTAINED, BURST, SUSTAINED]


def test_a_socket_that_is_closed_is_no_trouble() -> None:
    connection = socket.socket()
    connection.close()
    Pacer(SHAPE, connection).spend(10, 1.0)


def test_the_kernel_takes_the_rate() -> None:
    connection = socket.socket()
    try:
        Pacer(SHAPE, connection).spend(10, 1.0)
        (rate,) = struct.unpack("=Q", connection.getsockopt(socket.SOL_SOCKET, 47, 8))
    finally:
        connection.close()
    assert rate == BURST
