"""`infiniray up` on a Ray cluster that somebody else runs: a guest, which leaves it as it was."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from machines import HEAD, Machines, carry, eventually, machines
from ray.job_submission import JobStatus, JobSubmissionClient
from shell import Shell

from infiniray.cluster import rayapi

WORKER = "127.0.0.3"
SMALL = ["--nodes", "6", "--shards", "2", "--scheme", "rs:2+1", "--memory-mb", "256"]
SPREAD = ["--set", "platform.listen_host=auto"]

_WRITES = "import infiniray; infiniray.connect()['from a job'] = b'x' * 300_000"
_READS = "import infiniray; c = infiniray.connect(); print('read', len(c['from a job']), bytes(c['by hand']))"


class Tenant:
    """Somebody else's, on the same cluster."""

    def __init__(self) -> None:
        self.n_asked = 0

    def ask(self) -> int:
        self.n_asked += 1
        return self.n_asked


@pytest.fixture(scope="module")
def nodes() -> Iterator[Machines]:
    with machines(workers=[WORKER], has_dashboard=True) as made:
        yield made


@pytest.fixture(scope="module")
def shell(nodes: Machines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    made = Shell(tmp_path_factory.mktemp("state"))
    yield made
    made("down")


@pytest.fixture(scope="module")
def tenant(nodes: Machines) -> Any:
    options = {"name": "tenant", "namespace": "theirs", "num_cpus": 1}
    carry(Tenant)
    actor = ray.remote(Tenant).options(**options).remote()
    assert ray.get(actor.ask.remote()) == 1
    return actor


@pytest.fixture(scope="module")
def up(nodes: Machines, shell: Shell, tenant: Any) -> dict[str, Any]:
    """What `up` says."""
    said: dict[str, Any] = json.loads(shell("up", "--address", nodes.address, *SMALL, *SPREAD, "--json"))
    return said


def test_it_is_up_on_both_machines(up: dict[str, Any], nodes: Machines, shell: Shell) -> None:
    assert (up["running_before"], up["shards"], up["nodes"]) == (False, 2, 6)
    status = json.loads(shell("status", "--json"))
    assert status["ok"]
    assert sorted(row["address"].rpartition(":")[0] for row in status["shards"]) == [HEAD, WORKER]
    assert all(finding["level"] != "fail" for finding in json.loads(shell("doctor", "--json"))["findings"])


def test_jobs_that_are_submitted_use_it_one_after_the_other(up: dict[str, Any], nodes: Machines, shell: Shell) -> None:
    shell("put", "-", "by hand", stdin=b"hello")
    jobs = JobSubmissionClient(nodes.dashboard_url)
    for source, printed in ((_WRITES, ""), (_READS, "read 300000 b'hello'")):
        job = jobs.submit_job(entrypoint=f'{sys.executable} -c "{source}"')
        ended = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)
        eventually(lambda job=job, ended=ended: jobs.get_job_status(job) in ended, "the job has ended")
        assert jobs.get_job_status(job) == JobStatus.SUCCEEDED, jobs.get_job_logs(job)
        assert printed in jobs.get_job_logs(job)


def test_it_is_not_moved_to_another_cluster(up: dict[str, Any], nodes: Machines, shell: Shell) -> None:
    assert f"is on the Ray at {nodes.address}" in shell.complaint("up", "--address", "127.0.0.1:1", *SMALL)


def test_another_user_of_the_cluster_may_call_up_again(up: dict[str, Any], nodes: Machines, tmp_path: Path) -> None:
    """It is there already: nothing is started for it, and with nothing of theirs it can be taken down."""
    other = Shell(tmp_path / "another-home")
    assert json.loads(other("up", "--address", nodes.address, *SMALL, *SPREAD, "--json"))["running_before"] is True
    assert other.processes() == []


def test_down_leaves_the_cluster_as_it_was(up: dict[str, Any], nodes: Machines, shell: Shell, tenant: Any) -> None:
    processes = shell.processes()
    assert len(processes) > 6  # the platform and its functions
    assert json.loads(shell("down", "--json"))["was_running"] is True
    _, alive = psutil.wait_procs(processes, timeout=15)
    assert alive == []
    assert rayapi.actor_names() == []
    assert rayapi.store_keys("default/") == []
    assert sorted(nodes.ids()) == [HEAD, WORKER]
    assert ray.get(tenant.ask.remote()) == 2
    assert ray.get(ray.get_actor("tenant", namespace="theirs").ask.remote()) == 3
    shell("status", code=1)


def test_an_address_that_functions_cannot_dial_is_found_and_all_is_removed(nodes: Machines, tmp_path: Path) -> None:
    shell = Shell(tmp_path / "state")
    wrong = ["--set", "platform.advertise_host=127.0.0.9"]
    told = shell.complaint("up", "--address", nodes.address, "--name", "lost", *SMALL, *SPREAD, *wrong)
    assert "DialRefused: cannot reach the shard at 127.0.0.9:" in told
    assert "platform.advertise_host must lead to the shard's own machine" in told
    assert [actor for actor in rayapi.actor_names() if actor.startswith("lost:")] == []
    assert rayapi.store_keys("lost/") == []
    assert list(shell.state.glob("*.json")) == []
    assert not (shell.state / "lost").exists()
