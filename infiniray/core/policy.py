"""The numbers that a shard's decisions depend on, in one place."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from infiniray.codec.schemes import SchemePolicy

__all__ = ["CHUNK_OVERHEAD_BYTES", "PAGE_BYTES", "Hedge", "Policy", "footprint_bytes"]

PAGE_BYTES = 4096
#: What a node's bookkeeping takes for a chunk, beside its bytes in whole pages. The node agent counts the same.
CHUNK_OVERHEAD_BYTES = 4096


def footprint_bytes(chunk_bytes: int) -> int:
    """Memory that a chunk takes on a node."""
    return -(-chunk_bytes // PAGE_BYTES) * PAGE_BYTES + CHUNK_OVERHEAD_BYTES


class Hedge(enum.Enum):
    """When a read asks for more than k chunks."""

    ALL = "all"  # at once: FAST'20 section 3.2
    DELAYED = "delayed"  # when the first k are overdue


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Durations in seconds. :mod:`infiniray.config` describes each under the same name."""

    schemes: SchemePolicy
    hedge: Hedge = Hedge.DELAYED
    hedge_delay_s: float = 0.02
    repair: bool = True
    ping_timeout_s: float = 0.02
    connect_timeout_s: float = 3.0
    stall_s: float = 2.0
    min_bytes_per_s: float = 20 * (1 << 20)
    invoke_attempts: int = 4
    backoff_s: float = 0.05
    backoff_max_s: float = 2.0
    max_in_flight: int = 256
    max_in_flight_bytes: int = 4 << 30
    max_repairs: int = 4
    sweep_interval_s: float = 1.0
    #: For the jitter and the placement: same seed, same events, same commands.
    seed: int = 0

    def transfer_limit_s(self, n_bytes: int) -> float:
        """How long a chunk's transfer may take before it counts as stalled."""
        return self.stall_s + n_bytes / self.min_bytes_per_s
