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

__all__ = [
    "fail",
    "json_option",
    "name_option",
    "named",
    "named_by_config",
    "print_json",
    "reports_errors",
    "results",
    "says",
]

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
name_option = click.option("--name", default="default", show_default=True, help="Which cache, where several run.")
#: For commands that take a configuration, which says how the cache is called, too.
named_by_config = click.option("--name", help="Which cache, where several run.  [default: the configuration's]")


def named(cache: str) -> str:
    """The option that a command wants for this cache, with a space in front; empty: it needs none."""
    return "" if cache == "default" else f" --name {cache}"


_PIPE_COLUMNS = 10_000  # nothing is folded where a program reads, not a person


def results() -> Console:
    """Where results go. What users named (keys, files) is printed as it is, never read as markup."""
    from rich.console import Console

    is_piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=_PIPE_COLUMNS if is_piped else None, markup=False, emoji=False, highlight=False)


def says() -> Console:
    """Where progress and explanations go."""
    from rich.console import Console

    return Console(stderr=True, markup=False, emoji=False, highlight=False)


def print_json(document: Any) -> None:
    click.echo(json.dumps(document))


def fail(message: str) -> None:
    """End the command with exit code 1 and one line."""
    click.echo(f"infiniray: {message}", err=True)
    sys.exit(1)


def reports_errors(command: F) -> F:
    """Turn the project's errors into one line and exit code 1; a traceback only with ``infiniray --debug``.

    A key, a time or a configuration that is not valid is a matter of usage: exit code 2.
    """

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        from infiniray.errors import ConfigError, InfiniRayError, InvalidKey, InvalidTTL

        try:
            return command(*args, **kwargs)
        except BrokenPipeError:
            raise  # whoever read us has gone: click ends quietly
        except InfiniRayError as error:
            if _is_debugging():
                raise
            click.echo(f"infiniray: {error}", err=True)
            sys.exit(2 if isinstance(error, (ConfigError, InvalidKey, InvalidTTL)) else 1)
        except OSError as error:
            if _is_debugging():
                raise
            fail(str(error))

    return wrapped  # type: ignore[return-value]


def _is_debugging() -> bool:
    return bool(click.get_current_context().find_root().params.get("debug"))
