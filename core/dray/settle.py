"""The settler: one thread through which everything that a run came to is written, in batches and in one order.

outcomes gathered -> still ours? -> follow-ups published -> results stored -> acked, requeued or buried

The order is what makes a crash harmless: killed between any two steps, the message is still lent and comes back; what
was written already is written again under the same ids. Work can be repeated, never lost.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from .backend import Record
from .broker import Consumer
from .errors import (
    BackendError,
    BackendUnavailable,
    BrokerError,
    BrokerUnavailable,
    NotSupported,
    PublishError,
    SerializationError,
    TaskOptionError,
)
from .job import Ended, Job
from .message import Delivery, Envelope
from .outcome import Failed, Rejected, Released, Requeued
from .report import Failure, rank, record

if TYPE_CHECKING:
    from .app import Dray

logger = logging.getLogger("dray.worker")

#: Most outcomes settled in one round, and seconds to wait for more while they come in quickly.
BATCH, GATHER = 512, 0.001
#: Seconds between two tries while the broker or the backend is away: the first, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
BROKER, BACKEND = "broker", "result backend"


class _Entry:
    """One outcome on its way, and how far it has come."""

    __slots__ = ("ended", "job", "published", "stored")

    def __init__(self, job: Job, ended: Ended) -> None:
        self.job = job
        self.ended = ended
        self.published = not ended.followups
        self.stored = ended.report is None


class Settler:
    """Settles what ended, for one worker. `put` and `note` may be called from any thread."""

    def __init__(
        self,
        app: Dray,
        consumer: Callable[[], Consumer | None],
        settled: Callable[[list[Job]], None],
        lease: float,
    ) -> None:
        self._app = app
        self._consumer = consumer
        self._settled = settled
        self._lease = lease
        self._queue: SimpleQueue[_Entry | Record | None] = SimpleQueue()
        self._closing = threading.Event()
        #: What is away at the moment, and when (monotonic) the backend is worth another try.
        self._outage: str | None = None
        self._next_try = 0.0
        self._pause = FIRST_PAUSE
        self._thread = threading.Thread(target=self._run, name="dray-settler", daemon=True)
        #: Outcomes thrown away because the loan was over before they were settled.
        self.stale = 0

    def start(self) -> None:
        """Begin settling."""
        self._thread.start()

    def put(self, job: Job, ended: Ended) -> None:
        """Take what a run came to."""
        self._queue.put(_Entry(job, ended))

    def note(self, state: Record) -> None:
        """Take a state to store, in order with the outcomes."""
        self._queue.put(state)

    def close(self, patience: float) -> bool:
        """Settle what is there, trying for `patience` seconds; return whether nothing was left over."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(patience)
        return not self._thread.is_alive()

    # The thread

    def _run(self) -> None:
        entries: list[_Entry] = []
        notes: list[Record] = []
        while True:
            self._gather(entries, notes)
            if not entries and not notes:
                if self._closing.is_set():
                    return
                continue
            try:
                entries = self._round(entries, notes)
            except BrokerUnavailable as error:
                self._lost(BROKER, error)
            except Exception:
                # A bug in an adapter or here: the deliveries stay lent and come back when their leases run out.
                logger.exception("settling %d outcome(s) failed; they will be delivered again", len(entries))
                self._settled([entry.job for entry in entries])
                entries, notes = [], []

    def _gather(self, entries: list[_Entry], notes: list[Record]) -> None:
        """Add what is in the queue to what is left over from before, waiting while there is nothing to do.

        What is left over waits for the broker or the backend: then this returns when the pause is over.
        """
        room = BATCH
        wait = self._pause * random.uniform(0.8, 1.2) if entries or notes else None
        while room:
            try:
                item = self._queue.get(True, wait)
            except Empty:
                return
            if item is None:  # close() was called
                wait = 0.0 if wait is None else wait
                if not entries and not notes:
                    return
                continue
            (entries if isinstance(item, _Entry) else notes).append(item)  # type: ignore[arg-type]
            room -= 1
            # They come in quickly: a millisecond more makes the batch several times larger. A single one goes at once.
            wait = GATHER if room < BATCH - 1 else 0.0

    def _round(self, entries: list[_Entry], notes: list[Record]) -> list[_Entry]:
        """Bring every outcome as far as it goes now; return those that have to wait for the backend."""
        ours = self._ours(entries)
        self._publish(ours)
        waiting = self._store(ours, notes)
        self._finish([entry for entry in ours if entry.stored])
        if not waiting:
            self._found()
        return waiting

    def _ours(self, entries: list[_Entry]) -> list[_Entry]:
        """Drop the outcomes of lost loans: whoever has the message now writes its result."""
        now = self._app.clock.monotonic()
        doubtful = [e.job for e in entries if not e.job.acked and not e.job.lost and e.job.lease_until <= now]
        consumer = self._consumer()
        if doubtful and consumer is not None:
            lost = {d.receipt for d in consumer.extend([job.delivery for job in doubtful], self._lease)}
            for job in doubtful:
                job.lost = job.delivery.receipt in lost
                job.lease_until = now + self._lease
        lost_jobs = [entry.job for entry in entries if entry.job.lost]
        if lost_jobs:
            entries[:] = [entry for entry in entries if not entry.job.lost]
            self._stale([job.delivery for job in lost_jobs])
            self._settled(lost_jobs)
        return entries

    def _publish(self, entries: list[_Entry]) -> None:
        envelopes: dict[int, tuple[_Entry, Envelope]] = {}
        for entry in entries:
            if entry.published:
                continue
            try:
                for message in entry.ended.followups:
                    envelopes[len(envelopes)] = entry, self._app.sender.enclose(message)
            except (NotSupported, SerializationError, TaskOptionError) as error:
                envelopes = {n: pair for n, pair in envelopes.items() if pair[0] is not entry}
                self._unsendable(entry, str(error))
        if not envelopes:
            return
        chunk = self._app.broker.capabilities.max_publish_batch
        pairs = list(envelopes.values())
        for start in range(0, len(pairs), chunk):
            part = pairs[start : start + chunk]
            try:
                self._app.broker.publish([envelope for _, envelope in part])
            except PublishError as error:
                for entry, envelope in part:
                    if envelope.id in error.rejected:
                        self._unsendable(entry, error.rejected[envelope.id])
        for entry, _ in pairs:
            entry.published = True

    def _unsendable(self, entry: _Entry, reason: str) -> None:
        """What should follow can never be sent: rather than lose that, keep the message itself in the dead letters."""
        logger.error(
            "%s[%s]: what should follow cannot be sent: %s", entry.job.message.task, entry.job.message.id, reason
        )
        entry.ended = Ended(Rejected(f"what should follow it cannot be sent: {reason}"), entry.ended.report)
        entry.published = True

    def _store(self, entries: list[_Entry], notes: list[Record]) -> list[_Entry]:
        wanted = [entry for entry in entries if not entry.stored]
        if not wanted and not notes:
            return []
        now = self._app.clock.monotonic()
        if self._outage == BACKEND and now < self._next_try:
            return wanted
        records = [*notes, *(_record(entry) for entry in wanted)]
        try:
            backend = self._app.backend
            if backend is not None:
                if self._outage == BACKEND:
                    backend.open()
                backend.store(records, self._app.conf.result_expires)
        except BackendUnavailable as error:
            self._lost(BACKEND, error)
            self._next_try = now + self._pause
            return wanted
        except BackendError:
            logger.exception("%d result(s) refused by the result backend", len(records))
        notes.clear()
        for entry in wanted:
            entry.stored = True
        return []

    def _finish(self, entries: Sequence[_Entry]) -> None:
        """Settle the deliveries: the one place where an outcome becomes a verb of the broker."""
        consumer = self._consumer()
        if consumer is None:
            raise BrokerUnavailable("not connected")
        done: list[Delivery] = []
        released: list[Delivery] = []
        requeued: dict[float, list[Delivery]] = {}
        buried: dict[str, list[Delivery]] = {}
        for entry in entries:
            delivery = entry.job.delivery
            if entry.job.acked:
                continue
            match entry.ended.outcome:
                case Released():
                    released.append(delivery)
                case Requeued(delay):
                    requeued.setdefault(delay, []).append(delivery)
                case Rejected(reason):
                    buried.setdefault(reason, []).append(delivery)
                case Failed(error, True):
                    failure = Failure.of(error)
                    buried.setdefault(f"failed: {failure.qualname}: {failure.text}", []).append(delivery)
                case _:
                    done.append(delivery)
        try:
            stale = [*(consumer.ack(done) if done else ()), *(consumer.release(released) if released else ())]
            for delay, some in requeued.items():
                stale.extend(consumer.requeue(some, delay))
            for reason, some in buried.items():
                stale.extend(consumer.bury(some, reason))
        except BrokerUnavailable:
            raise
        except BrokerError:
            logger.exception("the broker refused to settle; %d message(s) will be delivered again", len(entries))
            stale = []
        if stale:
            self._stale(stale)
        self._settled([entry.job for entry in entries])

    def _stale(self, deliveries: Sequence[Delivery]) -> None:
        self.stale += len(deliveries)
        logger.warning(
            "%d outcome(s) not settled, the lease was over: %s",
            len(deliveries),
            ", ".join(d.id for d in deliveries[:5]),
        )
        self._app.notify("lease-lost", ids=[delivery.id for delivery in deliveries])

    def _lost(self, what: str, error: Exception) -> None:
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        if self._outage is None:
            self._outage = what
            logger.warning("%s away while settling: %s; keeping the outcomes and trying again", what, error)
            self._app.notify(f"{what.split()[-1]}-lost", reason=str(error))

    def _found(self) -> None:
        self._pause = FIRST_PAUSE
        if self._outage is not None:
            logger.info("%s back: the outcomes are settled", self._outage)
            self._app.notify(f"{self._outage.split()[-1]}-back")
            self._outage = None


def _record(entry: _Entry) -> Record:
    job, report = entry.job, entry.ended.report
    assert report is not None
    return record(job.message.id, report, rank(job.message, job.delivery.delivery_count))
