"""The redis:// broker: queues in Redis or Valkey, for any number of processes and hosts.

Each verb is one atomic step on the server, a Lua script in `redis_scripts`; how a queue is laid out is at the head of
`redis_scripts/shared.lua`. Only the server's clock decides what is due. A worker killed at any instant leaves loans,
which run out; whoever looks at the queue next puts them in line, idle workers every 2.5 s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import inf

from dray import (
    FOREVER,
    Broker,
    BrokerError,
    BrokerUnavailable,
    Capabilities,
    Consumer,
    Envelope,
    PublishError,
    SystemClock,
    Url,
    Waiting,
)

from .redis_advice import advice
from .redis_connection import RedisLink
from .redis_consumer import RedisConsumer
from .redis_queues import RedisQueues, pages
from .redis_records import STATES, framed, framed_ids, letters_from, to_publish, waiting_from

#: Seconds between two notes that a queue is in use, and after how many an empty one may be forgotten.
NOTE_EVERY, FORGET_AFTER = 60.0, 86400.0
#: Most messages and most bytes of bodies that one script stores, and most letters that it handles.
PUBLISH, PUBLISH_BYTES, LETTERS = 500, 8 * 1024 * 1024, 500
#: Largest body (bytes): a little less than the longest text Redis takes.
LARGEST = 500 * 1024 * 1024


class RedisBroker(Broker):
    """`redis://localhost:6379/0`, `rediss://` (TLS), `unix:///run/redis.sock`, `redis+sentinel://host1,host2/service/0`,
    `redis+cluster://host1,host2`, and the same with `valkey` and `valkeys`.

    Options: see `RedisOptions`. What was confirmed survives as far as the server keeps it: `appendonly yes`.
    """

    capabilities = Capabilities(
        max_publish_batch=10_000,
        max_delay=FOREVER,
        priority_levels=10,
        lease=True,
        delivery_count=True,
        release_uncharged=True,
        requeue_delay=True,
        dedup=True,
        fifo=True,
        cancel=True,
        find=True,
        peek=True,
        dead_letters=True,
        purge=True,
        size="exact",
    )

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self._link = RedisLink(url, refused=BrokerError, unavailable=BrokerUnavailable)
        self._queues = RedisQueues(self._link)
        self._time = SystemClock()
        #: When the name of each queue was noted last, on the clock that never jumps.
        self._noted: dict[str, float] = {}

    def open(self) -> None:
        self._noted = {}
        self._queues.open()

    def close(self) -> None:
        self._link.close()

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        by_queue: defaultdict[str, list[Envelope]] = defaultdict(list)
        rejected: dict[str, str] = {}
        for envelope in envelopes:
            if len(envelope.body) > LARGEST:
                rejected[envelope.id] = f"its {len(envelope.body)} bytes are more than Redis takes ({LARGEST})"
            else:
                by_queue[envelope.queue].append(envelope)
        for queue, all_of_it in by_queue.items():
            portions = list(_portions(all_of_it))
            for some, error in zip(portions, self._publish(queue, portions), strict=True):
                if error is not None:
                    rejected.update((envelope.id, str(error)) for envelope in some)
        if rejected:
            raise PublishError(rejected)

    def consumer(self, queues: Sequence[str], lease: float) -> Consumer:
        return RedisConsumer(self._queues, queues, lease)

    def advice(self, queues: Sequence[str]) -> Sequence[str]:
        return advice(self._link)

    def cancel(self, ids: Sequence[str], ttl: float) -> None:
        for some in pages(ids):
            self._queues.run("cancel", [self._queues.marks], ttl, framed_ids(some))

    def cancelled(self, ids: Sequence[str]) -> set[str]:
        return {
            some[n - 1]
            for some in pages(ids)
            for n in self._queues.run("cancelled", [self._queues.marks], framed_ids(some))
        }

    def find(self, ids: Sequence[str]) -> Mapping[str, str]:
        found: dict[str, int] = {}
        places = list(self._queues.together(self._stored_names())) if ids else []
        for some in pages(ids):
            for queues in places:
                answers = self._queues.run(
                    "look", [self._queues.base(queue) for queue in queues], "find", framed_ids(some)
                )
                for id, answer in zip(some, answers, strict=True):
                    found[id] = max(answer, found.get(id, -1))
        return {id: STATES[answer % 4] for id, answer in found.items() if answer >= 0}

    def queues(self) -> Sequence[str]:
        names = self._stored_names()
        sizes = self.sizes(names)
        empty = [name for name in names if not any(sizes[name].values())]
        if empty:
            # Names of queues that come and go would pile up for ever.
            self._queues.run(
                "names", [self._queues.names], "drop", FORGET_AFTER, framed(name.encode() for name in empty)
            )
        return sorted(set(names).difference(empty))

    def sizes(self, queues: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        sizes: dict[str, Mapping[str, int]] = {}
        for some in self._queues.together(queues):
            for queue, numbers in zip(
                some, self._queues.run("look", map(self._queues.base, some), "sizes"), strict=True
            ):
                sizes[queue] = dict(zip(STATES, numbers, strict=True))
        return {queue: sizes[queue] for queue in queues}

    def peek(self, queue: str, limit: int) -> Sequence[Waiting]:
        return waiting_from(queue, self._queues.run("look", [self._queues.base(queue)], "peek", limit))

    def purge(self, queue: str) -> int:
        total, more = 0, 1
        while more:
            some, more = self._queues.run("purge", [self._queues.base(queue)])
            total += int(some)
        return total

    def dead(self, queue: str, limit: int, ids: Sequence[str] | None = None) -> Sequence[Waiting]:
        return [
            letter for _, frames in self._letters("show", queue, ids, limit) for letter in letters_from(queue, frames)
        ]

    def replay(self, queue: str, ids: Sequence[str] | None = None) -> int:
        replayed = sum(moved for moved, _ in self._letters("replay", queue, ids))
        self._queues.ring(queue, replayed)
        return replayed

    def discard(self, queue: str, ids: Sequence[str] | None = None) -> int:
        return sum(moved for moved, _ in self._letters("discard", queue, ids))

    # Steps.

    def _publish(self, queue: str, portions: Sequence[Sequence[Envelope]]) -> list[BrokerError | None]:
        """Publish portions one after the other; return what each was refused with, or None."""
        try:
            self._note(queue)
        except BrokerUnavailable:
            raise
        except BrokerError as error:
            return [error] * len(portions)
        now = self._time.time()
        calls = (to_publish(some, now) for some in portions)
        outcomes = self._queues.write_each("publish", self._queues.with_bell(queue), calls)
        errors = [outcome if isinstance(outcome, BrokerError) else None for outcome in outcomes]
        self._queues.ring(queue, sum(outcome for outcome in outcomes if isinstance(outcome, int)))
        return errors

    def _note(self, queue: str) -> None:
        """Note that a queue is in use: before anything is in it, so that none is ever missed."""
        now = self._time.monotonic()
        if now - self._noted.get(queue, -NOTE_EVERY) >= NOTE_EVERY:
            self._queues.run("names", [self._queues.names], "add", queue)
            self._noted[queue] = now

    def _stored_names(self) -> list[str]:
        return [name.decode() for name in self._link.main.command("ZRANGE", self._queues.names, 0, -1)]

    def _letters(
        self, verb: str, queue: str, ids: Sequence[str] | None, most: float = inf
    ) -> Iterator[tuple[int, bytes]]:
        """Do `verb` to dead letters, some at a time; give how many were moved, and those shown."""
        if ids is not None and not ids:
            return
        chosen = [] if ids is None else [framed_ids(ids)]
        after, left = 0, most
        while left > 0:
            some = int(min(left, LETTERS))
            after, moved, shown = self._queues.run("letters", self._queues.with_bell(queue), verb, some, after, *chosen)
            if not after:
                return
            left -= some
            yield moved, shown


def _portions(envelopes: Sequence[Envelope]) -> Iterator[Sequence[Envelope]]:
    """Give `envelopes` in portions that one script can take."""
    start = weight = 0
    for n, envelope in enumerate(envelopes):
        if n - start == PUBLISH or (weight and weight + len(envelope.body) > PUBLISH_BYTES):
            yield envelopes[start:n]
            start, weight = n, 0
        weight += len(envelope.body)
    if len(envelopes) > start:
        yield envelopes[start:]
