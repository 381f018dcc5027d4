"""What a trace is like: its statistics in one pass and bounded memory, as a table, as JSON and drawn."""

from __future__ import annotations

from workloads.describe.description import TraceDescription, describe

__all__ = ["TraceDescription", "describe"]
