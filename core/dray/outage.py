"""Whether one of the places that a worker writes to is away, and for how long it is left alone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .app import Dray

logger = logging.getLogger("dray.worker")

#: Seconds between two tries while a place is away: the first, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0


class Outage:
    """What is known of one place."""

    def __init__(self, what: str, event: str, app: Dray) -> None:
        self.away = False
        self.pause = FIRST_PAUSE
        #: On the monotonic clock.
        self.next_try = 0.0
        self._what, self._event, self._app = what, event, app

    def lost(self, error: Exception) -> None:
        self.pause = min(self.pause * 2, LONGEST_PAUSE)
        self.next_try = self._app.clock.monotonic() + self.pause
        if not self.away:
            self.away = True
            logger.warning("%s away while settling: %s; keeping the outcomes and trying again", self._what, error)
            self._app.notify(f"{self._event}-lost", reason=str(error))

    def found(self) -> None:
        if self.away:
            self.away, self.pause = False, FIRST_PAUSE
            logger.info("%s back: the outcomes are settled", self._what)
            self._app.notify(f"{self._event}-back")
