"""The store port: small records that many processes change at once without losing each other's changes.

On it stand workflows, schedules, limits, locks and unique tasks. A store is asked for five things: `commit`, `scan`,
`due`, `now`, and to be opened and closed; all else here is made of these, and an adapter may do it in fewer steps.

A store is divided into *partitions*, named by text. Within one, keys stand for bytes. A `Change` touches one partition,
and is made as a whole or not at all. An *index* is a list, across all partitions, of what someone has to look at, and
when.

All calls block, come in batches, and may be made from any thread at the same time. Translate the driver's errors:
`StoreUnavailable` when the store cannot be reached or the reply was lost (the engine then asks again), `StoreError` for
anything else. `dray.testing.StoreContract` holds an adapter to every sentence of this page.

**Clocks.** Checks, counts and the order of changes owe nothing to clocks. Times to live, limits and places do. Where
the server has no clock of its own (`server_time` is False), every process goes by its host's, and while two of these
differ by s seconds, whoever is ahead finds a partition forgotten s seconds early, and a place free s seconds before its
holder thinks it is; tokens of places still only grow, and what has begun anew for one has begun anew for all. A bucket
gives tokens for s seconds too many, once. So let places and partitions live for far longer than clocks may differ.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar

import msgspec

from .clock import SYSTEM_CLOCK, Clock
from .urls import Url

T = TypeVar("T")

#: Longest names of partitions, keys and indexes (characters), and the largest value every store has to take (bytes).
MAX_NAME, MAX_VALUE = 250, 256 * 1024
#: The most keys and entries of indexes that every store has to take in one change.
MAX_KEYS = 32
#: Seconds between two looks at something that another process may change.
LOOK = 0.05
#: Seconds for which it is remembered which fencing token was given out last; and a bucket that is full.
TOKENS_KEPT, BUCKET_KEPT = 7 * 86400.0, 60.0


# What a change asks for before it is made


class Absent(msgspec.Struct, frozen=True, gc=False):
    """There is no such key."""

    key: str


class Present(msgspec.Struct, frozen=True, gc=False):
    """There is such a key, whatever it stands for."""

    key: str


class Equals(msgspec.Struct, frozen=True, gc=False):
    """The key stands for exactly these bytes."""

    key: str
    value: bytes


Check = Absent | Present | Equals


# What it does


class Put(msgspec.Struct, frozen=True, gc=False):
    """Have the key stand for these bytes."""

    key: str
    value: bytes


class Add(msgspec.Struct, frozen=True, gc=False):
    """Add to a count. A count is a whole number (64 bits, signed) kept as decimal text; a missing key counts as 0."""

    key: str
    number: int = 1


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Drop the key. A missing one is no error."""

    key: str


class Index(msgspec.Struct, frozen=True, gc=False):
    """Enter (this partition, `key`) into an index, to be looked at from the instant `at` on; an older entry moves.

    The key is a name of the entry's own: there need be no such record.
    """

    index: str
    key: str
    #: Seconds since 1970, by the store's clock.
    at: float


class Unindex(msgspec.Struct, frozen=True, gc=False):
    """Take (this partition, `key`) out of an index. A missing entry is no error."""

    index: str
    key: str


Write = Put | Add | Delete | Index | Unindex


class Change(msgspec.Struct, frozen=True, gc=False):
    """What is to be done in one partition, as a whole: if all `checks` hold, all `writes` are made, in order.

    No checks always hold; without writes it is a consistent read. Keys and entries that it names, checks and reads
    included, are no more than the store's `max_keys`.
    """

    part: str
    checks: tuple[Check, ...] = ()
    writes: tuple[Write, ...] = ()
    #: Keys whose values the answer tells, as they are right after the writes, or, when a check failed, as they were.
    reads: tuple[str, ...] = ()
    #: The partition is forgotten so many seconds from now, index entries included (`math.inf`: never); None leaves that
    #: as it is. A new partition lives for ever. Takes effect with the writes, and never without any.
    ttl: float | None = None


class Changed(msgspec.Struct, frozen=True, gc=False):
    """What a change came to."""

    #: False: one of the checks did not hold, and nothing was written.
    applied: bool
    #: What the keys in `reads` stand for; those that are absent are missing.
    values: Mapping[str, bytes]


class Due(msgspec.Struct, frozen=True, gc=False, order=True):
    """An entry of an index. Entries sort by instant, then by partition and key."""

    at: float
    part: str
    key: str


class Take(msgspec.Struct, frozen=True, gc=False):
    """A wish to pass a rate limit: a bucket that holds `burst` tokens and gets one every `every` seconds.

    The limit's state is the partition; all who share it name the same one.
    """

    part: str
    every: float
    burst: int = 1
    #: How many tokens it takes.
    cost: int = 1
    #: Longest time (seconds) for which a turn may be reserved beforehand.
    ahead: float = 0.0


