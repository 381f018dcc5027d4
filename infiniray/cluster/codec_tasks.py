"""Where a shard's parity is computed: in a Ray worker task for large objects, in a thread of its own for the rest, and
for small ones on the spot.

Encoding in a task takes the object's reference, so no byte of it is copied to get there: Ray runs the task where the
object is, which relieves the shard's machine if the writer is on another. Only the parity comes back.

Decoding stays in a thread. What it starts from are chunks in the shard's receive buffer: to bring them to a task
means to copy them into Ray's store, and that takes longer than the kernel takes to decode them.

A thread has to be woken, and to get hold of the interpreter, which the event loop may have for milliseconds. Small
objects are coded sooner than that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from infiniray.cluster import rayapi
from infiniray.codec.coder import Coder
from infiniray.codec.kernels import find_kernel
from infiniray.codec.schemes import Scheme
from infiniray.config import CodecConfig
from infiniray.errors import InfiniRayError

__all__ = ["CodecCounters", "TaskCoder"]

#: A task that has not delivered within this, and the time that its bytes take at the slowest, is not waited for:
#: Ray has no worker free, as when every CPU is taken by tasks that wait for this very write.
_START_LIMIT_S = 0.5
_SLOWEST_BYTES_PER_S = 200e6
#: Objects up to this are coded by the event loop itself: in a few tenths of a millisecond, with either kernel.
_AT_ONCE_BYTES = {"isal": 2 << 20, "zfec": 128 << 10}


@dataclass(slots=True)
class CodecCounters:
    """Where parity was computed; ``task_fallbacks``: begun in a task, done in a thread."""

    encodes_at_once: int = 0
    decodes_at_once: int = 0
    task_encodes: int = 0
    task_fallbacks: int = 0
    thread_encodes: int = 0
    thread_decodes: int = 0


class TaskCoder:
    """I compute chunks for one shard, and choose where."""

    def __init__(self, kernel: str, task_min_bytes: int) -> None:
        self._kernel = kernel
        self._coder = Coder(find_kernel(kernel))
        self._task_min_bytes = task_min_bytes
        self._at_once_bytes = _AT_ONCE_BYTES[self._coder.kernel.name]
        #: {address of a mapped object: its reference}
        self._refs: dict[int, rayapi.Ref] = {}
        self._counters = CodecCounters()

    @classmethod
    def of(cls, config: CodecConfig) -> TaskCoder:
        return cls(config.kernel, config.task_min_bytes)

    def stats(self) -> dict[str, Any]:
        return {"kernel": self._coder.kernel.name, **asdict(self._counters)}

    @contextlib.contextmanager
    def object_in_store(self, payload: Any, refs: list[rayapi.Ref]) -> Iterator[None]:
        """Meanwhile, ``payload`` is known to be the object in Ray's store that the one in ``refs`` refers to."""
        address = _address(payload) if refs else 0
        if address:
            self._refs[address] = refs[0]
        try:
            yield
        finally:
            self._refs.pop(address, None)

    async def encode(self, scheme: Scheme, data: Any, outputs: list[Any]) -> list[Any]:
        """The parity chunks of an object: in ``outputs``, ``r`` buffers of ``chunk_bytes``, if computed in a thread."""
        n_bytes = memoryview(data).nbytes
        if n_bytes <= self._at_once_bytes and n_bytes < self._task_min_bytes:
            self._counters.encodes_at_once += 1
            self._coder.encode_into(scheme, data, outputs)
            return outputs
        ref = self._refs.get(_address(data)) if n_bytes >= self._task_min_bytes else None
        if ref is not None and scheme.r and scheme.k > 1:
            try:
                return await self._encode_in_task(scheme, ref, n_bytes)
            except (InfiniRayError, asyncio.TimeoutError):
                self._counters.task_fallbacks += 1
        else:
            self._counters.thread_encodes += 1
        await _in_thread(self._coder.encode_into, scheme, data, outputs)
        return outputs

    async def reconstruct(
        self, scheme: Scheme, object_bytes: int, present: Mapping[int, Any], wanted: Mapping[int, Any]
    ) -> None:
        """Fill ``wanted``, as :meth:`Coder.reconstruct <infiniray.codec.coder.Coder.reconstruct>` does."""
        if object_bytes <= self._at_once_bytes:
            self._counters.decodes_at_once += 1
            self._coder.reconstruct(scheme, object_bytes, present, wanted)
            return
        self._counters.thread_decodes += 1
        await _in_thread(self._coder.reconstruct, scheme, object_bytes, present, wanted)

    async def _encode_in_task(self, scheme: Scheme, ref: rayapi.Ref, n_bytes: int) -> list[Any]:
        parity = rayapi.submit_task(encode, self._kernel, str(scheme), ref, num_cpus=1, num_returns=scheme.r)
        limit_s = _START_LIMIT_S + n_bytes / _SLOWEST_BYTES_PER_S
        try:
            chunks = await asyncio.wait_for(asyncio.gather(*map(rayapi.awaited, parity)), limit_s)
        except BaseException:
            rayapi.cancel(parity[0])
            raise
        self._counters.task_encodes += 1
        return list(chunks)


async def _in_thread(work: Callable[..., None], *args: Any) -> None:
    """Call it in a thread that has let go of ``args`` by then. One of asyncio's has what it was given until it gets to
    run once more, which on a busy machine is after the caller has been answered: the memory would not be free for the
    next value."""
    given = [args]
    await asyncio.to_thread(lambda: work(*given.pop()))


def encode(kernel: str, scheme: str, data: Any) -> Any:
    """The task: one return value for each parity chunk."""
    parity = Coder(find_kernel(kernel)).encode(Scheme.parse(scheme), data)
    return parity if len(parity) > 1 else parity[0]


def _address(buffer: Any) -> int:
    view = np.frombuffer(buffer, np.uint8) if memoryview(buffer).nbytes else None
    return 0 if view is None else int(view.ctypes.data)
