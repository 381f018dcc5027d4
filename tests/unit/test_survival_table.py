"""The README's table of what survives what: each row names tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEADING = "## What survives what"
#: How the failures begin that must be in the table.
FAILURES = [
    "one function",
    "`r` functions",
    "`r + 1`",
    "every function",
    "a shard killed",
    "the supervisor killed",
    "a machine",
    "the Ray head",
    "the platform's API",
    "a client",
]


def rows() -> list[list[str]]:
    section = (ROOT / "README.md").read_text().split(f"{HEADING}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@cache
def _names_of_tests() -> frozenset[str]:
    """Names of test functions that pytest collects."""
    return frozenset(
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_what_a_row_names_exists(row: list[str]) -> None:
    assert len(row) == 5
    assert all(row)
    named = re.findall(r"`([^`]+)`", row[-1])
    assert named
    for name in named:
        assert name in _names_of_tests() if name.startswith("test_") else (ROOT / name).is_file(), name


@pytest.mark.parametrize("failure", FAILURES)
def test_the_table_has_every_failure(failure: str) -> None:
    assert any(row[0].startswith(failure) for row in rows())
