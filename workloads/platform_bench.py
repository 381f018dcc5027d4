"""What the embedded platform and the node agent cost: starting instances, memory, the size of the code."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from infiniray.faas.client import lambda_client
from infiniray.faas.invoker import FunctionInvoker
from infiniray.faas.local.launch import LocalPlatform
from infiniray.faas.package import AGENT_HANDLER, agent_zip

__all__ = ["PlatformFigures", "measure_platform"]

_WARM_INVOKES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformFigures:
    """``resident_bytes`` is the largest among the idle instances, each with the agent loaded and no chunks."""

    instances: int
    start_all_s: float
    warm_invoke_p50_s: float
    resident_bytes: int
    agent_zip_bytes: int

    def to_json_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_platform(instances: int = 64) -> PlatformFigures:
    """Start a platform, one instance of each of ``instances`` functions at the same time, and end it."""
    code = agent_zip()
    with LocalPlatform.start() as platform:
        client = lambda_client(platform.endpoint, "us-east-1")
        names = [f"bench-{i}" for i in range(instances)]
        for name in names:
            client.create_function(
                FunctionName=name,
                Role="arn:aws:iam::123456789012:role/bench",
                Runtime="python3.12",
                Handler=AGENT_HANDLER,
                Code={"ZipFile": code},
                MemorySize=1536,
                Environment={"Variables": {"INFINIRAY_SECRET": "00"}},
            )
        start_all_s, warm_s = asyncio.run(_invoke_all(FunctionInvoker(client, max_connections=instances), names))
        resident = max(row["resident_bytes"] for row in platform.admin.instances())
    return PlatformFigures(
        instances=instances,
        start_all_s=start_all_s,
        warm_invoke_p50_s=float(np.median(warm_s)),
        resident_bytes=resident,
        agent_zip_bytes=len(code),
    )


async def _invoke_all(invoker: FunctionInvoker, names: list[str]) -> tuple[float, list[float]]:
    """Seconds until all have started, and of each warm invocation. The agent refuses the empty event, at once."""
    start_s = time.perf_counter()
    await asyncio.gather(*(invoker.invoke(name, b"{}", timeout_s=30) for name in names))
    start_all_s = time.perf_counter() - start_s
    warm_s = []
    for _ in range(_WARM_INVOKES):
        start_s = time.perf_counter()
        await invoker.invoke(names[0], b"{}", timeout_s=30)
        warm_s.append(time.perf_counter() - start_s)
    await invoker.close()
    return start_all_s, warm_s
