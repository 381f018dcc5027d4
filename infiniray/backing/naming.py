"""What a key is called in the store, and back.

Most keys are called what they are: ``layers/sha256:ab12`` is that object of the bucket, and that file of the directory.
What a store or a file system cannot have is written with ``%``, which no name has otherwise:

=====================================  =====================================================
in a key                               in its name
=====================================  =====================================================
``%``, ``\\``, control characters      ``%25`` and so on: their UTF-8 bytes in hexadecimal
a part that is ``.`` or ``..``         ``%2E``, ``%2E%2E``
an empty part (``a//b``, ``/a``)       ``%_``
a part of more than 200 bytes          pieces; all but the last end with ``%+``
=====================================  =====================================================
"""

from __future__ import annotations

import re

__all__ = ["TEMPORARY", "key_of", "name_of"]

#: No key has a name in this folder.
TEMPORARY = "%tmp"
_EMPTY = "%_"
_CONTINUED = "%+"
#: File systems take 255 bytes for a part of a path; a ``%+`` fits as well.
_MOST_PART_BYTES = 200
_UNSAFE = re.compile(r"[%\\\x00-\x1f\x7f]")
_ESCAPED = re.compile(r"(?:%[0-9A-F]{2})+")


def name_of(key: str) -> str:
    """The name of ``key``: relative, with ``/`` between its parts. No two keys have the same."""
    return "/".join(_part(part) for part in key.split("/"))


def key_of(name: str) -> str | None:
    """The key that has this name; None if no key has it."""
    parts = ["" if part == _EMPTY else part for part in name.replace(_CONTINUED + "/", "").split("/")]
    try:
        key = "/".join(_ESCAPED.sub(lambda match: bytes.fromhex(match[0].replace("%", "")).decode(), p) for p in parts)
    except UnicodeDecodeError:
        return None
    return key if name and name_of(key) == name else None


def _part(part: str) -> str:
    if not part:
        return _EMPTY
    if part in (".", ".."):
        return part.replace(".", "%2E")
    safe = _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", part)
    return safe if len(safe.encode()) <= _MOST_PART_BYTES else f"{_CONTINUED}/".join(_pieces(safe))


def _pieces(part: str) -> list[str]:
    pieces, piece, n_bytes = [], "", 0
    for character in re.findall(r"%[0-9A-F]{2}|.", part, re.DOTALL):
        n = len(character.encode())
        if n_bytes + n > _MOST_PART_BYTES:
            pieces.append(piece)
            piece, n_bytes = "", 0
        piece, n_bytes = piece + character, n_bytes + n
    return [*pieces, piece]
