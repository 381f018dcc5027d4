"""Which worker runs what, where there are several (pytest-xdist)."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

__all__ = ["RayBesideTheRest", "scope_of"]

#: What starts a Ray, a cache on it, and mostly waits for them: one test at a time on a machine.
_ON_RAY = ("tests/ray/", "tests/cluster/")


class RayBesideTheRest(LoadScopeScheduling):
    """One worker has all tests on Ray, from the beginning and in the usual order; the others, and it too when it is
    through, take file by file of the rest."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


def scope_of(nodeid: str) -> str:
    """Tests of one scope are run by one worker, in order."""
    return "on Ray" if nodeid.startswith(_ON_RAY) else nodeid.partition("::")[0]
