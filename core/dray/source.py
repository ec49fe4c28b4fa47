"""The source: the thread through which messages come into a worker, and the table of what the worker holds.

credit -> receive -> triage -> done before? (recognition.py) -> executors; in between: reconnect, give back what waits
behind long tasks, and let a message that has often died with its worker run alone.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from . import states
from .broker import Consumer
from .credit import MOST, Credit
from .crew import Crew, released
from .errors import BackendError, BrokerError, BrokerUnavailable
from .gate import Gate
from .job import Ended, Job
from .message import Delivery, Message
from .outcome import Done, Outcome
from .recognition import Recognition
from .report import about, record

if TYPE_CHECKING:
    from .app import Dray

logger = logging.getLogger("dray.worker")

#: Seconds one `receive` waits; a stop is noticed within that.
WAIT = 0.2
#: Seconds between two tries to reconnect: the first, and the longest. A server that has just opened its port may cut
#: off the first who knock: two of the longest pauses in a row still leave most of the five seconds that we promise.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
#: Seconds in which nothing has ended, after which what waits for a slot is given back.
SHARE_AFTER = 1.0


class Source:
    """Takes messages in for one worker, on a thread of its own; `settle` takes what never runs.

    Everything public may be called from any thread, once `start` has returned.
    """

    def __init__(
        self,
        app: Dray,
        name: str,
        queues: Sequence[str],
        credit: Credit,
        crew: Crew,
        jobs: dict[Any, Job],
        settle: Callable[[Job, Ended], None],
        *,
        lease: float,
        burst: bool,
    ) -> None:
        self._app = app
        self._name = name
        self._queues = queues
        self._credit = credit
        self._crew = crew
        self._recognition = Recognition(app, name)
        #: Keeps tasks within their limits.
        self.gate = Gate(app, lease, crew.execution, crew.triage, burst)
        self._jobs = jobs
        self._settle = settle
        self._lease = lease
        self._burst = burst
        #: Receipts of those jobs in the table that hold no credit any more.
        self._making_room: set[Any] = set()
        #: Jobs whose last delivery this is: each runs while nothing else does, for it may be what ends the process.
        self._suspects: deque[Job] = deque()
        #: How many messages may wait here for a slot; few as long as it is not known that none come that have been lent
        #: before, and hardly any when they do: if this worker died as well, they would be charged once more.
        self._most_waiting = 1
        self._room, self._stopping = threading.Event(), threading.Event()
        #: Set while nothing new is to be taken in, and whenever nothing is held.
        self.paused, self.idle = threading.Event(), threading.Event()
        #: Set when the thread has ended, whatever ended it; and the error, if it was one.
        self.finished = threading.Event()
        self.failure: BaseException | None = None
        #: How many deliveries have come.
        self.received = 0
        now = app.clock.monotonic()
        #: When (monotonic) a job came or was settled last; and when this thread last went round.
        self._last_end = self.looked = now
        #: Whether to give back what waits behind long tasks.
        self._shares = app.conf.worker_prefetch_multiplier is None
        #: Since when (monotonic) the broker is away; and how long to wait before the next try.
        self.away_since: float | None = None
        self._pause = FIRST_PAUSE
        self._thread = threading.Thread(target=self._run, name="dray-source", daemon=True)

    def start(self) -> None:
        """Open the consumer, which raises what is wrong with it, and begin to take in."""
        self.gate.start()
        self.consumer: Consumer = self._app.broker.consumer(self._queues, self._lease)
        self._thread.start()

    def go_on(self) -> None:
        """Take in again after `paused` was set."""
        self.paused.clear()
        self._room.set()

    @property
    def alive(self) -> bool:
        """Whether the thread is there."""
        return self._thread.is_alive()

    def request_stop(self) -> None:
        """Ask it to take in nothing more. Safe in a signal handler."""
        self._stopping.set()

    def wake(self) -> None:
        """Have it notice at once what was asked of it. Not for a signal handler: consumers take locks."""
        self._room.set()
        self.consumer.wake()

    def fail(self, error: BaseException) -> None:
        """Take in nothing more, because of an error that the worker ends with."""
        self.failure = error
        self._stopping.set()
        self._room.set()

    def join(self) -> None:
        """Wait until it takes in nothing more; jobs that waited to run alone are given back."""
        self.wake()
        while self._thread.is_alive():
            # By and by, for the main thread hears no signal that comes on its way into a wait.
            self._thread.join(WAIT)
        while self._suspects:
            self._give_back([self._suspects.popleft()])
        self._send_again(self.gate.drain())

    def settled(self, jobs: Sequence[Job]) -> None:
        """Strike jobs off the table. Called by the settler."""
        self._last_end = self._app.clock.monotonic()
        held, ended = self._jobs, []
        for job in jobs:
            receipt = job.delivery.receipt
            if held.pop(receipt, None) is None:
                continue
            if receipt in self._making_room:
                self._making_room.discard(receipt)
            else:
                ended.append(job)
        self._credit.ended(ended)
        if self.gate.holds_any:
            self.gate.ended(jobs)
        self._room.set()
        if not self._jobs:
            self.idle.set()

    def parked(self, jobs: Sequence[Job]) -> None:
        """Make room for other work: these have ended, but cannot be settled while the result backend is away."""
        for job in jobs:
            self._making_room.add(job.delivery.receipt)
        self._credit.ended(jobs)
        self._room.set()

    # The thread

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self.looked = self._app.clock.monotonic()
                if self._suspects:
                    self._run_alone()
                    continue
                self._share()
                if due := self.gate.due():
                    self._begin(due, True)
                self._room.clear()
                queues, limit = self._credit.allow()
                if self._most_waiting < MOST and (limit := min(limit, self._room_now())) < 1:
                    queues = ()
                if self.paused.is_set():
                    if self._may_give_back():
                        self._give_back(self._crew.drain())
                    self._send_again(self.gate.drain())
                    self._room.wait(WAIT)
                elif not queues:
                    self._room.wait(min(WAIT, self.gate.soon))
                elif not self._receive(queues, limit) and self._burst and not self._jobs:
                    # Looked after the last job was settled, so whatever that sent is there already.
                    break
        except BaseException as error:
            logger.exception("the worker fails")
            self.failure = error
        self._stopping.set()
        self.finished.set()

    def _receive(self, queues: Sequence[str], limit: int) -> bool:
        """Borrow a batch and hand it on; return whether anything came. Survives any outage of the broker."""
        quiet = not self._jobs
        # Short beside the lease, because the loans are taken to have begun when we asked.
        wait = 0.0 if self._burst else min(WAIT, self._lease / 8, self.gate.soon)
        try:
            if self.away_since is not None:
                self._app.broker.open()
                if not self.consumer.resume():
                    self.consumer = self._app.broker.consumer(self._queues, self._lease)
            asked = self._app.clock.monotonic()
            limit = min(limit, self._app.broker.capabilities.max_receive_batch)
            deliveries = self.consumer.receive(limit, wait, queues)
        except BrokerError as error:
            # A refusal too (a read-only disk, a right taken away) is something that people repair while we wait.
            self._wait_for_broker(error)
            return True
        self._broker_is_there()
        if not deliveries:
            if self._burst and not quiet:
                # A look that began while jobs were unsettled proves nothing. The bell was silenced before it, so
                # whatever has been settled since ends this wait at once.
                self._room.wait(WAIT)
            return not quiet
        self.received += len(deliveries)
        # Counted from before the call: never later than what the broker counts from.
        self._hand_on(deliveries, asked + self._lease)
        return True

    def _wait_for_broker(self, error: BrokerError) -> None:
        """Say once that the broker is away; then wait before the next try, longer each time."""
        if self.away_since is None:
            self.away_since, self._pause = self._app.clock.monotonic(), FIRST_PAUSE
            level = logging.WARNING if isinstance(error, BrokerUnavailable) else logging.ERROR
            logger.log(level, "broker away: %s; trying to reconnect", error)
            self._app.notify("broker-lost", worker=self._name, reason=str(error))
        self._app.clock.wait(self._stopping, self._pause * random.uniform(0.5, 1.5))
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _broker_is_there(self) -> None:
        """Say that the broker is back, if it was away. Only a receive proves it: connecting alone may be lazy."""
        if self.away_since is not None:
            away, self.away_since = self._app.clock.monotonic() - self.away_since, None
            logger.info("broker back after %.1fs", away)
            self._app.notify("broker-back", worker=self._name, away=away)

    def _share(self) -> None:
        """Give back what waits behind tasks that turned out to be long: another worker may have a slot for it.

        The credit was given when tasks were short; nothing has ended since, so it could not learn better.
        """
        now = self._app.clock.monotonic()
        if not self._jobs or now - self._last_end < SHARE_AFTER or not self._shares or not self._may_give_back():
            return
        self._last_end = now
        for kind in ("def", "async"):
            waiting = self._crew.drain(kind)
            if waiting:
                self._credit.slower(kind, SHARE_AFTER)
                self._give_back(waiting)

    def _may_give_back(self) -> bool:
        can = self._app.broker.capabilities
        # Otherwise, given back a few times, it would be buried without ever having begun.
        return can.release_uncharged or not can.delivery_count

    def _give_back(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._settle(job, released(job))

    def _send_again(self, jobs: Sequence[tuple[Job, Ended]]) -> None:
        for job, ended in jobs:
            self._settle(job, ended)

    def _hand_on(self, deliveries: Sequence[Delivery], lease_until: float) -> None:
        # What has just come does not wait behind anything yet, however long nothing has ended.
        self._last_end = self._app.clock.monotonic()
        runnable: list[Job] = []
        triage, lane = self._crew.triage, {kind: self._crew.lane(kind) for kind in ("def", "async")}
        again, fresh = self._apart(deliveries)
        # Those first: what this worker does not keep of them it gives back while it still knows nothing of the others.
        looked = self._kept(triage.look(again, lease_until)) if again else []
        looked += triage.look(fresh, lease_until)
        brought: dict[tuple[str, str], tuple[int, int]] = {}
        for job, _ in looked:
            kind = job.kind = lane[job.kind]
            delivery = job.delivery
            # In the table before anything is waited for: the keeper renews what is there.
            self._jobs[delivery.receipt] = job
            count, size = brought.get((delivery.queue, kind), (0, 0))
            brought[delivery.queue, kind] = count + 1, size + len(delivery.body)
        for (queue, kind), (count, size) in brought.items():
            self._credit.taken(queue, kind, count, size)
        done_before = self._recognition.look(looked)
        for job, outcome in looked:
            if job.delivery.receipt in done_before:
                self._settle(job, Ended(Done(None)))
            elif outcome is not None:
                self._settle(job, triage.unrun(job, outcome))
            else:
                runnable.append(job)
        self._begin(runnable, bool(again))
        self._most_waiting = self._may_wait(bool(again))

    def _begin(self, jobs: Sequence[Job], lent_before: bool) -> None:
        """Have those run that may begin now; suspects by and by, and what has a limit when its turn comes."""
        held = self.gate.look(jobs)
        ready: dict[str, list[Job]] = {}
        early: list[Job] = []
        for job in jobs:
            if held and job.delivery.receipt in held:
                self._hold_back(job, held[job.delivery.receipt])
            elif lent_before and self._is_suspect(job):
                self._suspects.append(job)
            elif not job.task.resolved.acks_late:
                early.append(job)
            else:
                ready.setdefault(job.kind, []).append(job)
        for job in self._acked(early):
            ready.setdefault(job.kind, []).append(job)
        for kind, some in ready.items():
            self._crew.submit(kind, some)

    def _hold_back(self, job: Job, ended: Ended | None) -> None:
        """Settle a job that must not begin, or make room for others while it waits here for its turn."""
        if ended is not None:
            self._settle(job, ended)
        elif job.delivery.receipt not in self._making_room:
            self._making_room.add(job.delivery.receipt)
            self._credit.ended([job])

    # Messages that may be what kills workers

    def _is_suspect(self, job: Job) -> bool:
        """Return whether this is the last delivery of a message whose earlier ones never ended."""
        most, count = job.task.resolved.max_deliveries, job.delivery.delivery_count
        return job.task.resolved.acks_late and count >= most > 1 and self._counts

    def _apart(self, deliveries: Sequence[Delivery]) -> tuple[Sequence[Delivery], Sequence[Delivery]]:
        """Return those that were lent before, if dying while it has them is what would bury them, and the others."""
        again = [delivery for delivery in deliveries if delivery.delivery_count > 1]
        if not again or not self._counts:
            return (), deliveries
        return again, [delivery for delivery in deliveries if delivery.delivery_count <= 1]

    def _kept(self, looked: list[tuple[Job, Outcome | None]]) -> list[tuple[Job, Outcome | None]]:
        """Give back at once, of messages that were lent before, what cannot begin at once; return the others.

        Of suspects one is kept, and nothing beside it.
        """
        waiting = [job for job, outcome in looked if outcome is None]
        suspect = next((job for job in waiting if self._is_suspect(job)), None)
        if suspect is not None:
            waiting.remove(suspect)
        else:
            waiting = waiting[max(1, self._crew.slots - len(self._open())) :]
        if not waiting or not self._may_give_back():
            return looked
        try:
            self.consumer.release([job.delivery for job in waiting])
        except BrokerError as error:
            logger.warning("%d message(s) not given back at once: %s", len(waiting), error)
            return looked
        given = set(waiting)
        return [(job, outcome) for job, outcome in looked if job not in given]

    def _may_wait(self, lent_before: bool) -> int:
        """Return how many messages may wait from now on: one after a suspect, twice as many after a clean batch.

        Hardly any, as long as the batches bring what has been lent before.
        """
        if self._suspects:
            return 1
        return 0 if lent_before else min(max(self._most_waiting, 1) * 2, MOST)

    @property
    def _counts(self) -> bool:
        """Whether messages are charged with the death of a worker that has them."""
        return self._app.broker.capabilities.delivery_count and not self._crew.isolates

    def _open(self) -> list[Job]:
        return [job for job in list(dict(self._jobs).values()) if not job.closed]

    def _room_now(self) -> int:
        """Return how many messages can begin at once, and may wait."""
        held = [job for job in self._open() if job.delivery.receipt not in self._making_room]
        waiting = sum(1 for job in held if not job.began)
        # One waits if need be: it may be for the other lane, and that one free.
        return self._most_waiting - waiting if self._most_waiting else max(self._crew.slots - len(held), 1 - waiting)

    def _run_alone(self) -> None:
        """Run the next suspect while nothing else is held here, so that what it may do is charged to nobody else.

        What has not begun is given back first, other suspects too: held by a process that dies, it would be charged.
        What runs may end first; for as long as one lease, then the suspect runs among them: those are long tasks, and
        what has run for so long beside them is none that kills at once. The same once it runs itself.
        """
        job = self._suspects.popleft()
        self._send_again(self.gate.drain())
        if self._may_give_back():
            self._give_back([*self._crew.drain(), *self._suspects])
            self._suspects.clear()
        kept = {job.delivery.receipt, *(other.delivery.receipt for other in self._suspects)}
        if not self._wait_until(lambda: self._jobs.keys() <= kept):
            self._give_back([job])
            return
        logger.warning(
            "%s[%s]: delivery %d of at most %d, none has ended yet: it runs alone",
            job.message.task,
            job.message.id,
            job.delivery.delivery_count,
            job.task.resolved.max_deliveries,
        )
        self._crew.submit(job.kind, [job])
        self._wait_until(lambda: job.delivery.receipt not in self._jobs)

    def _wait_until(self, reached: Callable[[], bool]) -> bool:
        """Wait for one lease at most; return False when the worker is to stop."""
        clock = self._app.clock
        end = clock.monotonic() + self._lease
        while not self._stopping.is_set():
            self._room.clear()
            self.looked = clock.monotonic()
            if reached() or self.looked >= end:
                return True
            self._room.wait(WAIT)
        return False

    # At-most-once tasks

    def _acked(self, jobs: Sequence[Job]) -> list[Job]:
        """Ack jobs of at-most-once tasks before they begin; return those that may begin."""
        if not jobs:
            return []
        self._remember([job.message for job in jobs if not job.message.ignore_result])
        try:
            lost = {delivery.receipt for delivery in self.consumer.ack([job.delivery for job in jobs])}
        except BrokerError as error:
            # Acked or not, nobody knows: at most once means that it must not run here now.
            logger.warning("%d at-most-once task(s) given up, acking them first failed: %s", len(jobs), error)
            lost = {job.delivery.receipt for job in jobs}
        for job in jobs:
            job.acked, job.lost = True, job.delivery.receipt in lost
        self.settled([job for job in jobs if job.lost])
        return [job for job in jobs if not job.lost]

    def _remember(self, messages: Sequence[Message]) -> None:
        """Store that these exist: once they are acked, the broker cannot tell a running task from an unknown id."""
        app = self._app
        records = [record(app, m.id, about(m, states.PENDING), 0, reply_to=m.reply_to) for m in messages]
        try:
            if records:
                app.connections.store(records, app.conf.result_expires)
        except BackendError as error:
            logger.warning("%d task(s) run unknown to the result backend: %s", len(records), error)
