"""A command with all its processes, watched from outside: what its ledger counts, what it uses, and how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

#: Seconds that may pass without a task before a trial has failed.
PATIENCE = 30.0
#: How often the ledger is looked at, in seconds.
TICK = 0.001


class TrialFailed(Exception):
    """A side did not do what it was asked to, with the end of what it said."""


class Progress(NamedTuple):
    """How a worker got on, from the last look at too short a ledger to the first at one that is long enough."""

    seconds: float
    #: Processor time of all its processes for each entry, in seconds; None where that cannot be known.
    cpu: float | None


class Memory(NamedTuple):
    """What all processes of a worker hold, in bytes: pages shared with others in parts, and in full."""

    pss: int
    rss: int


class Watched:
    """A running command, the leader of a session. Its tasks append bytes to the file `ledger` in its folder."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.pid = process.pid
        self._process = process
        self._ledger, self._log = folder / "ledger", folder / "log"

    @property
    def count(self) -> int:
        """How many entries the ledger has."""
        return self._ledger.stat().st_size

    def progress(self, expected: int, first: int = 1) -> Progress:
        """Wait until the ledger has `expected` entries; tell of the time since it had `first`.

        Raises TrialFailed when the worker ends or does no more.
        """
        began = self.reach(first)
        before, used = self.count, _processor_time(self.pid)
        self.reach(expected)
        took = time.perf_counter() - began
        after = _processor_time(self.pid)
        if used is None or after is None or before >= expected:
            return Progress(took, None)
        return Progress(took, (after - used) / (expected - before))

    def reach(self, enough: int) -> float:
        """Wait for so many entries; return when there were not yet, the last time one looked."""
        seen, looked = 0, time.perf_counter()
        moved = looked
        while (count := self.count) < enough:
            looked = time.perf_counter()
            if count > seen:
                seen, moved = count, looked
            if self._process.poll() is not None:
                raise TrialFailed(f"the worker ended with {self._process.returncode}: {self._said()}")
            if looked > moved + PATIENCE:
                raise TrialFailed(f"no task for {PATIENCE:g} s after {count}: {self._said()}")
            time.sleep(TICK)
        return looked

    def tell(self, number: signal.Signals) -> None:
        """Send a signal to the command itself."""
        self._process.send_signal(number)

    def hear(self, words: str, times: int = 1) -> None:
        """Wait until the command has said something so often; raise TrialFailed if it does not."""
        gives_up = time.perf_counter() + PATIENCE
        while self._log.read_text(encoding="utf-8", errors="replace").count(words) < times:
            if self._process.poll() is not None or time.perf_counter() > gives_up:
                raise TrialFailed(f"it has not said {words!r}: {self._said()}")
            time.sleep(TICK)

    def memory(self) -> Memory:
        """Return what its processes hold; nothing where there is no /proc."""
        found = [memory_of(process) for process in _session(self.pid)]
        return Memory(sum(one.pss for one in found), sum(one.rss for one in found))

    def _said(self) -> str:
        return last_words(self._log.read_text(encoding="utf-8", errors="replace"))


@contextlib.contextmanager
def watching(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Iterator[Watched]:
    """Have a command running. At the end it is killed with all its processes: nothing is left to do."""
    (folder / "ledger").touch()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield Watched(process, folder)
    finally:
        # The leader last: while it is not waited for, its number names no other session.
        for other in [one for one in _session(process.pid) if one != process.pid]:
            _kill(other)
        _kill(process.pid)
        process.wait()


def memory_of(process: int) -> Memory:
    """Return what one process holds; nothing when it has ended."""
    told = {"Pss": 0, "Rss": 0}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in told:
                told[name] = int(rest.split()[0]) * 1024
    return Memory(told["Pss"], told["Rss"])


def last_words(text: str) -> str:
    """Return the end of a log in one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-2:])[-250:] or "it said nothing"


def _session(leader: int) -> list[int]:
    """Return the processes of a session, its leader included."""
    return [process for process, session, _ in _processes() if session == leader] or [leader]


def _processor_time(leader: int) -> float | None:
    """Return the processor time of a session, with its ended children, in seconds."""
    used = [ticks for _, session, ticks in _processes() if session == leader]
    return sum(used) / os.sysconf("SC_CLK_TCK") if used else None


def _processes() -> Iterator[tuple[int, int, int]]:
    """Yield every process with its session and its ticks of processor time; none where there is no /proc."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # Behind the name, which may have spaces and brackets in it.
            words = (folder / "stat").read_text().rpartition(")")[2].split()
            yield int(folder.name), int(words[3]), sum(map(int, words[11:15]))


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
