"""Streaming trace readers, one module per format. Each yields :class:`workloads.trace.Request` in constant memory."""

from __future__ import annotations

from workloads.readers.opening import TraceFormat, open_trace, trace_format
from workloads.readers.registry import read_registry

__all__ = ["TraceFormat", "open_trace", "read_registry", "trace_format"]
