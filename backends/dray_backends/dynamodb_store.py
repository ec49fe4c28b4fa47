"""The dynamodb:// store: records that many processes change under conditions, in one table of Amazon DynamoDB.

A batch is cut into transactions. Each reads what its changes ask for, as it is at one instant, and writes what they
come to on the condition that no head of a partition has changed since: else it is made anew from what is there then.
So changes of one partition happen one after the other, and nobody waits for anybody who has died.

The records of a partition are kept under a generation, drawn at random, that its head names. A partition is forgotten,
however large, by naming another one; what is left of the old one is cleared away by and by, and cannot be mistaken.
"""

from __future__ import annotations

import random
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from heapq import merge
from itertools import islice
from math import inf
from typing import NamedTuple

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
    StoreUnavailable,
    Unindex,
    Url,
)

from . import dynamodb_table as items
from .dynamodb_table import MOST_BYTES, MOST_ITEMS, SHARDS, SORT_KEY, DynamoTable, Item, Met

#: Largest value. An item has 400 KB at most, its names included.
LARGEST_VALUE = 350 * 1024
#: Most keys and entries of one change. Each is an item; an entry that moves is three. Four more are of the partition.
MOST_KEYS = (MOST_ITEMS - 4) // 3
#: Times a transaction is made anew because others were faster, and the longest pause before that (seconds): the first,
#: and all. Pauses are drawn at random, so that two do not meet for ever.
TRIES, FIRST_PAUSE, LONGEST_PAUSE = 200, 0.01, 0.2
#: Queues in which the threads of one process wait for partitions.
TURNS = 64
#: Seconds from one sweep of forgotten partitions to the next, and the most of each place that it drops.
SWEEP_EVERY, SWEEP = 60.0, 10
#: Most partitions whose generation is remembered, which saves a read.
REMEMBERED = 10_000
#: No name comes after this.
LAST = b"\xff" * SORT_KEY


