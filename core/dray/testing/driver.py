"""Runs an app's tasks when a test says so: a real worker, in the test's own time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from ..app import Dray
from ..clock import ManualClock

#: Least step (seconds) to the next due message: smaller ones would be lost in the rounding of large instants.
LEAST_STEP = 1e-6
#: Seconds a message is lent for: a task that moves the clock itself, to play a slow one, is not taken for dead.
LEASE = 30 * 86400.0
#: More messages than a test has waiting.
ALL = 1_000_000


class Driver:
    """The fixture `dray_worker`: serves every queue of its app, and only while one of its methods is running.

    What is not among `options` (those of `Dray.worker`) comes from the app's settings, except that `def` tasks run one
    after the other unless `worker_concurrency` is set.
    """

    def __init__(self, app: Dray, **options: Any) -> None:
        self.app = app
        self._options = {"concurrency": app.conf.worker_concurrency or 1, "lease": LEASE, **options}

    def run_until_idle(self) -> int:
        """Run what is due, and what that sends, until nothing due is left in any queue; return how many were taken.

        The clock stands still meanwhile. A task that fails does so as in production: look at its result.
        """
        taken = 0
        while True:
            queues = self._queues()
            taken += self.app.worker(queues, **self._options).run_until_idle()
            if set(self._queues()) <= set(queues):
                return taken

    def advance(self, seconds: float | timedelta) -> int:
        """Let `seconds` pass as if a worker were there all the time; return how many deliveries it took.

        What is due now runs first. Then the clock moves from one due message to the next, and each runs at its own
        instant. For time that passes while no worker is there, move the clock itself: `dray_clock.advance(60)`.
        """
        clock = self.app.clock
        if not isinstance(clock, ManualClock):
            raise TypeError(
                f"{self.app} runs on {type(clock).__name__}, which nobody can move; "
                "give it a ManualClock: on_memory(app, dray_clock)"
            )
        end = clock.monotonic() + (seconds.total_seconds() if isinstance(seconds, timedelta) else seconds)
        taken = self.run_until_idle()
        while (left := end - clock.monotonic()) > 0:
            clock.advance(min(left, self._until_next()))
            taken += self.run_until_idle()
        return taken

    def _queues(self) -> list[str]:
        """Return the queues that a worker of this app serves by itself, then all others that hold anything."""
        return list(dict.fromkeys([*self.app.worker().queues, *self.app.broker.queues()]))

    def _until_next(self) -> float:
        """Return the seconds until the next delayed message is due; infinity when there is none."""
        waiting = [message for queue in self.app.broker.queues() for message in self.app.broker.peek(queue, ALL)]
        delays = [max(message.delay, LEAST_STEP) for message in waiting if message.state == "delayed"]
        return min(delays, default=float("inf"))

    def __repr__(self) -> str:
        return f"<Driver of {self.app}>"
