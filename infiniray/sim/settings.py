"""What the experiment's modelled world is made of: the ``simulation`` section of a configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from infiniray.units import Bytes, Seconds

__all__ = [
    "BackingModel",
    "ClientModel",
    "FunctionModel",
    "NetworkModel",
    "ReclaimModel",
    "SimulationSettings",
]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NetworkModel(_Section):
    """A function's network, each way: a token bucket (measured on AWS, arXiv 2501.07771).

    ``bucket_bytes`` may move at ``burst_bytes_per_s``, the rest at ``sustained_bytes_per_s``; half of the bucket is
    back when nothing has moved for ``quiet_s``. An empty bucket makes a network of one speed.
    """

    delay_s: Seconds = Field(0.0005, description="from a function to its shard, or back")
    bucket_bytes: Bytes = 300 << 20
    burst_bytes_per_s: Bytes = Field(1200 << 20, gt=0)
    sustained_bytes_per_s: Bytes = Field(75 << 20, gt=0)
    quiet_s: Seconds = 0.5
    speed_sigma: float = Field(
        0.0, ge=0, le=2, description="instances differ: sigma of the logarithm of an instance's speed"
    )


class FunctionModel(_Section):
    """How functions start, run and end. Times in seconds."""

    invoke_s: Seconds = Field(0.013, description="from an invocation to its start on an instance that is there")
    invoke_sigma: float = Field(0.0, ge=0, le=2, description="sigma of the logarithm of that; its median stays")
    init_s: Seconds = Field(0.25, description="start of a new instance, before the invocation's own start")
    return_s: Seconds = Field(0.002, description="from a session's end until the shard knows")
    warm_s: Seconds = Field(0.001, description="a warm-up's duration")
    session_end: Literal["linger", "cycle"] = Field(
        "linger",
        description="'linger': session.linger_s after the last work; 'cycle': just before the next billing cycle "
        "ends, and one more once a session has served several requests (FAST'20 section 3.3)",
    )
    cycle_s: Seconds = Field(0.1, gt=0, description="with 'cycle': how long one is")
    cycle_guard_s: Seconds = Field(0.005, description="with 'cycle': return so long before its end")
    backup_setup_s: Seconds = Field(
        0.0, description="from the start of a backup's second instance until it is ready to receive"
    )
    backup_tail_s: Seconds = Field(0.0, description="that instance stays at least so long after being ready")
    backup_source_as: Literal["backup", "warmup"] = Field(
        "backup",
        description="what the source's session is accounted as: in FAST'20 a backup begins in a warm-up's session",
    )


class ReclaimModel(_Section):
    """Which instances a time line's reclaims hit, and when within a sample."""

    target: Literal["instance", "host", "node"] = Field(
        "instance",
        description="'instance': any, each alike; 'host': instances_per_host that started one after the other go at "
        "once; 'node': a node, each alike, and then the instance that it used last",
    )
    instances_per_host: int = Field(2, ge=1, description="with 'host'")
    spread: Literal["even", "burst", "minute"] = Field(
        "even",
        description="'even': at random times in the sample; 'burst': all at one; 'minute': all in one random minute",
    )
    are_noticed: bool = Field(False, description="the shard sees a reclaimed instance's connection close at once")


class BackingModel(_Section):
    """The store that objects are loaded from on a miss."""

    first_byte_s: Seconds = 0.027
    bytes_per_s: Bytes = Field(90 * 10**6, gt=0)


class ClientModel(_Section):
    """Who asks: look-aside, one GET after the other as the trace has them."""

    max_object_bytes: Bytes | None = Field(None, description="larger ones are left out, and counted")


class SimulationSettings(_Section):
    """A platform, a store and a client, as the simulation models them."""

    prices: str = Field("2026", description="year of a price book that is included, or a file")
    architecture: Literal["x86", "arm"] = "x86"
    codec_bytes_per_s: Bytes = Field(2 * 10**9, gt=0, description="encoding and decoding, of the object's bytes")
    registry_s: Seconds = Field(0.002, description="writing down which instance has a node's current copy")
    network: NetworkModel = NetworkModel()
    function: FunctionModel = FunctionModel()
    reclaims: ReclaimModel = ReclaimModel()
    backing: BackingModel = BackingModel()
    client: ClientModel = ClientModel()
