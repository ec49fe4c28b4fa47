"""What the store keeps of schedules: entries, when each is due next, ticks that are to be sent, and what has been.

A partition per entry, so that all about one changes in one step:

    entry       `Kept`: what the code declared, and what was changed at run time
    next        `Standing`: the next instant, the last one, what was sent last
    history     the last ticks, a list of `Tick`
    out/ID      `Parcel`: a tick that is decided and perhaps not sent yet

The index has `next` of every entry that comes again, and every `out/ID`; the catalogue, a partition of its own, has the
names. A name without an entry is left behind by a crash, and means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from .idempotency import call_id
from .message import Step
from .schedule_entries import Entry
from .schedules import jittered
from .store import Absent, Change, Check, Delete, Due, Equals, Index, Put, Store, Unindex, Write

if TYPE_CHECKING:
    from .app import Dray

#: How many ticks of an entry are remembered.
REMEMBERED = 30
#: Seconds after which a tick that is decided and not known to be sent is sent again, under the same id.
RESEND = 10.0
#: How many seconds the last tick may be ahead of the clock before it is taken for the work of a clock that was wrong.
REWOUND = 3600.0
#: Seconds for which an entry that was added at run time and never comes again is remembered.
OVER_KEPT = 7 * 86400.0
#: Seconds within which a name without an entry may be one that is just being added.
NEW = 3600.0
#: Keys read at once.
PAGE = 500


class Kept(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry as it is kept."""

    #: What is in force.
    entry: Entry
    #: What the code says; None: it was added at run time.
    declared: Entry | None = None
    #: Which fields were changed at run time, and stay so whatever the code says.
    changed: tuple[str, ...] = ()
    #: When the scheduler started that declared it: of several, the one that started last has the newest code.
    started: float = 0.0


class Standing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where an entry stands."""

    #: When it began: intervals are counted from there.
    since: float
    #: The next instant at which it is due; None: it never is again, or is disabled.
    next: float | None = None
    #: The last instant that was dealt with, sent or not.
    last: float | None = None
    #: The id of the call sent last.
    id: str = ""
    #: How often the clock went back so far that instants come a second time.
    round: int = 0


class Tick(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One tick of a schedule, as its history has it. Instants are seconds since 1970."""

    #: The instant that the schedule says; of several that were missed, the last one.
    due: float
    #: When it was dealt with.
    at: float
    #: "sent", "missed" (nobody was there in time), "skipped" (the run before had not ended), "failed" (it cannot be
    #: sent) or "by hand".
    what: str
    #: The id of the call.
    id: str = ""
    #: The scheduler that dealt with it.
    by: str = ""
    #: What else there is to say.
    note: str = ""