class DynamoStore(Store):
    """`dynamodb://?region=eu-west-1&table=dray`; options: `dray_backends.dynamodb_table.DynamoOptions`."""

    capabilities = StoreCapabilities(max_value_bytes=LARGEST_VALUE, max_keys=MOST_KEYS)

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self._table = DynamoTable(url)
        self._generations: dict[str, bytes] = {}
        self._turns = [threading.Lock() for _ in range(TURNS)]
        #: When the next sweep is due, on the clock that never jumps.
        self._next_sweep = 0.0

    def open(self) -> None:
        self._table.open()

    def close(self) -> None:
        self._table.close()

    def setup(self) -> Sequence[str]:
        self._table.connect()
        return [f"created the table {self._table.options.table!r}"] if self._table.create() else []

    def commit(self, changes: Sequence[Change]) -> Sequence[Changed]:
        if any(change.writes for change in changes) and self.clock.monotonic() >= self._next_sweep:
            self._next_sweep = self.clock.monotonic() + SWEEP_EVERY
            self._sweep(SWEEP)
        return [done for batch in _cut(changes) for done in self._make(batch)]

    def scan(self, part: str, prefix: str = "", after: str = "", limit: int = 1000) -> Sequence[tuple[str, bytes]]:
        # Every character comes after the one that is put behind `after`.
        first = max(items.named(prefix), items.named(after) + b"\0")
        last = (items.named(prefix) + LAST)[: SORT_KEY - 1]
        for attempt in range(TRIES):
            try:
                before = self._load({part: _Wanted()})[part]
                found = self._table.query(b"r" + before.generation, b"k" + first, b"k" + last, limit)
                page = [(item["sk"]["B"][1:].decode(), item["d"]["B"]) for item in islice(found, limit)]
                # A query is not a transaction. What is the same before and after it has not changed meanwhile.
                if self._load({part: _Wanted()})[part].state == before.state:
                    return page
            except Met:
                pass
            self._pause(attempt)
        raise self._too_busy([part])

    def due(self, index: str, until: float, limit: int, after: Due | None = None) -> Sequence[Due]:
        first = items.sortable(-inf)
        if after is not None:
            first = items.entry(index, after.at, after.part, after.key)[1] + b"\0"
        last = (items.sortable(until) + LAST)[:SORT_KEY]
        shards = [
            self._table.query(items.index_shard(index, shard), first, last, min(limit, 1000)) for shard in range(SHARDS)
        ]
        found = merge(*shards, key=lambda item: bytes(item["sk"]["B"]))
        return [_due(item) for item in islice(found, limit)]

    def purge(self) -> int:
        return self._sweep(None)

    def _make(self, changes: Sequence[Change]) -> list[Changed]:
        """Make changes in one transaction, or, where others or errors are in the way, in several."""
        for attempt in range(TRIES):
            try:
                with self._in_turn({change.part for change in changes if change.writes}):
                    return self._try(changes)
            except Met:
                if len(changes) > 1:
                    break
            except StoreUnavailable:
                raise
            except StoreError:
                if len(changes) == 1:
                    raise
                break
            self._pause(attempt)
        else:
            raise self._too_busy([change.part for change in changes])
        half = len(changes) // 2
        return self._make(changes[:half]) + self._make(changes[half:])

    @contextmanager
    def _in_turn(self, names: Iterable[str]) -> Iterator[None]:
        """Have the threads of this process queue up for a partition, instead of undoing each other's work."""
        with ExitStack() as stack:
            for number in sorted({hash(name) % TURNS for name in names}):
                stack.enter_context(self._turns[number])
            yield

    def _try(self, changes: Sequence[Change]) -> list[Changed]:
        parts = self._load(_wanted(changes))
        now = self.now()
        done = [parts[change.part].make(change, now) for change in changes]
        actions = [action for part in parts.values() if part.touched for action in part.actions(self._table)]
        if len(actions) > MOST_ITEMS:
            raise StoreError(
                f"{self.url}: a change of {changes[0].part!r} writes {len(actions)} items, and DynamoDB writes "
                f"{MOST_ITEMS} together at most"
            )
        if actions:
            self._table.write(actions)
            for name, part in parts.items():
                self._remember(name, part.generation)
        return done

    def _load(self, wanted: dict[str, _Wanted]) -> dict[str, _Part]:
        """Return partitions, with those of their records and entries that are wanted, as they are at one instant."""
        learned: dict[str, bytes] = {}
        while True:
            guesses = {name: learned.get(name) or self._generations.get(name) for name in wanted}
            keys = []
            for name, want in wanted.items():
                keys.append(items.head(name))
                keys += want.of(guesses[name])
            if len(keys) > MOST_ITEMS:
                first = next(iter(wanted))
                raise StoreError(f"{self.url}: {first!r} is asked for {len(keys)} items at once, {MOST_ITEMS} are most")
            found = iter(self._table.get(keys))
            now = self.now()
            parts, right = {}, True
            for name, want in wanted.items():
                part = parts[name] = _Part(name, next(found), now)
                rest = list(islice(found, len(want.of(guesses[name]))))
                if part.size and part.generation == guesses[name]:
                    part.fill(want, rest)
                elif part.size:
                    learned[name] = part.generation
                    self._remember(name, part.generation)
                    right = right and not want.of(part.generation)
            if right:
                return parts

    def _remember(self, name: str, generation: bytes) -> None:
        if len(self._generations) >= REMEMBERED:
            self._generations.clear()
        self._generations[name] = generation

    def _sweep(self, most: int | None) -> int:
        """Drop up to `most` partitions of each place whose time is up, and what others have left; return how many."""
        dropped, last = 0, (items.sortable(self.now()) + LAST)[:SORT_KEY]
        for shard in range(SHARDS):
            expired = self._table.query(b"x" + bytes([shard]), items.sortable(-inf), last, most)
            # Read to the end first: what is dropped would be missed while turning pages.
            for item in list(islice(expired, most)):
                dropped += self._forget(item["p"]["S"])
        for shard in range(SHARDS):
            left = self._table.query(b"z" + bytes([shard]), b"\0", LAST, most)
            for item in list(islice(left, most)):
                self._clear(item["sk"]["B"])
        return dropped

    def _forget(self, name: str) -> bool:
        """Drop a partition if its time is up; return whether it was."""
        try:
            part = self._load({name: _Wanted()})[name]
            if part.left:
                self._table.write(list(part.actions(self._table)))
            return bool(part.left)
        except Met:
            # Somebody is at it: it has begun anew, or is dropped already.
            return False

    def _clear(self, generation: bytes) -> None:
        """Delete what is left of a generation. Done half, it is done again by whoever comes next."""
        keys = []
        for item in self._table.query(b"r" + generation, b"\0", LAST):
            if "t" in item:
                entry = items.entry(item["i"]["S"], items.number(item["t"]["B"]), item["p"]["S"], item["k"]["S"])
                self._table.drop(entry, generation)
            keys.append((item["pk"]["B"], item["sk"]["B"]))
        self._table.drop_all(keys)
        self._table.drop(items.remains(generation))

    def _pause(self, attempt: int) -> None:
        self.clock.wait(threading.Event(), random.random() * min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(attempt, 10)))

    def _too_busy(self, names: Sequence[str]) -> StoreUnavailable:
        return StoreUnavailable(f"{self.url}: others changed {names[0]!r} each of {TRIES} times that it was looked at")


