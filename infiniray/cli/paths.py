"""Files that commands write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

__all__ = ["OutFile"]


class OutFile(click.Path):
    """A file to be written, in a folder that is there: who mistypes it hears so before hours of work, not after."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, writable=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if not str(value):
            self.fail("a file's name cannot be empty.", param, ctx)
        path = Path(super().convert(value, param, ctx))  # type: ignore[arg-type]  # not bytes: that is path_type
        if not path.parent.is_dir():
            self.fail(f"there is no folder '{path.parent}'.", param, ctx)
        return path
