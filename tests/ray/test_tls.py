"""Functions that dial their shards by TLS, on the embedded platform: the whole system, and a shard's crash."""

from __future__ import annotations

import os
import signal
import socket
import ssl

import numpy as np

import infiniray
from infiniray.cluster.status import cache_status, shard_pid

NAME = "encrypted"


def certificate_at(address: str) -> bytes:
    """What somebody is shown who dials there."""
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, int(port)), timeout=10) as dialled, context.wrap_socket(dialled) as secured:
        assert secured.version() == "TLSv1.3"
        shown = secured.getpeercert(binary_form=True)
    assert shown is not None
    return shown


def test_a_cache_over_tls_stores_reads_and_outlives_its_shard(local_ray: str) -> None:
    sizes = (100, 200_000, 5_000_000)
    values = {f"k{i}": np.random.default_rng(i).integers(0, 256, n, np.uint8) for i, n in enumerate(sizes)}
    with infiniray.start(
        nodes=5, shards=1, scheme="rs:2+1", memory_mb=256, name=NAME, session={"tls": True, "linger_s": "50ms"}
    ) as cache:
        cache.put_many(values)
        found = cache.get_many(values)
        assert all(np.array_equal(found[key], values[key]) for key in values)
        address = cache_status(NAME)["shards"]["shard-0"]["address"]
        before = certificate_at(address)
        assert before == certificate_at(address)
        os.kill(shard_pid(NAME, "shard-0"), signal.SIGKILL)
        found = cache.get_many(values)
        assert all(np.array_equal(found[key], values[key]) for key in values)
        assert certificate_at(cache_status(NAME)["shards"]["shard-0"]["address"]) != before
        stats = cache.stats()
        assert stats["resets"] == 0
        assert "no TLS" not in stats["connections_refused"]
