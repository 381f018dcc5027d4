"""Commands that wait for a supervisor's work: until it is over, and not merely until they cannot ask."""

from __future__ import annotations

from typing import Any, cast

import pytest

from infiniray.cache import Cache
from infiniray.cli import waiting
from infiniray.cli.scale import scaling_line
from infiniray.errors import CacheUnavailable, ConfigError

UNDER_WAY = {"is_running": True, "stage": "moving keys", "trouble": ""}
AWAY = CacheUnavailable(detail="no Ray actor")


class Answers:
    """A cache whose supervisor answers these, one after the other, and the last one for ever."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.n_asked = 0

    def status(self) -> dict[str, Any]:
        self.n_asked += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return {"scaling": answer}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_POLL_S", 0.0)


def wait(cache: Answers, timeout_s: float = 60) -> dict[str, Any] | None:
    return waiting.wait_for(cast("Cache", cache), "scaling", scaling_line, timeout_s)[0]


def test_a_supervisor_that_is_restarted_is_waited_for() -> None:
    cache = Answers(UNDER_WAY, AWAY, AWAY, UNDER_WAY, None)
    assert wait(cache) is None
    assert cache.n_asked == 5


def test_what_could_not_be_done_is_told() -> None:
    trouble = {"is_running": False, "trouble": "no more functions"}
    assert wait(Answers(UNDER_WAY, trouble)) == trouble


@pytest.mark.parametrize("answer", [UNDER_WAY, AWAY])
@pytest.mark.parametrize("timeout_s", [0.05, float("nan")])
def test_it_ends_at_the_timeout(answer: Any, timeout_s: float, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        wait(Answers(answer), timeout_s)
    assert "and goes on: " in capsys.readouterr().err


def test_an_error_that_will_not_pass_is_raised() -> None:
    with pytest.raises(ConfigError):
        wait(Answers(ConfigError(detail="no")))
