"""The ear of a worker: waits for bells in Redis, for as long as nothing rings with hardly a command.

ask for the bells -> wait, in as many calls as it takes -> which one rang, or that none did -> ask again
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress

from dray import SystemClock

from .redis_connection import RedisPlace
from .redis_errors import Words
from .redis_held_line import HeldLine


class Ear(HeldLine):
    """`listen` and `roused` are for one thread; `wake` and `close` for any.

    What rings while the connection breaks is heard by nobody: then it takes a look at the queues to find the message.
    """

    def __init__(self, place: RedisPlace, words: Words, socket_timeout: float | None = None) -> None:
        super().__init__(place, words, socket_timeout)
        self._time = SystemClock()
        #: When (monotonic) the server will have answered at the latest; None: it has been asked nothing.
        self._answer_due: float | None = None
        #: Held while a wake is noted, or seen: whoever sees it may connect anew, and that is not to be hung up.
        self._lock = threading.Lock()
        self._woken = False

    def listen(self, bells: Sequence[str], seconds: float, longest: float) -> str | None:
        """Wait up to `seconds` for one of `bells`, or until woken; return the one that has rung, or None.

        When asked, the server listens for `longest` seconds. Should that be more, it is the next call that is told,
        whatever bells it names itself.
        """
        try:
            if self._answer_due is None:
                self._ask(bells, longest)
            # Looked at when there is a connection: who wakes us from here on finds it.
            if self._woken:
                return None
            if not self.heard(max(0.0, seconds)):
                self._check_time()
                return None
            rung = self.answer()
        except Exception:
            self._forget()
            if self._woken:
                return None
            raise
        self._answer_due = None
        return None if rung is None else str(rung[0], "utf-8", "surrogatepass")

    def wake(self) -> None:
        """End the wait, or the next one. With the connection goes what the server was asked: no ring is kept here."""
        with self._lock, suppress(Exception):
            self._woken = True
            self.hang_up()

    def roused(self) -> bool:
        """Return whether it was woken since this was last asked."""
        if not self._woken:
            return False
        with self._lock:
            self._woken = False
        self._forget()
        return True

    def _ask(self, bells: Sequence[str], seconds: float) -> None:
        if self.is_held and self._was_left():
            self.hang_up()
        if not self.is_held:
            self.reach(bells[0])
        # 0 would mean to Redis: for ever.
        seconds = max(round(seconds, 3), 0.001)
        self._answer_due = self._time.monotonic() + seconds + self._place.options.socket_timeout
        self.tell("BLPOP", *bells, seconds)

    def _was_left(self) -> bool:
        """Whether the other side has hung up: servers and proxies do that to those who have asked nothing for long."""
        try:
            # Nothing was asked, so there is nothing to be heard but the end.
            return self.heard(0.0)
        except self._words.unavailable:
            return True

    def _check_time(self) -> None:
        if self._answer_due is not None and self._time.monotonic() >= self._answer_due:
            raise self._words.unavailable(f"{self._words.url} cannot be reached: a waiting worker got no answer")

    def _forget(self) -> None:
        self._answer_due = None
        self.hang_up()