class Hold(msgspec.Struct, frozen=True, gc=False):
    """A wish for one of the `most` places of a partition, for `seconds` unless it is renewed: a lock, a semaphore."""

    part: str
    #: Who holds the place. Whoever has it already renews it by asking again.
    holder: str
    seconds: float
    most: int = 1


class Revise(msgspec.Struct, Generic[T], frozen=True):
    """One value of a partition, and the rule by which it is changed."""

    part: str
    key: str
    #: Given the value (None: there is none) and the instant now, it returns an answer, the value that is to be put
    #: (None: it stays as it is), and the partition's time to live from then on. It may be asked more than once, and
    #: within a transaction: it is quick, and does not use the store.
    rule: Callable[[bytes | None, float], tuple[T, bytes | None, float | None]]


class StoreCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What one store can promise beyond its contract."""

    #: True: what `commit` returned for survives the death of every process, and of the machine.
    durable: bool = True
    #: True: other processes see the same records.
    shared: bool = True
    #: True: instants are the server's own; False: each process goes by its host's clock.
    server_time: bool = False
    #: Largest value (bytes).
    max_value_bytes: int = MAX_VALUE
    #: Most keys and entries of indexes, each counted once, that one change may name.
    max_keys: int = MAX_KEYS


class Store(ABC):
    """A place for records that are changed under conditions. Made from a URL, opened before use.

    It is not carried across a fork.
    """

    capabilities: StoreCapabilities = StoreCapabilities()
    #: Time for stores that have no clock of their own.
    clock: Clock = SYSTEM_CLOCK

    def __init__(self, url: Url) -> None:
        self.url = url

    @abstractmethod
    def open(self) -> None:
        """Connect and create what is missing. Safe twice; also called to reconnect."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection; the records stay where the store is durable. Safe twice."""

    @abstractmethod
    def commit(self, changes: Sequence[Change]) -> Sequence[Changed]:
        """Make the changes, in order, each as a whole or not at all; return what each came to, in the same order.

        Changes of one partition happen one after the other, whoever makes them: each sees all that came before it, and
        nothing of those that come after. A change whose check fails does not keep the others from being made. Adding to
        what is no count raises `StoreError`; whether other changes of the batch were made is then as open as it is on
        `StoreUnavailable`, after which any of them may have been made, each as a whole.
        """

    @abstractmethod
    def scan(self, part: str, prefix: str = "", after: str = "", limit: int = 1000) -> Sequence[tuple[str, bytes]]:
        """Return up to `limit` keys of a partition that begin with `prefix` and come after `after`, with their values.

        In the order of their characters' code points. Consistent within one call. It may cost as much as reading the
        whole partition: what is large is read by its keys.
        """

    @abstractmethod
    def due(self, index: str, until: float, limit: int, after: Due | None = None) -> Sequence[Due]:
        """Return up to `limit` entries of an index whose instant is `until` at most, in their order, after `after`.

        They stay in it. An entry committed before the call is there, unless a later change moved or removed it. An
        entry whose partition was forgotten may still come for a while: whoever looks finds nothing, and goes on.
        """

    def now(self) -> float:
        """Return the instant now by the clock that this store goes by, in seconds since 1970."""
        return self.clock.time()

    def setup(self) -> Sequence[str]:
        """Create for good what `open()` would create, with the rights at hand; say in a sentence what was made."""
        return ()

    def advice(self) -> Sequence[str]:
        """Return sentences about what works but deserves a thought, for `dray doctor`. Never changes anything."""
        return ()

    def purge(self) -> int:
        """Drop partitions whose time is up; return how many. Stores whose server does that return 0."""
        return 0

    def watch(self, part: str, timeout: float) -> None:
        """Wait until the partition may have changed, or for `timeout` seconds. This default comes back now and then.

        What changed after the caller's last look and before this call may be missed: `timeout` is how late one can be.
        """
        self.clock.wait(threading.Event(), min(timeout, LOOK))

    # Made of the above. Adapters may override these to need fewer steps

    def get(self, part: str, *keys: str) -> Mapping[str, bytes]:
        """Return what up to `max_keys` keys stand for, consistently; those that are absent are missing."""
        return self.commit([Change(part, reads=keys)])[0].values

    def get_many(self, part: str, keys: Sequence[str]) -> Mapping[str, bytes]:
        """Return what any number of keys stand for, consistently for `max_keys` of them at a time."""
        size = self.capabilities.max_keys
        found = self.commit([Change(part, reads=tuple(keys[n : n + size])) for n in range(0, len(keys), size)])
        return {key: value for each in found for key, value in each.values.items()}

    def add_member(self, part: str, group: str, member: str, value: bytes) -> tuple[bool, int]:
        """Add `group`/`member` unless it is there; return whether it was added, and how many the group has now.

        Of any number of callers that add the N distinct members of a group, at least one is told N: the count grows in
        the same step in which the member comes.
        """
        key, count = f"{group}/{member}", f"{group}#"
        (done,) = self.commit([Change(part, (Absent(key),), (Put(key, value), Add(count)), (count,))])
        return done.applied, int(done.values.get(count, b"0"))

    def take(self, takes: Sequence[Take]) -> Sequence[float]:
        """Take tokens for each wish; return for each how long (seconds) its turn is away: 0 when it is now.

        A turn that is no more than `ahead` away is taken and kept for it; one that is further away is not taken. The
        rule is the generic cell rate algorithm: the bucket is known by the instant at which it will be full again.
        """
        return self.revise([Revise(wish.part, "full", partial(_turn, wish)) for wish in takes])

    def hold(self, holds: Sequence[Hold]) -> Sequence[int]:
        """Take or renew a place for each wish; return its fencing token (1 or more), or 0 when all places are taken.

        Tokens of one partition only grow: what has been written under a token must not be overwritten under a lower
        one. Renewing keeps the token. A place not renewed in time is free again.
        """
        return self.revise([Revise(wish.part, "places", partial(_place, wish)) for wish in holds])

    def let_go(self, holds: Sequence[Hold]) -> None:
        """Give the places back; those that are not held are no error."""
        self.revise([Revise(wish.part, "places", partial(_no_place, wish)) for wish in holds])

    def revise(self, wishes: Sequence[Revise[T]]) -> Sequence[T]:
        """Change values by rules, one after the other; return what the rules answered.

        Nobody else changes a value between the look at it and the put. A store with transactions needs one for all.
        """
        return [self._revised(wish) for wish in wishes]

    def _revised(self, wish: Revise[T]) -> T:
        part, key = wish.part, wish.key
        while True:
            now = self.now()
            kept = self.get(part, key).get(key)
            answer, value, ttl = wish.rule(kept, now)
            if value is None:
                return answer
            unchanged = Absent(key) if kept is None else Equals(key, kept)
            if self.commit([Change(part, (unchanged,), (Put(key, value),), (), ttl)])[0].applied:
                return answer


