"""Where parity is computed: what the threads that do it hold, and until when."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from infiniray.cluster.codec_tasks import TaskCoder
from infiniray.codec.schemes import Scheme

SCHEME = Scheme.parse("rs:4+2")
CHUNK = 1 << 20  # too large to be coded on the spot


class Lingering(ThreadPoolExecutor):
    """Its threads keep what they were given, as one does that does not get to run again."""

    def __init__(self) -> None:
        super().__init__(1)
        self.given: list[Any] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.given.append((fn, args, kwargs))
        return super().submit(fn, *args, **kwargs)


def buffers(n: int) -> list[np.ndarray]:
    return [np.arange(i, i + CHUNK, dtype=np.uint64).astype(np.uint8) for i in range(n)]


async def test_a_thread_that_has_encoded_or_decoded_holds_nothing_of_it() -> None:
    """By the time that the caller goes on: the slot that a value lay in is free for the next one."""
    coder, executor = TaskCoder("auto", task_min_bytes=1 << 30), Lingering()
    asyncio.get_running_loop().set_default_executor(executor)
    data = np.concatenate(buffers(4))
    parity = await coder.encode(SCHEME, data, buffers(2))
    chunks = dict(enumerate([*np.split(data, 4), *parity]))
    present, lost = {i: np.array(chunks[i]) for i in (1, 2, 3, 4)}, np.zeros(CHUNK, np.uint8)
    await coder.reconstruct(SCHEME, data.nbytes, present, {0: lost})
    assert (lost == chunks[0]).all()
    held = [weakref.ref(array) for array in (data, lost, *parity, *present.values())]
    del data, parity, chunks, present, lost
    assert len(executor.given) == 2
    assert all(ref() is None for ref in held)
