"""status and up, short of a real cache; and how errors are told."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_cache import FakeCache

from infiniray.cli import objects, running
from infiniray.cli.main import main
from infiniray.cluster import rayapi
from infiniray.cluster.state import CacheRecord, ProcessMark, StateDirectory
from infiniray.config import Config
from infiniray.errors import CacheUnavailable, WriteFailed


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


# ---------------------------------------------------------------- status


def test_status_of_a_cache_that_is_well(cache: FakeCache) -> None:
    cache.values["k"] = b"x" * 10
    result = run("status", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (report["running"], report["ok"], report["epoch"], report["nodes"]) == (True, True, 3, 3)
    assert (report["objects"], report["object_bytes"]) == (1, 10)
    assert report["instances"] == {"init": 0, "idle": 3, "busy": 1}
    assert "1 awake, 3 frozen" in run("status").stdout


def test_status_fails_if_a_shard_does_not_answer(cache: FakeCache) -> None:
    cache.shards_ok = False
    result = run("status")
    assert result.exit_code == 1
    assert "NOT OK" in result.stdout
    assert "no such actor" in result.stdout


def test_status_fails_if_the_platform_does_not_answer(cache: FakeCache) -> None:
    cache.platform = {"error": "no platform answers at http://127.0.0.1:1"}
    result = run("status")
    assert result.exit_code == 1
    assert "no platform answers" in result.stdout
    report = json.loads(run("status", "--json").stdout)
    assert (report["running"], report["ok"], report["instances"]) == (True, False, None)


def test_status_on_aws_knows_nothing_of_instances(cache: FakeCache) -> None:
    cache.platform = None
    result = run("status", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["instances"] is None


def test_status_tells_of_shards_endangered_objects_and_backups(cache: FakeCache) -> None:
    report = json.loads(run("status", "--json").stdout)
    assert [(row["state"], row["epoch"], row["nodes"]) for row in report["shards"]] == [
        ("up", 3, 2),
        ("recovering", 2, 1),
    ]
    assert report["endangered"] == 4
    assert report["backup_slots"] == {"taken": 1, "of": 8}
    assert report["backups"] == {
        "done": 9, "failed": 2, "running": 0, "nodes_backed_up": 3, "nodes_never_backed_up": 1,
        "oldest_s": 250.0, "median_s": 20.0,
    }  # fmt: skip
    table = run("status").stdout
    assert "recovering, epoch 2, 1 functions" in table
    assert "4 objects have lost chunks" in table
    assert "9 done, 2 failed, 1 of 8 slots taken; 3 of 4 functions that hold chunks have one" in table
    assert "oldest 250 s, median 20 s" in table


def test_status_of_a_shard_that_is_down_has_no_numbers_of_it(cache: FakeCache) -> None:
    cache.shards_ok = False
    report = json.loads(run("status", "--json").stdout)
    assert report["shards"][1]["state"] == "down"
    assert report["shards"][1]["objects"] is None
    assert report["backups"]["nodes_backed_up"] == 2


def test_status_of_no_cache_is_a_document_too(cache: FakeCache) -> None:
    result = run("status", "--name", "other", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["name"], report["running"], report["ok"]) == ("other", False, False)
    assert "no cache 'other'" in result.stderr


def test_status_watches_until_it_is_interrupted(cache: FakeCache, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        cache.values[f"k{len(waits)}"] = b"x"
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(running.time, "sleep", wait)
    result = run("status", "--watch")
    assert result.exit_code == 0
    assert len(waits) == 3
    assert "2 (2 B)" in result.stdout


def test_status_does_not_watch_in_json(cache: FakeCache) -> None:
    assert run("status", "--watch", "--json").exit_code == 2


# ---------------------------------------------------------------- a cache that has crashed


def dead_process() -> ProcessMark:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    mark = ProcessMark.of(process.pid)
    process.kill()
    process.join(10)
    return mark


@pytest.mark.parametrize("arguments", [("status",), ("ls",), ("get", "k", "-"), ("rm", "k"), ("stats",)])
def test_a_crashed_cache_is_said_to_be_crashed_without_waiting_for_ray(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    def waits(*_: object, **__: object) -> None:
        pytest.fail("Ray takes minutes to find out that its head has gone")

    monkeypatch.setattr(rayapi, "attach", waits)
    monkeypatch.setattr(rayapi, "is_connected", lambda: False)  # whatever earlier tests left
    StateDirectory().write(
        CacheRecord(name="default", ray_address="127.0.0.1:1", created_s=0.0, ray_head=dead_process())
    )
    result = run(*arguments)
    assert result.exit_code == 1
    assert "has crashed" in result.stderr
    assert "infiniray down" in result.stderr


def test_where_ray_address_says_the_cache_is_no_record_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    import infiniray

    def connect(name: str) -> Any:
        raise CacheUnavailable(detail="asked for there")

    monkeypatch.setattr(infiniray, "connect", connect, raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    StateDirectory().write(
        CacheRecord(name="default", ray_address="127.0.0.1:1", created_s=0.0, ray_head=dead_process())
    )
    assert run("ls").stderr == "infiniray: asked for there\n"


# ---------------------------------------------------------------- up


@pytest.fixture
def hosted(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """What ``up`` would have brought up."""
    from infiniray.cluster import hosting

    configs: list[Config] = []

    def host(config: Config, **_: object) -> Any:
        configs.append(config)
        raise CacheUnavailable(detail="enough")

    monkeypatch.setattr(hosting, "host", host)
    return configs


def test_up_takes_short_options_any_setting_and_a_file(hosted: list[Config], tmp_path: Path) -> None:
    file = tmp_path / "cache.yaml"
    file.write_text("pool: {nodes: 20, memory_mb: 512}\n")
    result = run(
        "up", "--config", str(file), "--shards", "1", "--set", "pool.nodes=32", "--set", "session.linger_s=50ms"
    )
    assert result.stderr == "infiniray: enough\n"
    (config,) = hosted
    assert (config.pool.nodes, config.pool.memory_mb, config.ring.shards) == (32, 512, 1)
    assert config.session.linger_s == 0.05


@pytest.mark.parametrize(
    "settings",
    [("pool",), ("pool.nodes",), ("=3",), ("pool.=3",), (".nodes=3",), ("pool.nodes=[",), ("pool=3", "pool.nodes=4")],
)
def test_up_refuses_a_setting_that_is_none(hosted: list[Config], settings: tuple[str, ...]) -> None:
    result = run("up", *(word for setting in settings for word in ("--set", setting)))
    assert result.exit_code == 2
    assert "--set" in result.stderr
    assert "Traceback" not in result.output
    assert not hosted


@pytest.mark.parametrize("text", ["pool: {nods: 3}", "pool: ["])
def test_up_refuses_a_file_that_is_not_valid(hosted: list[Config], tmp_path: Path, text: str) -> None:
    file = tmp_path / "cache.yaml"
    file.write_text(text)
    result = run("up", "--config", str(file))
    assert result.exit_code == 2, result.output
    assert not hosted


# ---------------------------------------------------------------- errors and signals


def test_an_error_is_one_line_and_a_traceback_only_on_request(
    cache: FakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(*_: object, **__: object) -> None:
        raise WriteFailed(key="k", detail="no node", stored=1, need=2)

    monkeypatch.setattr(FakeCache, "put", put)
    plain, debugging = run("put", __file__, "k"), run("--debug", "put", __file__, "k")
    assert plain.exit_code == debugging.exit_code == 1
    assert isinstance(plain.exception, SystemExit)
    assert plain.stderr.startswith("infiniray: ")
    assert isinstance(debugging.exception, WriteFailed)


def test_sigterm_cleans_up_as_ctrl_c_does(cache: FakeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.values["k"] = b"x"
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(objects.Path, "replace", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    result = run("get", "k", str(tmp_path / "target"))
    assert result.exit_code == 1
    assert "Aborted" in result.stderr
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before


def test_doctor_says_whether_the_cluster_of_a_guest_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        address = "{}:{}".format(*there.getsockname())
        StateDirectory().write(CacheRecord(name="a", ray_address=address, created_s=time.time()))
        StateDirectory().write(CacheRecord(name="b", ray_address="127.0.0.1:1", created_s=time.time()))
        findings = json.loads(run("doctor", "--json").stdout)["findings"]
    levels = {row["found"]: row["level"] for row in findings if row["check"] == "Ray cluster"}
    assert levels.pop(f"cache 'a': {address} answers") == "ok"
    ((found, level),) = levels.items()
    assert found.startswith("cache 'b': no Ray can be reached at '127.0.0.1:1': ")
    assert level == "warn"


def test_doctor_says_which_record_it_cannot_read() -> None:
    state = StateDirectory()
    state.root.mkdir(parents=True)
    (state.root / "broken.json").write_text("{")
    findings = json.loads(run("doctor", "--json").stdout)["findings"]
    (found,) = [finding for finding in findings if finding["check"] == "records"]
    assert found["level"] == "warn"
    assert "broken.json" in found["found"]
    assert run("doctor", "--fix").exit_code == 0
    assert (state.root / "broken.json").exists()  # it may name processes that nothing else does


def test_down_does_not_say_that_what_it_could_not_reach_is_down(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("INFINIRAY_STATE_DIR", str(tmp_path))
    StateDirectory().write(CacheRecord(name="other", ray_address="127.0.0.1:1", created_s=time.time()))
    result = run("down", "--name", "other")
    assert result.exit_code == 0
    told = " ".join(result.stderr.split())
    assert "`infiniray up --address HOST:PORT --name other` finds it again" in told
    assert "no Ray can be reached at '127.0.0.1:1'" in told
    assert "is down" not in told
