"""What survives between the invocations of one execution environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

from infiniray.wire.frames import Frame
from lambda_agent.link import Link
from lambda_agent.store import ChunkStore
from lambda_agent.transfers import IncomingStores, OutgoingChunks

__all__ = ["Channel", "Instance"]

_DEFAULT_RESERVE_MB = 128


class Channel:
    """A link, and what is under way on it. Lives until either end hangs up, so through many sessions."""

    def __init__(self, store: ChunkStore, address: str, timeout_s: float, certificate: str = "") -> None:
        """Dials, as :meth:`Link.dial`."""
        self.stores = IncomingStores(store, lambda: bool(self.chunks) or self.link.sending)
        self.chunks = OutgoingChunks()
        self.link = Link.dial(address, self._place, timeout_s, certificate)

    @property
    def is_busy(self) -> bool:
        """Whether a chunk is under way, or an answer waits to be sent."""
        return bool(self.stores) or bool(self.chunks) or self.link.sending

    def drop_store(self, request: int) -> None:
        """Forget a partial chunk; what still comes of it is read and dropped."""
        if self.stores.drop(request):
            self.link.discard_body()

    def close(self) -> None:
        """Hang up and forget what was under way. Closing twice is fine."""
        for request in self.stores.requests():
            self.stores.drop(request)
        self.chunks.take_all()
        self.link.close()

    def _place(self, frame: Frame) -> memoryview | None:
        return self.stores.place(frame)


class Instance:
    """One execution environment of a node: its chunks, its newest epoch, and its connection to the shard."""

    def __init__(self, secret: bytes, limit_bytes: int) -> None:
        self.id = os.urandom(8).hex()
        self.secret = secret
        self.store = ChunkStore(limit_bytes)
        self.epoch = 0  # the highest seen: an older shard is refused
        self.channel: Channel | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Instance:
        """Read secret and memory size from where the platform puts them.

        Raises:
            ValueError: a variable lacks or makes no sense.
        """
        try:
            secret = bytes.fromhex(environment["INFINIRAY_SECRET"])
            memory_mb = int(environment["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"])
            reserve_mb = int(environment.get("INFINIRAY_RESERVE_MB", _DEFAULT_RESERVE_MB))
        except KeyError as error:
            raise ValueError(f"environment variable {error.args[0]} is not set") from None
        except ValueError:
            # Not the value itself: it may be the secret.
            raise ValueError("INFINIRAY_SECRET is hex; the memory sizes are numbers of MB") from None
        if not secret or not 0 <= reserve_mb < memory_mb:
            raise ValueError(f"need a secret, and reserve ({reserve_mb} MB) below memory ({memory_mb} MB)")
        return cls(secret, (memory_mb - reserve_mb) << 20)

    def holdings(self) -> dict[str, object]:
        """What a shard is told about this instance at the end of an invocation."""
        return {
            "instance": self.id,
            "epoch": self.epoch,
            "n_chunks": self.store.n_chunks,
            "used_bytes": self.store.used_bytes,
        }

    def hang_up(self) -> None:
        """Close the connection to the shard, if there is one. The chunks stay."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None
