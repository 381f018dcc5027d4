"""One interface to compute the chunks of every scheme."""

from __future__ import annotations

from collections.abc import Buffer, Iterable, Mapping, Sequence
