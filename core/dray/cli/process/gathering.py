"""Lines of a log that wait a few milliseconds, so that one write takes many of them.

A write gives the interpreter away, and in a busy process it takes longer to get it back than to write: with two lines
for each task, threads that run short tasks would do little else. So lines that come one upon the other are gathered,
and a thread writes them. What is urgent is written before `add` returns, after all that came before it; and so is a
line after a silence, such as that a task begins which then ends the whole process.

Killed here, a process loses the lines of its last few milliseconds that were not urgent, and nothing else.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator

#: Seconds that a line waits for others.
PAUSE = 0.005
#: So many lines wait at most, none of them longer (bytes) than that: whoever brings more writes them.
MOST, LONG = 1000, 4096


class Gathering:
    """Lines on their way to `write`, which gets them in order and raises nothing. Thread-safe, and safe to re-enter."""

    def __init__(self, write: Callable[[list[bytes]], None], wait: bool) -> None:
        """Hand lines over at once, unless they are to `wait` for each other."""
        self._write = write
        self._lines: deque[bytes] = deque()
        self._written = 0.0
        #: Held while lines are handed over. Adding one needs no lock.
        self._writing = threading.RLock()
        self._busy = False
        #: Wakes the thread, or ends it (False).
        self._bell: queue.SimpleQueue[bool] = queue.SimpleQueue()
        #: None: every line is handed over at once.
        self._thread: threading.Thread | None = None
        if wait:
            self._thread = threading.Thread(target=self._run, name="dray-log", daemon=True)
            self._thread.start()
        _all.add(self)

    def add(self, line: bytes, urgent: bool) -> None:
        """Take a line; if it is urgent, or cannot wait, return when it has been written."""
        waiting = len(self._lines)
        silence = not waiting and time.monotonic() - self._written > PAUSE
        self._lines.append(line)
        if urgent or silence or self._thread is None or waiting >= MOST or len(line) > LONG:
            self.flush()
        if self._lines and self._bell.empty():
            self._bell.put(True)

    def flush(self) -> None:
        """Return when the lines that had been added before are written."""
        with self._writing:
            if self._busy:
                return  # a signal handler or finalizer logs in the middle of a write: its line comes right behind
            try:
                self._busy = True
                while self._lines:
                    # Not taken out before they are written: what a task's end by force interrupts is written again.
                    lines = list(self._lines)
                    self._write(lines)
                    self._written = time.monotonic()
                    for _ in lines:
                        self._lines.popleft()
                    if self._thread is not None:
                        break  # what has come meanwhile has woken it; others never stop coming
            finally:
                self._busy = False

    def close(self) -> None:
        """Write what waits; what still comes is written at once."""
        thread, self._thread = self._thread, None
        self.flush()
        if thread is not None:
            self._bell.put(False)
            thread.join()

    def forked(self) -> None:
        """Begin anew in a child: what waits here is the parent's to write, and the thread is not there."""
        self._lines.clear()
        self._writing = threading.RLock()
        self._busy = False
        self._thread = None

    def _run(self) -> None:
        # A line that comes while this sleeps or writes rings once more: perhaps for nothing, but never too early.
        while self._bell.get():
            time.sleep(PAUSE)
            self.flush()


def pieces(lines: list[bytes], size: int) -> Iterator[bytes]:
    """Join lines to pieces of at most that size; a line that is longer is one of its own."""
    first = length = 0
    for number, line in enumerate(lines):
        if length and length + len(line) > size:
            yield b"".join(lines[first:number])
            first, length = number, 0
        length += len(line)
    yield b"".join(lines[first:])


#: Those of this process that are in use.
_all: weakref.WeakSet[Gathering] = weakref.WeakSet()


def _before_fork() -> None:
    for gathering in list(_all):
        gathering.flush()


def _after_fork() -> None:
    for gathering in list(_all):
        gathering.forked()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
