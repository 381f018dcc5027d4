"""The IBM Container Registry trace as JSON (Anwar et al., FAST'18): an array of records, or one record after another.

Records may stand one a line, all in one line or over several lines. The key of an object is the request's URI.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from workloads.errors import TraceError
from workloads.readers.fields import Malformed, Row, check_status, key_of, method_of, size_of, utc_us
from workloads.readers.following import follow
from workloads.readers.lines import MAX_LINE_BYTES, decompressed
from workloads.readers.registry import NEEDED
from workloads.trace import Request, TraceProblems

__all__ = ["read_registry_json"]

_READ_BYTES = 4 * MAX_LINE_BYTES
_BETWEEN = re.compile(r"[\s,\[\]]*")
#: where records can begin again after a damaged one: a brace at the beginning of a line, or after another record
_RESUME = re.compile(r"(?:\n|\})[\s,\[]*(?=\{)")

_OVERLAP = 256


def read_registry_json(path: Path, problems: TraceProblems) -> Iterator[Request]:
    """Requests of the JSON registry trace at ``path``, plain or gzip, in constant memory.

    A damaged record is counted with the number of the line where it begins.

    Raises (while iterating):
        TraceError: the file is truncated gzip or holds no request; in strict mode, any malformed record.
        OSError: the file cannot be read.
    """
    with path.open("rb") as raw:
        yield from follow(path, _records(_Text(path, decompressed(raw))), _parse, problems)


def _parse(record: dict[str, Any] | Malformed) -> Row:
    if isinstance(record, Malformed):
        raise record
    if missing := [name for name in NEEDED.values() if name not in record]:
        raise Malformed(f"the record lacks {', '.join(missing)}")
    method = method_of(record[NEEDED["method"]])
    check_status(record[NEEDED["status"]])
    return Row(
        at_us=utc_us(record[NEEDED["timestamp"]]),
        key=key_of(record[NEEDED["uri"]], "URI"),
        size_bytes=size_of(record[NEEDED["written"]]),
        method=method,
    )


class _Text:
    """I am a window on a text: at least a record's length of it lies ahead, unless it ends before."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path = path
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("replace").decode
        self._ended = False
        self.ahead = ""
        self.at = 0
        self.line = 1

    def look(self) -> bool:
        """Fills the window; False at the end of the text."""
        while not self._ended and len(self.ahead) - self.at < MAX_LINE_BYTES:
            try:
                piece = self._stream.read(_READ_BYTES)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                detail = f"the gzip stream breaks off or is damaged near this line: {error}"
                raise TraceError(path=str(self._path), line=self.line, detail=detail) from error
            self._ended = not piece
            self.ahead = self.ahead[self.at :] + self._decode(piece, self._ended)
            self.at = 0
        return self.at < len(self.ahead)

    def go(self, to: int) -> None:
        """Moves on to position ``to`` of the window."""
        self.line += self.ahead.count("\n", self.at, to)
        self.at = to


def _records(text: _Text) -> Iterator[tuple[int, dict[str, Any] | Malformed]]:
    decoder = json.JSONDecoder()
    while text.look():
        between = _BETWEEN.match(text.ahead, text.at)
        if between is not None and between.end() > text.at:
            text.go(between.end())
            continue
        line = text.line
        try:
            if text.ahead[text.at] != "{":
                raise ValueError("Expecting a record that begins with '{'")
            record, end = decoder.raw_decode(text.ahead, text.at)
        except (ValueError, RecursionError) as error:
            yield line, Malformed(f"not JSON: {getattr(error, 'msg', error)}")
            _resume(text)
        else:
            text.go(end)
            yield line, record


def _resume(text: _Text) -> None:
    """Goes on to where the next record begins, or to the end of the text."""
    text.go(text.at + 1)
    while text.look():
        found = _RESUME.search(text.ahead, text.at)
        if found is not None:
            text.go(found.end())
            return
        # the last bytes of the window may be the beginning of such a place, so they are looked at again
        text.go(max(text.at + 1, len(text.ahead) - _OVERLAP))
