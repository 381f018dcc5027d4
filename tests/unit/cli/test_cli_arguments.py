"""What the command line does with what it is told, before anything is reached."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from infiniray.cli.main import main


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture(autouse=True)
def nothing_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFINIRAY_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_help_names_every_command_and_imports_no_ray() -> None:
    code = (
        "import sys; from infiniray.cli.main import main\ntry: main(['--help'])\nfinally: print('ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    for command in ("up", "down", "status", "put", "get", "rm", "ls", "stats", "demo", "bench", "cost", "doctor"):
        assert f"  {command} " in done.stdout
    assert done.stdout.strip().endswith("False")


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("put", "/no/such/file", "k"),
        ("put", __file__, ""),
        ("put", __file__, "k", "--ttl", "soon"),
        ("put", __file__, "k", "--ttl", "0"),
        ("up", "--set", "pool.nods=3"),
        ("up", "--set", "pool.nodes"),
        ("up", "--nodes", "3"),
        ("up", "--scheme", "rs:ten+2"),
        ("demo", "--max-seconds", "0"),
        ("bench", "--sizes", "huge"),
        ("bench", "--clients", "0"),
        ("rm",),
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_line_of_reason(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("arguments", [("get", "k", "-"), ("ls",), ("rm", "k"), ("stats",), ("status",)])
def test_no_cache_is_exit_code_1_and_says_what_to_do(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert "no cache 'default'" in result.stderr


def test_down_without_a_cache_is_fine() -> None:
    result = run("down", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"name": "default", "was_running": False}


def test_doctor_reports_every_check() -> None:
    result = run("doctor", "--json")
    findings = json.loads(result.stdout)["findings"]
    assert result.exit_code == int(any(f["level"] == "fail" for f in findings))
    assert {"python", "ray", "codec kernel", "shared memory", "leftovers"} <= {f["check"] for f in findings}
    assert all(f["advice"] for f in findings if f["level"] != "ok")
