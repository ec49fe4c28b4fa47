"""The clock of a test: it stands still until the test moves it, and lets no test hang."""

from __future__ import annotations

import threading

from ..clock import ManualClock

#: What the names of a worker's own threads begin with.
ENGINE = "dray-"
#: Real seconds between two looks at whether a wait is over.
LOOK = 0.005


class HeldClock(ManualClock):
    """A `ManualClock` on which only the worker waits for the test to move on.

    Anybody else who waits (`result.get(timeout=5)`, a sender while the broker is away) waits for as many real seconds,
    and moves the clock by as much: a test that waits for what never comes is told so and does not hang.
    """

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if threading.current_thread().name.startswith(ENGINE):
            return super().wait(event, seconds)
        end, waited = self.monotonic() + seconds, 0.0
        while not event.wait(min(LOOK, max(seconds - waited, 0.0))) and (left := end - self.monotonic()) > 0:
            waited += LOOK
            if waited >= seconds:
                self.advance(left)
        return event.is_set()
