"""The clock of a test: it stands still until the test moves it, and lets no test hang."""

from __future__ import annotations

import threading

from ..clock import ManualClock

#: The threads that always have something to wait for; they must not make time pass.
ALWAYS_WAITING = frozenset({"dray-keeper", "dray-heart", "dray-recorder", "dray-holds", "dray-sweeper"})
#: Real seconds between two looks at whether a wait is over.
LOOK = 0.005


class HeldClock(ManualClock):
    """A `ManualClock` that stands still while nobody waits for it to move.

    Whoever waits (`result.get(timeout=5)`, a sender while the broker is away, an idle worker in the background) waits
    for real seconds, and the clock moves by as many: a test that waits for what never comes is told so and does not
    hang. `dray_worker` waits for nothing, so during its runs and between them only the test moves the clock.
    """

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if threading.current_thread().name in ALWAYS_WAITING:
            return super().wait(event, seconds)
        end, waited = self.monotonic() + seconds, 0.0
        while not event.wait(min(LOOK, max(seconds - waited, 0.0))) and self.monotonic() < end:
            waited += LOOK
            if waited >= seconds:
                self._move_to(end)
        return event.is_set()

    def _move_to(self, instant: float) -> None:
        # Not advance(): of two that waited for the same time, one finds it passed already.
        with self._moved:
            self._now = max(self._now, instant)
            self._moved.notify_all()
