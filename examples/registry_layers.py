"""A container registry's layers: a bucket keeps them, the cache is in front of it.

Images are pushed into the bucket through the cache. Then many machines pull the same image at once, as they do when a
service is rolled out: each layer is read from the bucket once at most, whoever asks. What the cache loses is read from
the bucket again.

    infiniray up                             # a cache that stays; without it, one is started for this run
    python examples/registry_layers.py --bucket s3://bucket/prefix
    python examples/registry_layers.py       # a directory that is removed at the end stands in for the bucket

On a cluster the hosts are spread over its machines. Without --bucket they are all on this one, where the directory is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import infiniray
from infiniray.units import parse_bytes


def open_cache(name: str, backing: dict[str, Any]) -> infiniray.Cache:
    """The cache of that name, as the front of a store; if none is up, one that ends with this process."""
    try:
        return infiniray.connect(name, backing=backing, mode="write-through")
    except infiniray.CacheUnavailable:
        return infiniray.start(name=name, backing=backing, mode="write-through")


class Registry:
    """Layers under their digests, which never change, and images: lists of digests."""

    def __init__(self, cache: infiniray.Cache) -> None:
        self.cache = cache

    def push(self, image: str, layers: list[bytes]) -> list[str]:
        """Store what is not there; returns the digests of those. The image last: it names only layers that exist."""
        by_digest = {f"sha256:{hashlib.sha256(layer).hexdigest()}": layer for layer in layers}
        new = [digest for digest in by_digest if f"layers/{digest}" not in self.cache]
        for digest in new:
            self.cache.put(f"layers/{digest}", by_digest[digest])
        self.cache.put(f"images/{image}", json.dumps(list(by_digest)).encode())
        return new

    def digests(self, image: str) -> list[str]:
        found: list[str] = json.loads(self.cache[f"images/{image}"])
        return found

    def pull(self, image: str) -> list[memoryview]:
        """All layers of an image, checked.

        Raises:
            KeyError: there is no such image, in the cache or in the bucket.
        """
        layers = []
        for digest in self.digests(image):
            layer = self.cache.get(f"layers/{digest}", raw=True)  # a view, without a copy
            if f"sha256:{hashlib.sha256(layer).hexdigest()}" != digest:
                raise ValueError(f"layer {digest} of {image} is not what its digest says")
            layers.append(layer)
        return layers


@ray.remote(num_cpus=0.1)
class Host:
    """A machine that runs containers."""

    def __init__(self, cache: infiniray.Cache) -> None:
        self.registry = Registry(cache)

    def pull(self, image: str) -> tuple[int, int]:
        """Bytes of the image, and reads of the bucket that this host made for it."""
        before = self.bucket_reads()
        n_bytes = sum(layer.nbytes for layer in self.registry.pull(image))
        return n_bytes, self.bucket_reads() - before

    def bucket_reads(self) -> int:
        return int(self.registry.cache.stats()["backing"]["reads"])


def pull_everywhere(what: str, hosts: list[ray.actor.ActorHandle], image: str) -> None:
    pulls = ray.get([host.pull.remote(image) for host in hosts])
    n_bytes, n_reads = (sum(column) for column in zip(*pulls, strict=True))
    print(f"{what}: {len(hosts)} hosts pulled {image}, {n_bytes:,} bytes, {n_reads} objects read from the bucket")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", default="default", help="name of the cache")
    parser.add_argument("--bucket", help="URL of the store: s3://bucket/prefix, /a/directory, or any of fsspec's")
    parser.add_argument("--options", type=json.loads, default={}, help='for it, in JSON: {"endpoint_url": "..."}')
    parser.add_argument("--size", type=parse_bytes, default="16MiB", help="of a layer")
    parser.add_argument("--hosts", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        backing = {"url": options.bucket or directory, "options": options.options}
        with open_cache(options.cache, backing) as cache:
            space = cache.namespace("registry")
            host = Host.options(scheduling_strategy="SPREAD" if options.bucket else on_this_machine())
            hosts = [host.remote(space) for _ in range(options.hosts)]
            demonstrate(space, hosts, size_bytes=options.size)


def on_this_machine() -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def demonstrate(cache: infiniray.Cache, hosts: list[ray.actor.ActorHandle], *, size_bytes: int) -> None:
    registry = Registry(cache)
    base = [os.urandom(size_bytes) for _ in range(3)]
    for image in ("app:1", "app:2"):
        new = registry.push(image, [*base, os.urandom(size_bytes)])
        print(f"pushed {image}: {len(new)} of {len(base) + 1} layers were new")

    pull_everywhere("warm", hosts, "app:1")

    front = infiniray.connect(cache.name, backing=False).namespace("registry")  # the cache alone: the bucket keeps all
    for digest in registry.digests("app:1"):
        front.delete(f"layers/{digest}")
    pull_everywhere("after the cache has lost the layers", hosts, "app:1")
    pull_everywhere("again", hosts, "app:2")


if __name__ == "__main__":
    main()
