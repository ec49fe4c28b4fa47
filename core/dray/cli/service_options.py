"""The options of commands that run as a service, `dray worker` and `dray scheduler`: their log, name, and process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from .command import option
from .option_values import mode, names


def log_options(banner: bool) -> Callable[[Any], Any]:
    """Add `-l`, `--json` and `-f`; `banner`: whether there is one that JSON would leave out."""
    json = "Log one JSON object per line, and print no banner." if banner else "Log one JSON object per line."
    return _all(
        option(
            "-l",
            "--loglevel",
            "level",
            metavar="LEVEL",
            type=click.Choice(["debug", "info", "warning", "error", "critical"], case_sensitive=False),
            help="Log lines of this level and above: debug, info, warning, error or critical.",
            default_text="info",
            also=["--log-level"],
        ),
        option("--json", "as_json", is_flag=True, help=json),
        option("-f", "--logfile", metavar="PATH", help="Log to this file; it is opened anew when it is moved away."),
    )


def name_option(what: str, also: Sequence[str] = ()) -> Callable[[Any], Any]:
    """Add `-n` and the spellings `also`; `what` has that name."""
    return option(
        "-n",
        "--name",
        "name",
        metavar="NAME",
        help=f"The {what}'s name; %h in it stands for the host, %i for the process id.",
        default_text="APP-PID@%h",
        also=also,
    )


include_option = option(
    "-I", "--include", metavar="MODULES", multiple=True, callback=names, help="More modules with tasks, to import."
)


def process_options(what: str) -> Callable[[Any], Any]:
    """Add how the process lives in which a `what` runs: in the background, known by a file, as another user."""
    return _all(
        option("-D", "--detach", is_flag=True, help=f"Go into the background, once the {what} has started."),
        option(
            "--pidfile",
            metavar="PATH",
            help=f"Write the process id there; %n stands for the {what}'s name, %h the host.",
        ),
        option("--uid", metavar="USER", help="Run as this user: a name or number. For root."),
        option("--gid", metavar="GROUP", help="Run as this group.", default_text="the user's own"),
        option("--umask", metavar="MODE", callback=mode, help="The rights that new files do not get, like 027."),
    )


def _all(*added: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def add(function: Any) -> Any:
        # As if they stood there one above the other.
        for one in reversed(added):
            function = one(function)
        return function

    return add