# The rules of limits and locks


def _turn(wish: Take, kept: bytes | None, now: float) -> tuple[float, bytes | None, float | None]:
    """Answer how long a wish has to wait. What is kept is the instant at which the bucket will be full again."""
    # What is a millionth of a second away is there: instants since 1970 are not told apart more finely.
    filling = max(0.0, float(kept or now) - now) + wish.cost * wish.every
    wait = max(0.0, round(filling - wish.burst * wish.every, 6))
    if wait > wish.ahead:
        return wait, None, None
    # Forgotten once it is full: an untouched bucket is a full one.
    return wait, repr(now + filling).encode(), filling + BUCKET_KEPT


class _Places(msgspec.Struct, frozen=True, array_like=True):
    """Who holds the places of a partition: holder -> (token, until when)."""

    #: The last token given out.
    last: int = 0
    held: dict[str, tuple[int, float]] = {}

    @classmethod
    def of(cls, kept: bytes | None, now: float) -> _Places:
        """Return what is kept, without the places whose time is up."""
        places = cls() if kept is None else msgspec.msgpack.decode(kept, type=cls)
        return cls(places.last, {who: place for who, place in places.held.items() if place[1] > now})

    def kept(self, now: float) -> tuple[bytes, float]:
        """Return what is to be kept, and for how long: the last token outlives every place."""
        longest = max((until - now for _, until in self.held.values()), default=0.0)
        return msgspec.msgpack.encode(self), longest + TOKENS_KEPT


def _place(wish: Hold, kept: bytes | None, now: float) -> tuple[int, bytes | None, float | None]:
    """Answer the token of a place, or 0."""
    places = _Places.of(kept, now)
    token, _ = places.held.get(wish.holder, (0, 0.0))
    if not token:
        if len(places.held) >= wish.most:
            return 0, None, None
        token = places.last + 1
    held = places.held | {wish.holder: (token, now + wish.seconds)}
    return token, *_Places(max(places.last, token), held).kept(now)


def _no_place(wish: Hold, kept: bytes | None, now: float) -> tuple[None, bytes | None, float | None]:
    """Have the place given back."""
    places = _Places.of(kept, now)
    if wish.holder not in places.held:
        return None, None, None
    del places.held[wish.holder]
    return None, *places.kept(now)
