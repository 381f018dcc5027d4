"""The command line's root: which commands there are, and in which file."""

from __future__ import annotations

import importlib
import signal

import click

from infiniray import __version__

__all__ = ["main"]

#: Command: (module, its help in one line). The module is imported when the command runs.
_COMMANDS = {
    "up": ("running", "Bring up a cache that stays."),
    "down": ("running", "Take a cache down."),
    "status": ("running", "What a cache is made of, and how it is."),
    "stats": ("objects", "Counters and sizes."),
    "scale": ("scale", "More or fewer shards and functions, while it is used."),
    "rotate-secret": ("rotate", "A new secret, while it is used."),
    "put": ("objects", "Store a file."),
    "get": ("objects", "Read an object into a file."),
    "rm": ("objects", "Delete objects."),
    "ls": ("objects", "List objects."),
    "deploy": ("deploy", "Make a cache's functions on AWS, and what they need."),
    "undeploy": ("deploy", "Remove what deploy has made."),
    "demo": ("demo", "The whole system in under a minute, on this machine."),
    "bench": ("bench", "Measure this cache against others."),
    "replay": ("replay", "Replay a trace against this cache, Redis, S3 or Ray's object store."),
    "simulate": ("simulate", "Run a trace in virtual time: hits, losses, latency and cost."),
    "ablate": ("ablate", "What each setting is worth: a configuration beside variations of it, simulated."),
    "soak": ("soak", "Search for broken promises: seeded bad luck in virtual time."),
    "trace": ("trace", "Traces: describe, convert, generate."),
    "report": ("report", "One page with plots of what replays and simulations found."),
    "cost": ("cost", "What a pool costs beside ElastiCache and S3, and what a bill came to."),
    "lecture": ("lecture", "Pages of the lecture as examples that run."),
    "plan": ("plan", "Which pool to buy for a trace: the cheapest that meets a goal."),
    "doctor": ("doctor", "Check this machine, and clear what was left behind."),
}


class _Lazy(click.Group):
    """Commands are found by name; listing them imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"infiniray.cli.{_COMMANDS[cmd_name][0]}")
        command = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="infiniray")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def main(ctx: click.Context, debug: bool) -> None:
    """A memory cache for large objects on Ray, whose storage nodes are serverless functions."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    ctx.call_on_close(lambda: signal.signal(signal.SIGTERM, before))


def _interrupt(*_: object) -> None:
    """Let SIGTERM end a command as Ctrl-C does: with its cleaning up."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
