"""How a command ends: with an exit code, and with one line on stderr when something is wrong."""

from __future__ import annotations

import sys

import click

from ..errors import ArgumentsError, BackendUnavailable, BrokerUnavailable, ConfigurationError, DrayError

OK = 0
FAILURE = 1
USAGE = 2
UNREACHABLE = 3
INTERRUPTED = 130

#: What the exit codes mean, as every `--help` says it.
MEANINGS = {
    OK: "done",
    FAILURE: "failed, or found nothing",
    USAGE: "wrong options, settings or URL, or the app cannot be imported: trying again does not help",
    UNREACHABLE: "the broker or the result backend cannot be reached: trying again may help",
    INTERRUPTED: "Ctrl-C",
}


class Stop(click.ClickException):
    """Ends the command with `Error: message` on stderr and an exit code."""

    def __init__(self, message: str, code: int = FAILURE) -> None:
        from ..urls import mask  # brings msgspec, which `--help` can do without

        super().__init__(mask(message))
        self.exit_code = code

    def show(self, file: object = None) -> None:
        """Write the message; further lines of it stand under the first."""
        lead = click.style("Error:", fg="red", bold=True)
        click.echo(f"{lead} {self.message.replace(chr(10), chr(10) + '       ')}", file=sys.stderr)


def stop_for(error: DrayError) -> Stop:
    """Return what ends the command for an error of dray's: its text, and the exit code for its kind."""
    match error:
        case BrokerUnavailable() | BackendUnavailable():
            code = UNREACHABLE
        case ConfigurationError() | ArgumentsError():
            code = USAGE
        case _:
            code = FAILURE
    return Stop(str(error) or type(error).__name__, code)
