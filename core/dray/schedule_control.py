"""`app.schedules`: look at schedules, and change them while everything runs. What is changed is kept in the store.

Schedulers notice within `beat_max_loop_interval`; nothing is restarted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from .errors import ConfigurationError
from .schedule_book import Book, Kept, Leaf, Standing, Tick
from .schedule_entries import WORDS, Entry, call_of, check_overlap, gather, read_entry
from .schedules import jittered
from .urls import nearest

if TYPE_CHECKING:
    from .app import Dray
    from .canvas import Signature
    from .result import AsyncResult


class ScheduleTick(NamedTuple):
    """What became of one tick of a schedule."""

    #: The instant that the schedule says, and when it was dealt with.
    due: datetime
    at: datetime
    #: "sent", "missed" (nobody was there in time), "skipped" (the run before had not ended), "failed" (it cannot be
    #: sent) or "by hand".
    what: str
    #: The id of the call, and the scheduler that dealt with it; "" where there is none.
    id: str
    by: str
    #: What else there is to say.
    note: str


class ScheduleEntry(NamedTuple):
    """One schedule as it stands, as `app.schedules.list()` shows it."""

    name: str
    #: What is sent, as a value; its `repr` hides what is sensitive.
    call: Signature
    #: The schedule in words.
    schedule: str
    enabled: bool
    #: When it is sent next and was due last; None: never again, or not yet.
    next_run: datetime | None
    last_run: datetime | None
    overlap: str
    missed: str
    deadline: float | None
    jitter: float
    #: "code": declared there; "store": added at run time.
    origin: str
    #: Which fields of what the code says were changed at run time.
    changed: tuple[str, ...]

    @property
    def task(self) -> str:
        """The name of the task."""
        return self.call.task


class Schedules:
    """The schedules of one app. Raises `ConfigurationError` for a name that is not there, or is taken."""

    def __init__(self, app: Dray) -> None:
        self._app = app

    def __iter__(self) -> Iterator[ScheduleEntry]:
        return iter(self.list())

    def list(self) -> Sequence[ScheduleEntry]:
        """Return all schedules, by name: those kept in the store, and those of the code that no scheduler has seen."""
        book, now = self._book()
        leaves = book.leaves(book.names())
        unseen = {name: entry for name, entry in self._declared().items() if name not in leaves}
        shown = {name: self._shown(leaf.kept, leaf.standing) for name, leaf in leaves.items()}
        shown |= {
            name: self._shown(Kept(entry=entry, declared=entry), book.begun(entry, now))
            for name, entry in unseen.items()
        }
        return [shown[name] for name in sorted(shown)]

    def get(self, name: str) -> ScheduleEntry:
        """Return one schedule."""
        leaf = self._leaf(name)
        return self._shown(leaf.kept, leaf.standing)

    def history(self, name: str) -> Sequence[ScheduleTick]:
        """Return the last ticks of a schedule, the latest first."""
        return [
            ScheduleTick(_moment(tick.due), _moment(tick.at), tick.what, tick.id, tick.by, tick.note)
            for tick in reversed(self._leaf(name).history)
        ]

    def add(self, name: str, task: Any = None, schedule: Any = None, **words: Any) -> ScheduleEntry:
        """Add a schedule; the words are those of an entry of `beat_schedule`.

        app.schedules.add("nightly", "shop.clean", "0 3 * * *", args=("all",), timezone="Europe/Berlin")
        """
        said = {"task": task, "schedule": schedule, **words}
        entry = self._read(name, {word: value for word, value in said.items() if value is not None})
        book, now = self._book()
        if name in self._declared() or not book.add(Kept(entry=entry), now):
            raise ConfigurationError(f"there is a schedule {name!r} already: change() changes it, remove() removes it")
        return self.get(name)

    def change(self, name: str, **words: Any) -> ScheduleEntry:
        """Change some words of a schedule, also of one that the code declares: that stays so when schedulers restart.

        With another schedule it begins anew: what it has missed so far is not made up for.
        """
        for word in words:
            if word not in WORDS:
                raise ConfigurationError(f"a schedule has no {word!r}{nearest(word, WORDS)}")
        book, now = self._book()
        while True:
            leaf = self._leaf(name)
            kept, entry = leaf.kept, leaf.kept.entry
            changed = self._changed(entry, words)
            fields = {f for f in entry.__struct_fields__ if getattr(changed, f) != getattr(entry, f)}
            changes = tuple(sorted({*kept.changed, *fields})) if kept.declared is not None else ()
            standing = book.moved(leaf.standing, changed, now) if fields & {"schedule", "enabled"} else leaf.standing
            if book.write(leaf, msgspec.structs.replace(kept, entry=changed, changed=changes), standing):
                return self.get(name)

    def enable(self, name: str) -> ScheduleEntry:
        """Let a schedule go on from now; what was due while it was disabled is not made up for."""
        return self.change(name, enabled=True)

    def disable(self, name: str) -> ScheduleEntry:
        """Let a schedule rest until it is enabled again."""
        return self.change(name, enabled=False)

    def remove(self, name: str) -> None:
        """Remove a schedule that was added at run time. One that the code declares can be disabled."""
        book, _ = self._book()
        while True:
            leaf = self._leaf(name)
            if leaf.kept.declared is not None:
                raise ConfigurationError(f"the schedule {name!r} is declared in code: remove it there, or disable() it")
            if book.forget(leaf):
                return

    def run_now(self, name: str) -> AsyncResult[Any]:
        """Send the task of a schedule now, besides its ticks; return the handle on it."""
        book, now = self._book()
        call = call_of(self._app, self._leaf(name).kept.entry.call)
        headers = {**call.options.get("headers", {}), "schedule": name, "due": _moment(now).isoformat()}
        result = call.apply_async(headers=headers)
        book.note(name, Tick(due=now, at=now, what="by hand", id=result.id, by=self._app.origin))
        return result

    def _book(self) -> tuple[Book, float]:
        book = Book(self._app, self._app.store("app.schedules"))
        return book, book.store.now()

    def _declared(self) -> dict[str, Entry]:
        self._app.load_tasks()
        return gather(self._app)

    def _read(self, name: str, table: Mapping[str, Any]) -> Entry:
        self._app.load_tasks()
        entry = read_entry(self._app, name, table)
        check_overlap(self._app, [entry])
        return entry

    def _leaf(self, name: str) -> Leaf:
        """Return what is kept of a schedule; one of the code that no scheduler has seen is kept from now on."""
        book, now = self._book()
        leaf = book.leaves([name]).get(name)
        if leaf is None and (declared := self._declared().get(name)) is not None:
            book.add(Kept(entry=declared, declared=declared), now)
            leaf = book.leaves([name]).get(name)
        if leaf is None:
            known = [entry.name for entry in self.list()]
            raise ConfigurationError(
                f"there is no schedule {name!r}{nearest(name, known) or '.'} There is: {', '.join(known) or 'none'}."
            )
        return leaf

    def _changed(self, entry: Entry, words: Mapping[str, Any]) -> Entry:
        """Return an entry with some of its words changed."""
        if words.keys() == {"enabled"} and isinstance(words["enabled"], bool):
            return msgspec.structs.replace(entry, enabled=words["enabled"])  # also where its task is unknown
        call = call_of(self._app, entry.call)
        said: dict[str, Any] = {
            "task": call.task,
            "args": call.args,
            "kwargs": call.kwargs,
            "options": call.options,
            "schedule": entry.schedule,
            **{word: getattr(entry, word) for word in ("overlap", "missed", "deadline", "jitter", "enabled")},
            **words,
        }
        if "every" in words:
            del said["schedule"]
        if "timezone" in words and "schedule" not in words:
            said["schedule"] = {**entry.schedule, "timezone": None}
        changed = self._read(entry.name, said)
        same = not {"task", "args", "kwargs", "options"} & words.keys()
        return msgspec.structs.replace(changed, call=entry.call) if same else changed

    def _shown(self, kept: Kept, standing: Standing) -> ScheduleEntry:
        entry = kept.entry
        following = None if standing.next is None else jittered(entry.name, standing.next, entry.jitter)
        return ScheduleEntry(
            name=entry.name,
            call=call_of(self._app, entry.call),
            schedule=str(entry.when(self._app)),
            enabled=entry.enabled,
            next_run=None if following is None else _moment(following),
            last_run=None if standing.last is None else _moment(standing.last),
            overlap=entry.overlap,
            missed=entry.missed,
            deadline=entry.deadline,
            jitter=entry.jitter,
            origin="store" if kept.declared is None else "code",
            changed=kept.changed,
        )


def _moment(instant: float) -> datetime:
    return datetime.fromtimestamp(instant, UTC)
