"""What any pool of processes has: the one thread that has children made, hears them, sees them die.

It never waits for a child: pipes are read and written as far as they go, and there is a time set for every answer.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from ..clock import SYSTEM_CLOCK
from ..errors import ConfigurationError
from ..job import Job
from .answers import Answers
from .frames import Broken, Cancel, Leaving, Moved, Note, Progress, Ready, Recall, Recalled, Show, Stack, Told, Word
from .handle import Handle, Outlet
from .nursery import Nursery

if TYPE_CHECKING:
    from ..executors import Host

logger = logging.getLogger("dray.worker")

H = TypeVar("H", bound=Handle)

#: Seconds for an answer to what all children are asked: then it is done without.
ANSWER = 0.5
#: Seconds that a child has to end when it was killed, or to end a job by itself.
OBEY = 0.5
#: Seconds that a child has to end when it has nothing to do any more; and to end after its pipe was closed.
FAREWELL, SILENT = 5.0, 0.5
#: Seconds that a child has to get ready.
CHILDHOOD = 120.0


class Watch(ABC, Generic[H]):
    """Sees to the children that run the jobs in `line`. What may be called from any thread says so."""

    #: How a child looks from here.
    kind: type[H]

    def __init__(self, host: Host, line: deque[Job], nursery: Nursery, pool: str) -> None:
        self._host = host
        self._line = line
        self._nursery = nursery
        self._pool = pool
        self._children: list[H] = []
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
        self.thread = threading.Thread(target=self._run, name="dray-children", daemon=True)

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
            logger.critical("the pool %r fails", self._pool, exc_info=True)
            self.error = ConfigurationError(f"the pool {self._pool!r} fails: {type(error).__name__}: {error}")
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
            self._feed(now)
        if self._due <= now:
            self._look()
        wait = 0.0 if self._wishes else None if self._due == inf else max(0.0, self._due - now)
        events = self._selector.select(wait)
        self._asleep = False
        for key, _ in events:
            key.data()
        while self._wishes:
            self._wishes.popleft()()
        for each in self._children:
            # An order that found the pipe full would otherwise wait for the next one.
            self._see_to(each, each.orders)

    def _rung(self) -> None:
        self._bell.recv(4096)

    def _at(self, moment: float) -> None:
        """Look again at this moment, or before."""
        self._due = min(self._due, moment)

    # What depends on how children run jobs

    @abstractmethod
    def _wanted(self) -> int:
        """Return how many children there are to be."""

    def _staying(self) -> list[H]:
        """Return those children in whose place no other one is made."""
        return [each for each in self._children if not each.leaving and not each.replaced]

    def _welcome(self, each: H) -> None:
        """Tell a child that was just made what it has to know."""

    @abstractmethod
    def _feed(self, now: float) -> None:
        """Hand out what is in the line, as far as there is somebody to run it."""

    @abstractmethod
    def _progress(self, each: H, word: Progress | Moved) -> None:
        """Take in what a child says about the jobs it runs."""

    @abstractmethod
    def _look_at(self, each: H, now: float) -> None:
        """Do what is due about a child, and see to it that the next look is in time."""

    @abstractmethod
    def _bury(self, each: H, how: str) -> None:
        """Say what becomes of the jobs that a child was running when it died. What it had not begun is taken back."""

    # Hearing

    def _hear(self, each: H) -> None:
        try:
            for word in each.hear() or ():
                self._take(each, word)
        except (EOFError, OSError, msgspec.DecodeError):
            # It says no more, or nonsense. If it is not about to end, its task has closed the pipe, or something else.
            self._selector.unregister(each.descriptor)
            each.gone_at = min(each.gone_at, SYSTEM_CLOCK.monotonic() + SILENT)
            self._at(each.gone_at)

    def _take(self, each: H, word: Word) -> None:
        match word:
            case Progress() | Moved():
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
                self._put_back(each.take_back(each.begun))
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

    def _put_back(self, jobs: list[Job]) -> None:
        """Put jobs that were not begun where they came from, in front; or give them to whoever wants them back."""
        if self._drain is None or not self._drain.give(jobs):
            self._line.extendleft(reversed(jobs))

    def _answered(self, each: H) -> None:
        if self._drain is not None:
            self._drain.answered(each)

    # Wishes of the executor

    def cancel(self, job: Job) -> None:
        """Tell a job that it is not wanted, whether it runs or not."""
        for each in self._children:
            for number, found in each.sent.items():
                if found is job:
                    each.order(Cancel(number))
                    return

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
            if each.busy:
                each.order(Show())
                answers.asked.add(each)
        self._wait_for(answers)

    def _wait_for(self, answers: Answers) -> None:
        if not answers.asked:
            answers.complete()
        self._at(answers.until)

    def end(self) -> None:
        """Let all children go, and end when they have."""
        self._ending = True
        for each in self._children:
            self._let_go(each)
            each.gone_at = SYSTEM_CLOCK.monotonic() + FAREWELL
        self._at(SYSTEM_CLOCK.monotonic() + FAREWELL)

    def _recall(self, each: H) -> None:
        """Have a child begin nothing any more of what it has."""
        if not each.recalled:
            each.recalled_at = SYSTEM_CLOCK.monotonic()
        each.recalled = each.last
        each.order(Recall(each.recalled))

    def _let_go(self, each: H) -> None:
        """Have a child end when what it runs has ended."""
        if each.leaving:
            return
        each.leaving = True
        if each.waiting:
            self._recall(each)
        self._forget(each.jobs)
        each.jobs.close()
        if not each.busy:
            each.gone_at = SYSTEM_CLOCK.monotonic() + FAREWELL
        self._at(0.0)

    # What is overdue

    def _look(self) -> None:
        """Do what is due, and set the time of the next look."""
        now = SYSTEM_CLOCK.monotonic()
        self._due = inf
        for each in self._children:
            self._look_at(each, now)
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

    def _look_for_gaps(self, now: float) -> None:
        """Have children made where some are missing."""
        missing = self._wanted() - len(self._staying())
        if missing <= 0 or self._ending:
            return
        if now < self._nursery.opens:
            self._at(self._nursery.opens)
            return
        growing = sum(1 for each in self._children if not each.ready)
        for _ in range(self._nursery.allows(missing, growing)):
            each = self._nursery.bear(self.kind, now)
            if each is None:
                self._at(self._nursery.opens)
                return
            each.gone_at = now + CHILDHOOD
            self._at(each.gone_at)
            self._children.append(each)
            self._welcome(each)
            self._selector.register(each.descriptor, selectors.EVENT_READ, partial(self._hear, each))
            self._selector.register(each.watched, selectors.EVENT_READ, partial(self._died, each))

    def _died(self, each: H) -> None:
        """Hear the last of a child: what becomes of its jobs."""
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
        self._bury(each, how)
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

    def _see_to(self, each: H, outlet: Outlet) -> None:
        """Have a pipe flushed when there is room in it."""
        if outlet.blocked and outlet.descriptor not in self._selector.get_map():
            self._selector.register(outlet.descriptor, selectors.EVENT_WRITE, partial(self._flush, each, outlet))

    def _flush(self, each: H, outlet: Outlet) -> None:
        outlet.flush()
        if outlet is each.jobs:
            each.moved_at = SYSTEM_CLOCK.monotonic()
        if not outlet.blocked:
            self._forget(outlet)

    def _forget(self, outlet: Outlet) -> None:
        if not outlet.closed and outlet.descriptor in self._selector.get_map():
            self._selector.unregister(outlet.descriptor)
