"""Autoscaling: more slots for `def` tasks while work waits for one, fewer while they stand empty."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import SettingError

if TYPE_CHECKING:
    from .worker import Worker

logger = logging.getLogger("dray.worker")

#: Seconds between two looks, and for how long fewer slots must have sufficed before one is given up.
LOOK, CALM = 1.0, 30.0


def read_autoscale(bounds: Sequence[int]) -> tuple[int, int]:
    """Return (fewest, most) of a setting "MAX,MIN"; raise `SettingError` when the first is not the larger."""
    most, fewest = bounds
    if fewest > most:
        raise SettingError(
            f"worker_autoscale is MAX,MIN, the larger number first; got {most},{fewest}: say {fewest},{most}?"
        )
    return fewest, most


class Autoscaler:
    """Resizes one worker. Slots are doubled when all of them are taken, and given up one by one."""

    def __init__(self, worker: Worker, bounds: Sequence[int]) -> None:
        self._worker = worker
        self.fewest, self.most = read_autoscale(bounds)
        self._stop = threading.Event()
        #: The most slots in use since the last time one was given up or added, and when (monotonic) that was.
        self._peak, self._since = 0, 0.0
        self._thread = threading.Thread(target=self._run, name="dray-autoscale", daemon=True)

    def start(self) -> None:
        """Begin, with the fewest slots."""
        self._since = self._worker.app.clock.monotonic()
        self._worker.resize(self.fewest)
        self._thread.start()

    def stop(self) -> None:
        """Leave the slots as they are."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        clock = self._worker.app.clock
        while not clock.wait(self._stop, LOOK):
            try:
                self.look(clock.monotonic())
            except Exception:
                logger.exception("autoscaling failed; trying again")

    def look(self, now: float) -> None:
        """Resize, if it is time."""
        worker, slots = self._worker, self._worker.concurrency
        busy = sum(1 for job in worker.running_jobs() if job.kind == "def")
        self._peak = max(self._peak, busy)
        if busy >= slots:
            if slots < self.most:
                self._resize(min(self.most, slots * 2), now, f"all {slots} are taken")
            else:
                self._peak, self._since = 0, now
        elif now - self._since >= CALM:
            if self._peak < slots and slots > self.fewest:
                self._resize(slots - 1, now, f"at most {self._peak} of {slots} were taken for {CALM:g} s")
            else:
                self._peak, self._since = 0, now

    def _resize(self, slots: int, now: float, reason: str) -> None:
        self._peak, self._since = 0, now
        logger.info("%s runs %d task(s) at a time from now on: %s", self._worker.name, slots, reason)
        self._worker.resize(slots)
