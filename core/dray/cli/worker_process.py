"""A worker that has a process to itself: it waits for its broker, heeds signals, and says what it is doing.

connect -> banner -> start -> (signal, or nothing left in a burst) -> stop -> exit code
"""

from __future__ import annotations

import logging
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..errors import BackendUnavailable, BrokerUnavailable, ConfigurationError
from ..urls import nearest
from ..worker import Worker
from .banner import show_banner
from .durations import short
from .exits import OK
from .logs import say

if TYPE_CHECKING:
    from ..app import Dray

logger = logging.getLogger("dray.worker")

#: Seconds between two tries to reach the broker: the first, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0


class _NeverStarted(Exception):
    """The worker was asked to stop before it had begun."""


class WorkerProcess(Worker):
    """The worker of `dray worker`. Signals are heeded inside `signals()` only."""

    def __init__(self, app: Dray, queues: Sequence[str] | None, **options: Any) -> None:
        super().__init__(app, queues, **options)
        #: The signals that came, in order.
        self.asked: list[int] = []
        self._wake = threading.Event()
        self._running = False

    def connect(self) -> None:
        """Open the broker and the result backend, so that what can never work is said at once.

        One that is merely away is waited for (the broker, by `start`) or met later (the backend, by the settler), for
        containers start in any order. A burst does not wait: it raises `BrokerUnavailable` or `BackendUnavailable`.
        """
        for part in ("broker", "backend"):
            try:
                getattr(self.app, part)
            except (BrokerUnavailable, BackendUnavailable) as error:
                if self.burst:
                    raise
                if isinstance(error, BackendUnavailable):
                    logger.warning("result backend away: %s; results are kept until it is back", error)

    def start(self) -> Worker:
        """Start, as soon as the broker is there."""
        clock, pause, since = self.app.clock, FIRST_PAUSE, self.app.clock.monotonic()
        waited = False
        while True:
            try:
                super().start()
                break
            except BrokerUnavailable as error:
                if self.burst:
                    raise
                if not waited:
                    logger.warning("broker away: %s; waiting for it", error)
                waited = True
            if clock.wait(self._wake, pause * random.uniform(0.8, 1.2)):
                raise _NeverStarted
            pause = min(pause * 2, LONGEST_PAUSE)
        if waited:
            logger.info("broker there after %s", short(clock.monotonic() - since))
        self._running = True
        # A signal that came while it started has not been passed on; one that comes now passes itself on.
        if self.asked and not self._stopping.is_set():
            self.request_stop()
        logger.info("%s is ready", self.name, extra={"action": "ready"})
        self._warn_of_solitude()
        return self

    def stop(self, timeout: float | None = None) -> None:
        """Say what is being waited for, and stop."""
        busy = self.running
        grace = self.shutdown_timeout if timeout is None else timeout
        if self.asked and busy:
            say("stopping: %d task(s) may run for another %s; again to stop now", busy, short(grace), action="stopping")
        elif self.asked:
            say("stopping: nothing is running", action="stopping")
        super().stop(timeout)
        logger.info("stopped; %d message(s) taken in all", self.received, extra={"action": "stopped"})

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Within the block SIGTERM and SIGINT ask it to stop; the third one ends the process the hard way."""
        before = {number: signal.signal(number, self._heed) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _heed(self, number: int, frame: FrameType | None) -> None:
        # Nothing is logged here: the signal may have come in the middle of a log line.
        self.asked.append(number)
        self._wake.set()
        if self._running:
            self.request_stop()
        if len(self.asked) == 2:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _warn_of_solitude(self) -> None:
        if not self.app.broker.capabilities.shared:
            logger.warning(
                "no other process can send to this broker: only what this process itself sends arrives here "
                "(`dray doctor` says what a broker can do)"
            )


def run_worker(
    app: Dray,
    *,
    place: str,
    as_json: bool,
    own_log: bool,
    queues: Sequence[str],
    exclude: Sequence[str],
    **options: Any,
) -> int:
    """Run a worker until it is asked to stop, and return the exit code."""
    worker = WorkerProcess(app, _chosen(app, queues, exclude), **options)
    with worker.signals():
        worker.connect()
        if as_json:
            queues = ", ".join(worker.queues)
            logger.info("%s takes from %s", worker.name, queues, extra={"action": "starting"})
        else:
            show_banner(worker, place=place, own_log=own_log)
        try:
            worker.run()
        except _NeverStarted:
            say("stopped before the broker was there", action="stopped")
    # Asked twice, it did not finish its work: whoever started it can tell by the code.
    return 128 + worker.asked[1] if len(worker.asked) > 1 else OK


def _chosen(app: Dray, queues: Sequence[str], exclude: Sequence[str]) -> list[str] | None:
    """Return the queues to take from; None: whatever the tasks use."""
    if not exclude:
        return list(queues) or None
    known = list(queues) or app.worker().queues
    for name in exclude:
        if name not in known and (hint := nearest(name, known)):
            logger.warning("-X %s: no task uses that queue%s", name, hint)
    left = [name for name in known if name not in exclude]
    if not left:
        raise ConfigurationError(f"-X leaves no queue to take from; without it: {', '.join(known)}")
    return left
