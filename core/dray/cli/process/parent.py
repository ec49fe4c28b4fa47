"""The process above a worker, where one is needed: as PID 1 of a container, and to restart it when its code changes.

It imports no app and starts no thread, so every worker is forked from a clean process. It passes signals on, and as
PID 1 it waits for the processes that tasks have left behind, which would stay as zombies otherwise. The worker cannot
do that itself without taking exit codes from those of its threads that have started processes.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from queue import Empty, SimpleQueue
from types import FrameType

import click

from ..durations import short
from ..exits import OK, USAGE
from .watch import Watch

#: Passed on to the worker.
PASSED_ON = tuple(
    getattr(signal, f"SIG{name}")
    for name in ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "TSTP", "CONT", "TTIN", "TTOU")
    if hasattr(signal, f"SIG{name}")
)
#: Those that a terminal sends to all processes in it, the worker included.
OF_TERMINALS = {signal.SIGINT, getattr(signal, "SIGQUIT", 0), getattr(signal, "SIGTSTP", 0)}
#: Seconds between two looks at files.
LOOK = 0.5
#: Seconds between two starts of a worker that fails, the first and the longest; who lived for LASTED has not failed.
FIRST_PAUSE, LONGEST_PAUSE, LASTED = 1.0, 30.0, 10.0
#: Seconds for which a worker that was told to stop for a change is waited for, beyond its grace.
OVERTIME = 10.0


class Parent:
    """Runs a worker as its child, for as long as it lives; with a `watch` also the next one, and the next."""

    def __init__(self, watch: Watch | None, grace: float) -> None:
        self._watch = watch
        self._patience = grace + OVERTIME
        self._arrived: SimpleQueue[int] = SimpleQueue()
        self._child: int | None = None
        self._born = 0.0
        self._pause = FIRST_PAUSE
        #: Whether the worker was told to end for good; and until when (monotonic) it has to end to be started anew.
        self._stopping = False
        self._deadline: float | None = None
        #: When (monotonic) to start the next worker; None: not before something changes.
        self._next: float | None = None

    def run(self) -> int | None:
        """Return None in every child, which is to be the worker; in the parent the exit code, when all is over."""
        for number in (*PASSED_ON, signal.SIGCHLD):
            signal.signal(number, self._came)
        if self._fork():
            return None
        while True:
            try:
                number = self._arrived.get(timeout=LOOK)
            except Empty:
                pass
            else:
                self._heed(number)
            if (code := self._reap()) is not None:
                return code
            if self._watch is not None and self._tend(self._watch):
                return None

    def _came(self, number: int, frame: FrameType | None) -> None:
        self._arrived.put(number)

    def _heed(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return
        if number == signal.SIGHUP and self._watch is not None:
            self._change("SIGHUP")
            return
        if number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            self._stopping = True
        if self._child is not None and not (number in OF_TERMINALS and _on_terminal()):
            os.kill(self._child, number)

    def _fork(self) -> bool:
        """Start a worker; return True in it."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._born, self._deadline, self._next = time.monotonic(), None, None
        # What comes in between must not be put into the line of the child, which nobody reads.
        signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
        self._child = os.fork()
        if not self._child:
            for number in (*PASSED_ON, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
        return not self._child

    def _reap(self) -> int | None:
        """Wait for all children that have ended; return the exit code when that is the end of everything."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pid = 0
            if pid == 0:
                # Told to stop while there was no worker, there is nothing left to wait for.
                return OK if self._child is None and self._stopping else None
            if pid == self._child:
                self._child = None
                code = os.waitstatus_to_exitcode(status)
                code = 128 - code if code < 0 else code
                if self._watch is None or self._stopping or (code == OK and self._deadline is None):
                    return code
                self._plan(code)

    # With --watch

    def _plan(self, code: int) -> None:
        """Say when the next worker is started, after one has ended."""
        if self._deadline is not None:
            self._next = time.monotonic()
        elif code == USAGE:
            _say("the worker cannot start; waiting for a change")
        else:
            if time.monotonic() - self._born > LASTED:
                self._pause = FIRST_PAUSE
            _say(f"the worker has ended with {code}; the next one starts in {short(self._pause)}, or at a change")
            self._next = time.monotonic() + self._pause
            self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _tend(self, watch: Watch) -> bool:
        """Look for changes, and start the next worker when it is time; return True in that."""
        if self._stopping:
            return False
        if changed := watch.changed():
            self._change(watch.named(changed))
        now = time.monotonic()
        if self._child is not None and self._deadline is not None and now > self._deadline:
            _say("the worker does not stop; it is killed, and what it held is delivered again")
            os.kill(self._child, signal.SIGKILL)
            self._deadline = now + OVERTIME
        return self._child is None and self._next is not None and now >= self._next and self._fork()

    def _change(self, what: str) -> None:
        """Start the worker anew, unless it could not even be read."""
        assert self._watch is not None
        if wrong := self._watch.wrong():
            _say(f"{what}, with a mistake: {wrong}; waiting for the next change")
            return
        _say(f"{what}: restarting")
        self._pause = FIRST_PAUSE
        if self._child is None:
            self._next = time.monotonic()
        elif self._deadline is None:
            self._deadline = time.monotonic() + self._patience
            os.kill(self._child, signal.SIGTERM)


def _on_terminal() -> bool:
    return os.isatty(0)


def _say(text: str) -> None:
    click.echo(f"{click.style('watch:', fg='cyan', bold=True)} {text}", err=True)
