"""What the bench commands are told: sizes, schemes, clients, systems."""

from __future__ import annotations

from collections.abc import Callable

import click

__all__ = ["clients_option", "hedge_option", "node_rate_option", "one_size", "schemes", "sizes", "words_of"]


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


def clients(_ctx: click.Context, _param: click.Parameter, text: str) -> list[int]:
    """Numbers of clients, separated by commas."""
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter("numbers, separated by commas") from None
    if any(not 1 <= count <= 64 for count in counts):
        raise click.BadParameter("1 to 64 clients")
    return counts


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


clients_option = click.option(
    "--clients", callback=clients, default="1", show_default=True, help="Threads at once, like 1,8."
)
hedge_option = click.option(
    "--hedge",
    type=click.Choice(["delayed", "all"]),
    default="delayed",
    show_default=True,
    help="When parity is asked for.",
)
node_rate_option = click.option(
    "--node-rate",
    callback=one_size,
    default="75MiB",
    show_default=True,
    help="Bytes per second of a shaped node, each way.",
)
