"""How a command ends: with an exit code, and with one line on stderr when something is wrong."""

from __future__ import annotations

import click

from ..errors import (
    ArgumentsError,
    BackendUnavailable,
    BrokerUnavailable,
    ConfigurationError,
    DrayError,
    StoreUnavailable,
)

OK = 0
FAILURE = 1
USAGE = 2
UNREACHABLE = 3
TAKEN = 4
INTERRUPTED = 130

#: What the exit codes mean, as every `--help` says it.
MEANINGS = {
    OK: "done",
    FAILURE: "failed, or found nothing",
    USAGE: "wrong options, settings or URL, or the app cannot be imported: trying again does not help",
    UNREACHABLE: "the broker or the result backend cannot be reached: trying again may help",
    INTERRUPTED: "Ctrl-C",
}


class Stop(Exception):
    """Raised by a command to end with `Error: message` on stderr and an exit code."""

    def __init__(self, message: str, code: int = FAILURE) -> None:
        super().__init__(message)
        self.message = message
        self.code = code

    @classmethod
    def on(cls, error: DrayError) -> Stop:
        """Return what ends the command for an error of dray's: its text, and the exit code for its kind."""
        match error:
            case BrokerUnavailable() | BackendUnavailable() | StoreUnavailable():
                code = UNREACHABLE
            case ConfigurationError() | ArgumentsError():
                code = USAGE
            case _:
                code = FAILURE
        return cls(str(error) or type(error).__name__, code)

    def show(self) -> None:
        """Write the message, passwords masked; further lines of it stand under the first."""
        from ..urls import mask  # brings msgspec, which `--help` can do without

        lead = click.style("Error:", fg="red", bold=True)
        text = mask(self.message).replace("\n", "\n       ")
        click.echo(f"{lead} {text}", err=True)
