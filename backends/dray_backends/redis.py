"""The redis:// result backend: records in Redis or Valkey, which expire by themselves; waits that are told, not polled.

Each record is a key of its own. The rule of the first final writer is part of the script that stores, so it holds
between all processes. In a cluster the keys are spread over `BUCKETS` slots, and one step serves one bucket.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar
from zlib import crc32

from dray import BackendError, BackendUnavailable, Record, ResultBackend, SystemClock, Url
from dray_brokers.redis_connection import RedisLink, load_script

from .redis_news import News

T = TypeVar("T")

#: In how many slots of a cluster the records are: more spread them better, fewer make batches larger.
BUCKETS = 32
#: Most records, and most bytes of bodies, of one step, so that none keeps the server from others for long.
STEP, STEP_BYTES = 1000, 8 * 1024 * 1024
#: Seconds between two looks of one who waits: only for news that were lost, in a failover say.
LOOK = 5.0
#: Seconds from the loss of the connection that brings the news to the next try, spent looking.
AGAIN = 1.0

#: Lengths of a key and of what is kept there: what stands before both in a call of the script.
_LENGTHS = struct.Struct(">II")
#: Rank, final or not, length of the state: what a kept record begins with.
_HEAD = struct.Struct(">dBH")


class RedisBackend(ResultBackend):
    """`redis://localhost:6379/0` and the other schemes and options of the Redis broker; it may share its server.

    Where the user may not subscribe to channels (`&prefix:*`), waiting looks again and again instead.
    """

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self._link = RedisLink(url, refused=BackendError, unavailable=BackendUnavailable)
        self._news = News(self._link)
        self._time = SystemClock()
        self._buckets = [f"{self._link.prefix}:result:{{{n:02x}}}:" for n in range(BUCKETS)]

    def open(self) -> None:
        self._news.end()
        self._link.open(load_script("dray_backends", "store"), [], "", b"")

    def close(self) -> None:
        self._news.end()
        self._link.close()

    def store(self, records: Sequence[Record], ttl: float | None) -> None:
        script, keep = load_script("dray_backends", "store"), "" if ttl is None else max(1, round(ttl * 1000))
        for group in self._together([(self._key(record.id), record) for record in records]):
            for first, framed in _portions(group):
                self._link.main.run(script, [first], keep, framed)

    def fetch(self, ids: Sequence[str]) -> Mapping[str, Record]:
        found: dict[str, Record] = {}
        by_key = [(self._key(id), id) for id in dict.fromkeys(ids)]
        for group in self._together(by_key):
            stored = self._link.main.command("MGET", *(key for key, _ in group))
            for (_, id), value in zip(group, stored, strict=True):
                if value is not None:
                    found[id] = _record_from_bytes(id, value)
        return found

    def forget(self, ids: Sequence[str]) -> None:
        for group in self._together([(self._key(id), id) for id in ids]):
            self._link.main.command("UNLINK", *(key for key, _ in group))

    def wait(self, ids: Sequence[str], timeout: float) -> Mapping[str, Record]:
        end = self._time.monotonic() + timeout
        channels = {self._key(id): id for id in ids}
        found = self.fetch(ids)
        while not _any_final(found) and (left := end - self._time.monotonic()) > 0:
            if self._news.refused:
                return super().wait(ids, left)
            with self._news.of(list(channels)) as news:
                # What was stored before the news were ordered is seen by this look, what comes later is told.
                found = self.fetch(ids)
                while not (_any_final(found) or news.lost) and (left := end - self._time.monotonic()) > 0:
                    told = news.wait(min(left, LOOK))
                    # Nothing at all, or that there is something too large to be told: then a look is needed.
                    whole = {channels[key]: record for key, record in told.items() if record}
                    small = {id: _record_from_bytes(id, record) for id, record in whole.items()}
                    found = {**found, **small} if small else self.fetch(ids)
            if news.lost and not _any_final(found) and left > 0:
                found = super().wait(ids, min(left, AGAIN))
        return found

    def advice(self) -> Sequence[str]:
        policy = self._link.configuration("maxmemory-policy")
        if policy is None:
            return ["CONFIG is not allowed, so eviction was not looked at: maxmemory-policy should be noeviction"]
        if policy != "noeviction":
            return [f"maxmemory-policy is {policy}: when Redis is full it deletes results before their time"]
        return []

    def _key(self, id: str) -> str:
        return self._buckets[crc32(id.encode()) % BUCKETS] + id

    def _together(self, pairs: Sequence[tuple[str, T]]) -> Iterator[Sequence[tuple[str, T]]]:
        """Give pairs of key and whatever in groups that one step can serve."""
        groups = [pairs]
        if self._link.cluster:
            by_slot: defaultdict[str, list[tuple[str, T]]] = defaultdict(list)
            for pair in pairs:
                by_slot[pair[0].partition("}")[0]].append(pair)
            groups = list(by_slot.values())
        for group in groups:
            for start in range(0, len(group), STEP):
                yield group[start : start + STEP]


def _any_final(found: Mapping[str, Record]) -> bool:
    return any(record.final for record in found.values())


def _portions(pairs: Iterable[tuple[str, Record]]) -> Iterator[tuple[str, bytes]]:
    """Give pairs of key and record as the script takes them: the first key, and as many, framed, as it can take."""
    first, frames, weight = "", list[bytes](), 0
    for key, record in pairs:
        if weight and weight + len(record.body) > STEP_BYTES:
            yield first, b"".join(frames)
            frames, weight = [], 0
        if not frames:
            first = key
        name, head = key.encode(), _head(record.rank, record.final, record.state)
        frames += (_LENGTHS.pack(len(name), len(head) + len(record.body)), name, head, record.body)
        weight += len(record.body)
    if frames:
        yield first, b"".join(frames)


@lru_cache(maxsize=1024)
def _head(rank: int, final: bool, state: str) -> bytes:
    """Return what stands before the body of a kept record. There are few different ones."""
    name = state.encode("utf-8", "surrogatepass")
    return _HEAD.pack(rank, final, len(name)) + name


def _record_from_bytes(id: str, stored: bytes) -> Record:
    rank, final, length = _HEAD.unpack_from(stored)
    start = _HEAD.size + length
    state = stored[_HEAD.size : start].decode("utf-8", "surrogatepass")
    return Record(id=id, state=state, final=bool(final), body=stored[start:], rank=int(rank))
