"""Actors of a serving-style job share model weights that another job has left in the cache.

Two Ray jobs: the first one publishes the weights and ends; what it had in Ray's own object store ends with it. The
second one reads them from the cache once, and hands its actors the reference. So there is one copy on each machine, in
Ray's object store, and the arrays of all actors there are read-only views of it. (An actor that called `cache.get`
would have a copy to itself.) An actor that is restarted, or added later, gets them the same way.

    infiniray up                               # a cache that stays; without it, one is started for this run
    python examples/shared_weights.py
    python examples/shared_weights.py --serve  # once more, without publishing: they are still there
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from math import isqrt

import numpy as np
import ray

import infiniray
from infiniray.units import parse_bytes

MODEL = "models/mlp/v1"
N_LAYERS = 4

Weights = dict[str, np.ndarray]


def open_cache(name: str) -> infiniray.Cache:
    """The cache of that name; if none is up, one that ends with this process."""
    try:
        return infiniray.connect(name)
    except infiniray.CacheUnavailable:
        return infiniray.start(name=name)


def trained(size_bytes: int) -> Weights:
    """Square layers, of ``size_bytes`` in all: from a training that would take hours."""
    width = max(1, isqrt(size_bytes // N_LAYERS // 4))
    random = np.random.default_rng(0)
    return {f"layer{i}": random.normal(0, width**-0.5, (width, width)).astype(np.float32) for i in range(N_LAYERS)}


@ray.remote(num_cpus=0.1, scheduling_strategy="SPREAD")
class Replica:
    """One of the actors that answer requests."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def predict(self, seed: int) -> float:
        """A request's answer: a random vector, through all layers."""
        activations = np.random.default_rng(seed).random(len(self.weights["layer0"]), np.float32)
        for layer in self.weights.values():
            activations = np.maximum(layer @ activations, 0)
        return float(activations.sum())

    def where(self) -> tuple[str, bool]:
        """This machine, and whether the weights are views of what Ray holds for all of its actors."""
        is_view = not any(layer.flags.owndata or layer.flags.writeable for layer in self.weights.values())
        return ray.get_runtime_context().get_node_id(), is_view


def publish(name: str, size_bytes: int) -> None:
    """The first job."""
    with infiniray.connect(name) as cache:
        weights = trained(size_bytes)
        cache.put(MODEL, weights)
        n_bytes = sum(layer.nbytes for layer in weights.values())
        print(f"job {job()} published {MODEL}: {n_bytes:,} bytes, and ends", flush=True)


def serve(cache: infiniray.Cache, n_replicas: int) -> None:
    """The second job."""
    if MODEL not in cache:
        raise SystemExit(f"there are no weights: publish {MODEL} first, without --serve")
    reads_before = cache.stats()["gets"]
    weights = cache.get_ref(MODEL)  # read once, and then Ray's to carry to where actors are
    replicas = [Replica.remote(weights) for _ in range(n_replicas)]
    answers = ray.get([replica.predict.remote(7) for replica in replicas])
    machines, are_views = zip(*ray.get([replica.where.remote() for replica in replicas]), strict=True)
    n_reads = cache.stats()["gets"] - reads_before
    print(f"job {job()} serves with {n_replicas} replicas on {len(set(machines))} of the cluster's machines")
    print(f"reads of the cache: {n_reads}; replicas without a copy of their own: {sum(are_views)}")
    print(f"answers {'agree' if len(set(answers)) == 1 else 'DIFFER'}: {answers[0]:.4f}")


def job() -> str:
    return str(ray.get_runtime_context().get_job_id())


def publish_in_a_job_of_its_own(name: str, size: int) -> None:
    """A process of its own, as it would be tomorrow's; it finds the same Ray."""
    command = [sys.executable, __file__, "--publish", "--cache", name, "--size", str(size)]
    subprocess.run(command, env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", default="default", help="name of the cache")
    parser.add_argument("--size", type=parse_bytes, default="64MiB", help="of the weights")
    parser.add_argument("--replicas", type=int, default=3)
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--publish", action="store_true", help="the first job only")
    part.add_argument("--serve", action="store_true", help="the second job only")
    options = parser.parse_args()
    if options.publish:
        publish(options.cache, options.size)
        return
    with open_cache(options.cache) as cache:
        if not options.serve:
            publish_in_a_job_of_its_own(options.cache, options.size)
        serve(cache, options.replicas)


if __name__ == "__main__":
    main()
