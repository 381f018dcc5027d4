"""What the command refuses before it starts anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from infiniray.cli.main import main
from infiniray.cli.replay import _backing
from workloads.demo import sample_trace

TRACE = str(sample_trace())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--system", "s3"], "needs --bucket"),
        (["--system", "tape"], "'tape' is not one of"),
        (["--speed-up", "0"], "--speed-up"),
        (["--max-object", "large"], "--max-object"),
        (["--first", "soon"], "--first"),
        (["--backing", "s3://"], "s3://BUCKET/PREFIX"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(main, ["replay", TRACE, "--out", str(tmp_path / "out"), *arguments])
    assert done.exit_code == 2, done.output
    assert says in done.output
    assert not (tmp_path / "out").exists()


def test_results_are_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "requests.parquet").write_text("precious")
    done = CliRunner().invoke(main, ["replay", TRACE, "--system", "ray", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "--overwrite" in done.output
    assert (tmp_path / "requests.parquet").read_text() == "precious"


def test_a_cache_that_does_not_run_is_said_to(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["replay", TRACE, "--name", "nobody", "--out", str(tmp_path)])
    assert done.exit_code == 1
    assert "infiniray up" in done.output


def test_where_objects_come_from() -> None:
    assert _backing(None, None).directory is None
    assert _backing("some/place", None).directory == Path("some/place").absolute()
    s3 = _backing("s3://layers/blobs", "http://s3.example").s3
    assert s3 is not None
    assert (s3.bucket, s3.prefix, s3.endpoint_url) == ("layers", "blobs/", "http://s3.example")
    whole = _backing("s3://layers", None).s3
    assert whole is not None
    assert (whole.bucket, whole.prefix) == ("layers", "")
