"""The loans of one worker from queues in Redis: fetching and settling by script, waiting by the ear on the bells."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from dray import Consumer, Delivery, SystemClock

from .redis_connection import Line
from .redis_queues import RedisQueues
from .redis_records import TOKEN, deliveries_from, framed, framed_ids

#: Longest time (seconds) without a look at the queues, however quiet the bells: loans made meanwhile may have run out.
LOOK = 1.0
#: Most messages that one fetch brings.
MOST = 1000


class RedisConsumer(Consumer):
    """The loans of one worker. A receipt is a token, drawn anew for every fetch, the place in line and the name."""

    def __init__(self, redis: RedisQueues, queues: Sequence[str], lease: float) -> None:
        self._redis = redis
        self._queues = tuple(queues)
        self._lease = lease
        self._time = SystemClock()
        #: For nothing but waiting: a connection that blocks can do nothing else.
        self._ear: Line = redis.link.another(LOOK)
        #: The queues in which nothing was found, and until when nothing is there unless a bell rings.
        self._quiet: tuple[frozenset[str], float] = frozenset(), 0.0
        #: Receipts of what was lent and not settled, by queue: what `close` gives back.
        self._lent: defaultdict[str, set[bytes]] = defaultdict(set)

    def receive(self, limit: int, wait: float, queues: Sequence[str] | None = None) -> Sequence[Delivery]:
        names = self._queues if queues is None else queues
        limit = min(limit, MOST)
        end = self._time.monotonic() + wait
        if limit <= 0 or not names:
            return []
        look = wait <= 0
        while True:
            known, until = self._quiet
            if look or not known.issuperset(names) or self._time.monotonic() >= until:
                if taken := self._take(names, limit):
                    return taken
                _, until = self._quiet
            now = self._time.monotonic()
            if now >= end:
                return []
            look = self._listen(names, min(end, until) - now)

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

    def close(self) -> None:
        self._redis.link.let_go(self._ear)
        lent, self._lent = self._lent, defaultdict(set)
        if self._redis.link.is_open:
            for queue, receipts in lent.items():
                if receipts:
                    self._end("return", queue, list(receipts))

    def _take(self, queues: Sequence[str], limit: int) -> list[Delivery]:
        """Borrow up to `limit` messages; when there are none, note how long there will be none."""
        taken: list[Delivery] = []
        quiet = LOOK
        asked = self._time.monotonic()
        for some in self._redis.together(queues):
            if len(taken) >= limit:
                break
            token = os.urandom(TOKEN)
            keys = self._redis.with_bells_and_marks(some)
            left, cancelled, *lent = self._redis.run("receive", keys, len(some), limit - len(taken), self._lease, token)
            came = [
                delivery
                for queue, frames in zip(some, lent, strict=True)
                for delivery in deliveries_from(queue, token, frames)
            ]
            for n in cancelled:
                came[n - 1] = _cancelled(came[n - 1])
            if left >= 0:
                quiet = min(quiet, left / 1000)
            taken += came
        for delivery in taken:
            self._lent[delivery.queue].add(delivery.receipt)
        if self._redis.link.cluster and taken:
            taken = self._marked(taken)
        self._quiet = (frozenset(), 0.0) if taken else (frozenset(queues), asked + quiet)
        return taken

    def _marked(self, deliveries: list[Delivery]) -> list[Delivery]:
        """Mark what is cancelled: in a cluster the script cannot see the marks."""
        ids = framed_ids(delivery.id for delivery in deliveries)
        for n in self._redis.run("cancelled", [self._redis.marks], ids):
            deliveries[n - 1] = _cancelled(deliveries[n - 1])
        return deliveries

    def _listen(self, queues: Sequence[str], seconds: float) -> bool:
        """Wait for a bell; return whether one has rung."""
        # 0 would mean to Redis: for ever.
        seconds = max(seconds, 0.001)
        return self._ear.command("BLPOP", *map(self._redis.bell, queues), round(seconds, 3)) is not None

    def _settle(self, verb: str, deliveries: Sequence[Delivery], *detail: Any) -> list[Delivery]:
        by_queue: defaultdict[str, list[Delivery]] = defaultdict(list)
        for delivery in deliveries:
            by_queue[delivery.queue].append(delivery)
        lost = []
        for queue, some in by_queue.items():
            receipts = [delivery.receipt for delivery in some]
            lost += [some[n - 1] for n in self._end(verb, queue, receipts, *detail)]
            if verb != "extend":
                self._lent[queue].difference_update(receipts)
        return lost

    def _end(self, verb: str, queue: str, receipts: Sequence[bytes], *detail: Any) -> Sequence[int]:
        lost: list[int]
        lost, wakes = self._redis.run("settle", self._redis.with_bell(queue), verb, framed(receipts), *detail)
        self._redis.ring(queue, wakes)
        return lost


def _cancelled(delivery: Delivery) -> Delivery:
    return msgspec.structs.replace(delivery, cancelled=True)
