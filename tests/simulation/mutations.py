"""The simulation's own test: one rule of the engine taken away at a time, and who is to notice.

A simulation that stays green without a rule has not proved that rule. To add one: a function that is given a
`MonkeyPatch` and breaks something, decorated with the programs that are to notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple

import msgspec
import pytest

import dray.fans
import dray.store
import dray_backends.memory
import dray_backends.memory_store
from dray import Absent, BrokerUnavailable, Change, Changed, Delivery, Equals, Index, Message, Present
from dray.assisted_consumer import AssistedConsumer
from dray.crew import Crew
from dray.fans import Fans
from dray.gate import Gate
from dray.holds import Holds, Place
from dray.leases import Keeper
from dray.outcome import Expired, Outcome, Rejected, Revoked
from dray.recognition import Recognition
from dray.report import rank, record
from dray.result_writer import ResultWriter
from dray.schedule_book import Book, Leaf
from dray.scheduler import Scheduler
from dray.schedules import latest
from dray.sender import Sender
from dray.settle import Settler
from dray.source import Source
from dray.triage import Triage
from dray.unique import Claims

from .programs import Program
from .simulate import Played, play

Break = Callable[[pytest.MonkeyPatch], None]


class Mutation(NamedTuple):
    """A rule that is taken away."""

    rule: str
    take_away: Break
    #: The programs that notice, and on which kind of broker ("": any).
    only: tuple[str, ...]
    kind: str = ""

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Do without the rule within the block."""
        with pytest.MonkeyPatch.context() as patch:
            self.take_away(patch)
            yield

    def play(self, seed: int) -> Played:
        """Play a seed without the rule."""
        with self.in_force():
            return play(seed, only=self.only, kind=self.kind, keep=40)

    def first_red(self, seeds: Sequence[int]) -> Played | None:
        """Return the first of these seeds that notices; None if none does."""
        return next((played for seed in seeds if (played := self.play(seed)).complaints), None)


MUTATIONS: list[Mutation] = []

_truly_verdict = dray.fans._verdict
_truly_posted = Book.posted
_truly_place = dray.store._place


def without(rule: str, *only: str, kind: str = "") -> Callable[[Break], Break]:
    """Add a mutation: the rule that it takes away, and the programs that are to notice."""

    def add(take_away: Break) -> Break:
        MUTATIONS.append(Mutation(rule, take_away, only, kind))
        return take_away

    return add


# Settling


@without("what follows is published before the ack", "callbacks", "retries")
def _acked_first(patch: pytest.MonkeyPatch) -> None:
    def a_round(self: Settler, entries: Any, notes: Any, *, alone: bool = False) -> Any:
        ours = self._ours(entries)
        self._finish(ours)
        self._publish(ours)
        return self._store(ours, notes)

    patch.setattr(Settler, "_round", a_round)


@without("results are stored before the ack", "plain", "reading")
def _stored_last(patch: pytest.MonkeyPatch) -> None:
    def a_round(self: Settler, entries: Any, notes: Any, *, alone: bool = False) -> Any:
        ours = self._ours(entries)
        self._publish(ours)
        self._finish(ours)
        return self._store(ours, notes)

    patch.setattr(Settler, "_round", a_round)


@without("a result waits while the backend is away", "plain", "reading")
def _results_dropped(patch: pytest.MonkeyPatch) -> None:
    def wait(self: Settler, entries: Any, notes: Any) -> Any:
        notes.clear()
        for entry in entries:
            entry.stored = True
        return []

    patch.setattr(Settler, "_wait", wait)


@without("what a lost loan came to is not written", "plain", "callbacks")
def _zombies_write(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Settler, "_ours", lambda self, entries: entries)


@without("the first final result stays", "plain", "reading", "retries")
def _last_writer_wins(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dray_backends.memory, "_stays", lambda kept, new: False)


# Taking in


@without("loans are renewed", "plain")
def _no_renewal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Keeper, "_renew", lambda self, now: None)


@without("what has succeeded is recognised", "reading", "keys", "plain")
def _no_recognition(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recognition, "look", lambda self, looked: frozenset())


@without("what has succeeded is not refused afterwards", "reading", "keys", "poison")
def _refused_after_all(patch: pytest.MonkeyPatch) -> None:
    def as_any_other(self: ResultWriter, entry: Any, report: Any = None) -> Any:
        message, found = entry.job.message, report or entry.ended.report
        place = rank(message, entry.job.delivery.delivery_count)
        return record(self._app, message.id, found, place, reply_to=message.reply_to)

    patch.setattr("dray.recognition._REFUSED", ())
    patch.setattr(ResultWriter, "_record", as_any_other)


def _refuse_all_but(patch: pytest.MonkeyPatch, kind: type) -> None:
    refused = Triage._refused

    def lenient(self: Triage, job: Any, now: float, counts: bool) -> Outcome | None:
        outcome = refused(self, job, now, counts)
        return None if isinstance(outcome, kind) else outcome

    patch.setattr(Triage, "_refused", lenient)


