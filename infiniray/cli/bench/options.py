"""What the bench commands are told: sizes, schemes, clients, systems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from infiniray.cli.output import says

__all__ = ["available", "clients_option", "hedge_option", "node_rate_option", "numbers_of", "one_scheme", "one_size",
           "schemes", "sizes", "words_of"]  # fmt: skip

Option = Callable[[Any], Any]


def sizes(_ctx: click.Context, _param: click.Parameter, text: str) -> list[int]:
    """Sizes of objects, separated by commas, each at least a byte."""
    from infiniray.units import parse_bytes

    try:
        found = [parse_bytes(part) for part in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if min(found) < 1:
        raise click.BadParameter("at least one byte")
    return found


def one_size(ctx: click.Context, param: click.Parameter, text: str) -> int:
    return sizes(ctx, param, text)[0]


def schemes(_ctx: click.Context, _param: click.Parameter, text: str) -> list[str]:
    """Redundancy schemes, separated by commas; "default" is by size, as configured."""
    from infiniray.codec.schemes import Scheme
    from infiniray.errors import SchemeError

    try:
        return [part if part == "default" else str(Scheme.parse(part)) for part in _parts(text)]
    except SchemeError as error:
        raise click.BadParameter(str(error)) from None


def one_scheme(ctx: click.Context, param: click.Parameter, text: str) -> str:
    return schemes(ctx, param, text)[0]


def numbers_of(least: int, most: int) -> Callable[[click.Context, click.Parameter, str], list[int]]:
    """Numbers within limits, separated by commas."""

    def numbers(_ctx: click.Context, _param: click.Parameter, text: str) -> list[int]:
        try:
            found = [int(part) for part in text.split(",")]
        except ValueError:
            raise click.BadParameter("numbers, separated by commas") from None
        if any(not least <= number <= most for number in found):
            raise click.BadParameter(f"{least} to {most}")
        return found

    return numbers


def words_of(*choice: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Words of a choice, separated by commas."""

    def words(_ctx: click.Context, _param: click.Parameter, text: str) -> list[str]:
        found = list(dict.fromkeys(_parts(text)))
        for word in found:
            if word not in choice:
                raise click.BadParameter(f"{word!r} is none of {', '.join(choice)}")
        return found

    return words


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def clients_option(default: str) -> Option:
    return click.option(
        "--clients", callback=numbers_of(1, 64), default=default, show_default=True, help="Threads at once, like 1,8."
    )


def node_rate_option(default: str) -> Option:
    text = "Bytes per second of a shaped node, each way."
    return click.option("--node-rate", callback=one_size, default=default, show_default=True, help=text)


hedge_option = click.option(
    "--hedge", type=click.Choice(["delayed", "all"]), default="delayed", show_default=True,
    help="When parity is asked for.",
)  # fmt: skip


def available(others: Sequence[str]) -> list[str]:
    """Those of the other systems that this machine has."""
    from workloads.baselines import RedisTarget

    if "redis" in others and not RedisTarget.is_available():
        says().print("no redis-server here: no ratios to Redis")
        return [other for other in others if other != "redis"]
    return list(others)
