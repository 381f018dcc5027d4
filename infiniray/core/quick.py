"""Makes the values that events and commands are cheap to build."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

__all__ = ["quicken"]


def quicken(classes: Iterable[type[Any]]) -> None:
    """Give frozen, slotted, keyword-only dataclasses an ``__init__`` that writes their slots directly.

    The one that :mod:`dataclasses` makes goes through ``object.__setattr__`` by name, which takes twice as long; a
    shard makes several of these values for each event. They stay as frozen as they were.
    """
    for kind in classes:
        known: dict[str, Any] = {}
        parameters, writes = [], []
        for field in fields(kind):
            known[f"set_{field.name}"] = getattr(kind, field.name).__set__
            parameters.append(field.name)
            writes.append(f"    set_{field.name}(self, {field.name})")
        lines = [f"def __init__(self, *, {', '.join(parameters)}):" if parameters else "def __init__(self):", *writes]
        exec("\n".join(lines) + "\n    pass", known)  # as dataclasses does
        made = known["__init__"]
        made.__kwdefaults__ = dict(kind.__init__.__kwdefaults__ or {})
        made.__qualname__ = f"{kind.__name__}.__init__"
        kind.__init__ = made
