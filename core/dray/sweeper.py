"""The sweeper: the thread of a worker that looks, now and then, after groups that nobody looks after.

What follows a group is delivered by the worker that settles the member which decides it. If that worker dies in between
it stands in the store what is to be done, and whoever sweeps next does it. Members that are gone are noticed here, too.
"""

from __future__ import annotations

import logging
import random
import threading
from typing import TYPE_CHECKING

from .errors import DrayError

if TYPE_CHECKING:
    from .app import Dray

logger = logging.getLogger("dray.worker")

#: Seconds from one sweep to the next.
SWEEP_EVERY = 15.0


class Sweeper:
    """Sweeps for one worker, if its app has a store."""

    def __init__(self, app: Dray) -> None:
        self._app = app
        self._stopping = threading.Event()
        self._needed = app.connections.store_url is not None
        self._thread = threading.Thread(target=self._run, name="dray-sweeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        if self._needed:
            self._thread.start()

    def stop(self) -> None:
        """End; what it is at may go on for as long as the store takes to answer."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        # Not all workers at once, also when they were started at once.
        pause = SWEEP_EVERY * random.random()
        while not self._app.clock.wait(self._stopping, pause):
            pause = SWEEP_EVERY * random.uniform(0.8, 1.2)
            try:
                self._app.fans.sweep()
            except DrayError as error:
                logger.warning("groups that nobody looks after could not be looked for: %s", error)
            except Exception:
                logger.exception("groups that nobody looks after could not be looked for")
