"""The gate: where a worker asks, for a batch of messages, which of them may begin now and which have to wait.

places of `max_concurrent` -> turns of `rate_limit` -> claims of unique tasks -> executors

What has to wait is sent again, to come out when its turn comes: it holds nothing here, blocks nothing behind it, and no
delivery is charged for it. Its turn is reserved, and it carries that with it. A turn that is almost there is waited for
here. Where the store does not answer, nothing with a limit begins; what has none is not looked at.
"""

from __future__ import annotations

import heapq
import logging
import math
import random
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from .errors import DrayError, LimitExceeded, StoreError
from .holds import Place
from .job import Ended, Job
from .lanes import homes_of, lanes_of
from .limits import LOOK, LOOK_IDLE, Book, places_part, rate_part
from .message import Turn
from .outcome import HandedBack, Rejected, Revoked
from .rates import Rate
from .store import Hold, Take
from .triage import Triage, told

if TYPE_CHECKING:
    from .app import Dray
    from .execution import Execution
    from .unique import Unique

logger = logging.getLogger("dray.worker")

#: Seconds for which turns are reserved ahead; and after which, at the latest, whatever waits looks again.
AHEAD, FURTHEST = 30.0, 300.0
#: A turn that is so near (seconds) is waited for here, by so many at a time; what has been sent away comes back so
#: much earlier than its turn, because brokers may be late.
NEAR, MOST_NEAR, EARLY = 0.5, 64, 0.25
#: How late (seconds) a turn may be taken: later, those after it would come too close, and another one is asked for.
LATE, LATEST = 0.1, 5.0
#: By how much (seconds) the turns of one period are drawn apart: what begins some milliseconds late shall not come too
#: close to what begins in time, and be one too many in a period.
MARGIN = 0.02
#: Seconds between two tries of one that finds no place: for each of those that wait as well, fewest, and most.
EACH_WAITS, SHORTEST, LONGEST = 0.05, 0.1, 60.0
#: How many of those that found no place are counted.
MOST_COUNTED = 1000
#: Seconds for which a store that did not answer is left alone.
LEFT_ALONE = 5.0

#: What becomes of jobs that must not begin now: None for those that are waited for here.
Held = dict[Any, Ended | None]


class _Wanted(NamedTuple):
    """What a job needs to begin."""

    rates: tuple[tuple[str, Rate], ...]
    #: Partitions, and how many places each has.
    places: tuple[tuple[str, int], ...]
    on_limit: str

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(part for part, _ in self.rates)


class _Over(NamedTuple):
    """A job that would exceed a limit: which, and in how many seconds it may look again; `turn` is what it is then."""

    what: str
    delay: float
    turn: Turn


_FREE = _Wanted((), (), "wait")


