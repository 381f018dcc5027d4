"""How commands speak: results to standard output (text or one JSON document), everything else to standard error.

Exit codes: 0 ok, 1 failed or a miss, 2 wrong usage.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["fail", "json_option", "name_option", "print_json", "reports_errors", "results", "says"]

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
name_option = click.option("--name", default="default", show_default=True, help="Which cache, where several run.")


def results() -> Console:
    """Where results go."""
    from rich.console import Console

    return Console()


def says() -> Console:
    """Where progress and explanations go."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_json(document: Any) -> None:
    click.echo(json.dumps(document))


def fail(message: str) -> None:
    """End the command with exit code 1 and one line."""
    click.echo(f"infiniray: {message}", err=True)
    sys.exit(1)


def reports_errors(command: F) -> F:
    """Turn the project's errors into one line and exit code 1; a traceback only if INFINIRAY_DEBUG is set.

    A configuration that is not valid is a matter of usage: exit code 2.
    """

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        from infiniray.errors import ConfigError, InfiniRayError, InvalidKey, InvalidTTL

        try:
            return command(*args, **kwargs)
        except BrokenPipeError:
            sys.stderr.close()  # whoever read us has gone; nothing is left to say it to
            sys.exit(1)
        except InfiniRayError as error:
            if os.environ.get("INFINIRAY_DEBUG"):
                raise
            click.echo(f"infiniray: {error}", err=True)
            sys.exit(2 if isinstance(error, (ConfigError, InvalidKey, InvalidTTL)) else 1)
        except OSError as error:
            if os.environ.get("INFINIRAY_DEBUG"):
                raise
            fail(str(error))

    return wrapped  # type: ignore[return-value]
