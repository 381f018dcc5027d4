"""The scripts in examples/, as users run them: processes of their own, against a cache that is up."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_backing import Bucket

import infiniray
from infiniray import Cache, CacheUnavailable

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE_S = 100.0
SIZE = 300_000


@pytest.fixture(scope="module")
def up(whole_cache: Cache) -> Iterator[Cache]:
    """A cache that is up; the examples' keys go when this module is through."""
    yield whole_cache
    for prefix in ("training/", "models/", "registry/"):
        for key in whole_cache.keys(prefix):
            whole_cache.delete(key)


def run(script: str, *arguments: str, name: str, ray_address: str, fails: bool = False) -> str:
    """What an example prints: its output, or what it complains about."""
    command = [sys.executable, str(EXAMPLES / script), "--cache", name, *arguments]
    environment = {**os.environ, "RAY_ADDRESS": ray_address}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=EXAMPLES.parent
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


def test_the_second_epoch_reads_nothing_from_disk(up: Cache, local_ray: str, tmp_path: Path) -> None:
    files = {f"part-{index}": os.urandom(SIZE + index) for index in range(3)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    n_bytes = sum(map(len, files.values()))
    arguments = ("training_epochs.py", "--data", str(tmp_path), "--epochs", "2")
    line = rf"epoch (\d): 3 files, {n_bytes:,} bytes, (\d) hits, ([\d,]+) bytes from disk"

    first_job = run(*arguments, name="shared", ray_address=local_ray)
    assert re.findall(line, first_job) == [("1", "0", f"{n_bytes:,}"), ("2", "3", "0")]
    assert {key.split("/")[1]: up[key] for key in up.keys("training/")} == files

    changed = tmp_path / "part-0"
    changed.write_bytes(b"changed")
    next_job = run(*arguments, name="shared", ray_address=local_ray)
    assert re.findall(r"(\d) hits, (\d+) bytes from disk", next_job) == [("2", "7"), ("3", "0")]


def test_weights_outlive_the_job_that_published_them(up: Cache, local_ray: str) -> None:
    complaint = run("shared_weights.py", "--serve", name="shared", ray_address=local_ray, fails=True)
    assert "publish models/mlp/v1 first" in complaint

    printed = run("shared_weights.py", "--size", f"{4 * SIZE}", name="shared", ray_address=local_ray)
    published = re.search(r"job (\w+) published models/mlp/v1: ([\d,]+) bytes, and ends", printed)
    served = re.search(r"job (\w+) serves with 3 replicas on 1 of the cluster's machines", printed)
    answer = re.search(r"answers agree: (\S+)", printed)
    assert published is not None
    assert served is not None
    assert answer is not None
    assert published[1] != served[1]
    assert "reads of the cache: 1; replicas without a copy of their own: 3" in printed

    weights: dict[str, np.ndarray[Any, Any]] = up["models/mlp/v1"]
    assert sum(layer.nbytes for layer in weights.values()) == int(published[2].replace(",", ""))
    again = run("shared_weights.py", "--serve", "--replicas", "1", name="shared", ray_address=local_ray)
    assert "reads of the cache: 1; replicas without a copy of their own: 1" in again
    assert f"answers agree: {answer[1]}" in again


def test_layers_are_read_from_the_bucket_once_for_all_hosts(up: Cache, local_ray: str) -> None:
    bucket = Bucket()
    try:
        store = ("--bucket", f"s3://{bucket.name}/pre", "--options", json.dumps(bucket.options))
        size = ("--size", str(SIZE), "--hosts", "3")
        printed = run("registry_layers.py", *store, *size, name="shared", ray_address=local_ray)
        assert printed.splitlines() == [
            "pushed app:1: 4 of 4 layers were new",
            "pushed app:2: 1 of 4 layers were new",
            f"warm: 3 hosts pulled app:1, {12 * SIZE:,} bytes, 0 objects read from the bucket",
            f"after the cache has lost the layers: 3 hosts pulled app:1, {12 * SIZE:,} bytes, "
            "4 objects read from the bucket",
            f"again: 3 hosts pulled app:2, {12 * SIZE:,} bytes, 0 objects read from the bucket",
        ]
        for image in ("app:1", "app:2"):
            digests = json.loads(up[f"registry/images/{image}"])
            assert len(digests) == 4
            for digest in digests:
                layer = up[f"registry/layers/{digest}"]
                assert f"sha256:{hashlib.sha256(layer).hexdigest()}" == digest
                assert bucket.get(f"registry/layers/{digest}") == layer
    finally:
        bucket.close()


def test_without_a_cache_an_example_starts_one_that_ends_with_it(local_ray: str) -> None:
    arguments = ("--files", "2", "--size", "100KiB", "--epochs", "1", "--trainers", "1")
    printed = run("training_epochs.py", *arguments, name="of-its-own", ray_address=local_ray)
    assert "epoch 1: 2 files, 204,800 bytes, 0 hits, 204,800 bytes from disk" in printed
    with pytest.raises(CacheUnavailable):
        infiniray.connect("of-its-own")
