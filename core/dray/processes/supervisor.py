"""The supervisor of a pool of processes: the one thread that has children made, feeds them, hears them, sees them die.

It never waits for a child: pipes are read and written as far as they go, and there is a time set for every answer.
"""

from __future__ import annotations

import logging
import selectors
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import msgspec

from ..clock import SYSTEM_CLOCK
from ..errors import ConfigurationError, SoftTimeLimitExceeded
from ..job import Job
from ..outcome import Revoked
from .answers import Answers
from .birth import Birth
from .feeder import STUCK, Feeder
from .frames import (
    Broken,
    Cancel,
    End,
    Leaving,
    Note,
    Progress,
    Ready,
    Recall,
    Recalled,
    Show,
    Stack,
    Throw,
    Told,
    Word,
)
from .handle import Handle, Outlet, ended
from .nursery import Nursery

if TYPE_CHECKING:
    from ..app import Dray
    from ..executors import Host

logger = logging.getLogger("dray.worker")

#: Seconds that jobs are with a child that runs nothing, and begins none of them, before they are called back.
IDLE = 2.0
#: Seconds for an answer to that: then `drain` goes without it; and then a child that runs nothing is taken for dead.
ANSWER, SICK = 0.5, 5.0
#: Seconds that a job has to end when its task was told to; and that a child has to end itself.
LAST_CHANCE, OBEY = 2.0, 0.5
#: Seconds that a child has to end when it has nothing to do any more; and to end after its pipe was closed.
FAREWELL, SILENT = 5.0, 0.5
#: Seconds that a child has to get ready.
CHILDHOOD = 120.0


