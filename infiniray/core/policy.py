"""The numbers that a shard's decisions depend on, in one place."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from infiniray.codec.schemes import SchemePolicy
from infiniray.members import quick_members

__all__ = ["CHUNK_OVERHEAD_BYTES", "PAGE_BYTES", "Hedge", "Policy", "RepairMode", "Warm", "footprint_bytes"]

PAGE_BYTES = 4096
#: What a node's bookkeeping takes for a chunk, beside its bytes in whole pages. The node agent counts the same.
CHUNK_OVERHEAD_BYTES = 4096


def footprint_bytes(chunk_bytes: int) -> int:
    """Memory that a chunk takes on a node."""
    return -(-chunk_bytes // PAGE_BYTES) * PAGE_BYTES + CHUNK_OVERHEAD_BYTES


@quick_members
class Hedge(enum.Enum):
    """When a read asks for more than k chunks."""

    ALL = "all"  # at once: FAST'20 section 3.2
    DELAYED = "delayed"  # when the first k are overdue


@quick_members
class Warm(enum.Enum):
    """Which nodes are kept warm."""

    FIXED = "fixed"  # all, every interval, used or not: as FAST'20 section 4.2 counts it
    ALL = "all"  # all that nothing has used for an interval
    HOLDING = "holding"  # those that hold chunks: losing an empty instance costs nothing but its start
    NONE = "none"


@quick_members
class RepairMode(enum.Enum):
    """When lost chunks are rebuilt."""

    ALWAYS = "always"  # in the background, as soon as they are known to be lost
    READS = "reads"  # by the reads that find them lost
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Durations in seconds. :mod:`infiniray.config` describes each under the same name."""

    schemes: SchemePolicy
    #: An object is given up when stored bytes times seconds since its last use exceed this; 0: never.
    idle_byte_s: float = 0.0
    #: Values of at most ``near_max_bytes`` are kept in the shard, too: so many bytes of them; 0: none.
    near_bytes: int = 0
    near_max_bytes: int = 1 << 20
    hedge: Hedge = Hedge.DELAYED
    hedge_delay_s: float = 0.02
    warm: Warm = Warm.ALL
    warm_interval_s: float = 60.0
    #: Nodes that are backed up and hold anything are warmed in pairs, which finds replicas that were reclaimed.
    warm_replicas: bool = False
    #: How often a node is backed up to a peer replica if it has changed; 0: never.
    backup_interval_s: float = 300.0
    #: A node that has not changed is backed up once in so long, too: the replica may be gone.
    backup_max_age_s: float = 900.0
    #: What one backup moves at most: the allowance that a function's network gets back whenever it was quiet.
    backup_burst_bytes: int = 150 << 20
    #: The pause before a backup goes on that had to stop there, or that failed.
    backup_retry_s: float = 15.0
    #: Copied at a time.
    backup_window_bytes: int = 32 << 20
    backup_timeout_s: float = 30.0
    repair: RepairMode = RepairMode.ALWAYS
    #: What repairs in the background may move, and spend on the platform. A rebuilt chunk costs k reads and a write.
    repair_bytes_per_s: float = 100 * (1 << 20)
    repair_burst_bytes: float = 1 << 30
    repair_usd_per_h: float = 0.25
    usd_per_request: float = 0.20e-6
    usd_per_gb_s: float = 0.0000166667
    #: For the estimate of what a chunk's transfer costs: a function's memory, its rate, the rest of a session.
    node_gb: float = 1.5
    node_bytes_per_s: float = 75 * (1 << 20)
    #: And its rate for no more than ``backup_burst_bytes`` at a time.
    node_burst_bytes_per_s: float = 1200 * (1 << 20)
    session_s: float = 0.02
    #: A shard that restarts waits so long at most for its nodes to say what they have.
    recovery_timeout_s: float = 30.0
    #: A write or delete waits so long for reads of what it replaces before these have to begin again.
    erase_patience_s: float = 1.0
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
