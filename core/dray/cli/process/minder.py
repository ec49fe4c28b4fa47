"""The minder: the thread of a worker's process that heeds signals and looks after the process, and nothing else.

It runs no user code, holds no lock while it waits, and survives every error: as long as it gets to run, the heartbeat
is written, the watchdog is fed - if the worker is well, not because this thread is - and a signal is heeded.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

logger = logging.getLogger("dray.worker")

#: Put in the line of signals to end it.
_END = -1


class Minder:
    """Calls `heed` for each number in `line`, and `look` every `every` seconds; both on a thread of its own."""

    def __init__(
        self, line: SimpleQueue[int], heed: Callable[[int], None], look: Callable[[], None], every: float
    ) -> None:
        self._line = line
        self._heed = heed
        self._look = look
        self._every = every
        self._thread = threading.Thread(target=self._run, name="dray-minder", daemon=True)

    def __enter__(self) -> Minder:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._line.put(_END)
        self._thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            left = due - time.monotonic()
            try:
                number = self._line.get(timeout=max(left, 0.0))
            except Empty:
                due = time.monotonic() + self._every
                self._safely(self._look)
                continue
            if number == _END:
                return
            self._safely(lambda: self._heed(number))  # noqa: B023

    def _safely(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:
            logger.exception("looking after this process failed; it goes on")
