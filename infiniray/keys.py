"""What may be a key, and how a namespace changes it."""

from __future__ import annotations

from infiniray.errors import InvalidKey

__all__ = ["MAX_KEY_BYTES", "full_key", "namespace_prefix"]

MAX_KEY_BYTES = 1024
#: Between a namespace's name and the keys in it: ``cache.namespace("a")["k"]`` is ``cache["a/k"]``.
SEPARATOR = "/"


def full_key(key: object, prefix: str = "") -> str:
    """The key under which an object of the namespace ``prefix`` is stored.

    Raises:
        InvalidKey: ``key`` is not a non-empty ``str``, or has more than 1024 bytes as UTF-8, prefix included.
    """
    if not isinstance(key, str):
        hint = "; decode it first" if isinstance(key, (bytes, bytearray, memoryview)) else ""
        raise InvalidKey(detail=f"a key is a str, not {type(key).__name__} {key!r:.60}{hint}")
    if not key:
        raise InvalidKey(detail="a key has at least one character")
    stored = prefix + key
    try:
        n_bytes = len(stored.encode())
    except UnicodeEncodeError as error:
        raise InvalidKey(detail=f"key {key!r:.60} cannot be written as UTF-8: {error.reason}") from None
    if n_bytes > MAX_KEY_BYTES:
        detail = f"key {key!r:.60} takes {n_bytes:,} bytes as UTF-8; at most {MAX_KEY_BYTES:,} are allowed"
        raise InvalidKey(detail=detail)
    return stored


def namespace_prefix(name: object, prefix: str = "") -> str:
    """What the keys of namespace ``name``, inside the namespace ``prefix``, begin with.

    Raises:
        InvalidKey: as :func:`full_key`.
    """
    return full_key(name, prefix) + SEPARATOR
