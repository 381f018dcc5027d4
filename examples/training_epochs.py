"""A training-style job that reads the same large files in every epoch, through the cache.

The first epoch reads from disk and fills the cache; later epochs, and later jobs, find every file there. Files are read
in another order in each epoch, by several trainers, as a shuffling data loader would.

    infiniray up                                    # a cache that stays; without it, one is started for this run
    python examples/training_epochs.py --data DIR   # without --data: a few files of random bytes

On a cluster, DIR is one that all machines see. Without --data all trainers are on this machine, where the files are.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import infiniray
from infiniray.units import parse_bytes


def open_cache(name: str) -> infiniray.Cache:
    """The cache of that name; if none is up, one that ends with this process."""
    try:
        return infiniray.connect(name)
    except infiniray.CacheUnavailable:
        return infiniray.start(name=name)


@ray.remote(num_cpus=0.1)
class Trainer:
    """Reads files and does something with each; the handle of the cache came along in a message."""

    def __init__(self, cache: infiniray.Cache) -> None:
        self.cache = cache
        self.bytes_from_disk = 0

    def train(self, paths: list[Path]) -> dict[str, int]:
        """One epoch's share: how many files and bytes, how many of them hits, how many bytes came from disk."""
        n_bytes = n_hits = 0
        before = self.bytes_from_disk
        for path in paths:
            from_disk = self.bytes_from_disk
            data = self.cache.get_or_compute(key_of(path), lambda path=path: self.load(path), ttl="1d")
            n_hits += self.bytes_from_disk == from_disk
            n_bytes += len(data)
            np.frombuffer(data, np.uint8).mean()  # the training
        return {"files": len(paths), "bytes": n_bytes, "hits": n_hits, "disk": self.bytes_from_disk - before}

    def load(self, path: Path) -> bytes:
        """Called on a miss; while it runs, others who want the same file wait for it instead of reading it, too."""
        data = path.read_bytes()
        self.bytes_from_disk += len(data)
        return data


def key_of(path: Path) -> str:
    """A file that was changed has another key, so that nobody trains on the old one."""
    stat = path.stat()
    return f"{path.name}/{stat.st_size}/{stat.st_mtime_ns}"


def run_epoch(trainers: list[ray.actor.ActorHandle], paths: list[Path]) -> dict[str, int]:
    """All files once, dealt out to the trainers in a new order."""
    shuffled = random.sample(paths, len(paths))
    shares = [shuffled[index :: len(trainers)] for index in range(len(trainers))]
    counts = ray.get([trainer.train.remote(share) for trainer, share in zip(trainers, shares, strict=True)])
    return {name: sum(count[name] for count in counts) for name in counts[0]}


def make_files(directory: Path, n_files: int, size_bytes: int) -> None:
    for index in range(n_files):
        (directory / f"part-{index:03}").write_bytes(np.random.default_rng(index).bytes(size_bytes))


def on_this_machine() -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", default="default", help="name of the cache")
    parser.add_argument("--data", type=Path, help="read the files of this directory")
    parser.add_argument("--size", type=parse_bytes, default="16MiB", help="of each file, if they are made up")
    parser.add_argument("--files", type=int, default=8, help="how many are made up")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--trainers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made_up, open_cache(options.cache) as cache:
        if options.data is None:
            make_files(Path(made_up), options.files, options.size)
        paths = sorted(path for path in (options.data or Path(made_up)).resolve().iterdir() if path.is_file())
        where = "SPREAD" if options.data is not None else on_this_machine()
        trainer = Trainer.options(scheduling_strategy=where)
        trainers = [trainer.remote(cache.namespace("training")) for _ in range(options.trainers)]
        for epoch in range(1, options.epochs + 1):
            began_s = time.perf_counter()
            count = run_epoch(trainers, paths)
            took_s = time.perf_counter() - began_s
            print(
                f"epoch {epoch}: {count['files']} files, {count['bytes']:,} bytes, {count['hits']} hits, "
                f"{count['disk']:,} bytes from disk, {took_s:.2f} s"
            )


if __name__ == "__main__":
    main()
