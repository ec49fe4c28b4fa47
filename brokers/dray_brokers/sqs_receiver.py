"""Long polls at one queue: while somebody asks for messages, threads wait for them at SQS; what came waits here.

No more is borrowed than was asked for, and for no longer than a moment: what nobody came for is given back at once, for
others could run it. At an empty queue one long poll waits, first for as long as messages have been asked for already,
and in the end for 20 seconds; while whole batches come, more threads join. A thread ends when nobody has asked for a
while, so that nothing is left of a consumer that was forgotten.

A poll cannot be called back: what it brings after its consumer was closed is given back at once. A process that ends
waits for polls that are about to end (`LAST_WAIT`), not for others: what those bring comes out when that loan ends.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence

from dray import BrokerError, BrokerUnavailable, Clock, Delivery, SystemClock

logger = logging.getLogger("dray.sqs")

#: Seconds for which what came is kept for who asked, and for which who asked is expected to come back.
LINGER = 0.5
#: Seconds that the end of the process waits for polls of closed consumers.
LAST_WAIT = 2.0


class Receiver:
    """What one consumer has to do with one queue. All of it is guarded by `changed`, which the consumer's queues share.

    `poll` borrows up to so many messages, waiting so many seconds for them; `give_back` ends loans at once.
    """

    def __init__(
        self,
        name: str,
        poll: Callable[[int, int], Sequence[Delivery]],
        give_back: Callable[[Sequence[Delivery]], object],
        changed: threading.Condition,
        clock: Clock,
        *,
        at_once: int,
        longest: int,
        threads: int,
    ) -> None:
        self._name = name
        self._poll = poll
        self._give_back = give_back
        self._changed = changed
        self._clock = clock
        #: Most that one poll brings, the longest that one waits (seconds), and most threads.
        self._at_once, self._longest, self._most_threads = at_once, longest, threads
        #: What came and was not taken yet, with when it came.
        self._came: deque[tuple[float, Delivery]] = deque()
        #: How many messages are wanted, since when without a break, and until when.
        self._wanted, self._since, self._until = 0, 0.0, -math.inf
        #: How many the polls under way may bring, and how many threads there are.
        self._asked = self._threads = 0
        #: When the polls under way end, at the latest.
        self._ends: list[float] = []
        self._failure: BrokerError | None = None
        self._closed = False

    @property
    def polling(self) -> bool:
        """Whether a poll is under way, so that looking as well would find nothing more."""
        return self._asked > 0

    def want(self, messages: int, until: float) -> None:
        """Say how many messages are wanted until then, at most. Called with `changed` held."""
        now = self._clock.monotonic()
        if now >= self._until:
            self._since = now
        self._wanted, self._until = messages, until + LINGER
        self._failure = None
        if self._open_wish():
            if not self._threads:
                self._start()
            elif not self._asked:
                self._changed.notify_all()

    def take(self, most: int) -> list[Delivery]:
        """Return what came, up to `most`, oldest first. Called with `changed` held."""
        taken: list[Delivery] = []
        fresh = self._clock.monotonic() - LINGER
        # What came long ago (this process may have been frozen) is for the thread to give back.
        while len(taken) < most and self._came and self._came[0][0] > fresh:
            taken.append(self._came.popleft()[1])
        # It has what it wanted: whoever runs one message by itself must not be charged with the next one.
        self._wanted = max(0, self._wanted - len(taken))
        return taken

    def failure(self) -> BrokerError | None:
        """Return why the last poll failed, once. Called with `changed` held."""
        failure, self._failure = self._failure, None
        return failure

    def close(self) -> list[Delivery]:
        """Stop, and return what nobody has taken. What a poll under way brings is given back when it comes."""
        with self._changed:
            self._closed = True
            if self._ends:
                _late.add((os.getpid(), self))
            left = [delivery for _, delivery in self._came]
            self._came.clear()
            self._changed.notify_all()
            return left

    def ended(self, last: float) -> None:
        """Wait for the polls that end by then (`monotonic`), and until what they bring is given back."""
        with self._changed:
            patience = max(0.0, last - self._clock.monotonic())
            self._changed.wait_for(lambda: all(ends > last for ends in self._ends), patience)

    def _open_wish(self) -> int:
        """Return how many more messages should be polled for now."""
        if self._closed or self._clock.monotonic() >= self._until:
            return 0
        wish = max(0, self._wanted - len(self._came) - self._asked)
        # A request for a few is worth it only when nothing else is there, or on its way.
        return 0 if wish < self._at_once and (self._came or self._asked) else wish

    def _start(self) -> None:
        self._threads += 1
        # Daemons: a poll lasts up to 20 s, and no process should take that long to end.
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._changed:
                stale = self._stale()
                ask = 0 if stale else min(self._open_wish(), self._at_once)
                if not stale and not ask:
                    if self._came and self._threads == 1:
                        # The last one stays until all that came is taken, or has to be given back.
                        self._changed.wait(max(0.0, self._came[0][0] + LINGER - self._clock.monotonic()))
                        continue
                    self._threads -= 1
                    return
                self._asked += ask
            if stale:
                self._return(stale)
            elif not self._bring(ask):
                return

    def _stale(self) -> list[Delivery]:
        """Remove and return what nobody came for."""
        over, stale = self._clock.monotonic() - LINGER, []
        while self._came and self._came[0][0] <= over:
            stale.append(self._came.popleft()[1])
        return stale

    def _bring(self, ask: int) -> bool:
        """Poll once and keep what comes; return whether this thread should go on."""
        came: Sequence[Delivery] = ()
        failure: BrokerError | None = None
        with self._changed:
            began = self._clock.monotonic()
            # Who has just begun to ask may be gone soon, and would leave a poll behind.
            seconds = max(1, min(math.ceil(began - self._since), self._longest))
            self._ends.append(began + seconds)
        try:
            came = self._poll(ask, seconds)
        except BrokerError as error:
            failure = error
        except Exception as error:
            # Not even a bug may end this thread unheard: its queue would be dead.
            logger.exception("polling failed")
            failure = BrokerUnavailable(f"polling failed: {type(error).__name__}: {error}")
        with self._changed:
            self._asked -= ask
            if failure is not None:
                self._failure, self._until = failure, -math.inf
            busy = len(came) == self._at_once
            late, now = came if self._closed else (), self._clock.monotonic()
            if not self._closed:
                self._came.extend((now, delivery) for delivery in came)
            if lent_before(came):
                self._wanted = 0
            if busy and self._threads < self._most_threads and self._open_wish():
                self._start()
            goes_on = busy or self._threads == 1
            if not goes_on:
                self._threads -= 1
            self._changed.notify_all()
        if late:
            self._return(late)
        with self._changed:
            self._ends.remove(began + seconds)
            if not self._ends:
                _late.discard((os.getpid(), self))
            self._changed.notify_all()
        return goes_on

    def _return(self, deliveries: Sequence[Delivery]) -> None:
        try:
            self._give_back(deliveries)
        except BrokerError as error:
            logger.debug("%d message(s) not given back, their loans run out: %s", len(deliveries), error)


def lent_before(deliveries: Sequence[Delivery]) -> bool:
    """Whether one may be what its workers die of.

    Whoever takes it may want nothing beside it; what came all the same would go back, and would be charged for that.
    So no more is polled for before they have looked at it and ask again.
    """
    return any(delivery.delivery_count > 1 for delivery in deliveries)


#: Receivers that were closed while polls were under way, by the process that has their threads.
_late: set[tuple[int, Receiver]] = set()


@atexit.register
def _wait_for_the_late() -> None:
    ours = [receiver for process, receiver in _late if process == os.getpid()]
    last = SystemClock().monotonic() + LAST_WAIT
    for receiver in ours:
        receiver.ended(last)
