"""News of results: one thread that listens to Redis for all threads of the process that wait.

A connection of redis-py is for one thread only, so the listener alone speaks on its own. Who waits puts an order into
a queue and wakes the listener through a channel that nobody else knows.
"""

from __future__ import annotations

import queue
import secrets
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from dray import SystemClock
from dray_brokers.redis_connection import RedisLink

#: Seconds between two looks for channels that nobody needs any more.
TIDY = 1.0


class Bell:
    """Rings when there are news for one who waits."""

    def __init__(self) -> None:
        #: True: no news will come to this one any more.
        self.lost = False
        self._rung = threading.Event()

    def ring(self) -> None:
        """End the wait, or the next one."""
        self._rung.set()

    def wait(self, seconds: float) -> None:
        """Return when it rings, or has rung since the last call, or when the time is up."""
        self._rung.wait(seconds)
        self._rung.clear()


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


class _Order:
    """Channels that somebody wants to hear; `placed` when nothing on them can be missed, or nothing will come."""

    def __init__(self, channels: Sequence[str]) -> None:
        self.channels = channels
        self.placed = threading.Event()


class _Listener:
    """One connection and the thread that listens to it, until it breaks."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._line = link.another(TIDY)
        self._time = SystemClock()
        #: True: the thread has ended, or is about to. `refused`: because we may not subscribe.
        self.over = self.refused = False
        self._lock = threading.Lock()
        self._bells: defaultdict[str, set[Bell]] = defaultdict(set)
        self._orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        # From here on of the thread alone.
        self._own = f"{link.prefix}:news:{secrets.token_hex(8)}"
        self._subscribed: set[str] = set()
        #: Those of them that nobody needed at the last look.
        self._idle: set[str] = set()
        #: Orders by the channel whose confirmation completes them, in the order in which these will come.
        self._unconfirmed: dict[str, list[_Order]] = {}
        threading.Thread(target=self._run, name="dray-redis-news", daemon=True).start()

    def order(self, channels: Sequence[str], bell: Bell) -> None:
        """Let `bell` ring for `channels`; return when nothing on them can be missed, or the bell is lost."""
        order = _Order(channels)
        with self._lock:
            if self.over:
                bell.lost = True
                return
            for channel in channels:
                self._bells[channel].add(bell)
            self._orders.put(order)
        try:
            # Should the listener not be listening yet, it looks for orders as soon as it is.
            self._link.main.command("PUBLISH", self._own, "")
        except self._link.words.unavailable:
            raise
        except self._link.words.refused:
            self.refused = True
            self.end()
        order.placed.wait(self._link.place.options.socket_timeout)

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

    # The thread.

    def _run(self) -> None:
        pubsub = self._line.client.pubsub()
        try:
            self._line.call(partial(pubsub.subscribe, self._own))
            tidied = self._time.monotonic()
            while True:
                message = self._line.call(partial(pubsub.get_message, timeout=TIDY))
                if message is not None:
                    self._hear(pubsub, message["type"], message["channel"])
                if self._time.monotonic() - tidied >= TIDY:
                    tidied = self._time.monotonic()
                    self._tidy(pubsub)
        except self._link.words.unavailable:
            pass  # whoever waits looks for himself, and says so if Redis is away
        except self._link.words.refused:
            self.refused = True
        finally:
            self._end_all()
            with suppress(Exception):
                pubsub.close()
            self.end()

    def _hear(self, pubsub: Any, kind: str, name: bytes | None) -> None:
        channel = "" if name is None else name.decode("utf-8", "surrogatepass")
        if kind == "subscribe":
            for order in self._unconfirmed.pop(channel, ()):
                order.placed.set()
        if channel == self._own:
            self._take_orders(pubsub)
        elif kind == "message":
            with self._lock:
                bells = list(self._bells.get(channel, ()))
            for bell in bells:
                bell.ring()

    def _take_orders(self, pubsub: Any) -> None:
        with suppress(queue.Empty):
            while True:
                order = self._orders.get_nowait()
                new = [channel for channel in dict.fromkeys(order.channels) if channel not in self._subscribed]
                if new:
                    self._subscribed.update(new)
                    self._unconfirmed.setdefault(new[-1], []).append(order)
                    self._line.call(partial(pubsub.subscribe, *new))
                elif self._unconfirmed:
                    # Some of its channels may have been asked for a moment ago, for somebody else.
                    next(reversed(self._unconfirmed.values())).append(order)
                else:
                    order.placed.set()

    def _tidy(self, pubsub: Any) -> None:
        """Unsubscribe from what nobody has needed for a while: who waits for many comes back for most of them."""
        with self._lock:
            idle = self._subscribed.difference(self._bells)
        leave = idle & self._idle
        self._idle = idle - leave
        if leave:
            self._subscribed -= leave
            self._line.call(partial(pubsub.unsubscribe, *leave))

    def _end_all(self) -> None:
        with self._lock:
            self.over = True
            bells = {bell for bells in self._bells.values() for bell in bells}
        orders = [order for orders in self._unconfirmed.values() for order in orders]
        with suppress(queue.Empty):
            while True:
                orders.append(self._orders.get_nowait())
        for bell in bells:
            bell.lost = True
            bell.ring()
        for order in orders:
            order.placed.set()
