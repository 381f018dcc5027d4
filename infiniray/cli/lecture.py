"""The lecture command: pages of the lecture on this kind of cache, computed by the cache's own code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from infiniray.cli.extras import need_extra
from infiniray.cli.output import json_option, print_json, reports_errors, results, says

if TYPE_CHECKING:
    from workloads.lectures.page import Page, PageTable

__all__ = ["lecture"]

_NAMES = ("hashing", "raid", "stragglers")


@click.command()
@click.argument("name", type=click.Choice(_NAMES), metavar="|".join(_NAMES))
@click.option(
    "--plots",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the picture, as PNG.  [default: none is drawn]",
)
@json_option
@reports_errors
def lecture(name: str, plots: Path | None, as_json: bool) -> None:
    """A page of the lecture as an example that runs.

    hashing: consistent against modulo hashing, what moves and how even it is. raid: the RAID levels, with the codec's
    measured speed. stragglers: replication against erasure coding when some nodes are slow; a model, not a measurement.
    """
    need_extra("workloads")
    from workloads.lectures.page import save_figures

    page = _page(name, draws=plots is not None)
    pictures = [str(file) for file in save_figures(page, plots)] if plots is not None else []
    if as_json:
        print_json({"lecture": page.name, **page.document, "pictures": pictures})
        return
    results().print(page.title)
    for table in page.tables:
        _print(table)
    for picture in pictures:
        says().print(f"drawn: {picture}")


def _page(name: str, *, draws: bool) -> Page:
    from workloads.lectures.hashing import hashing_page
    from workloads.lectures.raid import raid_page
    from workloads.lectures.stragglers import straggler_page

    if name == "hashing":
        return hashing_page(draws=draws)
    return raid_page(draws=draws) if name == "raid" else straggler_page(draws=draws)


def _print(table: PageTable) -> None:
    from rich.table import Table

    drawn = Table(title=table.title, title_justify="left", caption=table.note, caption_justify="left")
    for number, heading in enumerate(table.headings):
        drawn.add_column(heading, justify="left" if number == 0 else "right")
    for row in table.rows:
        drawn.add_row(*row)
    results().print()
    results().print(drawn)
