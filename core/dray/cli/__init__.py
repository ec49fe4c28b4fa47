"""The command line: `dray worker`, `dray call`, `dray plugins` and the others.

Here is the table of commands; each is in a module of its own that is imported when the command is used, so that
`dray --help` stays quick. Plugins add commands by the hook `register_commands`; they are asked only for a command
that is not in the table.
"""

from __future__ import annotations

import os
import platform
import sys
from importlib import import_module
from typing import Any, NoReturn

import click

from .. import __version__
from ..errors import DrayError
from .command import Helpful
from .exits import INTERRUPTED, Stop
from .session import Session

#: The commands: under which heading they are shown, their module (which has the command under its name), and a line.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "worker": ("Run tasks", "worker", "Run the tasks that wait in queues."),
    "scheduler": ("Run tasks", "scheduler", "Send tasks on their schedules."),
    "demo": ("Run tasks", "demo", "See it work: a real queue, a worker, and a kill -9 in the middle."),
    "call": ("Send and follow", "call", "Send a task."),
    "result": ("Send and follow", "result", "Show what became of a task."),
    "revoke": ("Send and follow", "result", "Cancel tasks, durably."),
    "queues": ("Look after what is kept", "queues", "Show what waits where."),
    "schedule": ("Look after what is kept", "schedule", "Show and change what is sent when."),
    "purge": ("Look after what is kept", "queues", "Delete everything that waits in a queue."),
    "dead": ("Look after what is kept", "dead", "Show, replay or delete the dead letters."),
    "results": ("Look after what is kept", "results", "Delete results whose time is up."),
    "setup": ("Look after what is kept", "setup", "Create queues and tables, for those who may not."),
    "events": ("Find out", "events", "Show what tasks and workers do, as it happens."),
    "doctor": ("Find out", "doctor", "Check that everything works, and what this broker can do."),
    "healthcheck": ("Find out", "healthcheck", "Say whether the worker on this machine is well."),
    "settings": ("Find out", "settings", "Show the settings, and where they come from."),
    "plugins": ("Find out", "plugins", "Show what is plugged in, or write a new plugin."),
}

#: Other names for old hands.
ALIASES = {"beat": "scheduler"}

EXAMPLES = (
    ("dray demo", "see it work"),
    ("dray -A shop.tasks worker", "run the tasks of the app in shop/tasks.py"),
    ("dray call shop.tasks.add --args '[1, 2]' --wait", "send one, and wait for its result"),
    ("dray --url sqlite:///shop.db doctor", "check a broker, and see what it can do"),
)


class _Main(Helpful, click.Group):
    """The group `dray`: finds commands, and turns errors into one line and an exit code."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        extra.setdefault("obj", Session())
        if os.environ.get("NO_COLOR"):
            extra.setdefault("color", False)
        return super().make_context(info_name, args, parent, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in COMMANDS:
            return _from_plugins(ctx, cmd_name)
        _, module, _ = COMMANDS[cmd_name]
        found: click.Command = getattr(import_module(f"{__name__}.{module}"), cmd_name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        found = self.get_command(ctx, args[0])
        if found is None and not ctx.resilient_parsing:
            from ..urls import nearest

            hint = nearest(args[0], COMMANDS) or "."
            ctx.fail(f"there is no command {args[0]!r}{hint} Commands: {', '.join(COMMANDS)}.")
        return args[0], found, args[1:]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading in dict.fromkeys(heading for heading, _, _ in COMMANDS.values()):
            rows = [(f"{name:<9}", line) for name, (under, _, line) in COMMANDS.items() if under == heading]
            with formatter.section(heading):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (DrayError, Stop) as error:
            stop = error if isinstance(error, Stop) else Stop.on(error)
            stop.show()
            ctx.exit(stop.code)
        except KeyboardInterrupt:
            click.echo(err=True)
            ctx.exit(INTERRUPTED)


def _from_plugins(ctx: click.Context, name: str) -> click.Command | None:
    """Return the command that a plugin registers under `name`."""
    session = ctx.find_object(Session)
    assert session is not None
    plugins = session.app.plugins
    if name not in plugins.names("commands"):
        return None
    found: click.Command = plugins.find("commands", name)
    return found


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"dray {__version__} ({platform.python_implementation()} {platform.python_version()})")
        ctx.exit()


@click.command(
    "dray",
    cls=_Main,
    examples=EXAMPLES,
    subcommand_metavar="COMMAND ...",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def cli() -> None:
    """Run tasks, send them, and look after their queues: on any broker, chosen by its URL.

    `dray COMMAND --help` says more, with examples. Installed plugins may add commands: `dray plugins` lists them.
    """


def main() -> NoReturn:
    """Run the command line and end the process."""
    cli(prog_name="dray")
    sys.exit(0)  # not reached: click ends the process itself