class Gate:
    """Keeps one worker's tasks within their limits. All but `ended` and `tick` is the source thread's."""

    def __init__(self, app: Dray, lease: float, execution: Execution, triage: Triage, burst: bool) -> None:
        self._app = app
        self._lease = lease
        self._execution = execution
        self._triage = triage
        #: A worker that ends when nothing is due waits for nothing that is not.
        self._near = 0.0 if burst else NEAR
        self._early = 0.0 if burst else EARLY
        self._margin = 0.0 if burst else MARGIN
        self._burst = burst
        self._me = app.new_id()
        self._book = Book(app)
        #: What the jobs of a task need that come from a queue, where that is the same for all; and when that was known.
        self._same: dict[tuple[str, str], _Wanted] = {}
        self._version = -1
        self._broadcast = frozenset(queue.name for queue in app.conf.task_queues or () if queue.broadcast)
        #: Which queue a lane stands for, the limits of which it shares.
        self._homes = homes_of(lanes_of(app.conf))
        #: By how much the store's clock is ahead of ours.
        self._ahead = 0.0
        #: The places of the jobs that have passed, by receipt.
        self._places: dict[Any, list[Place]] = {}
        #: Jobs whose turn is waited for here: when (monotonic), and a number that tells apart those of one moment.
        self._waiting: list[tuple[float, int, Job]] = []
        self._number = count()
        #: For each partition, when (monotonic) those come back that found no place, or no turn that could be reserved.
        self._away: dict[str, deque[float]] = {}
        #: Until when (monotonic) a store that did not answer is left alone; and whether that was said.
        self._left_alone, self._told = 0.0, False
        #: When (monotonic) the limits were read last; and whether anything has wanted to begin since then.
        self._looked, self._came = -math.inf, False
        self._thread: threading.Thread | None = None

    # The worker's life

    def start(self) -> None:
        """Read the limits; raise `NotSupported` if some are declared and there is no store for them."""
        if self._book.declared:
            self._app.require_store("what the tasks say about limits or being unique")
        if self._book.declared or self._burst:
            self._looked = self._app.clock.monotonic()
            self._look()

    def close(self) -> None:
        """Give back at once what is to be given back: the process may end now."""
        if self._thread is not None:
            self._thread.join(1.0)
        self._app.connections.holds.flush()

    def tick(self) -> None:
        """Read the limits again if it is time, on another thread: whoever renews leases must not wait for a store.

        An idle worker looks seldom, and at once when something has come: what came first did not wait for that.
        """
        now = self._app.clock.monotonic()
        if now < self._looked + (LOOK if self._came else LOOK_IDLE) or self._app.connections.store_url is None:
            return
        if self._thread is not None and self._thread.is_alive():
            return
        # In this order: what comes while it looks has it look once more.
        self._looked, self._came = now, False
        self._thread = threading.Thread(target=self._look, name="dray-limits", daemon=True)
        self._thread.start()

    def _look(self) -> None:
        app = self._app
        try:
            self._book.look()
            if self._book.any:
                self._ahead = app.store("limits").now() - app.clock.time()
        except DrayError as error:
            if self._book.any and not self._told:
                logger.warning("limits changed at run time cannot be read, those known go on: %s", error)
            self._told = True
        except Exception:
            logger.exception("limits changed at run time cannot be read, those known go on")
        else:
            self._told = False

    # Those that want to begin

    def look(self, jobs: Sequence[Job]) -> Held:
        """Return those that must not begin now, by receipt. Never raises."""
        self._came = True
        held: Held = {}
        if not self._book.any:
            return held
        wanted: list[tuple[Job, _Wanted]] = []
        if self._version != self._book.version:
            self._same, self._version = {}, self._book.version
        same = self._same
        for job in jobs:
            try:
                needs = same.get((job.message.task, job.delivery.queue)) or self._needs(job)
            except Exception as error:
                reason = f"its limit_key cannot be worked out: {told(error)}"
                held[job.delivery.receipt] = self._triage.unrun(job, Rejected(reason))
                continue
            if needs is not _FREE:
                wanted.append((job, needs))
        over = self._limited(wanted) if wanted else []
        for (job, needs), refused in zip(wanted, over, strict=True):
            if refused is None:
                if job.message.turn is not None:
                    job.message = job.message.but(turn=Turn(job.message.turn.waits))
            else:
                held[job.delivery.receipt] = self._refused(job, needs, refused)
        claimed = [job for job in jobs if job.message.claim and job.delivery.receipt not in held]
        if claimed:
            self._begin(claimed, held)
        for receipt, ended in held.items():
            if ended is not None and receipt in self._places:
                self._let_go(receipt)
        return held

    def due(self) -> list[Job]:
        """Return those waited for here whose turn has come: they are to be looked at once more."""
        now = self._app.clock.monotonic()
        due: list[Job] = []
        while self._waiting and self._waiting[0][0] <= now:
            due.append(heapq.heappop(self._waiting)[2])
        return due

    @property
    def soon(self) -> float:
        """In how many seconds the next turn comes that is waited for here; for ever if there is none."""
        return max(0.0, self._waiting[0][0] - self._app.clock.monotonic()) if self._waiting else float("inf")

    def drain(self) -> list[tuple[Job, Ended]]:
        """Give up those waited for here: each is sent again, and keeps its turn."""
        waiting, self._waiting = self._waiting, []
        for _, _, job in waiting:
            self._let_go(job.delivery.receipt)
        return [(job, self._sent_again(job, max(0.0, at - self._app.clock.monotonic()))) for at, _, job in waiting]

    @property
    def holds_any(self) -> bool:
        """Whether there is anything to give back when jobs end."""
        return bool(self._places)

    def ended(self, jobs: Sequence[Job]) -> None:
        """Give back the places of jobs that are settled. Called by the settler."""
        for job in jobs:
            self._let_go(job.delivery.receipt)

    # What a job needs

    def _needs(self, job: Job) -> _Wanted:
        task, queue = job.task, self._homes.get(job.delivery.queue, job.delivery.queue)
        own, shared = self._book.of_task(task), self._book.of_queue(queue)
        declared = task.resolved.limits
        grouped = declared.key is not None and bool(own)
        group = (str(declared.key(self._arguments(job))),) if declared.key is not None and own else ()
        rates = [(rate_part(f"t.{task.name}", own.rate, *group), own.rate)] if own.rate else []
        rates += [(rate_part(f"q.{queue}", shared.rate), shared.rate)] if shared.rate else []
        places = [(places_part(f"t.{task.name}", *group), own.max_concurrent)] if own.max_concurrent else []
        places += [(places_part(f"q.{queue}"), shared.max_concurrent)] if shared.max_concurrent else []
        needs = _Wanted(tuple(rates), tuple(places), declared.on_limit)
        # A broadcast copy is for this worker alone, and cannot be sent again to it alone.
        if not (rates or places) or queue in self._broadcast:
            needs = _FREE
        if not grouped:
            self._same[task.name, job.delivery.queue] = needs
        return needs

    def _arguments(self, job: Job) -> Mapping[str, Any]:
        args, kwargs, _ = self._app.payloads.arguments(job.message)
        return job.task.parameters.whole(args, kwargs)

    # Asking the store

    def _limited(self, wanted: Sequence[tuple[Job, _Wanted]]) -> list[_Over | None]:
        """Return for each job None if it may begin, else why not."""
        over: list[_Over | None] = [None] * len(wanted)
        try:
            if self._app.clock.monotonic() < self._left_alone:
                raise StoreError("it did not answer a moment ago")
            self._take_places(wanted, over)
            self._take_turns(wanted, over)
        except Exception as error:
            if self._app.clock.monotonic() >= self._left_alone:
                self._left_alone = self._app.clock.monotonic() + LEFT_ALONE
                expected = isinstance(error, StoreError)
                logger.warning("what has a limit waits for the store: %s", error, exc_info=None if expected else error)
            pause = LEFT_ALONE * random.uniform(0.5, 1.0)
            return [_Over("the store does not answer", pause, job.message.turn or Turn()) for job, _ in wanted]
        return over

    def _take_places(self, wanted: Sequence[tuple[Job, _Wanted]], over: list[_Over | None]) -> None:
        asked: list[tuple[int, Hold]] = []
        #: How many in this batch ask for each partition: more than it has places need not.
        asking: dict[str, int] = {}
        for position, (job, needs) in enumerate(wanted):
            if not needs.places or job.delivery.receipt in self._places:
                continue
            full = [part for part, most in needs.places if asking.get(part, 0) >= most]
            if full:
                over[position] = self._no_place(job, full[0])
                continue
            for part, most in needs.places:
                asking[part] = asking.get(part, 0) + 1
                # Never the same name twice: what gives a place back later must not give back another one.
                asked.append((position, Hold(part, f"{self._me}/{next(self._number)}", self._lease, most)))
        if not asked:
            return
        answers = self._app.connections.holds.take([hold for _, hold in asked])
        got: dict[int, list[Place]] = {}
        for (position, hold), kept in zip(asked, answers, strict=True):
            if kept is not None:
                got.setdefault(position, []).append(kept)
            elif over[position] is None:
                over[position] = self._no_place(wanted[position][0], hold.part)
        for position, places in got.items():
            if over[position] is None:
                self._places[wanted[position][0].delivery.receipt] = places
            else:
                self._app.connections.holds.let_go_soon(places)

    def _no_place(self, job: Job, part: str) -> _Over:
        """Say when one that found no place looks again: later, the more there are that wait for one as well."""
        pause = self._pause(part, SHORTEST, EACH_WAITS, LONGEST)
        return _Over("max_concurrent", pause, Turn(_waits(job)))

    def _pause(self, part: str, first: float, each: float, most: float) -> float:
        """Return in how many seconds one more looks again: `first`, and `each` for those that were sent away before.

        Each at a moment of its own, and rather early than late: what is free is not to wait for somebody to come by.
        """
        now = self._app.clock.monotonic()
        away = self._away.setdefault(part, deque(maxlen=MOST_COUNTED))
        waiting = sum(1 for back in away if back > now)
        pause = min(first + each * waiting, most) * random.uniform(0.5, 1.0)
        away.append(now + pause)
        while len(self._away) > MOST_COUNTED:
            del self._away[next(iter(self._away))]
        return pause

    def _take_turns(self, wanted: Sequence[tuple[Job, _Wanted]], over: list[_Over | None]) -> None:
        now = self._app.clock.time() + self._ahead
        asked: list[tuple[int, Take]] = []
        for position, (job, needs) in enumerate(wanted):
            if over[position] is not None or not needs.rates:
                continue
            turn = job.message.turn
            if turn is not None and turn.at and set(needs.parts) <= set(turn.of):
                late = max(LATE, min(min(rate.every for _, rate in needs.rates), LATEST))
                if now < turn.at:
                    over[position] = _Over("rate_limit", turn.at - now, turn)
                    continue
                if now <= turn.at + late:
                    continue
            for part, rate in needs.rates:
                every = rate.every + self._margin / rate.number
                ahead = max(AHEAD, every) if needs.on_limit == "wait" else 0.0
                asked.append((position, Take(part, every, rate.burst, ahead=ahead)))
        if not asked:
            return
        waits: dict[int, tuple[float, bool]] = {}
        answers = self._app.store("rate_limit").take([take for _, take in asked])
        for (position, take), wait in zip(asked, answers, strict=True):
            longest, reserved = waits.get(position, (0.0, True))
            waits[position] = max(longest, wait), reserved and wait <= take.ahead
        for position, (wait, reserved) in waits.items():
            if wait > 0:
                job, needs = wanted[position]
                if reserved:
                    over[position] = _Over("rate_limit", wait, Turn(_waits(job), now + wait, needs.parts))
                else:
                    over[position] = _Over("rate_limit", self._later(needs, wait), Turn(_waits(job)))

    def _later(self, needs: _Wanted, wait: float) -> float:
        """Return when one looks again whose turn is further away than turns are reserved."""
        if needs.on_limit != "wait":
            return wait
        part, slowest = max(needs.rates, key=lambda pair: pair[1].every)
        return self._pause(part, wait, slowest.every, FURTHEST)

    # What becomes of those that must not begin

    def _refused(self, job: Job, needs: _Wanted, over: _Over) -> Ended | None:
        if needs.on_limit == "wait" or over.what not in ("rate_limit", "max_concurrent"):
            job.message = job.message.but(turn=over.turn)
            if over.turn.at and over.delay <= self._near and len(self._waiting) < MOST_NEAR:
                at = self._app.clock.monotonic() + over.delay
                heapq.heappush(self._waiting, (at, next(self._number), job))
                return None
            if not over.turn.at or over.delay <= self._near:
                return self._sent_again(job, over.delay)
            # It comes back a little before its turn: brokers may be late, and a turn that is missed is lost.
            return self._sent_again(job, min(over.delay, FURTHEST) - self._early)
        words = f"{job.message.task} would exceed its {over.what}"
        if needs.on_limit == "drop":
            return self._triage.unrun(job, Revoked(f"dropped: {words}"))
        delay = over.delay if needs.on_limit == "reschedule" else None
        return self._execution.refused(job, LimitExceeded(words), delay)

    def _sent_again(self, job: Job, delay: float) -> Ended:
        """Return what has a message sent again, to come out after `delay`, and not counted as a delivery."""
        message, app = job.message, self._app
        delay = min(delay, app.broker.capabilities.max_delay)
        turn = msgspec.structs.replace(message.turn or Turn(), waits=_waits(job) + 1)
        again = message.but(handed_back=message.handed_back + 1, eta=app.clock.time() + delay, turn=turn)
        logger.debug("%s[%s] waits for %.3f s, within its limits", message.task, message.id, delay)
        return Ended(HandedBack(delay), None, (again,))

    # Unique tasks

    def _begin(self, jobs: Sequence[Job], held: Held) -> None:
        """Look at the claims of those that are about to begin; those whose place another call has taken do not."""
        pairs = [(job, rule) for job in jobs if (rule := job.task.resolved.unique) is not None]
        try:
            others = self._app.claims.begin([(job.message, rule) for job, rule in pairs]) if pairs else []
        except DrayError as error:
            logger.warning("%d unique task(s) run, unknown whether another call has come: %s", len(pairs), error)
            return
        for (job, rule), other in zip(pairs, others, strict=True):
            if other and _is_replaced(job, rule):
                held[job.delivery.receipt] = self._triage.unrun(job, Revoked(f"replaced by the call {other}"))

    def _let_go(self, receipt: Any) -> None:
        if (places := self._places.pop(receipt, None)) is not None:
            self._app.connections.holds.let_go_soon(places)


def _waits(job: Job) -> int:
    return 0 if job.message.turn is None else job.message.turn.waits


def _is_replaced(job: Job, rule: Unique) -> bool:
    """Tell whether a call may be left out because another one has its claim: not if it may have begun before."""
    if rule.until == "time" or (rule.until == "start" and rule.on_conflict != "replace"):
        return False
    return job.delivery.delivery_count <= 1 and job.message.retries == 0
