"""The keeper: one thread that renews the worker's loans and looks for tasks that have been revoked.

It runs no user code and waits for nobody, so a loan is renewed however long its task takes; what can starve it is an
extension module that holds the interpreter lock for longer than a lease.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Container, Mapping
from typing import TYPE_CHECKING, Any

from .broker import Consumer
from .errors import BrokerUnavailable
from .gate import Gate
from .job import Job
from .revocations import terminated
from .trimming import Trimmer

if TYPE_CHECKING:
    from .app import Dray
    from .crew import Crew

logger = logging.getLogger("dray.worker")

#: Loans are renewed when this share of the lease is over.
RENEW_AFTER = 1 / 3
#: Seconds between two looks for revoked tasks.
LOOK = 1.0


class Keeper:
    """Keeps the loans of one worker.

    `jobs` is the worker's table of what it holds, by receipt; `settling` are the receipts being settled just now.
    """

    def __init__(
        self,
        app: Dray,
        jobs: Mapping[Any, Job],
        settling: Container[Any],
        consumer: Callable[[], Consumer],
        crew: Crew,
        lease: float,
        trimmer: Trimmer,
        gate: Gate,
    ) -> None:
        self._app = app
        self._jobs = jobs
        self._settling = settling
        self._consumer = consumer
        self._crew = crew
        self._trimmer = trimmer
        self._gate = gate
        self._lease = lease
        #: Receipts held at the last look. What is held at two looks is worth asking about; most are gone by then.
        self._seen: set[Any] = set()
        self._stop = threading.Event()
        #: When (monotonic) the thread last went round.
        self.looked = 0.0
        self._thread = threading.Thread(target=self._run, name="dray-keeper", daemon=True)

    def start(self) -> None:
        """Begin keeping."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread is there."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop keeping; what is still lent is nobody's business any more."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        clock = self._app.clock
        self.looked = clock.monotonic()
        renewed = clock.monotonic()
        tick = min(self._lease * RENEW_AFTER, LOOK)
        while not clock.wait(self._stop, tick):
            now = self.looked = clock.monotonic()
            try:
                if now - renewed >= self._lease * RENEW_AFTER - tick / 2:
                    self._renew(now)
                    renewed = now
                self._look_for_revoked()
                self._trimmer.tick()
                self._gate.tick()
            except BrokerUnavailable:
                # The source thread says so and reconnects; the next tick tries again, the leases have slack for that.
                continue
            except Exception:
                # Not even a bug in an adapter may end this thread: every loan would run out, and nobody would say so.
                logger.exception("renewing leases failed; trying again")

    def _renew(self, now: float) -> None:
        held = [job for job in self._held() if not job.acked and not job.lost]
        if not held or not self._app.broker.capabilities.lease:
            return
        lost = {delivery.receipt for delivery in self._consumer().extend([job.delivery for job in held], self._lease)}
        for job in held:
            receipt = job.delivery.receipt
            if receipt not in lost:
                # Counted from before the call: never later than what the broker counts from.
                job.lease_until = now + self._lease
            elif receipt not in self._settling and receipt in self._jobs:
                # In this order: what is no longer being settled has left the table before.
                job.lost = True
                logger.warning(
                    "%s[%s]: the lease was lost, the task is running elsewhere", job.message.task, job.message.id
                )
                self._crew.interrupt(job)

    def _look_for_revoked(self) -> None:
        if not self._app.broker.capabilities.cancel:
            return
        running = {
            job.message.id: job
            for job in self._held()
            if job.verdict is None and not job.closed and job.delivery.receipt in self._seen
        }
        self._seen = set(dict(self._jobs))
        if not running:
            return
        found = self._app.broker.cancelled(list(running))
        for id, signal in terminated(self._app.broker, found).items():
            self._crew.revoke(running[id], signal)

    def _held(self) -> list[Job]:
        # Other threads change the table meanwhile; copying a dict is one step that no other thread can enter.
        return list(dict(self._jobs).values())
