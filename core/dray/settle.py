"""The settler: one thread through which everything that a run came to is written, in batches and in one order.

outcomes gathered -> still ours? -> fans told -> follow-ups published -> results stored -> acked, requeued or buried

The order is what makes a crash harmless: killed between any two steps, the message is still lent and comes back; what
was written already is written again under the same ids. Work can be repeated, never lost.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import msgspec

from .broker import Consumer
from .entry import Entry
from .epitaphs import epitaph
from .errors import (
    BrokerError,
    BrokerUnavailable,
    NotSupported,
    PublishError,
    SerializationError,
    StoreUnavailable,
    TaskOptionError,
)
from .holding import Holding
from .job import Ended, Job
from .message import Delivery, Envelope
from .outage import FIRST_PAUSE, Outage
from .outcome import Again, Done, Failed, HandedBack, Rejected, Released, Requeued
from .report import Failure, Kept
from .result_writer import ResultWriter

if TYPE_CHECKING:
    from .app import Dray

logger = logging.getLogger("dray.worker")

#: Most outcomes settled in one round, and seconds to wait for more while they come in quickly.
BATCH, GATHER = 512, 0.001
#: Most outcomes that wait for the backend without taking the place of other work.
MOST_WAITING = 10_000
#: Outcomes after which the call is still there.
_GOES_ON = (Again, HandedBack, Released, Requeued)


class Settler:
    """Settles what ended, for one worker. `put` and `note` may be called from any thread."""

    def __init__(
        self,
        app: Dray,
        consumer: Callable[[], Consumer],
        settled: Callable[[list[Job]], None],
        parked: Callable[[list[Job]], None],
        lease: float,
    ) -> None:
        self._app = app
        self._consumer = consumer
        self._settled = settled
        self._parked = parked
        self._lease = lease
        #: What came and was not looked at yet. Added to without a lock; whoever adds rings if the thread is asleep.
        self._came: deque[Entry | Kept] = deque()
        self._asleep = False
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._closing, self._given_up = threading.Event(), threading.Event()
        self._broker = Outage("broker", "broker", app)
        self._records = Outage("store", "store", app)
        #: Fans of which something is to be delivered.
        self._ready: list[str] = []
        self._results = ResultWriter(app, self._wait)
        self._holding = Holding(app.clock)
        #: Receipts of the deliveries that the broker is being told about: that it no longer lends them is no loss.
        self.settling: set[Any] = set()
        self._thread = threading.Thread(target=self._run, name="dray-settler", daemon=True)
        #: Outcomes thrown away because the loan was over before they were settled.
        self.stale = 0

    def start(self) -> None:
        """Begin settling."""
        self._thread.start()

    def put(self, job: Job, ended: Ended) -> None:
        """Take what a run came to."""
        self._came.append(Entry(job, ended, not ended.followups, ended.report is None, ended.onward is None))
        if self._asleep:
            self._ring()

    def note(self, state: Kept) -> None:
        """Take a state to store, in order with the outcomes."""
        self._came.append(state)
        if self._asleep:
            self._ring()

    def close(self, patience: float) -> bool:
        """Settle what is there, trying for `patience` seconds; return whether nothing was left over."""
        self._closing.set()
        self._ring()
        self._thread.join(patience)
        # Nothing may be written once the worker has said that it has stopped.
        self._given_up.set()
        return not self._thread.is_alive()

    def _ring(self) -> None:
        self._asleep = False
        self._bell.put(None)

    # The thread

    def _run(self) -> None:
        entries: list[Entry] = []
        notes: list[Kept] = []
        while True:
            if self._closing.is_set() and not entries and not notes and not self._came:
                return
            self._gather(entries, notes)
            if self._given_up.is_set():
                return
            try:
                entries = self._round(entries, notes)
            except BrokerUnavailable as error:
                self._broker.lost(error)
            except Exception:
                entries = self._one_by_one(entries, notes)

    def _gather(self, entries: list[Entry], notes: list[Kept]) -> None:
        """Add what is in the queue to what is left over from before, waiting while there is nothing to do.

        What is left over waits for the broker or the backend, or for a fuller request: then this returns when the pause
        is over.
        """
        came = self._take(entries, notes, BATCH, self._pause() if entries or notes else None)
        # A single one goes at once. When they come in quickly, a millisecond more makes the batch several times larger;
        # it is slept through, because waiting at the queue would wake this thread for every single one.
        if (came > 1 or (came and self._holding.any)) and came < BATCH and not self._closing.is_set():
            self._given_up.wait(GATHER)
            self._take(entries, notes, BATCH - came, 0.0)

    def _pause(self) -> float:
        """Return how long what is left over waits if nothing comes."""
        pauses = [
            outage.pause for outage in (self._broker, self._records, *self._results.outages.values()) if outage.away
        ]
        pause = min(pauses, default=FIRST_PAUSE) * random.uniform(0.8, 1.2)
        return pause if self._broker.away else min(pause, self._holding.left())

    def _take(self, entries: list[Entry], notes: list[Kept], most: int, wait: float | None) -> int:
        """Take up to `most` of what came, waiting for the first one only; return how many there were."""
        came = self._came
        if not came and wait != 0.0:
            # In this order: what is added from here on rings, and what was added before is seen.
            self._asleep = True
            if not came and not (wait is None and self._closing.is_set()):
                with suppress(Empty):
                    self._bell.get(True, wait)
            self._asleep = False
        count = min(len(came), most)
        for _ in range(count):
            item = came.popleft()
            if isinstance(item, Entry):
                entries.append(item)
            else:
                notes.append(item)
        return count

    def _round(self, entries: list[Entry], notes: list[Kept], *, alone: bool = False) -> list[Entry]:
        """Bring every outcome as far as it goes now; return those that have to wait, for the backend or for others."""
        ours = self._ours(entries)
        waiting = self._tell(ours, notes)
        if waiting:
            ours = [entry for entry in ours if entry.told]
        self._deliver()
        self._publish(ours)
        waiting += self._results.store(ours, notes)
        written = [entry for entry in ours if entry.stored]
        if held := self._release([entry for entry in written if entry.job.message.claim and not entry.released]):
            waiting += held
            written = [entry for entry in written if entry.released or not entry.job.message.claim]
        at_once = alone or self._closing.is_set() or self._broker.away
        batch = 1 if at_once else self._app.broker.capabilities.request_batch
        ready = self._holding.ready(len(written), batch)
        self._finish(written[:ready])
        self._holding.round_ended(ready, len(written) - ready)
        self._park(written[ready:])
        return [*waiting, *written[ready:]]

    def _one_by_one(self, entries: list[Entry], notes: list[Kept]) -> list[Entry]:
        """Settle each outcome by itself after a round has failed, so that a bad one does not take the others along.

        Return those that have to wait. When the broker refuses one and all, it is not the outcome that is bad: then
        they wait as in an outage.
        """
        waiting: list[Entry] = []
        refused: list[tuple[Entry, Exception]] = []
        for entry in entries:
            try:
                waiting += self._round([entry], [], alone=True)
            except BrokerUnavailable as error:
                self._broker.lost(error)
                waiting.append(entry)
            except Exception as error:
                refused.append((entry, error))
        if len(refused) == len(entries) and all(isinstance(error, BrokerError) for _, error in refused):
            self._broker.lost(refused[0][1])
            return [entry for entry, _ in refused]
        for entry, reason in refused:
            self._give_up(entry, reason)
        try:
            self._results.store([], notes)
        except Exception:
            logger.exception("%d state(s) cannot be stored and are dropped", len(notes))
            notes.clear()
        return waiting

    def _give_up(self, entry: Entry, error: Exception) -> None:
        """Let go of an outcome that cannot be written: the message comes back, or is buried if it came too often."""
        job = entry.job
        what = f"what it came to cannot be written: {type(error).__name__}: {error}"
        logger.error("%s[%s]: %s", job.message.task, job.message.id, what, exc_info=error)
        if job.delivery.delivery_count >= job.task.resolved.max_deliveries:
            last = Entry(job, Ended(Rejected(what)), published=True, stored=True, told=True)
            try:
                if job.message.claim:
                    # Without the store it lapses by itself, late: better than a call that comes back for ever.
                    self._release([last])
                self._finish([last])
            except Exception:
                logger.exception("%s[%s] cannot be buried either", job.message.task, job.message.id)
        self._settled([job])

    def _ours(self, entries: list[Entry]) -> list[Entry]:
        """Drop the outcomes of lost loans: whoever has the message now writes its result."""
        now = self._app.clock.monotonic()
        doubtful = [e.job for e in entries if not e.job.acked and not e.job.lost and e.job.lease_until <= now]
        if doubtful and self._app.broker.capabilities.lease:
            lost = {d.receipt for d in self._consumer().extend([job.delivery for job in doubtful], self._lease)}
            for job in doubtful:
                job.lost = job.delivery.receipt in lost
                job.lease_until = now + self._lease
        gone = [entry for entry in entries if entry.job.lost]
        if gone:
            entries[:] = [entry for entry in entries if not entry.job.lost]
            self._stale([entry.job.delivery for entry in gone if not entry.tried])
            self._settled([entry.job for entry in gone])
        return entries

    def _tell(self, entries: list[Entry], notes: list[Kept]) -> list[Entry]:
        """Tell the fans that outcomes concern; return those that have to wait for the store.

        First of all: the message comes back as long as this has not been done, and doing it twice is doing it once.
        """
        wanted = [entry for entry in entries if not entry.told]
        if not wanted:
            return []
        if self._records.away and self._app.clock.monotonic() < self._records.next_try:
            return self._wait(wanted, [])
        fans = self._app.fans
        try:
            ready = fans.settle([(entry.job.message, entry.ended.onward) for entry in wanted if entry.ended.onward])
        except StoreUnavailable as error:
            self._records.lost(error)
            return self._wait(wanted, [])
        self._records.found()
        for entry in wanted:
            entry.told = True
            onward = entry.ended.onward
            if onward is not None and onward.told is not None:
                notes += fans.lost(onward.lost, onward.told, entry.job.message.reply_to)
        self._ready += ready
        return []

    def _deliver(self) -> None:
        """Send what follows the fans that were decided. Killed meanwhile, or without the store: it is swept up."""
        while self._ready:
            fan = self._ready[-1]
            try:
                self._app.fans.deliver([fan])
            except BrokerUnavailable:
                raise
            except Exception as error:
                logger.error("what follows the group %s is left to be swept up: %s", fan, error, exc_info=error)
            self._ready.remove(fan)

    def _publish(self, entries: list[Entry]) -> None:
        envelopes: dict[int, tuple[Entry, Envelope]] = {}
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
        self._tell_sent({id(entry): entry for entry, _ in pairs}.values())

    def _tell_sent(self, entries: Iterable[Entry]) -> None:
        """Say what was sent after tasks have ended; a retry is the message that was sent before."""
        followups = [(entry.job.message.id, message) for entry in entries for message in entry.ended.followups]
        self._app.sender.published([message for id, message in followups if message.id != id])

    def _unsendable(self, entry: Entry, reason: str) -> None:
        """What should follow can never be sent: rather than lose that, keep the message itself in the dead letters."""
        logger.error(
            "%s[%s]: what should follow cannot be sent: %s", entry.job.message.task, entry.job.message.id, reason
        )
        reason, report = f"what should follow it cannot be sent: {reason}", entry.ended.report
        if report is not None:
            # Delivered once more it must not be taken for done: its dead letter may not be there yet.
            report = msgspec.structs.replace(report, reason=reason)
        entry.ended = Ended(Rejected(reason), report)
        entry.published = True

    def _wait(self, entries: list[Entry], notes: list[Kept]) -> list[Entry]:
        """Let outcomes wait for the backend, without keeping their slots from tasks that need no backend."""
        # Of each task only the latest state matters, however often it reports while nobody listens.
        notes[:] = {note.id: note for note in notes}.values()
        if len(entries) <= MOST_WAITING:
            self._park(entries)
        return entries

    def _park(self, entries: list[Entry]) -> None:
        if fresh := [entry for entry in entries if not entry.parked]:
            self._parked([entry.job for entry in fresh])
            for entry in fresh:
                entry.parked = True

    def _release(self, entries: list[Entry]) -> list[Entry]:
        """Let other calls of unique tasks be sent, those whose call has ended for good; return what has to wait.

        Before the ack: after it a crash would leave a claim that nobody gives up, for as long as it may last.
        """
        if not entries:
            return []
        if self._records.away and self._app.clock.monotonic() < self._records.next_try:
            return self._wait(entries, [])
        ended = [entry for entry in entries if not isinstance(entry.ended.outcome, _GOES_ON)]
        rules = [(entry.job.message, entry.job.task.resolved.unique) for entry in ended]
        try:
            self._app.claims.release(message for message, rule in rules if rule is None or rule.until != "time")
        except StoreUnavailable as error:
            self._records.lost(error)
            return self._wait(entries, [])
        self._records.found()
        for entry in entries:
            entry.released = True
        return []

    def _finish(self, entries: Sequence[Entry]) -> None:
        """Settle the deliveries: the one place where an outcome becomes a verb of the broker."""
        if not entries:
            return
        consumer = self._consumer()
        done: list[Delivery] = []
        released: list[Delivery] = []
        requeued: dict[float, list[Delivery]] = {}
        buried: dict[str, list[Delivery]] = {}
        for entry in entries:
            delivery, outcome = entry.job.delivery, entry.ended.outcome
            if entry.job.acked:
                continue
            if type(outcome) is Done:
                done.append(delivery)
                continue
            match outcome:
                case Released():
                    released.append(delivery)
                case Requeued(delay):
                    requeued.setdefault(delay, []).append(delivery)
                case Rejected(reason):
                    buried.setdefault(reason, []).append(delivery)
                case Failed(error, True, traceback):
                    buried.setdefault(epitaph(Failure.of(error, traceback)), []).append(delivery)
                case _:
                    done.append(delivery)
        # What was tried before may be settled already: then only the answer got lost.
        tried = {entry.job.delivery.receipt for entry in entries if entry.tried}
        self.settling.update([entry.job.delivery.receipt for entry in entries])
        try:
            for entry in entries:
                entry.tried = True
            stale = [*(consumer.ack(done) if done else ()), *(consumer.release(released) if released else ())]
            for delay, some in requeued.items():
                stale.extend(consumer.requeue(some, delay))
            for reason, some in buried.items():
                stale.extend(consumer.bury(some, reason))
            self._broker.found()
            self._stale([delivery for delivery in stale if delivery.receipt not in tried])
            if buried and self._app.listening:
                self._tell_buried(entries, {delivery.receipt for delivery in stale})
            self._settled([entry.job for entry in entries])
        finally:
            self.settling.clear()

    def _tell_buried(self, entries: Sequence[Entry], stale: Container[Any]) -> None:
        for entry in entries:
            outcome, job = entry.ended.outcome, entry.job
            if job.acked or job.delivery.receipt in stale:
                continue
            match outcome:
                case Rejected(reason):
                    self._app.notify("task-buried", job.message, reason=reason)
                case Failed(error, True):
                    failure = Failure.of(error)  # whatever the exception's own methods do
                    self._app.notify("task-buried", job.message, reason=f"{failure.qualname}: {failure.text}")

    def _stale(self, deliveries: Sequence[Delivery]) -> None:
        if not deliveries:
            return
        self.stale += len(deliveries)
        logger.warning(
            "%d outcome(s) not settled, the lease was over: %s",
            len(deliveries),
            ", ".join(d.id for d in deliveries[:5]),
        )
        self._app.notify("lease-lost", ids=[delivery.id for delivery in deliveries])
