"""A file is there as a whole or as it was before."""

from __future__ import annotations

from pathlib import Path

import pytest

from workloads.whole_file import whole_file


def test_it_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    with whole_file(target) as partial:
        partial.write_text("new")
        assert partial.suffix == ".png"
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_whoever_is_interrupted_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.csv"
    target.write_text("old")

    def write_half() -> None:
        with whole_file(target) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder") as caught, whole_file(tmp_path / "no" / "a.csv"):
        pass
    assert caught.value.filename == str(tmp_path / "no")


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(IsADirectoryError), whole_file(tmp_path / "sub"):
        pass


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    with pytest.raises(OSError, match="Permission denied") as caught, whole_file(target) as partial:
        raise PermissionError(13, "Permission denied", str(partial))
    assert caught.value.filename == str(target)
