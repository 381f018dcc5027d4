"""Records of running caches on disk."""

from __future__ import annotations

import multiprocessing
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from infiniray.cluster.state import CacheRecord, ProcessMark, StateDirectory
from infiniray.errors import CacheUnavailable


@pytest.fixture
def record() -> CacheRecord:
    return CacheRecord(
        name="a",
        ray_address="127.0.0.1:6379",
        created_s=1.5,
        ray_head=ProcessMark.of(),
        platform_endpoint="http://127.0.0.1:1",
    )


def test_a_record_is_read_as_it_was_written(tmp_path: Path, record: CacheRecord) -> None:
    state = StateDirectory(tmp_path / "new")
    assert state.read("a") is None
    state.write(record)
    assert state.read("a") == record
    assert state.records() == [record]
    state.remove("a")
    state.remove("a")
    assert state.records() == []


def test_files_are_private_and_nothing_else_is_left(tmp_path: Path, record: CacheRecord) -> None:
    StateDirectory(tmp_path).write(record)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "a"}', '{"name": "a", "surprise": 1}'])
def test_a_broken_record_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert StateDirectory(tmp_path).read("a") is None
    assert StateDirectory(tmp_path).records() == []


def test_the_environment_names_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFINIRAY_STATE_DIR", str(tmp_path))
    assert StateDirectory().root == tmp_path


def test_the_lock_keeps_others_out_until_it_is_released(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    with state.lock("a"):
        with pytest.raises(CacheUnavailable, match="'a'"), state.lock("a", timeout_s=0):
            pass
        with state.lock("b", timeout_s=0):
            pass
    with state.lock("a", timeout_s=0):
        pass


def test_the_lock_ends_with_its_holder(tmp_path: Path) -> None:
    code = f"""
import os
from infiniray.cluster.state import StateDirectory
StateDirectory({str(tmp_path)!r}).lock("a").__enter__()
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 9
    with StateDirectory(tmp_path).lock("a", timeout_s=0):
        pass


def test_process_marks_tell_processes_apart() -> None:
    mine = ProcessMark.of()
    assert mine.pid == os.getpid()
    assert mine.is_alive()
    assert not ProcessMark(pid=mine.pid, started_s=mine.started_s - 100).is_alive()


def test_an_ended_process_is_not_alive() -> None:
    child = multiprocessing.get_context("spawn").Process(target=print)
    child.start()
    mark = ProcessMark.of(child.pid)
    child.join(30)
    assert not mark.is_alive()
    with pytest.raises(ProcessLookupError):
        ProcessMark.of(mark.pid)
