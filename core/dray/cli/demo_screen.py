"""What one sees of `dray demo` while it runs: lines, and below them a bar that moves (rich on a terminal)."""

from __future__ import annotations

import os
import sys
from typing import TextIO

import click

from .logs import colourful

#: Without a bar, a line each time that this share (percent) of the tasks is done.
STEP = 10


class Screen:
    """Plain lines: for files, pipes, and where rich is not installed. Without a stream it shows nothing."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self._total = 0
        self._shown = 0

    def say(self, label: str, text: str, colour: str | None = None) -> None:
        """Show a line: a word, in its colour, and what it is about."""
        self.line(f"  {click.style(f'{label:<9}', fg=colour, bold=colour is not None)} {text}")

    def line(self, text: str = "") -> None:
        """Show a line as it is."""
        if self.stream is not None:
            click.echo(text, file=self.stream, color=colourful(self.stream))

    def begin(self, total: int) -> None:
        """Expect `total` tasks."""
        self._total = total

    def moved(self, done: int, rate: float) -> None:
        """Show that `done` tasks are done, at `rate` per second so far. Called often."""
        percent = 100 * done // self._total
        if percent >= self._shown + STEP or (percent == 100 > self._shown):
            self._shown = percent - percent % STEP
            width = len(f"{self._total:,}")
            self.line(f"  {percent:>7} %  {done:>{width},} of {self._total:,}   {rate:,.0f}/s")

    def end(self) -> None:
        """Leave what is shown; the bar moves no more. Safe twice."""


class Bar(Screen):
    """A bar that stays below the lines."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        super().__init__(stream)
        self._console = Console(file=stream, highlight=False)
        self._progress = Progress(
            TextColumn(" "),
            BarColumn(bar_width=38),
            TextColumn("{task.percentage:>3.0f} %  {task.completed:,}/{task.total:,}  [dim]{task.fields[rate]:,.0f}/s"),
            console=self._console,
        )

    def line(self, text: str = "") -> None:
        """Show a line above the bar."""
        from rich.text import Text

        self._console.print(Text.from_ansi(text), soft_wrap=True)

    def begin(self, total: int) -> None:
        """Expect `total` tasks, and show the bar."""
        self._bar = self._progress.add_task("", total=total, rate=0.0)
        self._progress.start()

    def moved(self, done: int, rate: float) -> None:
        """Move the bar."""
        self._progress.update(self._bar, completed=done, rate=rate)

    def end(self) -> None:
        """Leave the bar as it stands."""
        self._progress.stop()


def open_screen(as_json: bool) -> Screen:
    """Return the screen for this terminal, file or pipe. With JSON on stdout, only a terminal on stderr shows it."""
    stream = sys.stderr if as_json else sys.stdout
    if not stream.isatty():
        return Screen(None if as_json else stream)
    if os.environ.get("TERM") != "dumb":
        try:
            return Bar(stream)
        except ImportError:
            pass
    return Screen(stream)
