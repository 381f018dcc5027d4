"""Writes frames.json: a frame of every kind, as bytes. Run it only if the protocol is meant to change.

Functions that were deployed before such a change do not understand a shard from after it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from infiniray.wire.describe import ChunkInfo
from infiniray.wire.frames import Kind, pack

CHUNK = ChunkInfo("läyer", 1_700_000_000_000_001, 3, 17, "rs:10+2", 50, 5, 0xCBF43926, 1.5e9, "a head")
SPANS = [[1, 17], [19, 20]]
NAMES = {"node": "n1", "instance": "00ff", "session": "n1.7"}
SIZES = {"used_bytes": 8192, "limit_bytes": 1 << 30}
BODY = "48656c6c6f"
HELLO = {"nonce": "bb", "mac": "cc", **NAMES, "reason": "backup", "spans": SPANS, "n_chunks": 1, **SIZES}

#: Kind, request, meta, body.
FRAMES: list[tuple[Kind, int, dict[str, Any] | None, str]] = [
    (Kind.CHALLENGE, 0, {"nonce": "aa"}, ""),
    (Kind.HELLO, 0, HELLO, ""),
    (Kind.WELCOME, 0, {"mac": "dd"}, ""),
    (Kind.PING, 0, None, ""),
    (Kind.PONG, 0, {"session": "n1.7"}, ""),
    (Kind.BYE, 0, {"session": "n1.7"}, ""),
    (Kind.HOLD, 0, {"for_ms": 2500}, ""),
    (Kind.STORE, 5, {"chunk": CHUNK, "copy": True}, BODY),
    (Kind.FETCH, 6, {"chunk_id": CHUNK.id}, ""),
    (Kind.CANCEL, 6, None, ""),
    (Kind.DELETE, 7, {"seq": 21, "chunk_ids": [CHUNK.id]}, ""),
    (Kind.LIST, 8, {"after": CHUNK.id, "limit": 1000}, ""),
    (Kind.RETAIN, 9, {"first": 1, "last": 20, "keep": [17, 2], "seen": SPANS}, ""),
    (Kind.STORED, 5, None, ""),
    (Kind.REFUSED, 5, {"reason": "full", **SIZES}, ""),
    (Kind.CHUNK, 6, {"chunk": CHUNK}, BODY),
    (Kind.MISSING, 6, None, ""),
    (Kind.CANCELLED, 6, None, ""),
    (Kind.DELETED, 7, None, ""),
    (Kind.INVENTORY, 8, {"chunks": [CHUNK], "more": False}, ""),
    (Kind.RETAINED, 9, None, ""),
    (Kind.DATA, 5, None, BODY),
    (Kind.ABORT, 0xFFFF_FFFF, {"seq": 17}, ""),
]  # fmt: skip


def vector(kind: Kind, request: int, meta: dict[str, Any] | None, body: str) -> dict[str, Any]:
    head = pack(kind, request, 7, meta, len(bytes.fromhex(body)))
    return {"kind": kind.name, "request": request, "epoch": 7, "meta": meta, "body": body, "frame": head.hex() + body}


if __name__ == "__main__":
    path = Path(__file__).with_name("frames.json")
    path.write_text(json.dumps([vector(*frame) for frame in FRAMES], indent=1, ensure_ascii=False) + "\n")