@without("deliveries are counted, and are bounded", "poison")
def _no_bound(patch: pytest.MonkeyPatch) -> None:
    _refuse_all_but(patch, Rejected)


@without("what is revoked does not begin", "revoked")
def _no_revocation(patch: pytest.MonkeyPatch) -> None:
    _refuse_all_but(patch, Revoked)
    patch.setattr(Keeper, "_look_for_revoked", lambda self: None)


@without("what has expired does not begin", "timed")
def _no_expiry(patch: pytest.MonkeyPatch) -> None:
    _refuse_all_but(patch, Expired)
    patch.setattr(Crew, "_refused", lambda self, job, now: None)


@without("an at-most-once task is acked before it begins", "once")
def _acked_afterwards(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Source, "_acked", lambda self, jobs: list(jobs))


# Sending


@without("a retry is another attempt", "retries")
def _same_attempt(patch: pytest.MonkeyPatch) -> None:
    def again(app: Any, context: Any, delay: float, args: Any, kwargs: Any) -> Message:
        return context.message.but(eta=app.clock.time() + delay if delay else None)  # type: ignore[no-any-return]

    patch.setattr("dray.execution.next_attempt", again)


@without("a delay is kept", "timed")
def _no_delay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sender, "_delay", lambda self, message, eta, can: 0.0)


@without("a sender says when it could not send", "plain")
def _lost_in_silence(patch: pytest.MonkeyPatch) -> None:
    def send(self: Sender, broker: Any, envelopes: Any, options: Any) -> None:
        try:
            broker.publish(envelopes)
        except BrokerUnavailable:
            pass

    patch.setattr(Sender, "_send", send)


@without("callbacks keep their ids", "callbacks")
def _new_ids(patch: pytest.MonkeyPatch) -> None:
    numbers = count()
    patch.setattr("dray.followups.given_id", lambda task, options: f"another-{next(numbers)}")


# The engine in a poor broker's place


@without("a dead letter is laid down before its message is acked", "poison", "unknown", kind="poor")
def _acked_before_the_letter(patch: pytest.MonkeyPatch) -> None:
    def bury(self: AssistedConsumer, deliveries: Sequence[Delivery], reason: str) -> Sequence[Delivery]:
        letters = [(each, self._epitaph(each, reason)) for each in deliveries]
        over = self._settle(self._inner.ack, deliveries)
        self._broker.lay_dead(letters)
        return over

    patch.setattr(AssistedConsumer, "bury", bury)


@without("what has fallen due is passed on before it is acked", "timed", "retries", kind="poor")
def _acked_before_it_is_passed_on(patch: pytest.MonkeyPatch) -> None:
    def pass_on(self: AssistedConsumer, due: Any, came: Sequence[Delivery]) -> None:
        due.ack(came)
        self._broker.pass_on([self._due_now(each) for each in came])

    patch.setattr(AssistedConsumer, "_pass_on", pass_on)


@without("a delivery is counted before it runs", "poison", kind="poor")
def _not_counted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(AssistedConsumer, "_counts", lambda self, store, shown, marks: {})


# The servers


@without("the broker loses nothing", "plain")
def _lossy(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Program, "may_be_lost", lambda self, message: True)


@without("a change is made only if its checks hold", "members", "locks")
def _unconditional(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dray_backends.memory_store, "_holds", lambda check, records: True)


# Groups


@without("a member of a group counts once", "chords")
def _members_count_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dray.fans, "Absent", lambda key: Present("state") if key.startswith("m/") else Absent(key))


@without("a group is decided once", "chords")
def _decided_twice(patch: pytest.MonkeyPatch) -> None:
    def equals(key: str, value: bytes) -> Any:
        return Present(key) if (key, value) == ("state", dray.fans.OPEN) else Equals(key, value)

    patch.setattr(dray.fans, "Equals", equals)
    patch.setattr(dray.fans, "_verdict", _verdict_of_any)


def _verdict_of_any(seen: Changed) -> bytes | None:
    """Return the verdict on a group as if it had not been decided."""
    return _truly_verdict(Changed(seen.applied, {**seen.values, "state": dray.fans.OPEN}))


@without("a group is told before its member is acked", "chords")
def _told_last(patch: pytest.MonkeyPatch) -> None:
    def a_round(self: Settler, entries: Any, notes: Any, *, alone: bool = False) -> Any:
        ours = self._ours(entries)
        self._publish(ours)
        waiting = self._store(ours, notes)
        written = [entry for entry in ours if entry.stored]
        self._finish(written)
        waiting += self._tell(written, notes)
        self._deliver()
        return waiting

    patch.setattr(Settler, "_round", a_round)


@without("what a dead worker was to deliver is swept up", "chords")
def _nobody_sweeps(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fans, "sweep", lambda self, limit=100: None)


