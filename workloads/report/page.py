"""A page of HTML that needs nothing but itself: text, tables, and pictures within it."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

__all__ = ["Picture", "Section", "TextTable", "page_html"]

_CSS = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 1080px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.7rem; margin-bottom: .2rem } h2 { font-size: 1.25rem; margin-top: 2.4rem }
p, figcaption { max-width: 46rem } figcaption { color: #555; font-size: .92rem }
figure { margin: 1rem 0 } img { max-width: 100%; height: auto }
table.text td { max-width: 22rem }
.wide { overflow-x: auto } table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top }
th:first-child, td:first-child, table.text td, table.text th { text-align: left } th { border-bottom: 2px solid #999 }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A PNG, what it is called as a file, and what it shows, for who cannot see it."""

    name: str
    png: bytes
    shows: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTable:
    """Rows of text below headings. Columns but the first are numbers, unless ``is_text``."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_text: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading, some text, then pictures and tables."""

    title: str
    text: str = ""
    pictures: Sequence[Picture] = field(default_factory=tuple)
    tables: Sequence[TextTable] = field(default_factory=tuple)


def page_html(title: str, subtitle: str, sections: Iterable[Section]) -> str:
    """The page. All text is escaped: names in traces are anybody's."""
    body = "\n".join(_section(section) for section in sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n<p>{html.escape(subtitle)}</p>\n{body}\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    parts += [_picture(picture) for picture in section.pictures]
    parts += [_table(table) for table in section.tables]
    return "<section>\n" + "\n".join(parts) + "\n</section>"


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    shows = html.escape(picture.shows, quote=True)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{shows}"><figcaption>{shows}</figcaption></figure>'


def _table(table: TextTable) -> str:
    kind = ' class="text"' if table.is_text else ""
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in table.headings)
    rows = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    top = f"<thead><tr>{head}</tr></thead>\n" if any(table.headings) else ""
    return f'<div class="wide"><table{kind}>\n{top}<tbody>\n{rows}\n</tbody></table></div>'
