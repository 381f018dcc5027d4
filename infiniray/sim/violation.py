"""A promise that was broken."""

from __future__ import annotations

__all__ = ["Violation"]


class Violation(AssertionError):
    """The shard broke a promise. ``story`` has what led to it, if it was kept.

    ``seed`` and ``n_steps`` say in which schedule, and how far that had come.
    """

    story: list[str] = []  # noqa: RUF012 - never changed in place
    seed = 0
    n_steps = 0
