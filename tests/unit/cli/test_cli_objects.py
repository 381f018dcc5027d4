"""put, get, rm, ls: what goes to files, to standard output and to the exit code."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_cache import FakeCache

from infiniray.cli.main import main


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=stdin)


# ---------------------------------------------------------------- put


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 1000])
def test_a_file_is_stored_as_it_is(cache: FakeCache, tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "source"
    source.write_bytes(content)
    result = run("put", str(source), "a/k", "--ttl", "2h", "--json")
    assert result.exit_code == 0, result.output
    assert cache.values == {"a/k": content}
    assert cache.ttls == {"a/k": "2h"}
    document = json.loads(result.stdout)
    assert (document["key"], document["bytes"]) == ("a/k", len(content))


def test_standard_input_is_stored(cache: FakeCache) -> None:
    assert run("put", "-", "k", stdin=b"from a pipe").exit_code == 0
    assert cache.values == {"k": b"from a pipe"}


def test_a_pipe_that_has_a_name_is_read_to_its_end(cache: FakeCache, tmp_path: Path) -> None:
    """``put <(command) KEY``: such a file says that its size is 0."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"hello",))
    writer.start()
    try:
        assert run("put", str(pipe), "k").exit_code == 0
    finally:
        writer.join(10)
    assert cache.values == {"k": b"hello"}


def test_a_key_is_never_read_as_markup(cache: FakeCache, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    result = run("put", str(source), "a[/b]:smile:[red]")
    assert result.exit_code == 0, result.output
    assert "a[/b]:smile:[red]" in result.stderr
    assert "a[/b]:smile:[red]" in run("ls").stdout


@pytest.mark.parametrize(
    "arguments", [("put", __file__, ""), ("put", __file__, "k", "--ttl", "0"), ("get", "", "-"), ("rm", "k", "")]
)
def test_what_is_not_valid_is_refused_before_anything_is_reached(cache: FakeCache, arguments: tuple[str, ...]) -> None:
    cache.values["k"] = b"stays"
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert cache.n_connected == 0
    assert cache.values == {"k": b"stays"}


# ---------------------------------------------------------------- get


def test_a_file_is_replaced_by_the_object(cache: FakeCache, tmp_path: Path) -> None:
    cache.values["k"] = b"new" * 4_000_000  # more than one write
    target = tmp_path / "target"
    target.write_bytes(b"old")
    result = run("get", "k", str(target), "--json")
    assert result.exit_code == 0, result.output
    assert target.read_bytes() == cache.values["k"]
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert json.loads(result.stdout)["bytes"] == 12_000_000


def test_a_new_file_has_the_modes_of_any_other(cache: FakeCache, tmp_path: Path) -> None:
    cache.values["k"] = b"x"
    (tmp_path / "other").write_bytes(b"")
    assert run("get", "k", str(tmp_path / "target")).exit_code == 0
    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_a_miss_changes_no_file(cache: FakeCache, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    result = run("get", "nope", str(target), "--json")
    assert result.exit_code == 1
    assert result.stderr == "infiniray: no object under key 'nope'\n"
    assert result.stdout == ""
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_write_that_fails_leaves_the_old_file_alone(
    cache: FakeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.values["k"] = b"new"
    target = tmp_path / "target"
    target.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    result = run("get", "k", str(target))
    assert result.exit_code == 1
    assert "No space left" in result.stderr
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_link_stays_a_link(cache: FakeCache, tmp_path: Path) -> None:
    cache.values["k"] = b"new"
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    assert run("get", "k", str(tmp_path / "link")).exit_code == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_pipe_is_written_to_and_not_replaced(cache: FakeCache, tmp_path: Path) -> None:
    cache.values["k"] = b"hello"
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    try:
        assert run("get", "k", str(pipe)).exit_code == 0
    finally:
        reader.join(10)
    assert read == [b"hello"]
    assert pipe.is_fifo()


def test_standard_output_gets_the_object_and_nothing_else(cache: FakeCache) -> None:
    cache.values["k"] = b"\x00\xff\n"
    assert run("get", "k", "-").stdout_bytes == b"\x00\xff\n"


@pytest.mark.parametrize("arguments", [("get", "k", "-", "--json"), ("get", "k", "no/such/folder/file")])
def test_get_refuses_where_it_cannot_write_before_it_reads(cache: FakeCache, arguments: tuple[str, ...]) -> None:
    cache.values["k"] = b"x"
    assert run(*arguments).exit_code == 2
    assert cache.n_connected == 0


def test_a_python_value_is_not_written_to_a_file(cache: FakeCache, tmp_path: Path) -> None:
    cache.values["k"] = {"a": 1}
    result = run("get", "k", str(tmp_path / "target"))
    assert result.exit_code == 1
    assert "is a dict, not bytes" in result.stderr
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- rm, ls, stats


def test_rm_deletes_what_is_there_and_fails_for_what_is_not(cache: FakeCache) -> None:
    cache.values.update(a=b"1", b=b"2", c=b"3")
    result = run("rm", "a", "nope", "b", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"deleted": ["a", "b"], "missing": ["nope"]}
    assert list(cache.values) == ["c"]
    assert run("rm", "c").exit_code == 0


def test_ls_lists_by_prefix(cache: FakeCache) -> None:
    cache.values.update({"a/1": b"x" * 2048, "a/2": b"", "b": b"y"})
    cache.expires_s["a/1"] = time.time() + 100
    listed = json.loads(run("ls", "a/", "--json").stdout)
    assert [(row["key"], row["bytes"]) for row in listed] == [("a/1", 2048), ("a/2", 0)]
    assert 0 < listed[0]["ttl_s"] <= 100
    assert listed[1]["ttl_s"] is None
    assert len(json.loads(run("ls", "--limit", "2", "--json").stdout)) == 2


def test_a_line_of_ls_is_an_object_however_long_its_key(cache: FakeCache) -> None:
    cache.values["k" * 1000] = b"x"
    lines = run("ls").stdout.splitlines()
    assert len(lines) == 2
    assert lines[1].endswith("k" * 1000)


def test_stats_are_one_document(cache: FakeCache) -> None:
    assert json.loads(run("stats", "--json").stdout)["gets"] == 7
    assert "gets" in run("stats").stdout
