"""One side, in one configuration, on an empty spot: its processes, and the file in which its tasks count themselves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

APPS = Path(__file__).with_name("apps")
#: Seconds that may pass without a task before a trial has failed, and that a process may take to send or to answer.
PATIENCE = 30.0
VERB_PATIENCE = 120.0
#: How often the ledger is looked at, in seconds.
TICK = 0.001


class TrialFailed(Exception):
    """A side did not do what it was asked to, with the end of what it said."""


class Setting(NamedTuple):
    """What a trial is about: which task, declared how. What `protocol.Trial` has besides belongs to the spot."""

    config: str
    task: str
    kind: str
    stored: bool = False
    at_once: int = 1


class Progress(NamedTuple):
    """How a worker got on, from the last look at an empty ledger to the first at a full one."""

    seconds: float
    #: Processor time of all its processes for each entry, in seconds; None where that cannot be known.
    cpu: float | None


class Attempt:
    """The processes of one trial. Everything is told to them by the environment."""

    def __init__(self, python: Path, app: str, folder: Path, trial: Mapping[str, Any]) -> None:
        self._command = [str(python), str(APPS / "start.py"), app]
        self._folder = folder
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DRAY_", "PYTHON"))}
        self._environment = inherited | {"PYTHONPATH": str(APPS), "BENCH_TRIAL": json.dumps(trial)}
        self._environment["PATH"] = f"{python.parent}{os.pathsep}{inherited.get('PATH', '')}"
        self._ledger = folder / "ledger"
        self._ledger.touch()

    def do(self, verb: str, *numbers: float) -> Any:
        """Have one process do something, and return what it found."""
        try:
            done = subprocess.run(
                [*self._command, verb, *map(str, numbers)],
                **self._where(),
                capture_output=True,
                text=True,
                timeout=VERB_PATIENCE,
            )
        except subprocess.TimeoutExpired as error:
            raise TrialFailed(f"{verb} takes longer than {VERB_PATIENCE:g} s") from error
        if done.returncode:
            raise TrialFailed(f"{verb} ended with {done.returncode}: {_end(done.stderr)}")
        return json.loads(done.stdout.splitlines()[-1])

    @contextlib.contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """Have a worker within the context. At its end it is killed with all its processes: nothing is left to do."""
        with (self._folder / "log").open("wb") as log:
            command = [*self._command, "work"]
            worker = subprocess.Popen(command, **self._where(), stdout=log, stderr=log, start_new_session=True)
        try:
            yield worker
        finally:
            # The leader last: while it is not waited for, its number names no other session.
            for process in [one for one in _session(worker.pid) if one != worker.pid]:
                _kill(process)
            _kill(worker.pid)
            worker.wait()

    def watch(self, worker: subprocess.Popen[bytes], expected: int) -> Progress:
        """Wait until the ledger has `expected` entries. Raises TrialFailed when the worker ends or does no more."""
        began = self._reach(worker, 1)
        before, used = self._count, _processor_time(worker.pid)
        self._reach(worker, expected)
        took = time.perf_counter() - began
        after = _processor_time(worker.pid)
        if used is None or after is None or before >= expected:
            return Progress(took, None)
        return Progress(took, (after - used) / (expected - before))

    def _reach(self, worker: subprocess.Popen[bytes], enough: int) -> float:
        """Wait for so many entries; return when there were not yet, the last time one looked."""
        seen, looked = 0, time.perf_counter()
        moved = looked
        while (count := self._count) < enough:
            looked = time.perf_counter()
            if count > seen:
                seen, moved = count, looked
            if worker.poll() is not None:
                raise TrialFailed(f"the worker ended with {worker.returncode}: {self._said()}")
            if looked > moved + PATIENCE:
                raise TrialFailed(f"no task for {PATIENCE:g} s after {count}: {self._said()}")
            time.sleep(TICK)
        return looked

    @property
    def _count(self) -> int:
        return self._ledger.stat().st_size

    def _said(self) -> str:
        return _end((self._folder / "log").read_text(encoding="utf-8", errors="replace"))

    def _where(self) -> dict[str, Any]:
        return {"cwd": self._folder, "env": self._environment, "stdin": subprocess.DEVNULL}


@contextlib.contextmanager
def spot(wipe: Callable[[], None]) -> Iterator[Path]:
    """Give an empty folder, and have everything deleted afterwards."""
    with TemporaryDirectory() as folder:
        try:
            yield Path(folder)
        finally:
            wipe()


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


def _end(text: str) -> str:
    """Return the last words of a log in one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-2:])[-250:] or "it said nothing"
