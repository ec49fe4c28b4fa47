"""The store port: small records that many processes change at once without losing each other's changes.

On it stand workflows, schedules, limits, locks and unique tasks. A store is asked for five things: `commit`, `scan`,
`due`, `now`, and to be opened and closed; all else here is made of these, and an adapter may do it in fewer steps.

A store is divided into *partitions*, named by text. Within one, keys stand for bytes. A `Change` touches one partition,
and is made as a whole or not at all. An *index* is a list, across all partitions, of what someone has to look at, and
when.

All calls block, come in batches, and may be made from any thread at the same time. Translate the driver's errors:
`StoreUnavailable` when the store cannot be reached or the reply was lost (the engine then asks again), `StoreError` for
anything else. `dray.testing.StoreContract` holds an adapter to every sentence of this page.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import msgspec

from .clock import SYSTEM_CLOCK, Clock
from .urls import Url

#: Longest names of partitions, keys and indexes (characters), and the largest value every store has to take (bytes).
MAX_NAME, MAX_VALUE = 250, 256 * 1024
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

    No checks always hold; without writes it is a consistent read.
    """

    part: str
    checks: tuple[Check, ...] = ()
    writes: tuple[Write, ...] = ()
    #: Keys whose values the answer tells, as they are right after the writes, or, when a check failed, as they were.
    reads: tuple[str, ...] = ()
    #: The partition is forgotten so many seconds from now, index entries included (`math.inf`: never); None leaves that
    #: as it is. A new partition lives for ever. Takes effect with the writes.
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


class Store(ABC):
    """A place for records that are changed under conditions. Made from a URL, opened before use; not carried across a

    fork.
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
        """Wait until the partition may have changed, or for `timeout` seconds. This default comes back now and then."""
        self.clock.wait(threading.Event(), min(timeout, LOOK))

    # Made of the above. Adapters may override these to need fewer steps

    def get(self, part: str, *keys: str) -> Mapping[str, bytes]:
        """Return what the keys stand for, consistently; those that are absent are missing."""
        return self.commit([Change(part, reads=keys)])[0].values

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
        return [self._take(wish) for wish in takes]

    def _take(self, wish: Take) -> float:
        while True:
            now = self.now()
            kept = self.get(wish.part, "full").get("full")
            wait, full = turn(wish, now, float(kept) if kept is not None else now)
            if full is None:
                return wait
            # Forgotten once it is full: an untouched bucket is a full one.
            ttl = float(full) - now + BUCKET_KEPT
            if self.commit([Change(wish.part, (_unchanged("full", kept),), (Put("full", full),), (), ttl)])[0].applied:
                return wait

    def hold(self, holds: Sequence[Hold]) -> Sequence[int]:
        """Take or renew a place for each wish; return its fencing token (1 or more), or 0 when all places are taken.

        Tokens of one partition only grow: what has been written under a token must not be overwritten under a lower
        one. Renewing keeps the token. A place not renewed in time is free again.
        """
        return [self._hold(wish) for wish in holds]

    def _hold(self, wish: Hold) -> int:
        while True:
            now = self.now()
            kept = self.get(wish.part, "places").get("places")
            places = Places() if kept is None else msgspec.msgpack.decode(kept, type=Places)
            token, places = places.with_one_for(wish, now)
            if not token:
                return 0
            if self._kept(wish, kept, places):
                return token

    def let_go(self, holds: Sequence[Hold]) -> None:
        """Give the places back; those that are not held are no error."""
        for wish in holds:
            while True:
                kept = self.get(wish.part, "places").get("places")
                places = Places() if kept is None else msgspec.msgpack.decode(kept, type=Places)
                if wish.holder not in places.held:
                    break
                places = places.without(wish.holder)
                if self._kept(wish, kept, places.without(wish.holder)):
                    break

    def _kept(self, wish: Hold, before: bytes | None, places: Places) -> bool:
        """Keep who holds the places of a partition, if nobody else has changed that; return whether it was done."""
        put = Put("places", msgspec.msgpack.encode(places))
        change = Change(wish.part, (_unchanged("places", before),), (put,), (), wish.seconds + TOKENS_KEPT)
        return self.commit([change])[0].applied


class Places(msgspec.Struct, frozen=True, array_like=True):
    """Who holds the places of a partition, as one value: holder -> (token, until when)."""

    #: The last token given out.
    last: int = 0
    held: dict[str, tuple[int, float]] = {}

    def with_one_for(self, wish: Hold, now: float) -> tuple[int, Places]:
        """Return the token for a wish, 0 if all places are taken, and what is to be kept then."""
        held = {who: place for who, place in self.held.items() if place[1] > now}
        token, _ = held.get(wish.holder, (0, 0.0))
        if not token:
            if len(held) >= wish.most:
                return 0, self
            token = self.last + 1
        held[wish.holder] = token, now + wish.seconds
        return token, Places(max(self.last, token), held)

    def without(self, holder: str) -> Places:
        """Return what is kept when this holder has gone."""
        return Places(self.last, {who: place for who, place in self.held.items() if who != holder})


def turn(wish: Take, now: float, full: float) -> tuple[float, bytes | None]:
    """Return how long a wish has to wait, and when the bucket will then be full (None: nothing is taken).

    `full` is when it would be full as things are.
    """
    # What is a millionth of a second away is there: instants since 1970 are not told apart more finely.
    filling = max(0.0, full - now) + wish.cost * wish.every
    wait = max(0.0, round(filling - wish.burst * wish.every, 6))
    return wait, repr(now + filling).encode() if wait <= wish.ahead else None


def _unchanged(key: str, value: bytes | None) -> Check:
    return Absent(key) if value is None else Equals(key, value)
