"""The signals of a worker's process: put in a line, in the order in which they came, for a thread to heed.

A handler runs in the middle of whatever the main thread is doing, with any lock held. So it takes none: all it does is
to put a number into a queue that may be interrupted at any step.

Of signals that have come while the main thread was busy Python calls the handlers in the order of their numbers. In
which order they came stands in a pipe that Python fills as they come: a worker that was told to pause, and then to go
on, must not be left paused. Its ends have numbers that tasks do not find by accident: the number of a signal would be
written into whatever has them next, a database for example, and what is read there would be taken for signals.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any

from .descriptors import identity, private_copy

#: What ends a worker within its grace, the first time; the third of them ends the process the hard way.
STOPS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT"))
#: What else a worker heeds, where the system has it.
OTHERS = tuple(
    getattr(signal, name)
    for name in ("SIGQUIT", "SIGHUP", "SIGUSR1", "SIGTSTP", "SIGCONT", "SIGTTIN", "SIGTTOU")
    if hasattr(signal, name)
)
#: Those by which the process asks itself for something: one that comes at the same moment is no loss.
_HARMLESS = tuple(getattr(signal, name) for name in ("SIGCONT", "SIGTTIN", "SIGTSTP") if hasattr(signal, name))


class Signals:
    """Takes the signals of this process while `heeded`; `arrived` is the line. For the main thread."""

    def __init__(self) -> None:
        self.arrived: SimpleQueue[int] = SimpleQueue()
        self._stops = 0
        self._before: dict[int, Any] = {}
        self._pid = os.getpid()
        #: The next signal with this number is our own, and means: set all handlers again.
        self._repair: int | None = None
        #: The pipe with the numbers of signals as they came, and what tells it from others; and those signals that were
        #: put in the line before their turn.
        self._pipe: tuple[int, int] | None = None
        self._identity: tuple[int, int] | None = None
        self._early: set[int] = set()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    @contextmanager
    def heeded(self, keep_hangup: bool = False) -> Iterator[None]:
        """Take them within the block. Under `nohup` a hang-up stays ignored, unless we did that (`keep_hangup`)."""
        if threading.current_thread() is not threading.main_thread():
            yield  # who runs a worker inside something else has the signals
            return
        for number in (*STOPS, *OTHERS):
            before = signal.getsignal(number)
            if number == getattr(signal, "SIGHUP", 0) and before == signal.SIG_IGN and not keep_hangup:
                continue
            self._before[number] = before
            signal.signal(number, self._came)
        self._open_pipe()
        try:
            yield
        finally:
            self._put_back()

    def changed(self) -> list[int]:
        """Return the signals that this process does not hear any more, because something has changed what they do.

        They are set right again a moment later, by the main thread: no other may do that.
        """
        if self._stops >= 2:
            return []
        unheard = _unheard()
        changed = [number for number in self._before if signal.getsignal(number) != self._came or number in unheard]
        heard = [number for number in _HARMLESS if number in self._before and number not in changed]
        if changed and heard:
            # A handler of ours that is still there is what gets the main thread to do it.
            self._repair = heard[0]
            os.kill(os.getpid(), heard[0])
        return changed

    def _open_pipe(self) -> None:
        ends = os.pipe()
        read, write = map(private_copy, ends)
        for end in ends:
            os.close(end)
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        if before == -1:
            self._pipe, self._identity = (read, write), identity(read)
            return
        # Somebody else's: it is left alone, and the order is that in which the handlers are called.
        signal.set_wakeup_fd(before)
        os.close(read)
        os.close(write)

    def _close_pipe(self) -> None:
        if self._pipe is None:
            return
        before = signal.set_wakeup_fd(-1)
        if before not in (-1, self._pipe[1]):
            signal.set_wakeup_fd(before)
        for end in self._pipe:
            if identity(end) == self._identity:
                os.close(end)
        self._pipe = None

    def _in_order(self) -> list[int]:
        """Return the signals that have come since the last look, in their order, as far as that is known."""
        if self._pipe is None or identity(self._pipe[0]) != self._identity:
            return []
        try:
            return list(os.read(self._pipe[0], 4096))
        except OSError:
            return []

    def _came(self, number: int, frame: FrameType | None) -> None:
        came = [each for each in self._in_order() if each in self._before and each != self._repair]
        for each in came:
            self.arrived.put(each)
        if number == self._repair:
            self._repair = None
            for known in self._before:
                signal.signal(known, self._came)
            self._early.update(came)
            return
        if number not in came and number not in self._early:
            self.arrived.put(number)  # nothing was in the pipe: something else has put its own in its place
        self._early.update(came)
        self._early.discard(number)
        if number in STOPS:
            self._stops += 1
            if self._stops == 2:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)

    def _put_back(self) -> None:
        self._close_pipe()
        for number, handler in self._before.items():
            # None: it was not set by Python, and cannot be set by it again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def _forked(self) -> None:
        # A task has forked. Nobody reads the line in the child, which would be deaf to SIGTERM otherwise.
        if self._before and os.getpid() != self._pid:
            self._before = dict.fromkeys(self._before, signal.SIG_DFL)
            self._put_back()


def _unheard() -> set[int]:
    """Return the signals that have no handler in this process, whatever Python believes: an extension may do that."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return set()  # no such file on this system
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return {number for number in (*STOPS, *OTHERS) if not caught >> (number - 1) & 1}
