"""News of results: one connection to Redis, on which one thread listens for all threads of the process that wait.

Who waits orders on that connection itself, the thread reads. The news bring the record with them, if it is small.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

from dray import SystemClock
from dray_brokers.redis_connection import RedisLink
from dray_brokers.redis_held_line import HeldLine

#: Seconds between two looks for channels that nobody needs any more.
TIDY = 1.0


class Bell:
    """Rings when there are news for one who waits."""

    def __init__(self) -> None:
        #: True: no news will come to this one any more.
        self.lost = False
        #: Channels and what was told there; None wakes without news.
        self._rings: SimpleQueue[tuple[str, bytes] | None] = SimpleQueue()

    def ring(self, channel: str, told: bytes) -> None:
        """End the wait, or the next one."""
        self._rings.put((channel, told))

    def lose(self) -> None:
        """End the wait, and say that another one makes no sense."""
        self.lost = True
        self._rings.put(None)

    def wait(self, seconds: float) -> Mapping[str, bytes]:
        """Return when it rings, or has rung since the last call, or when the time is up; return what was told where."""
        told: dict[str, bytes] = {}
        with suppress(Empty):
            ring = self._rings.get(timeout=seconds)
            while True:
                if ring is not None:
                    told[ring[0]] = ring[1]
                ring = self._rings.get_nowait()
        return told


class News:
    """Where threads order news. Every method may be called from any thread."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._listener: _Listener | None = None
        #: True: our user may not use the channels, and there will be no news.
        self.refused = False

    @contextmanager
    def of(self, channels: Sequence[str]) -> Iterator[Bell]:
        """Give a bell that rings for every message on `channels` from now on, until it is lost."""
        listener, bell = self._get(), Bell()
        try:
            listener.order(channels, bell)
            self.refused = listener.refused
            yield bell
        finally:
            listener.cancel(channels, bell)

    def end(self) -> None:
        """Stop listening; every bell is lost. It begins anew when news are ordered."""
        with self._lock:
            listener, self._listener = self._listener, None
        self.refused = False
        if listener is not None:
            listener.end()

    def _get(self) -> _Listener:
        with self._lock:
            if self._listener is None or self._listener.over:
                self._listener = _Listener(self._link)
            return self._listener


class _Listener:
    """One connection and the thread that listens to it, until it breaks."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._line = link.another(HeldLine)
        self._time = SystemClock()
        #: True: the thread has ended, or is about to. `refused`: because we may not subscribe.
        self.over = self.refused = False
        #: Held for all that follows, and by whoever tells the server something.
        self._lock = threading.Lock()
        self._bells: defaultdict[str, set[Bell]] = defaultdict(set)
        self._subscribed: set[str] = set()
        #: Those of them that nobody needed at the last look.
        self._idle: set[str] = set()
        #: Orders by the channel whose confirmation completes them, in the order in which these will come.
        self._unconfirmed: dict[str, list[threading.Event]] = {}
        #: When (monotonic) something was heard last, and whether the server was asked since whether it is still there.
        self._heard, self._asked = self._time.monotonic(), False
        try:
            self._line.reach()
        except BaseException:
            self.end()
            raise
        threading.Thread(target=self._run, name="dray-redis-news", daemon=True).start()

    def order(self, channels: Sequence[str], bell: Bell) -> None:
        """Let `bell` ring for `channels`; return when nothing on them can be missed, or the bell is lost."""
        placed = threading.Event()
        with self._lock:
            if self.over:
                bell.lose()
                return
            for channel in channels:
                self._bells[channel].add(bell)
            try:
                self._subscribe(channels, placed)
            except self._link.words.unavailable:
                # The thread finds the connection broken as well. Who waits looks himself, and then orders anew.
                bell.lose()
                return
        placed.wait(self._link.place.options.socket_timeout)

    def cancel(self, channels: Sequence[str], bell: Bell) -> None:
        """Let `bell` ring no more."""
        with self._lock:
            for channel in channels:
                if (bells := self._bells.get(channel)) is not None:
                    bells.discard(bell)
                    if not bells:
                        del self._bells[channel]

    def end(self) -> None:
        """Hang up, which ends the thread."""
        self._link.let_go(self._line)

    def _subscribe(self, channels: Sequence[str], placed: threading.Event) -> None:
        new = [channel for channel in dict.fromkeys(channels) if channel not in self._subscribed]
        if new:
            self._subscribed.update(new)
            self._unconfirmed.setdefault(new[-1], []).append(placed)
            self._line.tell("SUBSCRIBE", *new)
        elif self._unconfirmed:
            # Some of its channels may have been asked for a moment ago, for somebody else.
            next(reversed(self._unconfirmed.values())).append(placed)
        else:
            placed.set()

    # The thread.

    def _run(self) -> None:
        try:
            tidied = self._time.monotonic()
            while True:
                if self._line.heard(TIDY):
                    self._hear(self._line.answer(pushed=True))
                now = self._time.monotonic()
                if now - tidied >= TIDY:
                    tidied = now
                    self._tidy()
                    self._check(now)
        except self._link.words.unavailable:
            pass  # whoever waits looks for himself, and says so if Redis is away
        except self._link.words.refused:
            self.refused = True
        finally:
            self._end_all()
            self.end()

    def _hear(self, answer: Any) -> None:
        self._heard, self._asked = self._time.monotonic(), False
        if not isinstance(answer, list) or len(answer) != 3:
            return  # that it is there
        kind, name, told = answer
        channel = "" if name is None else name.decode("utf-8", "surrogatepass")
        with self._lock:
            if kind == b"subscribe":
                for placed in self._unconfirmed.pop(channel, ()):
                    placed.set()
            elif kind == b"message":
                for bell in self._bells.get(channel, ()):
                    bell.ring(channel, told)

    def _tidy(self) -> None:
        """Unsubscribe from what nobody has needed for a while: who waits for many comes back for most of them."""
        with self._lock:
            idle = self._subscribed.difference(self._bells)
            leave = idle & self._idle
            self._idle = idle - leave
            if leave:
                self._subscribed -= leave
                self._line.tell("UNSUBSCRIBE", *leave)

    def _check(self, now: float) -> None:
        """Ask a server that has long been silent whether it is still there; give up one that does not answer that."""
        options = self._link.place.options
        if not options.health_check_interval or now - self._heard < options.health_check_interval:
            return
        if not self._asked:
            self._asked = True
            with self._lock:
                self._line.tell("PING")
        elif now - self._heard >= options.health_check_interval + options.socket_timeout:
            raise self._link.words.unavailable(f"{self._link.words.url} cannot be reached: it has been silent")

    def _end_all(self) -> None:
        with self._lock:
            self.over = True
            bells = {bell for bells in self._bells.values() for bell in bells}
            orders = [placed for orders in self._unconfirmed.values() for placed in orders]
        for bell in bells:
            bell.lose()
        for placed in orders:
            placed.set()
