"""What a lecture page is made of: tables to print, figures to draw, and the same as a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from workloads.report.style import styled
from workloads.whole_file import whole_file

__all__ = ["Page", "PageTable", "save_figures"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTable:
    """``rows`` of texts under ``headings``; ``note`` says in a sentence what to see in them."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page: ``document`` holds the numbers that the tables and the figures (by file name) show."""

    name: str
    title: str
    tables: Sequence[PageTable]
    document: Mapping[str, Any]
    figures: Mapping[str, Figure] = field(default_factory=dict)


def save_figures(page: Page, folder: Path) -> list[Path]:
    """Each figure as ``FIGURE.png`` in ``folder``, which is made if need be.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    with styled():
        for name, made in page.figures.items():
            files.append(folder / f"{name}.png")
            with whole_file(files[-1]) as partial:
                made.savefig(partial)
    return files
