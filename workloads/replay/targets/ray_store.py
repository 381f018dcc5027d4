"""Ray's own object store as a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions

from infiniray.errors import ObjectLost
from workloads.errors import TargetFailed

__all__ = ["RayStoreSpec", "RayStoreTarget"]

_GET_S = 60.0


class RayStoreTarget:
    """References to values in Ray's object store, kept in this process: they die with it, and others do not see them.

    A get maps the value into memory where it is on this Ray node; it is not a transfer. What does not fit is spilled to
    disk by Ray; nothing is evicted.
    """

    def __init__(self, system: str = "ray store") -> None:
        self._system = system
        self._refs: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        ref = self._refs[key]
        try:
            return ray.get(ref, timeout=_GET_S)
        except ray.exceptions.ObjectLostError:
            raise ObjectLost(key=key, have=0, need=1) from None
        except ray.exceptions.RayError as error:
            raise TargetFailed(system=self._system, detail=f"{type(error).__name__}: {error}") from None

    def put(self, key: str, value: Any) -> None:
        try:
            self._refs[key] = ray.put(value)
        except ray.exceptions.RayError as error:
            raise TargetFailed(system=self._system, detail=f"{type(error).__name__}: {error}") from None

    def delete(self, key: str) -> None:
        self._refs.pop(key, None)

    def close(self) -> None:
        self._refs.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class RayStoreSpec:
    """The object store of the Ray that the workers run on."""

    system: str = "ray store"

    def open(self) -> RayStoreTarget:
        return RayStoreTarget(self.system)
