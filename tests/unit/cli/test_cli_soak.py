"""The soak command: the summary, the JSON line, exit codes, and the replay of one schedule."""

from __future__ import annotations

import json
import signal

import pytest
from click.testing import CliRunner, Result

from infiniray.cli.main import main
from infiniray.core.storing import Repair, Write
from infiniray.sim import soak as soaking
from infiniray.sim.soak import SoakResult


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["soak", *arguments])


@pytest.fixture
def failing_seed(monkeypatch: pytest.MonkeyPatch) -> int:
    """Repairs may put a chunk beside its sibling, and a seed that finds it is the soak's first."""
    monkeypatch.setattr(Repair, "siblings", lambda self: ())
    found = soaking.soak(seconds=600, on_schedule=end_at_the_first)
    assert found.seeds_failed, "the planted bug was not found in 40 schedules"
    monkeypatch.setattr(soaking, "SCHEDULES_PER_SEED", found.seeds_failed[0])
    return found.seeds_failed[0]


def end_at_the_first(sums: SoakResult) -> None:
    if sums.violations or sums.schedules >= 40:
        raise KeyboardInterrupt


def test_the_last_line_is_one_json_object() -> None:
    result = run("--seconds", "0", "--seed", "1", "--steps", "30", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout.splitlines()[-1])
    assert (summary["schedules"], summary["steps"], summary["violations"], summary["seeds_failed"]) == (1, 30, 0, [])
    assert (summary["seed"], summary["interrupted"]) == (1, False)


def test_people_get_a_table() -> None:
    result = run("--seconds", "0", "--steps", "30")
    assert result.exit_code == 0, result.output
    assert "soak of seed 0" in result.stdout
    assert "1, 30" in result.stdout


def test_a_violation_is_told_and_exits_1(failing_seed: int) -> None:
    result = run("--seconds", "0", "--seed", "1")
    assert result.exit_code == 1
    assert f"seed {failing_seed}, step " in result.stdout
    assert "share a node" in result.stdout
    assert "StoreChunk" in result.stdout  # the story
    assert f"replay: infiniray soak --replay {failing_seed}" in result.stdout.splitlines()


def test_a_violation_with_json_goes_to_standard_error(failing_seed: int) -> None:
    result = run("--seconds", "0", "--seed", "1", "--json")
    assert result.exit_code == 1
    assert f"replay: infiniray soak --replay {failing_seed}" in result.stderr.splitlines()
    summary = json.loads(result.stdout)
    assert (summary["violations"], summary["seeds_failed"]) == (1, [failing_seed])


def test_the_command_that_is_told_replays_the_violation(failing_seed: int) -> None:
    told = run("--seconds", "0", "--seed", "1").stdout
    command = next(line for line in told.splitlines() if line.startswith("replay: infiniray soak "))
    again = run(*command.removeprefix("replay: infiniray soak ").split())
    assert again.exit_code == 1
    assert "PutRequested" in again.stdout
    violation = next(line for line in told.splitlines() if line.startswith(f"seed {failing_seed}, step"))
    assert violation in again.stdout.splitlines()


def test_a_replay_of_a_schedule_that_keeps_its_promises() -> None:
    first, second = run("--replay", "2", "--steps", "40"), run("--replay", "2", "--steps", "40")
    assert first.exit_code == 0, first.output
    assert "PutRequested" in first.stdout
    assert first.stdout == second.stdout


def test_a_replay_as_json() -> None:
    result = run("--replay", "2", "--steps", "40", "--json")
    assert json.loads(result.stdout)["steps"] == 40
    assert "PutRequested" in result.stderr


def test_a_replay_of_a_schedule_that_hangs_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Write, "commit", hang)
    result = run("--replay", "2", "--limit", "0.3")
    assert result.exit_code == 1
    assert "it hangs: no end within 0.3 s of processor time" in result.stdout
    assert "PutRequested" in result.stdout


def hang(self: Write) -> None:
    while True:
        pass


def test_the_replay_command_names_unusual_steps() -> None:
    from infiniray.sim.schedules import STEPS, replay_command

    assert replay_command(7, STEPS) == "infiniray soak --replay 7"
    assert replay_command(7, 40) == "infiniray soak --replay 7 --steps 40"


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_with_the_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    add = SoakResult.add

    def add_and_interrupt(self: SoakResult, result: object) -> None:
        add(self, result)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(SoakResult, "add", add_and_interrupt)
    result = run("--seconds", "600", "--steps", "5", "--json")
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert (summary["schedules"], summary["interrupted"]) == (1, True)


@pytest.mark.parametrize("arguments", [("--seconds", "-1"), ("--steps", "0"), ("--seed", "x"), ("--limit", "0")])
def test_wrong_usage(arguments: tuple[str, str]) -> None:
    assert run(*arguments).exit_code == 2