class Supervisor:
    """Runs the jobs in `line` in children. What may be called from any thread says so."""

    def __init__(self, host: Host, app: Dray, told: Birth, method: str, line: deque[Job], slots: int) -> None:
        self._host = host
        self._line = line
        self._slots = slots
        lease = host.lease if told.capabilities.lease else 0.0
        self._feeder = Feeder(host, line, lease, app.conf.worker_max_tasks_per_child)
        self._nursery = Nursery(app, told, method)
        self._children: list[Handle] = []
        #: When to look next whether something is overdue.
        self._due = inf
        self._drain: Answers | None = None
        self._show: Answers | None = None
        self._wishes: deque[Callable[[], None]] = deque()
        #: True while whoever brings something has to wake the thread.
        self._asleep = False
        self._ending = False
        #: Set when it is known whether the first child got ready; and the error, if it did not.
        self.begun = threading.Event()
        self.error: ConfigurationError | None = None
        self._bell, self._ringer = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self.thread = threading.Thread(target=self._run, name="dray-processes", daemon=True)

    def ask(self, wish: Callable[[], None]) -> None:
        """Have something done by the thread, soon. Any thread."""
        self._wishes.append(wish)
        self.wake()

    def wake(self) -> None:
        """Have the thread look at the line. Any thread."""
        if self._asleep:
            self._asleep = False
            try:
                self._ringer.send(b"!")
            except OSError:
                pass  # it has rung often enough; or the thread has ended

    # The thread

    def _run(self) -> None:
        self._bell.setblocking(False)
        self._ringer.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ, self._rung)
        try:
            self._nursery.open()
            self._look()
            while not self._ending or self._children:
                self._round()
        except BaseException as error:
            logger.critical("the pool of processes fails", exc_info=True)
            self.error = ConfigurationError(f"the pool of processes fails: {type(error).__name__}: {error}")
            self._host.failed(error)
        finally:
            for each in self._children:
                each.kill()
                each.end()
            self.begun.set()
            self._selector.close()
            self._bell.close()
            self._ringer.close()

    def _round(self) -> None:
        # From here on whoever brings something rings. What came before is seen below.
        self._asleep = True
        now = SYSTEM_CLOCK.monotonic()
        if self._line:
            for each in self._feeder.feed(self._children, self._slots, now):
                self._see_to(each, each.jobs)
                self._at(now + STUCK)
        if self._due <= now:
            self._look()
        wait = 0.0 if self._wishes else None if self._due == inf else max(0.0, self._due - now)
        events = self._selector.select(wait)
        self._asleep = False
        for key, _ in events:
            key.data()
        while self._wishes:
            self._wishes.popleft()()

    def _rung(self) -> None:
        self._bell.recv(4096)

    def _at(self, moment: float) -> None:
        """Look again at this moment, or before."""
        self._due = min(self._due, moment)

    # Hearing

    def _hear(self, each: Handle) -> None:
        try:
            for word in each.hear() or ():
                self._take(each, word)
        except (EOFError, OSError, msgspec.DecodeError):
            # It says no more, or nonsense. If it is not about to end, its task has closed the pipe, or something else.
            self._selector.unregister(each.descriptor)
            each.gone_at = min(each.gone_at, SYSTEM_CLOCK.monotonic() + SILENT)
            self._at(each.gone_at)

    def _take(self, each: Handle, word: Word) -> None:
        match word:
            case Progress():
                self._progress(each, word)
            case Note(state):
                self._host.note(state)
            case Told(event):
                self._host.happened(event)
            case Recalled(upto, begun):
                self._put_back(each.take_back(begun, upto))
                if upto == each.recalled:
                    each.recalled, each.recalled_at = 0, inf
                    self._answered(each)
            case Stack(text):
                if self._show is not None and each in self._show.asked:
                    self._show.give([text])
                    self._show.answered(each)
            case Leaving(size):
                logger.info("process %d is replaced: it has grown to %.0f MB", each.pid, size / 2**20)
                self._put_back(each.take_back())
                self._let_go(each)
            case Ready():
                each.ready = True
                if not each.leaving:
                    each.gone_at = inf
                self._nursery.grown()
                self.begun.set()
                self._at(0.0)
            case Broken(reason):
                each.broken = reason

    def _progress(self, each: Handle, word: Progress) -> None:
        host, sent = self._host, each.sent
        for came in word.ended:
            if (job := sent.pop(came.number, None)) is not None:
                job.ran = came.ran
                each.ended += 1
                self._feeder.learn(came.ran)
                host.done(job, ended(came, job))
        if word.returned:
            self._put_back([sent.pop(number) for number in word.returned if number in sent])
        each.current = number = word.begun
        if number:
            each.begun, each.began_at = number, word.at
            self._at(word.at + STUCK)
            if (running := sent.get(number)) is not None:
                host.began(running, word.at)
                if running.cancelled or running.lost:
                    each.order(Cancel(number))
            if each.ended + 1 >= self._feeder.most_jobs and not each.replaced:
                # This is its last one: whoever takes its place can get ready meanwhile.
                each.replaced = True
                self._at(0.0)
        elif each.leaving:
            each.gone_at = SYSTEM_CLOCK.monotonic() + FAREWELL
            self._at(each.gone_at)
        elif each.ended >= self._feeder.most_jobs:
            self._let_go(each)

    def _put_back(self, jobs: list[Job]) -> None:
        """Put jobs that were not begun where they came from, in front; or give them to whoever wants them back."""
        if self._drain is None or not self._drain.give(jobs):
            self._line.extendleft(reversed(jobs))

    def _answered(self, each: Handle) -> None:
        if self._drain is not None:
            self._drain.answered(each)

    # Wishes of the executor

    def drain(self, answers: Answers) -> None:
        """Collect what has not begun, and call back what children have."""
        if self._drain is not None:
            self._drain.complete()
        # Others only add, at the other end.
        waiting = [self._line.popleft() for _ in range(len(self._line))]
        self._drain = answers
        self._put_back(waiting)
        for each in self._children:
            if each.waiting:
                self._recall(each)
                answers.asked.add(each)
        self._wait_for(answers)

    def show(self, answers: Answers) -> None:
        """Ask every child what it runs."""
        if self._show is not None:
            self._show.complete()
        self._show = answers
        for each in self._children:
            if each.running is not None:
                each.order(Show())
                answers.asked.add(each)
        self._wait_for(answers)

    def _wait_for(self, answers: Answers) -> None:
        if not answers.asked:
            answers.complete()
        self._at(answers.until)

    def cancel(self, job: Job) -> None:
        """Tell a job that it is not wanted, whether it runs or not."""
        for each in self._children:
            for number, found in each.sent.items():
                if found is job:
                    each.order(Cancel(number))
                    return

    def interrupt(self, job: Job, error: type[BaseException]) -> None:
        """Raise something in a job that runs."""
        if (each := self._runner(job)) is not None:
            each.order(Throw(each.current, error is SoftTimeLimitExceeded))

    def kill(self, job: Job, number: int) -> None:
        """End a job that runs: its child does, that knows which one it is; or we do, if it cannot."""
        if (each := self._runner(job)) is None:
            return
        reason = job.verdict.reason if isinstance(job.verdict, Revoked) else ""
        each.order(End(each.current, number, reason))
        each.ending, each.by_force = each.current, number == signal.SIGKILL
        each.ending_at = SYSTEM_CLOCK.monotonic() + (OBEY if each.by_force else LAST_CHANCE)
        self._at(each.ending_at)

    def resize(self, slots: int) -> None:
        """Have so many children."""
        self._slots = slots
        staying = self._staying()
        # Those first that are not needed.
        staying.sort(key=lambda each: (each.ready, len(each.sent)))
        for each in staying[: max(0, len(staying) - slots)]:
            self._let_go(each)
        self._at(0.0)

    def end(self) -> None:
        """Let all children go, and end when they have."""
        self._ending = True
        for each in self._children:
            self._let_go(each)
            each.gone_at = SYSTEM_CLOCK.monotonic() + FAREWELL
        self._at(SYSTEM_CLOCK.monotonic() + FAREWELL)

    def _runner(self, job: Job) -> Handle | None:
        return next((each for each in self._children if each.running is job), None)

    def _staying(self) -> list[Handle]:
        return [each for each in self._children if not each.leaving and not each.replaced]

    def _recall(self, each: Handle) -> None:
        """Have a child begin nothing any more of what it has."""
        if not each.recalled:
            each.recalled_at = SYSTEM_CLOCK.monotonic()
        each.recalled = each.last
        each.order(Recall(each.recalled))

    def _let_go(self, each: Handle) -> None:
        """Have a child end when its job has."""
        if each.leaving:
            return
        each.leaving = True
        if each.waiting:
            self._recall(each)
        self._forget(each.jobs)
        each.jobs.close()
        if not each.current:
            each.gone_at = SYSTEM_CLOCK.monotonic() + FAREWELL
        self._at(0.0)

    # What is overdue

    def _look(self) -> None:
        """Do what is due, and set the time of the next look."""
        now = SYSTEM_CLOCK.monotonic()
        self._due = inf
        for each in self._children:
            self._look_for_idleness(each, now)
            self._look_for_disobedience(each, now)
            if each.gone_at <= now:
                each.kill()
                each.gone_at = now + OBEY
            self._at(each.gone_at)
        for answers in (self._drain, self._show):
            if answers is not None and answers.until <= now:
                answers.complete()
            elif answers is not None and not answers.is_complete:
                self._at(answers.until)
        if self._drain is not None and self._drain.is_complete:
            self._drain = None
        if self._show is not None and self._show.is_complete:
            self._show = None
        self._look_for_gaps(now)

    def _look_for_idleness(self, each: Handle, now: float) -> None:
        """Call back what waits with a child for too long: behind a job that runs, or because it was frozen."""
        if not each.waiting:
            return
        since, most = (each.began_at, STUCK) if each.current else (each.moved_at, IDLE)
        if not each.recalled and now - since >= most:
            self._recall(each)
        if each.recalled and not each.current and now - each.recalled_at >= SICK:
            logger.error("process %d does nothing, not even answer: it is killed", each.pid)
            each.kill()
        self._at(now + ANSWER if each.recalled else since + most)

    def _look_for_disobedience(self, each: Handle, now: float) -> None:
        """End a job by force that was told to end, and its child if that does not."""
        if not each.ending:
            return
        if each.ending != each.current:
            each.ending, each.ending_at = 0, inf
        elif each.ending_at <= now and not each.by_force:
            each.order(End(each.ending, signal.SIGKILL, ""))
            each.by_force, each.ending_at = True, now + OBEY
        elif each.ending_at <= now:
            # No thread of it gets to run. Should its job end at this very moment, it is the next one that is charged.
            each.kill()
            each.ending_at = now + OBEY
        self._at(each.ending_at)

    def _look_for_gaps(self, now: float) -> None:
        """Have children made where some are missing."""
        missing = self._slots - len(self._staying())
        if missing <= 0 or self._ending:
            return
        if now < self._nursery.opens:
            self._at(self._nursery.opens)
            return
        growing = sum(1 for each in self._children if not each.ready)
        for _ in range(self._nursery.allows(missing, growing)):
            each = self._nursery.bear(now)
            if each is None:
                self._at(self._nursery.opens)
                return
            each.gone_at = now + CHILDHOOD
            self._at(each.gone_at)
            self._children.append(each)
            self._selector.register(each.descriptor, selectors.EVENT_READ, partial(self._hear, each))
            self._selector.register(each.watched, selectors.EVENT_READ, partial(self._died, each))

    def _died(self, each: Handle) -> None:
        """Hear the last of a child. Of its jobs the one that ran is lost; others have not begun."""
        try:
            # Before anything else: perhaps it has said what its job came to, and nobody has heard it yet.
            while (words := each.hear()) is not None:
                for word in words:
                    self._take(each, word)
        except (EOFError, OSError, msgspec.DecodeError):
            pass
        self._children.remove(each)
        self._selector.unregister(each.watched)
        if each.descriptor in self._selector.get_map():
            self._selector.unregister(each.descriptor)
        self._forget(each.jobs)
        self._forget(each.orders)
        how = each.end()
        if (lost := each.sent.pop(each.current, None)) is not None:
            self._host.lost(lost, how)
        self._put_back(each.take_back())
        self._answered(each)
        if self._show is not None:
            self._show.answered(each)
        now = SYSTEM_CLOCK.monotonic()
        self._at(now)
        if each.ended:
            self._nursery.fruitful()
        if each.leaving or (error := self._nursery.died(each, how, now)) is None:
            return
        if not self.begun.is_set():
            self.error = error
            self.begun.set()
        elif self._nursery.hopeless and not any(each.ready for each in self._children):
            self._host.failed(error)

    def _see_to(self, each: Handle, outlet: Outlet) -> None:
        """Have a pipe flushed when there is room in it."""
        if outlet.blocked and outlet.descriptor not in self._selector.get_map():
            self._selector.register(outlet.descriptor, selectors.EVENT_WRITE, partial(self._flush, each, outlet))

    def _flush(self, each: Handle, outlet: Outlet) -> None:
        outlet.flush()
        each.moved_at = SYSTEM_CLOCK.monotonic()
        if not outlet.blocked:
            self._forget(outlet)

    def _forget(self, outlet: Outlet) -> None:
        if not outlet.closed and outlet.descriptor in self._selector.get_map():
            self._selector.unregister(outlet.descriptor)
