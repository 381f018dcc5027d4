"""Showing how far a replay has come: a bar on a terminal, a line now and then elsewhere, or nothing."""

from __future__ import annotations

import enum
import threading
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["Display", "ReplayProgress"]

_LINES = 10  #: lines that a whole replay prints, where there is no terminal


class Display(enum.Enum):
    """How progress is shown."""

    NONE = "none"
    AUTO = "auto"  #: a bar if the console is a terminal, else lines


class ReplayProgress:
    """I show on ``console`` what share of a replay is done. Context manager; safe to call from several threads."""

    def __init__(self, console: Console, display: Display = Display.AUTO) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._next_line = 1
        self._shown = display is not Display.NONE
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if self._shown and console.is_terminal:
            note = TextColumn("{task.fields[note]}")
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), note, TimeElapsedColumn(), console=console
            )
            self._task = self._bar.add_task("replay", total=1.0, note="")

    def __enter__(self) -> ReplayProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, share: float, note: str) -> None:
        """``share`` of the replay is done, from 0 to 1; ``note`` says in a few words what came of it so far."""
        if self._bar is not None:
            self._bar.update(self._task, completed=share, note=note)
        elif self._shown:
            with self._lock:
                if share * _LINES >= self._next_line:
                    self._next_line = int(share * _LINES) + 1
                    self._print(f"{share:4.0%}  {note}")

    def event(self, text: str) -> None:
        """Something worth a line of its own happened."""
        if self._shown:
            self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)
