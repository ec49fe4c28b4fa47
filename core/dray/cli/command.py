"""What every command has: help with examples and exit codes, and the options that lead to the app.

The shared options may stand before the command's name (`dray -A shop worker`) or after it (`dray worker -A shop`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import click

from . import logs
from .exits import MEANINGS
from .session import Session

#: Pairs of a command line and what it does.
Examples = Sequence[tuple[str, str]]


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value not in (None, ()):
        session = ctx.find_object(Session)
        assert session is not None, "a command of dray runs below the group `dray`"
        session.remember(str(param.name), value)


class Option(click.Option):
    """An option whose help says the default in words, and shows its first spellings only.

    `default_text` is what holds when it is not given; `also` are further spellings, for old hands.
    """

    def __init__(self, spellings: Sequence[str], *, default_text: str = "", also: Sequence[str] = (), **kwargs: Any):
        super().__init__([*spellings, *also], **kwargs)
        self._shown = [spelling for spelling in spellings if spelling.startswith("-")]
        self._default_text = default_text

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        if self.hidden:
            return None
        spec = ", ".join(self._shown) + (f" {self.metavar}" if self.metavar else "")
        default = f"  [default: {self._default_text}]" if self._default_text else ""
        return spec, f"{self.help or ''}{default}"


def option(*spellings: str, **attributes: Any) -> Callable[[Any], Any]:
    """Add an `Option` to a command."""

    def add(function: Any) -> Any:
        # Decorators run from the bottom up, and help lists options from the top down: click turns the list round.
        function.__dict__.setdefault("__click_params__", []).append(Option(spellings, **attributes))
        return function

    return add


def shared_options() -> list[Option]:
    """Return the options that every command takes; what they say is kept in the session."""
    return [
        Option(
            ["-A", "--app", "place"],
            metavar="MODULE[:APP]",
            help="Where the app is: a module, and its attribute if that is not plain.  [env var: DRAY_APP]",
            expose_value=False,
            callback=_remember,
        ),
        Option(
            ["--url"],
            metavar="URL",
            help="The broker to use, over all settings.  [env var: DRAY_BROKER_URL]",
            expose_value=False,
            callback=_remember,
        ),
        Option(
            ["--workdir"],
            metavar="DIR",
            type=click.Path(exists=True, file_okay=False),
            help="Go to this directory first: for the import of the app, and for files.",
            expose_value=False,
            is_eager=True,
            callback=_remember,
        ),
        Option(
            ["--no-plugin", "no_plugins"],
            metavar="NAME",
            multiple=True,
            help="Leave an installed plugin out ('all': all of them). May be repeated.",
            expose_value=False,
            callback=_remember,
        ),
    ]


class _Formatter(click.HelpFormatter):
    """Headings in bold where the terminal has that."""

    def write_heading(self, heading: str) -> None:
        self.write(click.style(f"{'':>{self.current_indent}}{heading}\n", bold=True))

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args, prefix or click.style("Usage:", bold=True) + " ")


class _Context(click.Context):
    formatter_class = _Formatter


class Helpful(click.Command):
    """The help page: a sentence, examples, options with their defaults, exit codes."""

    context_class = _Context

    def __init__(self, *args: Any, examples: Examples = (), codes: Mapping[int, str] = MEANINGS, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.examples = examples
        self.codes = codes
        self.shared = shared_options()
        self.params.extend(self.shared)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for line, meaning in self.examples:
                    formatter.write(f"  # {meaning}\n  {click.style(line, fg='cyan')}\n")
        self.format_options(ctx, formatter)
        if self.codes:
            with formatter.section("Exit codes"):
                formatter.write_dl([(str(code), meaning) for code, meaning in self.codes.items()])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        params = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)
        with formatter.section("Options"):
            formatter.write_dl(_records(ctx, [param for param in params if param not in self.shared]))
        with formatter.section("Options of every command"):
            formatter.write_dl(_records(ctx, self.shared))


class Command(Helpful):
    """A command of dray. What dray logs while it runs goes to stderr as `warning: ...`, unless `own_logs`."""

    def __init__(self, *args: Any, own_logs: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.own_logs = own_logs

    def invoke(self, ctx: click.Context) -> Any:
        with nullcontext() if self.own_logs else logs.as_warnings():
            return super().invoke(ctx)


class Group(Helpful, click.Group):
    """A command with sub-commands of its own."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.subcommand_metavar = "COMMAND ..."

    def invoke(self, ctx: click.Context) -> Any:
        with logs.as_warnings():
            return super().invoke(ctx)


def command(name: str, **attributes: Any) -> Callable[[Callable[..., Any]], Command]:
    """Make a command of a function, like `click.command`."""
    return click.command(name, cls=Command, **attributes)


def group(name: str, **attributes: Any) -> Callable[[Callable[..., Any]], Group]:
    """Make a group of a function, like `click.group`."""
    return click.command(name, cls=Group, **attributes)


def _records(ctx: click.Context, options: Sequence[click.Option]) -> list[tuple[str, str]]:
    return [record for option in options if (record := option.get_help_record(ctx)) is not None]
