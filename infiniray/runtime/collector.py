"""Python's collector of cycles, in a process that serves requests."""

from __future__ import annotations

import gc

__all__ = ["calm_collector"]

#: New objects before young ones are looked at, and how often that leads to a look at older ones. A hundred requests
#: make ten thousand objects and hardly a cycle; with Python's usual 700 a tenth of the time goes into looking for some.
_YOUNG, _MIDDLE, _OLD = 10_000, 20, 20


def calm_collector() -> None:
    """Have the collector leave alone what there is by now (modules, tables), and look at the rest less often.

    For a process of our own, once it has loaded what it needs.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
