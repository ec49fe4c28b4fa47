"""A store inside one process, for tests and scripts: the reference implementation of the store port.

Records live as long as the store object, whether it is open or not. All verbs may be called from any thread.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from math import inf

import msgspec

from dray import (
    Absent,
    Add,
    Change,
    Changed,
    Check,
    Delete,
    Due,
    Equals,
    Index,
    Present,
    Put,
    Store,
    StoreCapabilities,
    StoreError,
    Unindex,
    Url,
    UrlError,
    Write,
)

#: Most keys of one change, which keeps all others waiting.
MOST_KEYS = 1000


class _NoOptions(msgspec.Struct):
    """`memory://` takes no options."""


class _Part:
    """One partition."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        #: What it has in the indexes: (index, key) -> at.
        self.entries: dict[tuple[str, str], float] = {}
        self.until = inf


class MemoryStore(Store):
    """`memory://`: records in this object, for the threads of this process."""

    capabilities = StoreCapabilities(durable=False, shared=False, max_keys=MOST_KEYS)

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        url.options_as(_NoOptions)
        if url.hosts or url.path.strip("/"):
            raise UrlError(
                f"{url}: memory:// names no place, because each store object has its own records; write memory://, "
                "or sqlite:///path to share them"
            )
        self._changed = threading.Condition(threading.Lock())
        self._parts: dict[str, _Part] = {}
        #: The entries of each index, sorted.
        self._indexes: dict[str, list[Due]] = {}

    def open(self) -> None:
        """There is nothing to connect to."""

    def close(self) -> None:
        """There is nothing to let go of: the records go when this object goes."""

    def commit(self, changes: Sequence[Change]) -> Sequence[Changed]:
        with self._changed:
            done = [self._make(change) for change in changes]
            self._changed.notify_all()
        return done

    def scan(self, part: str, prefix: str = "", after: str = "", limit: int = 1000) -> Sequence[tuple[str, bytes]]:
        with self._changed:
            kept = self._part(part)
            keys = sorted(key for key in kept.records if key.startswith(prefix) and key > after) if kept else []
            return [(key, kept.records[key]) for key in keys[:limit]] if kept else []

    def due(self, index: str, until: float, limit: int, after: Due | None = None) -> Sequence[Due]:
        with self._changed:
            entries = self._indexes.get(index, [])
            start = 0 if after is None else bisect_right(entries, after)
            end = bisect_right(entries, until, key=lambda entry: entry.at)
            found = entries[start : min(end, start + limit)]
            return [entry for entry in found if self._part(entry.part) is not None]

    def purge(self) -> int:
        with self._changed:
            return sum(self._part(name) is None for name in list(self._parts))

    def watch(self, part: str, timeout: float) -> None:
        # Something was committed, here or elsewhere: whoever waits looks for itself.
        with self._changed:
            self._changed.wait(timeout)

    # With the lock held

    def _part(self, name: str) -> _Part | None:
        """Return a partition whose time is not up; drop one whose time is."""
        part = self._parts.get(name)
        if part is None or part.until > self.clock.time():
            return part
        for index, key in part.entries:
            self._unindex(name, part, index, key)
        del self._parts[name]
        return None

    def _make(self, change: Change) -> Changed:
        part = self._part(change.part)
        found = part.records if part is not None else {}
        applied = all(_holds(check, found) for check in change.checks)
        if applied and change.writes:
            part = self._written(change, part or _Part())
            found = part.records
        return Changed(applied, {key: found[key] for key in change.reads if key in found})

    def _written(self, change: Change, part: _Part) -> _Part:
        """Make the writes of a change; on an error none of them."""
        records = dict(part.records) if any(isinstance(write, Add) for write in change.writes) else part.records
        for write in change.writes:
            if isinstance(write, Add):
                records[write.key] = _added(records.get(write.key), write)
            else:
                _write(records, write)
        part.records = records
        self._parts[change.part] = part
        if change.ttl is not None:
            part.until = self.clock.time() + change.ttl
        for write in change.writes:
            match write:
                case Index(index, key, at):
                    self._unindex(change.part, part, index, key)
                    part.entries[index, key] = at
                    insort(self._indexes.setdefault(index, []), Due(at, change.part, key))
                case Unindex(index, key):
                    self._unindex(change.part, part, index, key)
                    part.entries.pop((index, key), None)
        if not part.records and not part.entries:
            del self._parts[change.part]
        return part

    def _unindex(self, name: str, part: _Part, index: str, key: str) -> None:
        at = part.entries.get((index, key))
        if at is not None:
            entries = self._indexes[index]
            del entries[bisect_left(entries, Due(at, name, key))]


def _holds(check: Check, records: dict[str, bytes]) -> bool:
    match check:
        case Absent(key):
            return key not in records
        case Present(key):
            return key in records
        case Equals(key, value):
            return records.get(key) == value


def _write(records: dict[str, bytes], write: Write) -> None:
    match write:
        case Put(key, value):
            records[key] = value
        case Delete(key):
            records.pop(key, None)


def _added(value: bytes | None, write: Add) -> bytes:
    try:
        return str(int(value or b"0") + write.number).encode()
    except ValueError:
        raise StoreError(f"adding {write.number} to {write.key!r}, which is no count") from None
