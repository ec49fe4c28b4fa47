"""The loans of one worker from queues in Redis: fetching and settling by script, waiting by the ear on the bells."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dray import Consumer, Delivery, SystemClock

from .redis_ear import Ear
from .redis_queues import RedisQueues
from .redis_records import TOKEN, deliveries_from, framed, framed_ids, mask_from_bytes, mask_of, mask_to_bytes

#: Longest time (seconds) without a look at the queues, however quiet the bells: loans made meanwhile may have run out.
#: The scripts know it too, in shared.lua.
LOOK = 2.5
#: Most messages that one fetch brings.
MOST = 1000


class RedisConsumer(Consumer):
    """The loans of one worker: one for each fetch and queue, under a token that is drawn anew for every fetch."""

    def __init__(self, redis: RedisQueues, queues: Sequence[str], lease: float) -> None:
        self._redis = redis
        self._queues = tuple(queues)
        self._lease = lease
        self._time = SystemClock()
        #: For nothing but waiting: a connection that blocks can do nothing else.
        self._ear = redis.link.another(Ear)
        self._queue_of = {redis.bell(queue): queue for queue in queues}
        #: The queues that were found or left empty, and until when nothing is there unless a bell rings.
        self._quiet: tuple[frozenset[str], float] = frozenset(), 0.0
        #: Masks of what was lent and not settled, by queue and token: what `close` gives back.
        self._lent: defaultdict[str, dict[bytes, int]] = defaultdict(dict)
        #: Held for every change of a mask: those who settle come from several threads.
        self._lock = threading.Lock()

    def receive(self, limit: int, wait: float, queues: Sequence[str] | None = None) -> Sequence[Delivery]:
        names = self._queues if queues is None else queues
        limit = min(limit, MOST)
        end = self._time.monotonic() + wait
        if limit <= 0 or not names:
            return []
        look = wait <= 0
        while True:
            if (look or not self._is_quiet(names)) and (taken := self._take(names, limit)):
                return taken
            now = self._time.monotonic()
            if now >= end or self._ear.roused():
                return []
            self._listen(names, now, end)

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return self._settle("ack", deliveries)

    def requeue(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> Sequence[Delivery]:
        return self._settle("requeue", deliveries, max(0.0, delay))

    def release(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return self._settle("release", deliveries)

    def bury(self, deliveries: Sequence[Delivery], reason: str) -> Sequence[Delivery]:
        return self._settle("bury", deliveries, reason.encode("utf-8", "surrogatepass"))

    def extend(self, deliveries: Sequence[Delivery], seconds: float) -> Sequence[Delivery]:
        return self._settle("extend", deliveries, seconds)

    def wake(self) -> None:
        self._ear.wake()

    def close(self) -> None:
        self._redis.link.let_go(self._ear)
        lent, self._lent = self._lent, defaultdict(dict)
        if self._redis.link.is_open:
            for queue, masks in lent.items():
                if masks:
                    self._end("return", queue, {token: (mask, b"") for token, mask in masks.items()})

    def _take(self, queues: Sequence[str], limit: int) -> list[Delivery]:
        """Borrow up to `limit` messages; when that was all there is, note how long there will be no more."""
        taken: list[Delivery] = []
        quiet = LOOK
        asked = self._time.monotonic()
        for some in self._redis.together(queues):
            if len(taken) >= limit:
                quiet = 0.0
                break
            token = os.urandom(TOKEN)
            keys = self._redis.with_bells_and_marks(some)
            left, cancelled, *lent = self._redis.run("receive", keys, len(some), limit - len(taken), self._lease, token)
            came: list[Delivery] = []
            for queue, loan in zip(some, lent, strict=True):
                if its := deliveries_from(queue, token, loan):
                    came += its
                    with self._lock:
                        self._lent[queue][token] = (1 << len(its)) - 1
            for n in cancelled:
                came[n - 1] = _cancelled(came[n - 1])
            if left >= 0:
                quiet = min(quiet, left / 1000)
            taken += came
        if self._redis.link.cluster and taken:
            taken = self._marked(taken)
        self._quiet = frozenset(queues), asked + quiet
        return taken

    def _marked(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Mark what is cancelled: in a cluster the script cannot see the marks."""
        ids = framed_ids(delivery.id for delivery in deliveries)
        for n in self._redis.run("cancelled", [self._redis.marks], ids):
            deliveries[n - 1] = _cancelled(deliveries[n - 1])
        return deliveries

    def _is_quiet(self, queues: Sequence[str]) -> bool:
        known, until = self._quiet
        return known.issuperset(queues) and self._time.monotonic() < until

    def _listen(self, queues: Sequence[str], now: float, end: float) -> None:
        """Wait for a bell, or until it is time to look; note in which queue there is something."""
        known, until = self._quiet
        # For all queues the server goes on listening when the call is over. Who takes from some of them is at work: a
        # bell that rings before the next call would wake nobody, while another worker sleeps.
        longest = until if len(queues) == len(self._queues) else min(until, end)
        bell = self._ear.listen(list(map(self._redis.bell, queues)), min(end, until) - now, longest - now)
        if bell is not None:
            self._quiet = known.difference((self._queue_of[bell],)), until

    def _settle(self, verb: str, deliveries: Sequence[Delivery], detail: Any = b"") -> list[Delivery]:
        loans: defaultdict[str, defaultdict[bytes, list[Delivery]]] = defaultdict(lambda: defaultdict(list))
        for delivery in deliveries:
            loans[delivery.queue][delivery.receipt[0]].append(delivery)
        lost: list[Delivery] = []
        for queue, by_token in loans.items():
            parts = {
                token: (
                    mask_of([each.receipt[1] for each in its]),
                    framed([each.receipt[2] for each in its]) if verb == "ack" else b"",
                )
                for token, its in by_token.items()
            }
            for its, gone in zip(by_token.values(), self._end(verb, queue, parts, detail), strict=True):
                if gone:
                    lost += [each for each in its if gone >> each.receipt[1] & 1]
            if verb != "extend":
                self._forget(queue, parts)
        return lost

    def _forget(self, queue: str, parts: Mapping[bytes, tuple[int, bytes]]) -> None:
        with self._lock:
            lent = self._lent[queue]
            for token, (mask, _) in parts.items():
                if left := lent.get(token, 0) & ~mask:
                    lent[token] = left
                else:
                    lent.pop(token, None)

    def _end(self, verb: str, queue: str, parts: Mapping[bytes, tuple[int, bytes]], detail: Any = b"") -> list[int]:
        """Do `verb` to parts of loans: masks and, for ack, the names. Return the masks of those that were over."""
        loans = [piece for token, (mask, names) in parts.items() for piece in (token, mask_to_bytes(mask), names)]
        wakes, lost = self._redis.run("settle", self._redis.with_bell(queue), verb, detail, *loans)
        self._redis.ring(queue, wakes)
        return list(map(mask_from_bytes, lost))


def _cancelled(delivery: Delivery) -> Delivery:
    return msgspec.structs.replace(delivery, cancelled=True)
