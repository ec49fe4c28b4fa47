"""The redis:// result backend: records in Redis or Valkey, which expire by themselves; waits that are told, not polled.

Each record is a key of its own. The rule of the first final writer is part of the script that stores, so it holds
between all processes. In a cluster the keys are spread over `BUCKETS` slots, and one step serves one bucket.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

_FRAME = struct.Struct(">I")
#: Rank, final or not, length of the state: the head of a stored record.
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

    def open(self) -> None:
        self._news.end()
        self._link.open(load_script("dray_backends", "store"), [], "", b"")

    def close(self) -> None:
        self._news.end()
        self._link.close()

    def store(self, records: Sequence[Record], ttl: float | None) -> None:
        script, keep = load_script("dray_backends", "store"), "" if ttl is None else max(1, round(ttl * 1000))
        for some in _portions(records):
            by_key = [(self._key(record.id), _record_to_bytes(record)) for record in some]
            for group in self._together(by_key):
                self._link.main.run(script, [key for key, _ in group], keep, b"".join(frame for _, frame in group))

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
        channels = list(map(self._key, ids))
        found = self.fetch(ids)
        while not _any_final(found) and (left := end - self._time.monotonic()) > 0:
            if self._news.refused:
                return super().wait(ids, left)
            with self._news.of(channels) as news:
                # What was stored before the news were ordered is seen by this look, what comes later is told.
                found = self.fetch(ids)
                while not (_any_final(found) or news.lost) and (left := end - self._time.monotonic()) > 0:
                    news.wait(min(left, LOOK))
                    found = self.fetch(ids)
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
        bucket = crc32(id.encode("utf-8", "surrogatepass")) % BUCKETS
        return f"{self._link.prefix}:result:{{{bucket:02x}}}:{id}"

    def _together(self, by_key: Iterable[tuple[str, T]]) -> Iterator[Sequence[tuple[str, T]]]:
        """Give pairs of key and whatever in groups that one step can serve."""
        by_slot: defaultdict[str, list[tuple[str, T]]] = defaultdict(list)
        for pair in by_key:
            by_slot[pair[0].split("}")[0] if self._link.cluster else ""].append(pair)
        for pairs in by_slot.values():
            for start in range(0, len(pairs), STEP):
                yield pairs[start : start + STEP]


def _any_final(found: Mapping[str, Record]) -> bool:
    return any(record.final for record in found.values())


def _portions(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    """Give `records` in portions that one script can take."""
    start = weight = 0
    for n, record in enumerate(records):
        if weight and weight + len(record.body) > STEP_BYTES:
            yield records[start:n]
            start, weight = n, 0
        weight += len(record.body)
    if len(records) > start:
        yield records[start:]


def _record_to_bytes(record: Record) -> bytes:
    state = record.state.encode("utf-8", "surrogatepass")
    head = _HEAD.pack(record.rank, record.final, len(state))
    return b"".join((_FRAME.pack(len(head) + len(state) + len(record.body)), head, state, record.body))


def _record_from_bytes(id: str, stored: bytes) -> Record:
    rank, final, length = _HEAD.unpack_from(stored)
    start = _HEAD.size + length
    state = stored[_HEAD.size : start].decode("utf-8", "surrogatepass")
    return Record(id=id, state=state, final=bool(final), body=stored[start:], rank=int(rank))
