"""Numbered lines of a text file, plain or gzip, in constant memory whatever the file holds."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from workloads.errors import TraceError

__all__ = ["MAX_LINE_BYTES", "decompressed", "numbered_lines"]

#: a longer line is cut here; no format that we read has lines of more than a few hundred bytes
MAX_LINE_BYTES = 64 * 1024

_GZIP_MAGIC = b"\x1f\x8b"


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """``(line number from 1, text without its line end)`` of a UTF-8 file.

    Compression is told by the content, not by the name. Bytes that are not UTF-8 become U+FFFD. A line longer than
    ``MAX_LINE_BYTES`` is cut, and what follows is dropped.

    Raises:
        OSError: the file cannot be opened.
        TraceError: the compressed stream is truncated or damaged.
    """
    number = 0
    with path.open("rb") as raw:
        stream = decompressed(raw)
        try:
            while line := stream.readline(MAX_LINE_BYTES):
                number += 1
                if not line.endswith(b"\n"):
                    _skip_to_line_end(stream)
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8", "replace").rstrip("\r\n")
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            detail = f"the gzip stream breaks off or is damaged after this line: {error}"
            raise TraceError(path=str(path), line=number, detail=detail) from error


def decompressed(raw: BinaryIO) -> BinaryIO:
    """The bytes of a file that is at its beginning: unpacked if it is gzip by its first two bytes."""
    magic = raw.read(2)
    raw.seek(0)
    if magic != _GZIP_MAGIC:
        return raw
    return cast(BinaryIO, io.BufferedReader(gzip.GzipFile(fileobj=raw), 1 << 16))


def _skip_to_line_end(stream: BinaryIO) -> None:
    while (rest := stream.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
        pass
