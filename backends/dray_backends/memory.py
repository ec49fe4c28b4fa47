"""Results inside one process, for tests and scripts: the reference implementation of the result backend port.

Records live as long as the backend object, whether it is open or not. All verbs may be called from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from math import inf

import msgspec

from dray import Record, ResultBackend, Url, UrlError

#: Expired records dropped by one `store`, beyond one for each record stored: the price of tidiness is paid in coins.
SWEEP = 16


class _NoOptions(msgspec.Struct):
    """`memory://` takes no options."""


class _Kept(msgspec.Struct, frozen=True, gc=False):
    record: Record
    #: When its time is up, on the clock that never jumps.
    until: float


class MemoryBackend(ResultBackend):
    """`memory://`: records in this object, for the threads of this process."""

    durable = False
    shared = False

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        url.options_as(_NoOptions)
        if url.hosts or url.path.strip("/"):
            raise UrlError(
                f"{url}: memory:// names no place, because each backend object has its own records; write memory://, "
                "or sqlite:///path to share them"
            )
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        #: Heap of (until, id). May hold times that are no longer true; the record itself decides.
        self._ends: list[tuple[float, str]] = []
        #: Who waits for which id.
        self._waiters: dict[str, set[threading.Event]] = {}

    def open(self) -> None:
        """There is nothing to connect to."""

    def close(self) -> None:
        """There is nothing to let go of: the records go when this object goes."""

    def store(self, records: Sequence[Record], ttl: float | None) -> None:
        with self._lock:
            now = self.clock.monotonic()
            until = inf if ttl is None else now + ttl
            for record in records:
                kept = self._kept.get(record.id)
                if kept is not None and kept.until > now and _stays(kept.record, record):
                    continue
                self._kept[record.id] = _Kept(record, until)
                if ttl is not None:
                    heappush(self._ends, (until, record.id))
                if record.final:
                    for waiter in self._waiters.get(record.id, ()):
                        waiter.set()
            self._sweep(now, limit=len(records) + SWEEP)

    def fetch(self, ids: Sequence[str]) -> Mapping[str, Record]:
        with self._lock:
            now = self.clock.monotonic()
            return {id: self._kept[id].record for id in ids if id in self._kept and self._kept[id].until > now}

    def forget(self, ids: Sequence[str]) -> None:
        with self._lock:
            for id in ids:
                self._kept.pop(id, None)

    def wait(self, ids: Sequence[str], timeout: float) -> Mapping[str, Record]:
        end = self.clock.monotonic() + timeout
        told = threading.Event()
        with self._lock:
            for id in ids:
                self._waiters.setdefault(id, set()).add(told)
        try:
            # Looked at only after signing up: what is stored between the look and the wait sets the event.
            while True:
                found = self.fetch(ids)
                left = end - self.clock.monotonic()
                if left <= 0 or any(record.final for record in found.values()):
                    return found
                self.clock.wait(told, left)
                told.clear()
        finally:
            with self._lock:
                for id in set(ids):
                    self._waiters[id].discard(told)
                    if not self._waiters[id]:
                        del self._waiters[id]

    def purge(self) -> int:
        with self._lock:
            return self._sweep(self.clock.monotonic(), limit=inf)

    def _sweep(self, now: float, limit: float) -> int:
        """Look at up to `limit` ends that have passed; return how many records were dropped."""
        dropped = 0
        while limit > 0 and self._ends and self._ends[0][0] <= now:
            _, id = heappop(self._ends)
            limit -= 1
            kept = self._kept.get(id)
            if kept is not None and kept.until <= now:
                del self._kept[id]
                dropped += 1
        # Records stored again or forgotten leave their old ends behind; they may not outnumber what is kept.
        if len(self._ends) > 2 * len(self._kept) + 1000:
            self._ends = [(kept.until, id) for id, kept in self._kept.items() if kept.until < inf]
            heapify(self._ends)
        return dropped


def _stays(kept: Record, new: Record) -> bool:
    """The rule of the first final writer: a final record yields only to a final one of at least its rank."""
    return kept.final and (not new.final or new.rank < kept.rank)