class _Wanted(NamedTuple):
    """What is to be loaded of a partition: keys, and (index, key) of entries."""

    keys: tuple[str, ...] = ()
    entries: tuple[tuple[str, str], ...] = ()

    def of(self, generation: bytes | None) -> list[items.Key]:
        """Return the items that these are in a generation, none if it is not known."""
        if generation is None:
            return []
        return [
            *(items.record(generation, key) for key in self.keys),
            *(items.listed(generation, index, key) for index, key in self.entries),
        ]


class _Part:
    """One partition: as it was loaded, and as it is to be."""

    def __init__(self, name: str, found: Item | None, now: float) -> None:
        self.name = name
        #: Version and generation; None: there is no such partition.
        self.state = (int(found["v"]["N"]), bytes(found["g"]["B"])) if found else None
        self.generation = self.state[1] if self.state else _new_generation()
        #: How many records and entries there are.
        self.size = int(found["n"]["N"]) if found else 0
        self.expires = self._expired = items.number(found["x"]["B"]) if found and "x" in found else inf
        self.records: dict[str, bytes] = {}
        self.entries: dict[tuple[str, str], float] = {}
        self._records: dict[str, bytes] = {}
        self._entries: dict[tuple[str, str], float] = {}
        #: Whether a change was made, which nothing may have come of.
        self.touched = False
        #: The generation that was forgotten.
        self.left = b""
        if self.expires <= now:
            self.forget()

    def fill(self, wanted: _Wanted, found: Sequence[Item | None]) -> None:
        """Take in what was loaded."""
        for key, item in zip(wanted.keys, found, strict=False):
            if item is not None:
                self.records[key] = bytes(item["d"]["B"])
        for name, item in zip(wanted.entries, found[len(wanted.keys) :], strict=True):
            if item is not None:
                self.entries[name] = items.number(item["t"]["B"])
        self._records, self._entries = dict(self.records), dict(self.entries)

    def forget(self) -> None:
        """Begin anew."""
        if self.state and self.generation == self.state[1]:
            self.left = self.generation
        self.generation = _new_generation()
        self.size, self.expires = 0, inf
        for kept in (self.records, self.entries, self._records, self._entries):
            kept.clear()

    def make(self, change: Change, now: float) -> Changed:
        """Do what a change says, here; raise `StoreError` when it cannot be done."""
        applied = all(_holds(check, self.records) for check in change.checks)
        if applied and change.writes:
            self.touched = True
            before = len(self.records) + len(self.entries)
            for write in change.writes:
                match write:
                    case Put(key, value):
                        self.records[key] = value
                    case Add(key, number):
                        self.records[key] = _added(self.records.get(key), key, number)
                    case Delete(key):
                        self.records.pop(key, None)
                    case Index(index, key, at):
                        self.entries[index, key] = at
                    case Unindex(index, key):
                        self.entries.pop((index, key), None)
            self.size += len(self.records) + len(self.entries) - before
            if change.ttl is not None:
                self.expires = now + change.ttl
        values = {key: self.records[key] for key in change.reads if key in self.records}
        if applied and change.writes and self.expires <= now:
            self.forget()
        return Changed(applied, values)

    def actions(self, table: DynamoTable) -> Iterator[Item]:
        """Give the actions that make it what it is to be, each on the condition that nobody else has changed it."""
        expires = self.expires if self.size else inf
        changed = [*self._record_actions(table), *self._entry_actions(table)]
        if expires != self._expired:
            if self._expired < inf:
                changed.append(table.delete(items.expiry(self._expired, self.name)))
            if expires < inf:
                changed.append(table.put(items.expiry(expires, self.name), p={"S": self.name}))
        if self.left:
            changed.append(table.put(items.remains(self.left)))
        if changed or (self.state and not self.size):
            yield self._head_action(table, expires)
            yield from changed

    def _head_action(self, table: DynamoTable, expires: float) -> Item:
        key = items.head(self.name)
        version = self.state[0] if self.state else 0
        if self.size:
            until = {"x": {"B": items.sortable(expires)}} if expires < inf else {}
            fields = {"v": {"N": f"{version + 1}"}, "g": {"B": self.generation}, "n": {"N": f"{self.size}"}}
            action = table.put(key, **fields, **until)
        else:
            action = table.delete(key)
        if self.state is None:
            return items.when(action, "attribute_not_exists(pk)")
        return items.when(action, "v = :v AND g = :g", v={"N": f"{version}"}, g={"B": self.state[1]})

    def _record_actions(self, table: DynamoTable) -> Iterator[Item]:
        for key in self.records.keys() | self._records.keys():
            value = self.records.get(key)
            if value is None:
                yield table.delete(items.record(self.generation, key))
            elif value != self._records.get(key):
                yield table.put(items.record(self.generation, key), d={"B": value})

    def _entry_actions(self, table: DynamoTable) -> Iterator[Item]:
        for index, key in self.entries.keys() | self._entries.keys():
            at, before = self.entries.get((index, key)), self._entries.get((index, key))
            if at == before:
                continue
            place = items.listed(self.generation, index, key)
            names = {"p": {"S": self.name}, "k": {"S": key}}
            if before is not None:
                yield table.delete(items.entry(index, before, self.name, key))
            if at is None:
                yield table.delete(place)
            else:
                fields = names | {"t": {"B": items.sortable(at)}}
                yield table.put(place, **fields, i={"S": index})
                yield table.put(items.entry(index, at, self.name, key), **fields, g={"B": self.generation})


