"""What can be set about the embedded platform."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from infiniray.units import Bytes, Seconds

__all__ = ["BandwidthShape", "LocalPlatformSettings"]


class BandwidthShape(BaseModel):
    """A function's network, each way: a token bucket (measured on AWS, arXiv 2501.07771).

    ``bucket_bytes`` may move at ``burst_bytes_per_s``, the rest at ``sustained_bytes_per_s``. Whenever the instance
    has been quiet, half of the bucket comes back.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bucket_bytes: Bytes = 300 << 20
    burst_bytes_per_s: Bytes = Field(1200 << 20, gt=0)
    sustained_bytes_per_s: Bytes = Field(75 << 20, gt=0)
    quiet_s: Seconds = Field(0.5, description="this long without a byte counts as quiet")


class LocalPlatformSettings(BaseModel):
    """Settings of the embedded platform; durations in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int = Field(0, ge=0, le=65535, description="0: any free one")
    bandwidth: BandwidthShape | None = Field(
        None, description="None: as fast as the machine, for measuring the software"
    )
    selection: Literal["mru", "lru", "random"] = Field("mru", description="which idle instance serves; AWS: mostly mru")
    idle_timeout_s: Seconds | None = Field(None, description="an instance idle this long is reclaimed")
    max_lifetime_s: Seconds | None = Field(None, description="an instance this old is reclaimed when it is idle")
    reclaims_per_minute: float = Field(
        0.0, ge=0, description="mean of a Poisson process that reclaims instances at random"
    )
    reclaim_timeline: Path | None = Field(
        None, description="CSV of (minute, instances to reclaim), replayed from the start"
    )
    silent_reclaims: bool = Field(False, description="reclaimed connections just fall silent: no FIN, no RST")
    concurrency_limit: int = Field(1000, ge=1, description="invocations at once, over all functions")
    scaling_instances: int = Field(1000, ge=1, description="new instances of one function in scaling_window_s")
    scaling_window_s: Seconds = Field(10.0, gt=0)
    max_instances: int = Field(2000, ge=1, description="processes at once")
    init_timeout_s: Seconds = Field(10.0, gt=0)
    billing_step_ms: int = Field(
        1, ge=1, description="durations are billed rounded up to this; 100 before December 2020"
    )
    usd_per_gb_second: float = Field(
        0.0000166667, ge=0, description="x86, us-east-1; https://aws.amazon.com/lambda/pricing"
    )
    usd_per_request: float = Field(0.20e-6, ge=0)
    seed: int = 0
