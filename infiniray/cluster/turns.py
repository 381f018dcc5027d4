"""What a shard answers to who wants a value, or else to compute it."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Turn"]


class Turn(NamedTuple):
    """Either ``is_granted``: it is the asker's turn to compute the value; or the ``value``."""

    is_granted: bool = False
    value: Any = None
