"""What really ran: every beginning and every end of every run, with its time and process, one line each.

A run is named `id/retries`. Times are of the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from dray.clock import SYSTEM_CLOCK
from dray.testing.faults import ExecutionLedger


class Line(NamedTuple):
    """One thing that happened to a run."""

    #: "begin" or "end".
    what: str
    run: str
    #: Process, and seconds on the monotonic clock.
    pid: int
    at: float


class Runs:
    """Written by tasks, read by tests. One `write` each: a process killed a moment later has left its line."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._ledger = ExecutionLedger(path)

    @property
    def path(self) -> str:
        return str(self._ledger.path)

    def begin(self, run: str) -> None:
        self._note("begin", run)

    def end(self, run: str) -> None:
        self._note("end", run)

    def _note(self, what: str, run: str) -> None:
        self._ledger.record(f"{what}|{run}|{os.getpid()}|{SYSTEM_CLOCK.monotonic():.4f}")

    def lines(self) -> list[Line]:
        """Return everything that has happened, in order."""
        try:
            # Up to the last end of a line: the one behind it may be just being written.
            written = self._ledger.path.read_text().rpartition("\n")[0].splitlines()
        except FileNotFoundError:
            return []
        parts = (line.split("|") for line in written)
        return [Line(what, run, int(pid), float(at)) for what, run, pid, at in parts]

    def begun(self) -> dict[str, int]:
        """Return how often each run has begun."""
        return _count(line.run for line in self.lines() if line.what == "begin")

    def ended(self) -> dict[str, int]:
        """Return how often each run has come to its end."""
        return _count(line.run for line in self.lines() if line.what == "end")

    def running(self) -> set[str]:
        """Return the runs that have begun more often than they have ended."""
        ended = self.ended()
        return {run for run, times in self.begun().items() if times > ended.get(run, 0)}

    def first_begin_since(self, moment: float) -> float | None:
        """Return when the first run since `moment` began."""
        return min((line.at for line in self.lines() if line.what == "begin" and line.at >= moment), default=None)


def _count(runs: Iterable[str]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for run in runs:
        counted[run] = counted.get(run, 0) + 1
    return counted