class Parcel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tick that is decided: it is sent, again and again if need be, until it is known to be with the broker."""

    id: str
    due: float
    #: What its id is made from, as an idempotency key.
    key: str
    call: Step
    #: How often somebody has begun to send it again.
    tries: int = 0
    #: Until when nobody else takes it over.
    until: float = 0.0


class Leaf(NamedTuple):
    """All that is kept of one entry, as it was read."""

    name: str
    raw: Mapping[str, bytes]
    kept: Kept
    standing: Standing
    history: list[Tick]

    def unchanged(self) -> tuple[Check, ...]:
        """Return the checks that hold as long as nobody else has dealt with it."""
        return tuple(
            Equals(key, self.raw[key]) if key in self.raw else Absent(key) for key in ("entry", "next", "history")
        )


class Book:
    """Reads and writes what is kept of the schedules of one app. Thread-safe, as the store is."""

    def __init__(self, app: Dray, store: Store) -> None:
        self._app = app
        self.store = store
        #: The index, and the partition with the names.
        self.index = self.catalogue = f"schedules:{app.name}"
        self._prefix = f"schedule:{app.name}:"

    def part(self, name: str) -> str:
        """Return the partition of an entry."""
        return self._prefix + name

    def name_of(self, part: str) -> str:
        """Return whose partition this is."""
        return part.removeprefix(self._prefix)

    # Reading

    def names(self) -> list[str]:
        """Return the names of all entries, sorted."""
        found: list[str] = []
        while page := self.store.scan(self.catalogue, after=found[-1] if found else "", limit=PAGE):
            found += [name for name, _ in page]
        return found

    def leaves(self, names: Sequence[str]) -> dict[str, Leaf]:
        """Return what is kept under these names, those of which nothing is kept left out."""
        keys = ("entry", "next", "history")
        answers = self.store.commit([Change(self.part(name), reads=keys) for name in names]) if names else ()
        return {
            name: Leaf(
                name,
                answer.values,
                read(answer.values["entry"], Kept),
                read(answer.values["next"], Standing),
                read(answer.values["history"], list[Tick]) if "history" in answer.values else [],
            )
            for name, answer in zip(names, answers, strict=True)
            if "entry" in answer.values and "next" in answer.values
        }

    def coming(self, limit: int) -> Sequence[Due]:
        """Return what somebody has to look at next, the earliest first, also what is not due yet."""
        return self.store.due(self.index, inf, limit)

    # Writing. Each returns False when somebody else was first, and nothing was written

    def write(self, leaf: Leaf, kept: Kept, standing: Standing, history: Sequence[Tick] | None = None) -> bool:
        """Replace what is kept of an entry, if it is still as it was read."""
        changed = self.change(leaf._replace(kept=kept), standing, history, Put("entry", written(kept)))
        return self.store.commit([changed])[0].applied

    def change(
        self,
        leaf: Leaf,
        standing: Standing,
        history: Sequence[Tick] | None = None,
        *more: Write,
        look: float | None = None,
    ) -> Change:
        """Return the change after which an entry stands elsewhere; `look` is when to look at it, if not at its next."""
        writes: list[Write] = [Put("next", written(standing)), *more]
        if history is not None:
            writes.append(Put("history", written(history[-REMEMBERED:])))
        entry = leaf.kept.entry
        writes.append(self._indexed(entry, standing, look))
        over = leaf.kept.declared is None and entry.enabled and standing.next is None
        return Change(self.part(leaf.name), leaf.unchanged(), tuple(writes), ttl=OVER_KEPT if over else inf)

    def _indexed(self, entry: Entry, standing: Standing, look: float | None = None) -> Write:
        if standing.next is None:
            return Unindex(self.index, "next")
        return Index(self.index, "next", jittered(entry.name, standing.next, entry.jitter) if look is None else look)

    def add(self, kept: Kept, now: float) -> bool:
        """Keep a new entry. Its name goes first: one that stands for nothing does no harm, the opposite would."""
        name = kept.entry.name
        standing = self.begun(kept.entry, now)
        self.store.commit([Change(self.catalogue, writes=(Put(name, written(now)),))])
        return self.store.commit(
            [
                Change(
                    self.part(name),
                    (Absent("entry"),),
                    (
                        Put("entry", written(kept)),
                        Put("next", written(standing)),
                        self._indexed(kept.entry, standing),
                    ),
                    ttl=inf,
                )
            ]
        )[0].applied

    def begun(self, entry: Entry, now: float) -> Standing:
        """Return where an entry stands that begins now."""
        since = round(now, 3)
        return Standing(since=since, next=entry.when(self._app).first(since) if entry.enabled else None)

    def forget(self, leaf: Leaf) -> bool:
        """Drop an entry. A tick that is decided already is still sent."""
        keys = ("entry", "next", "history")
        writes: tuple[Write, ...] = (*(Delete(key) for key in keys), Unindex(self.index, "next"))
        return self.store.commit([Change(self.part(leaf.name), leaf.unchanged(), writes)])[0].applied

    def _strike(self, name: str, now: float) -> None:
        """Take a name that stands for nothing out of the catalogue: not a new one, whose entry may be on its way."""
        found = self.store.get(self.catalogue, name).get(name)
        if found is not None and read(found, float) < now - NEW:
            self.store.commit([Change(self.catalogue, (Equals(name, found),), (Delete(name),))])

    # What the code declares

    def declare(self, entries: Mapping[str, Entry], started: float, now: float) -> None:
        """Have the store agree with the code of a scheduler that has started: add, change and drop entries.

        What has been changed at run time stays changed. An entry whose schedule is the same stands where it stood: what
        was missed meanwhile is not forgotten. What a scheduler that started later has declared is left alone.
        """
        names = sorted({*self.names(), *entries})
        for start in range(0, len(names), PAGE):
            some = names[start : start + PAGE]
            leaves = self.leaves(some)
            for name in some:
                self._declare(name, entries.get(name), leaves.get(name), started, now)

    def _declare(self, name: str, entry: Entry | None, leaf: Leaf | None, started: float, now: float) -> None:
        while True:
            if leaf is None and entry is None:
                return self._strike(name, now)
            if leaf is None:
                assert entry is not None
                if self.add(Kept(entry=entry, declared=entry, started=started), now):
                    return
            elif self._agree(leaf, entry, started, now):
                return
            leaf = self.leaves([name]).get(name)

    def _agree(self, leaf: Leaf, entry: Entry | None, started: float, now: float) -> bool:
        """Have one kept entry agree with what the code says of it; return False when somebody else was first."""
        kept = leaf.kept
        # One that has started in the future has done so by a clock that was wrong.
        if started < kept.started <= now + REWOUND or (entry is None and kept.declared is None):
            return True
        if entry is None:
            return self.forget(leaf)
        standing = leaf.standing
        if kept.declared == entry:
            return True
        # Added at run time before the code had one of that name: the code has it now.
        changes = {field: getattr(kept.entry, field) for field in kept.changed}
        agreed = msgspec.structs.replace(entry, **changes)
        if (agreed.schedule, agreed.enabled) != (kept.entry.schedule, kept.entry.enabled):
            standing = self.moved(standing, agreed, now)
        return self.write(leaf, Kept(entry=agreed, declared=entry, changed=kept.changed, started=started), standing)

    def moved(self, standing: Standing, entry: Entry, now: float) -> Standing:
        """Return where an entry stands whose schedule has changed, or that was enabled or disabled."""
        begun = self.begun(entry, now)
        return msgspec.structs.replace(standing, since=begun.since, next=begun.next)

    def rewind(self, now: float) -> list[str]:
        """Plan anew what a clock that was far ahead has planned; return the names.

        What has been done up to an hour ahead of `now` is done, and is not done again when that hour comes.
        """
        found = []
        names = self.names()
        for start in range(0, len(names), PAGE):
            for leaf in self.leaves(names[start : start + PAGE]).values():
                standing = self._at_this_clock(leaf, now)
                if standing != leaf.standing and self.write(leaf, leaf.kept, standing):
                    found.append(leaf.name)
        return found

    def _at_this_clock(self, leaf: Leaf, now: float) -> Standing:
        standing = leaf.standing
        if max(standing.since, standing.last or 0.0) <= now + REWOUND:
            return standing
        since = round(min(standing.since, now), 3)
        following = leaf.kept.entry.when(self._app).next(now, since) if leaf.kept.entry.enabled else None
        # Another round: instants that come again are other ticks, with other ids.
        return msgspec.structs.replace(standing, since=since, last=None, next=following, round=standing.round + 1)

    # What is to be sent

    def is_posted(self, name: str, id: str) -> bool:
        """Tell whether a tick is decided and not known to be sent."""
        return bool(self.store.get(self.part(name), f"out/{id}"))

    def struck(self, name: str) -> Change:
        """Return the change that takes an entry that is not there any more out of the index."""
        return Change(self.part(name), (Absent("entry"),), (Unindex(self.index, "next"),))

    def parcel(self, leaf: Leaf, due: float) -> Parcel:
        """Return a tick as it is sent: its id follows from the schedule and the instant, whoever sends it."""
        round = f"#{leaf.standing.round}" if leaf.standing.round else ""
        key = f"{self._app.name}:{leaf.name}@{due:.3f}{round}"
        call = leaf.kept.entry.call
        return Parcel(id=call_id(call.task, key), due=due, key=key, call=call)

    def posted(self, parcels: Iterable[Parcel], now: float) -> list[Write]:
        """Return the writes by which ticks are to be sent: by whoever decides it, or later by anybody."""
        writes: list[Write] = []
        for parcel in parcels:
            writes += self._had(parcel, now + RESEND)
        return writes

    def _had(self, parcel: Parcel, until: float) -> list[Write]:
        """Return the writes by which a tick is somebody's to send."""
        key = f"out/{parcel.id}"
        return [Put(key, written(msgspec.structs.replace(parcel, until=until))), Index(self.index, key, until)]

    def delivered(self, name: str, ids: Iterable[str]) -> Change:
        """Return the change after which ticks are known to be sent."""
        keys = [f"out/{id}" for id in ids]
        return Change(
            self.part(name), writes=(*(Delete(key) for key in keys), *(Unindex(self.index, key) for key in keys))
        )

    def taken(self, part: str, key: str, now: float) -> Parcel | None:
        """Take over a tick that is not known to be sent, for a while; None when somebody else has, or it is sent."""
        found = self.store.get(part, key).get(key)
        if found is None:
            self.store.commit([Change(part, (Absent(key),), (Unindex(self.index, key),))])
            return None
        parcel = read(found, Parcel)
        if parcel.until > now:
            # Somebody has taken it over since we saw in the index that it is due.
            return None
        again = msgspec.structs.replace(parcel, tries=parcel.tries + 1)
        taking = Change(part, (Equals(key, found),), tuple(self._had(again, now + RESEND)))
        return again if self.store.commit([taking])[0].applied else None

    def note(self, name: str, tick: Tick) -> None:
        """Add to the history of an entry, if it is still there."""
        self.amend(name, lambda leaf: self.change(leaf, leaf.standing, [*leaf.history, tick]))

    def amend(self, name: str, change: Callable[[Leaf], Change]) -> Leaf | None:
        """Make a change to an entry, again if others make theirs; return what was there, None for no such entry."""
        while (leaf := self.leaves([name]).get(name)) is not None:
            if self.store.commit([change(leaf)])[0].applied:
                return leaf
        return None


def written(value: Any) -> bytes:
    """Return a record as bytes."""
    return msgspec.msgpack.encode(value)


def read(data: bytes, kind: Any) -> Any:
    """Return the record in some bytes."""
    return msgspec.msgpack.decode(data, type=kind)
