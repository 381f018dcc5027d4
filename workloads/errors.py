"""Errors of the workloads; the root is the cache's own."""

from __future__ import annotations

from infiniray.errors import InfiniRayError

__all__ = ["ReplayError", "ResultsError", "TargetFailed", "TraceError"]


class TraceError(InfiniRayError, ValueError):
    """A trace cannot be read, or, in strict mode, a line of it is malformed. Fields: ``path``, ``line``, ``detail``.

    ``line`` counts from 1; for damage of the file as a whole it is the last line that could be read.
    """

    template = "{path}, line {line}: {detail}"
    path: str
    line: int
    detail: str


class TargetFailed(InfiniRayError):
    """A system that requests are replayed against did not do what it was asked. Fields: ``system``, ``detail``."""

    template = "{system}: {detail}"
    system: str
    detail: str


class ReplayError(InfiniRayError):
    """A replay cannot begin, or broke off. Fields: ``detail``."""


class ResultsError(InfiniRayError, ValueError):
    """A file is not what a replay writes. Fields: ``path``, ``detail``."""

    template = "{path}: {detail}"
    path: str
    detail: str
