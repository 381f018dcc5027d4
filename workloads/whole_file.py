"""Files that appear when they are complete, or not at all: whoever is interrupted leaves what was there before."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["whole_file"]


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """The path to write to instead, beside ``path`` and with its ending.

    What is there takes the place of ``path`` when the block ends; if an error ends it, it is removed.

    Raises:
        FileNotFoundError: the folder is not there.
        IsADirectoryError: ``path`` is a folder.
        OSError: it cannot be put in place.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(path.parent))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    partial = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if error.filename == str(partial):  # nobody has heard of that name
            error.filename = str(path)
            error.filename2 = None
        raise
    finally:
        partial.unlink(missing_ok=True)