def _cut(changes: Iterable[Change]) -> Iterator[list[Change]]:
    """Cut changes into what one transaction surely takes, unless one alone is more."""
    batch: list[Change] = []
    size = 0
    for change in changes:
        weight = sum(len(write.value) for write in change.writes if isinstance(write, Put))
        if batch and (size + weight > MOST_BYTES or _most_items([*batch, change]) > MOST_ITEMS):
            yield batch
            batch, size = [], 0
        batch.append(change)
        size += weight
    if batch:
        yield batch


def _most_items(changes: Sequence[Change]) -> int:
    # A head, the old and the new expiry and what is left behind; an entry, its old and its new place.
    return sum(4 + len(want.keys) + 3 * len(want.entries) for want in _wanted(changes).values())


def _wanted(changes: Sequence[Change]) -> dict[str, _Wanted]:
    """Return what has to be known of each partition to make these changes."""
    keys: dict[str, dict[str, None]] = {change.part: {} for change in changes}
    entries: dict[str, dict[tuple[str, str], None]] = {change.part: {} for change in changes}
    for change in changes:
        keys[change.part] |= dict.fromkeys([*change.reads, *(check.key for check in change.checks)])
        for write in change.writes:
            if isinstance(write, Index | Unindex):
                entries[change.part][write.index, write.key] = None
            else:
                keys[change.part][write.key] = None
    return {part: _Wanted(tuple(keys[part]), tuple(entries[part])) for part in keys}


def _holds(check: Check, records: dict[str, bytes]) -> bool:
    match check:
        case Absent(key):
            return key not in records
        case Present(key):
            return key in records
        case Equals(key, value):
            return records.get(key) == value


def _added(value: bytes | None, key: str, number: int) -> bytes:
    try:
        total = int(b"0" if value is None else value) + number
    except ValueError:
        raise StoreError(f"adding {number} to {key!r}, which is no count") from None
    if not -(2**63) <= total < 2**63:
        raise StoreError(f"adding {number} to {key!r}, which is beyond 64 bits")
    return b"%d" % total


def _due(item: Item) -> Due:
    return Due(items.number(item["t"]["B"]), item["p"]["S"], item["k"]["S"])


def _new_generation() -> bytes:
    return secrets.token_bytes(12)