@without("what is to be delivered is noted in the change that decides it", "chords")
def _noted_afterwards(patch: pytest.MonkeyPatch) -> None:
    truly = Fans._decide

    def decide(self: Fans, verdicts: Any) -> list[str]:
        store = self.store
        with pytest.MonkeyPatch.context() as within:
            within.setattr(Fans, "store", property(lambda self: _InTwo(store)))
            return truly(self, verdicts)

    patch.setattr(Fans, "_decide", decide)


class _InTwo:
    """A store that notes what is to be delivered in a change of its own, after the one that it belongs to."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def commit(self, changes: Sequence[Change]) -> Sequence[Changed]:
        notes = [tuple(write for write in change.writes if _is_note(write)) for change in changes]
        done = self._store.commit(
            [
                msgspec.structs.replace(change, writes=tuple(write for write in change.writes if not _is_note(write)))
                for change in changes
            ]
        )
        for change, each, note in zip(changes, done, notes, strict=True):
            if each.applied and note:
                self._store.commit([Change(change.part, (), note)])
        return done  # type: ignore[no-any-return]


def _is_note(write: Any) -> bool:
    return getattr(write, "key", "") == dray.fans.OUT


# Schedules


@without("a tick is decided by whoever writes first", "schedules")
def _decided_by_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leaf, "unchanged", lambda self: ())


@without("whoever looks finds a tick that is decided and not sent", "schedules")
def _ticks_are_not_found(patch: pytest.MonkeyPatch) -> None:
    def posted(self: Book, parcels: Any, now: float) -> list[Any]:
        return [write for write in _truly_posted(self, parcels, now) if not isinstance(write, Index)]

    patch.setattr(Book, "posted", posted)


@without("a tick that another is sending is left to it", "schedules")
def _taken_over_at_once(patch: pytest.MonkeyPatch) -> None:
    def posted(self: Book, parcels: Any, now: float) -> list[Any]:
        return [
            msgspec.structs.replace(write, at=now) if isinstance(write, Index) else write
            for write in _truly_posted(self, parcels, now)
        ]

    patch.setattr(Book, "posted", posted)


@without("who was frozen leaves its ticks to others", "schedules")
def _always_sure(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Scheduler, "_sure", True)


@without("what was missed is made up for", "schedules")
def _nothing_made_up_for(patch: pytest.MonkeyPatch) -> None:
    def chosen(
        entry: Any, found: Any, first: float, now: float, since: float, by: str
    ) -> tuple[list[float], list[Any]]:
        return [latest(found, first, max(first, now - entry.jitter), since)], []

    patch.setattr("dray.ticking._chosen", chosen)


@without("a tick waits until the run before it has ended", "schedules")
def _overlapping(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Scheduler, "_runs", lambda self, book, leaf: False)


# Limits, unique calls, locks


@without("what has a rate takes a turn before it begins", "rates")
def _no_turns(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Gate, "_take_turns", lambda self, wanted, over: None)


@without("what comes back before its turn goes on waiting", "rates")
def _before_their_turn(patch: pytest.MonkeyPatch) -> None:
    look = Gate.look

    def looked(self: Gate, jobs: Any) -> Any:
        # Whoever has waited once has waited.
        waited = [job for job in jobs if job.message.turn is not None]
        for job in waited:
            job.message = job.message.but(turn=None)
        return look(self, [job for job in jobs if job not in waited])

    patch.setattr(Gate, "look", looked)


@without("a place is taken before a run begins", "places")
def _no_places(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Gate, "_take_places", lambda self, wanted, over: None)


@without("there are no more places than may be taken", "places", "locks", "app_locks")
def _places_without_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("dray.store._place", lambda wish, *kept: _truly_place(_endless(wish), *kept))


def _endless(wish: Any) -> Any:
    return msgspec.structs.replace(wish, most=1000)


@without("a unique call is claimed before it is sent", "unique")
def _not_claimed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Claims, "make", lambda self, rule, messages: [""] * len(messages))


@without("a call keeps its claim until it has ended", "unique")
def _claimed_until_the_start(patch: pytest.MonkeyPatch) -> None:
    begin = Claims.begin

    def begun(self: Claims, jobs: Any) -> list[str]:
        return begin(self, [(message, msgspec.structs.replace(rule, until="start")) for message, rule in jobs])

    patch.setattr(Claims, "begin", begun)


@without("a lock is renewed under its own token only", "app_locks")
def _any_token(patch: pytest.MonkeyPatch) -> None:
    def renew(self: Holds, due: Any, now: float) -> None:
        self._store.hold([one.hold for one in due])
        for kept in due:
            kept.renewed(now)

    patch.setattr(Holds, "_renew", renew)


@without("a lock whose time is over is lost", "app_locks")
def _never_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Place, "lost", property(lambda self: self._gone))


@without("no token is given out twice", "app_locks", "locks")
def _same_tokens(patch: pytest.MonkeyPatch) -> None:
    def place(wish: Any, kept: bytes | None, now: float) -> Any:
        if kept is not None:
            kept, _ = msgspec.structs.replace(dray.store._Places.of(kept, now), last=0).kept(now)
        return _truly_place(wish, kept, now)

    patch.setattr("dray.store._place", place)
