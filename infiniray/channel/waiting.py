"""How an exchange waits: it yields what it waits for, and a thread or an event loop does the waiting.

An exchange is a generator. It yields a descriptor and the event that it wants of it, or a function that takes long.
"""

from __future__ import annotations

import asyncio
import math
import select
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

__all__ = [
    "READABLE",
    "WRITABLE",
    "Exchange",
    "TimedOut",
    "Want",
    "drive",
    "drive_all",
    "drive_all_async",
    "drive_async",
]

T = TypeVar("T")

READABLE = select.POLLIN
WRITABLE = select.POLLOUT

Want = tuple[int, int] | Callable[[], Any]
Exchange = Generator[Want, Any, T]


class TimedOut(Exception):
    """The time is over; the exchange was given up."""


def drive(exchange: Exchange[T], left_s: Callable[[], float]) -> T:
    """Have an exchange run in a thread that may block.

    Raises:
        TimedOut: ``left_s()`` came to zero first.
    """
    try:
        want = exchange.send(None)
        while True:
            if isinstance(want, tuple):
                if not _poll({want[0]: want[1]}, left_s()):
                    raise TimedOut
                want = exchange.send(None)
            else:
                want = _call(exchange, want)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        exchange.close()


def drive_all(exchanges: Sequence[Exchange[T]], left_s: Callable[[], float]) -> list[T | Exception]:
    """Several at once, in one thread. An error stands in the place of its exchange's result."""
    results: dict[int, T | Exception] = {}
    waiting: dict[int, int] = {}  # {descriptor: which exchange}
    events: dict[int, int] = {}

    def advance(index: int) -> None:
        try:
            want = exchanges[index].send(None)
            while not isinstance(want, tuple):
                want = _call(exchanges[index], want)
            waiting[want[0]], events[want[0]] = index, want[1]
        except StopIteration as end:
            results[index] = end.value
        except Exception as error:
            results[index] = error

    try:
        for index in range(len(exchanges)):
            advance(index)
        while waiting:
            ready = _poll(events, left_s())
            if not ready:
                results |= dict.fromkeys(waiting.values(), TimedOut())
                break
            for descriptor in ready:
                del events[descriptor]
                advance(waiting.pop(descriptor))
    finally:
        for exchange in exchanges:
            exchange.close()
    return [results[index] for index in range(len(exchanges))]


async def drive_async(exchange: Exchange[T], left_s: Callable[[], float]) -> T:
    """As :func:`drive`, on an event loop. Cancelling it gives the exchange up."""
    try:
        want = exchange.send(None)
        while True:
            if isinstance(want, tuple):
                await _ready(*want, left_s())
                want = exchange.send(None)
            else:
                try:
                    answer = await asyncio.to_thread(want)
                except Exception as error:
                    want = exchange.throw(error)
                else:
                    want = exchange.send(answer)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        exchange.close()


async def drive_all_async(exchanges: Sequence[Exchange[T]], left_s: Callable[[], float]) -> list[T | Exception]:
    """As :func:`drive_all`, on an event loop."""
    results = await asyncio.gather(*(drive_async(exchange, left_s) for exchange in exchanges), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, Exception):
            raise result
    return results  # type: ignore[return-value]


def _call(exchange: Exchange[Any], function: Callable[[], Any]) -> Want:
    try:
        answer = function()
    except Exception as error:
        return exchange.throw(error)
    return exchange.send(answer)


def _poll(events: dict[int, int], left_s: float) -> list[int]:
    """The descriptors that are ready; none if the time is over."""
    poll = select.poll()
    for descriptor, event in events.items():
        poll.register(descriptor, event)
    return [descriptor for descriptor, _ in poll.poll(math.ceil(left_s * 1000))]


async def _ready(descriptor: int, event: int, left_s: float) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_reader, loop.remove_reader) if event == READABLE else (loop.add_writer, loop.remove_writer)
    timer = loop.call_later(left_s, _end, future, TimedOut())
    add(descriptor, _end, future, None)
    try:
        await future
    finally:
        timer.cancel()
        remove(descriptor)


def _end(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
