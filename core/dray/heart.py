"""The heart of a worker: tells every few seconds that it lives and how much it does, and misses workers that do not.

It runs on a thread of its own, because those who listen are called on it; and only if somebody listens when the worker
starts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from . import signals
from .errors import StoreError
from .presence import Presence

if TYPE_CHECKING:
    from .app import Dray

logger = logging.getLogger("dray.worker")

#: Seconds between two beats.
EVERY = 5.0


class Heart:
    """Tells that one worker lives. `counts` says what there is to tell besides."""

    def __init__(self, app: Dray, worker: str, counts: Callable[[], Mapping[str, Any]]) -> None:
        self._app = app
        self._worker = worker
        self._counts = counts
        self._beats = 0
        #: Only where somebody asked for it: each beat is a write.
        self._presence = Presence(app) if app.wants_presence and app.connections.store_url is not None else None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to beat, if anybody listens."""
        if self._app.listening or signals.heartbeat_sent.receivers:
            self._thread = threading.Thread(target=self._run, name="dray-heart", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop beating; nobody is to miss this worker."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join(timeout=5)
        if self._presence is not None:
            try:
                self._presence.leave(self._worker)
            except StoreError as error:
                logger.warning("%s will be missed, although it has ended: %s", self._worker, error)

    def _run(self) -> None:
        while True:
            try:
                self.beat()
            except Exception:
                logger.exception("a heartbeat failed; trying again")
            if self._app.clock.wait(self._stop, EVERY):
                return

    def beat(self) -> None:
        """Tell once."""
        self._beats += 1
        self._app.notify("worker-heartbeat", worker=self._worker, **self._counts())
        signals.heartbeat_sent.send(sender=self._worker)
        if self._presence is None:
            return
        try:
            self._presence.beat(self._worker, self._beats)
            for name in self._presence.missed():
                logger.error("the worker %s is gone without a word", name)
                self._app.notify("worker-lost", worker=name, missed_by=self._worker)
        except StoreError as error:
            logger.warning("nobody is missed just now: %s", error)
