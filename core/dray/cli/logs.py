"""What the log looks like on a terminal, in a file and as JSON lines. Only the command line configures logging.

A worker's log goes to stderr, and so does its banner: one stream, in one order. Or to a file: see `log_output`.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import click

from .. import signals
from .process.log_output import log_output

#: What a record has anyway; everything else was given as `extra=`.
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
#: How the lines of a task look on a terminal, by `action`: a sign and a colour.
_ACTIONS = {
    "began": ("·", "bright_black"),
    "succeeded": ("✓", "green"),
    "done": ("✓", "green"),
    "retried": ("↻", "yellow"),
    "again": ("↻", "yellow"),
    "failed": ("✗", "red"),
    "rejected": ("✗", "red"),
}
_LEVELS = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red", "DEBUG": "bright_black"}


@contextmanager
def as_warnings() -> Iterator[None]:
    """Show what dray warns of while a command runs as `warning: ...`, unless the app has set up logging itself."""
    logger = logging.getLogger("dray")
    if any(isinstance(handler, _Warnings) for handler in logger.handlers):
        yield
        return
    handler = _Warnings()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def as_log(level: str | None, as_json: bool, file: str | None = None, gather: bool = False) -> Iterator[bool]:
    """Log everything at `level` (None: INFO) and above to stderr, or to a file; yield whether that was done.

    With `gather`, many lines are written at once: see `log_output`.

    With the signal setup_logging, whoever is connected to it does that instead, and nothing is done here.

    An app that has set up logging itself is left alone, unless a level, JSON or a file - one that keeps anything - is
    asked for. Afterwards all is as it was.
    """
    if signals.setup_logging.receivers:
        signals.setup_logging.send(
            loglevel=logging.getLevelName((level or "info").upper()), logfile=file, format=None, colorize=None
        )
        yield False
        return
    root = logging.getLogger()
    if root.handlers and level is None and not as_json and file in (None, os.devnull):
        yield False
        return
    before, before_level = root.handlers[:], root.level
    with log_output(sys.stderr, file, gather) as handler:
        handler.setFormatter(_Json() if as_json else _Lines(None if file else sys.stderr))
        root.handlers[:] = [handler]
        root.setLevel((level or "info").upper())
        try:
            yield True
        finally:
            root.handlers[:] = before
            root.setLevel(before_level)


def log_for_good(level: str | None, as_json: bool, file: str | None) -> None:
    """Do as `as_log` does until the process ends: in the children of a worker whose pool is of processes.

    Every line is written at once: such a process is killed as a matter of course, by a time limit or a revocation.
    """
    log = as_log(level, as_json, file)
    log.__enter__()
    atexit.register(log.__exit__, None, None, None)


def say(text: str, *args: Any, action: str) -> None:
    """Log a line about the worker itself, whatever the level is."""
    logger = logging.getLogger("dray.worker")
    extra = {"action": action}
    logger.handle(logger.makeRecord(logger.name, logging.INFO, "", 0, text, args, None, extra=extra))


def written_so_far() -> None:
    """Return when what was logged is written: what is printed now comes behind it."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def colourful(stream: TextIO) -> bool:
    """Return whether colours can be seen on `stream`, and are wanted: https://no-color.org."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _masked(text: str, record: logging.LogRecord) -> str:
    """Return what dray itself says without passwords. What tasks say is theirs."""
    if not record.name.startswith("dray"):
        return text
    from ..urls import mask  # brings msgspec, which `--help` can do without

    return mask(text)


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            from ..urls import mask

            lead = click.style("warning:", fg="yellow", bold=True)
            click.echo(f"{lead} {mask(record.getMessage())}", err=True, color=colourful(sys.stderr) or False)


class _Timed(logging.Formatter):
    """Knows what the time of a record looks like. All records of a second share what `strftime` says of it."""

    def __init__(self, format_time: str) -> None:
        super().__init__()
        self._format_time = format_time
        self._second = -1, ""

    def when(self, record: logging.LogRecord) -> str:
        second, shown = self._second
        if second != int(record.created):
            shown = self.formatTime(record, self._format_time)
            self._second = int(record.created), shown
        return f"{shown}.{int(record.msecs):03d}"


class _Lines(_Timed):
    """One line for people: with signs and colours on a terminal, with date and logger in a file."""

    def __init__(self, stream: TextIO | None) -> None:
        self._on_terminal = stream is not None and stream.isatty()
        self._colours = stream is not None and colourful(stream)
        self._signs = self._on_terminal and stream is not None and "utf" in (stream.encoding or "").lower()
        super().__init__("%H:%M:%S" if self._on_terminal else "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self._paint(self.formatException(record.exc_info), 'bright_black')}"
        if "://" in text:
            text = _masked(text, record)
        when = self.when(record)
        if not self._on_terminal:
            return f"{when} {record.levelname:<7} {record.name}: {text}"
        sign, colour = _ACTIONS.get(getattr(record, "action", ""), (" ", None))
        if record.levelname in _LEVELS and sign == " ":
            text = f"{self._paint(record.levelname.lower(), _LEVELS[record.levelname])} {text}"
        if not record.name.startswith("dray"):
            text = f"{record.name}: {text}"
        lead = f"{sign} " if self._signs else ""
        return f"{self._paint(when, 'bright_black')} {self._paint(lead, colour)}{self._coloured(text, record, colour)}"

    def formatException(self, ei: Any) -> str:
        return "\n".join(f"    {line}" for line in super().formatException(ei).splitlines())

    def _coloured(self, text: str, record: logging.LogRecord, colour: str | None) -> str:
        action = getattr(record, "action", "")
        if not self._colours or colour is None or f" {action} " not in f" {text} ":
            return text
        if action == "began":
            return self._paint(text, colour)
        return text.replace(f" {action} ", f" {self._paint(action, colour)} ", 1)

    def _paint(self, text: str, colour: str | None) -> str:
        return click.style(text, fg=colour) if self._colours and colour and text else text


class _Json(_Timed):
    """One JSON object a line, for machines. What is given as `extra=` stands beside the rest."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%Y-%m-%dT%H:%M:%S")
        self._encode = json.JSONEncoder(default=str).encode

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        line: dict[str, Any] = {
            "time": f"{self.when(record)}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _masked(text, record) if "://" in text else text,
        }
        line |= {name: value for name, value in vars(record).items() if name not in _PLAIN}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return self._encode(line)
