"""Writes ``codec.json`` anew, by means other than the package's own: zfec's encoder, XOR byte by byte, zlib's CRC.

The file is frozen: objects that were stored by one version are read by the next. Run this only to add cases, and see
that the old ones stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from functools import reduce
from pathlib import Path

import zfec

CASES = {
    "rs:10+2": [0, 1, 9, 10, 11, 64, 1000, 65_537, 1_000_003],
    "rs:10+1": [1, 40_961],
    "rs:10+4": [13, 100_000],
    "rs:5+1": [4, 4_999],
    "rs:4+2": [3, 4, 5, 262_147],
    "rs:20+4": [19, 200_007],
    "rs:2+3": [7, 8_193],
    "xor:5+1": [4, 5, 6, 50_001],
    "xor:10+1": [3, 10, 123_457],
}


def parity_of(scheme: str, data: bytes) -> list[bytes]:
    kind, _, numbers = scheme.partition(":")
    k, r = map(int, numbers.split("+"))
    size = -(-len(data) // k)
    padded = data.ljust(k * size, b"\0")
    chunks = [padded[i * size : (i + 1) * size] for i in range(k)]
    if kind == "xor":
        return [bytes(reduce(lambda a, b: a ^ b, column) for column in zip(*chunks, strict=True))]
    return list(zfec.Encoder(k, k + r).encode(chunks, list(range(k, k + r))))


def case(scheme: str, size: int) -> dict[str, object]:
    seed = f"{scheme}/{size}"
    data = hashlib.shake_256(seed.encode()).digest(size)
    parity = parity_of(scheme, data)
    return {
        "scheme": scheme,
        "object_bytes": size,
        "seed": seed,
        "object_crc32": zlib.crc32(data),
        "parity_bytes": [len(chunk) for chunk in parity],
        "parity_head": [chunk[:16].hex() for chunk in parity],
        "parity_sha256": [hashlib.sha256(chunk).hexdigest() for chunk in parity],
    }


if __name__ == "__main__":
    cases = [case(scheme, size) for scheme, sizes in CASES.items() for size in sizes]
    Path(__file__).with_name("codec.json").write_text(json.dumps(cases, indent=1) + "\n")
