"""Who computes which key, and until when: a table of leases (after Nishtala et al., "Scaling Memcache at Facebook",
NSDI 2013, section 3.2.1, with a holder and an expiry added)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from infiniray.errors import LeaseLost, Overloaded

__all__ = ["Lease", "Leases"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """``holder`` alone may store a computed value under ``key`` before ``until_s``."""

    key: str
    holder: str
    until_s: float


class Leases:
    """I grant one lease per key at a time, at most ``limit`` in all; each ends by itself.

    A holder is the name of *one* computation, so it serves as the fencing token too: what stores a value shows it, and
    is refused once the lease has expired, was voided, or is another's. I remember nothing of leases that have ended.

    Times are seconds on any one clock that never goes back.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        #: expired ones stay until somebody comes across them
        self._leases: dict[str, Lease] = {}
        #: no lease expires before
        self._earliest_s = math.inf

    def __len__(self) -> int:
        """How many are kept, the expired ones that nobody has come across yet included."""
        return len(self._leases)

    def find(self, key: str, now_s: float) -> Lease | None:
        """The lease on ``key``, if somebody holds it."""
        lease = self._leases.get(key)
        if lease is None or lease.until_s > now_s:
            return lease
        del self._leases[key]
        return None

    def acquire(self, key: str, holder: str, now_s: float, lease_s: float) -> Lease:
        """The lease on ``key``: the asker's from now on if it was free or the asker's before, else another's.

        Raises:
            Overloaded: ``limit`` leases are held.
        """
        lease = self.find(key, now_s)
        if lease is not None and lease.holder != holder:
            return lease
        if lease is None and len(self._leases) >= self.limit:
            self._make_room(now_s)
        return self._grant(key, holder, now_s + lease_s)

    def renew(self, key: str, holder: str, now_s: float, lease_s: float) -> Lease:
        """The holder's lease, which now lasts ``lease_s`` from now (not less long than before).

        Raises:
            LeaseLost: it is not the holder's, or not any more.
        """
        lease = self.check(key, holder, now_s)
        return self._grant(key, holder, max(lease.until_s, now_s + lease_s))

    def check(self, key: str, holder: str, now_s: float) -> Lease:
        """The holder's lease.

        Raises:
            LeaseLost: it is not the holder's, or not any more.
        """
        lease = self.find(key, now_s)
        if lease is None or lease.holder != holder:
            raise LeaseLost(key=key)
        return lease

    def release(self, key: str, holder: str) -> bool:
        """End the lease if it is the holder's; whether it was."""
        lease = self._leases.get(key)
        if lease is None or lease.holder != holder:
            return False
        del self._leases[key]
        return True

    def void(self, key: str) -> bool:
        """End the lease, whoever holds it; whether there was one."""
        return self._leases.pop(key, None) is not None

    def _grant(self, key: str, holder: str, until_s: float) -> Lease:
        lease = self._leases[key] = Lease(key=key, holder=holder, until_s=until_s)
        self._earliest_s = min(self._earliest_s, until_s)
        return lease

    def _make_room(self, now_s: float) -> None:
        """Drop all expired leases; looks at them only if there may be one, so that a full table costs nothing."""
        if self._earliest_s <= now_s:
            self._leases = {key: lease for key, lease in self._leases.items() if lease.until_s > now_s}
            self._earliest_s = min((lease.until_s for lease in self._leases.values()), default=math.inf)
        if len(self._leases) >= self.limit:
            wait_s = max(0.0, self._earliest_s - now_s)
            raise Overloaded(in_flight=len(self._leases), limit=self.limit, retry_after_s=min(wait_s, 1.0))
