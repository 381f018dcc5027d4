"""The node agent as a zip, ready for CreateFunction: ``python -m infiniray.faas.package OUT.zip``."""

from __future__ import annotations

import io
import sys
import zipfile
from importlib import resources
from pathlib import Path

__all__ = ["AGENT_HANDLER", "agent_zip"]

AGENT_HANDLER = "lambda_agent.handler.handle"
#: ``infiniray`` itself stays out: in a function it is a namespace with nothing but ``wire`` in it.
_PACKAGES = ("infiniray.wire", "lambda_agent")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can say


def agent_zip() -> bytes:
    """The deployment package: the same code gives the same bytes, hence the same CodeSha256."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, source in sorted(_sources().items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, wherever it is made
            mode = 0o40755 if name.endswith("/") else 0o100644  # readable by the user that AWS runs functions as
            entry.external_attr = mode << 16
            archive.writestr(entry, source)
    return file.getvalue()


def _sources() -> dict[str, bytes]:
    # The folder's own entry: without it Python finds no namespace package in a zip (an extracted one needs none).
    return {"infiniray/": b""} | {
        f"{package.replace('.', '/')}/{file.name}": file.read_bytes()
        for package in _PACKAGES
        for file in resources.files(package).iterdir()
        if file.name.endswith(".py")
    }


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m infiniray.faas.package OUT.zip", file=sys.stderr)
        return 2
    archive = agent_zip()
    Path(arguments[0]).write_bytes(archive)
    print(f"{arguments[0]}: {len(archive):,} bytes, handler {AGENT_HANDLER}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
