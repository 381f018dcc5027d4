"""The README's Python example, as printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_the_ten_line_example_runs_as_printed() -> None:
    example = re.search(r"test_readme\.py.*?```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert example is not None
    done = subprocess.run(
        [sys.executable, "-c", example[1]], capture_output=True, text=True, timeout=150, cwd=README.parent, check=False
    )
    assert done.returncode == 0, done.stderr
    norm, found = done.stdout.split()
    assert float(norm) == pytest.approx(577.3, abs=2)  # sqrt(10 ** 6 / 3)
    assert found == "True"
