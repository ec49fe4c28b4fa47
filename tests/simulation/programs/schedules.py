"""Schedules, and several schedulers that send their ticks: killed, frozen, cut off, and with clocks that are wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import inf
from typing import Any, NamedTuple

from dray import Delete, Index, Put
from dray.schedule_book import RESEND, Parcel, Standing, read

from ..history import Commit, Published
from ..site import Site
from ..world import BEGINNING, Process
from . import Program
from .stores import insist

#: The schedules that are drawn from: the words of an entry, and how long (seconds) its task runs.
KINDS: dict[str, tuple[dict[str, Any], float]] = {
    "all": ({"missed": "all"}, 0.0),
    "last": ({"missed": "once"}, 0.0),
    "fresh": ({"missed": "all", "deadline": 4.0}, 0.0),
    "alone": ({"missed": "once", "overlap": "skip"}, 2.0),
    "in_turn": ({"missed": "all", "overlap": "queue"}, 2.0),
}
#: Seconds by which a tick may be late once nothing goes wrong any more.
PROMPT = 0.5
#: Seconds before others take a tick over after which nobody begins to send it: half of those that he has, and tries
#: again for a second.
SAFE = RESEND / 2 - 1.0
#: Calls on the way to the publish: what befalls a scheduler there it cannot know when it publishes.
ON_THE_WAY = ("backend.", "broker.open", "shelf.open")
#: What is rounded away of instants since 1970 (seconds).
ROUNDED = 1e-5


class Decided(NamedTuple):
    """That a tick was to be sent from then on, as the store was told."""

    #: The change that says so, and its place among all changes; the instant by which it was decided.
    commit: Commit
    place: int
    looked: float
    parcel: Parcel


class Schedules(Program):
    """Each tick is decided once, is sent by who has it, and ends; what was missed is made up for as its policy says."""

    name = "schedules"

    def __init__(self, stage: Any) -> None:
        super().__init__(stage)
        drawn = self.plan.sample(sorted(KINDS), self.plan.randint(1, 2))
        #: Seconds between two ticks, by the name of the schedule.
        self.periods = {kind: self.plan.choice([1.5, 2.5, 4.0]) for kind in sorted(drawn)}
        self.schedulers = self.plan.choice([1, 2, 2, 3])
        #: Each scheduler that has lived, and since when.
        self.lives: list[tuple[Process, float]] = []

    def declare(self, site: Site) -> None:
        for kind, period in self.periods.items():
            words, seconds = KINDS[kind]
            site.task(f"schedules.{kind}", self._body(site, kind, seconds))
            site.app.add_periodic_task(period, site.app.tasks[f"schedules.{kind}"].s(), name=kind, **words)

    def _body(self, site: Site, kind: str, seconds: float) -> Callable[[Any], None]:
        return lambda request: site.be_in_user_code(f"schedules.{kind}", seconds)

    def crew(self) -> Mapping[str, Callable[[Site], None]]:
        def work(site: Site) -> None:
            self.lives.append((site.process, self.stage.world.now))
            site.schedule_until_stopped()

        return {f"scheduler{number}": work for number in range(1, self.schedulers + 1)}

    def act(self, client: Site) -> None:
        # Until whoever was frozen last is awake, and a little longer: all that was missed is made up for by then.
        client.world.wait(self.stage.calm_at - client.world.now + 3.5 * self.stage.lease)
        for kind in self.periods:
            insist(client, lambda kind=kind: client.app.schedules.disable(kind))

    def unsettled(self) -> int:
        # What comes next of each schedule until it is disabled, and the ticks that are decided and not sent.
        return len(self.stage.store._indexes.get("schedules:test", ()))

    def check(self) -> None:
        for kind, period in self.periods.items():
            ticks = self._decided(kind)
            self._decided_once(kind, ticks)
            firsts = {tick.parcel.id: tick for tick in reversed(ticks)}
            for tick in firsts.values():
                self._sent_and_ended(kind, tick)
            self._none_is_lost(kind, period, sorted(firsts.values(), key=lambda tick: tick.parcel.due))
            if "overlap" in KINDS[kind][0]:
                self._one_at_a_time(kind, sorted(firsts.values(), key=lambda tick: tick.place))

    # What the store was told

    def _commits(self, kind: str) -> Iterator[tuple[int, Commit]]:
        part = f"schedule:test:{kind}"
        return ((place, each) for place, each in enumerate(self.history.commits) if each.change.part == part)

    def _decided(self, kind: str) -> list[Decided]:
        """Return each time that it was decided to send a tick."""
        found = []
        for place, commit in self._commits(kind):
            at = {write.key: write.at for write in commit.change.writes if isinstance(write, Index)}
            for write in commit.change.writes:
                if isinstance(write, Put) and write.key.startswith("out/"):
                    parcel = read(write.value, Parcel)
                    if not parcel.tries:
                        found.append(Decided(commit, place, at.get(write.key, inf) - RESEND, parcel))
        return found

    def _standings(self, kind: str) -> list[tuple[Commit, Standing]]:
        """Return where a schedule stood, one after the other."""
        return [
            (commit, read(write.value, Standing))
            for _, commit in self._commits(kind)
            for write in commit.change.writes
            if isinstance(write, Put) and write.key == "next"
        ]

    # The rules

    def _decided_once(self, kind: str, ticks: list[Decided]) -> None:
        seen: dict[float, Decided] = {}
        for tick in ticks:
            first = seen.setdefault(tick.parcel.due, tick)
            if first is not tick:
                told = f"{kind}, due {tick.parcel.due - BEGINNING:.3f}: at {first.commit.at:.3f}, {tick.commit.at:.3f}"
                self.complain("a tick is decided once", told)

    def _sent_and_ended(self, kind: str, tick: Decided) -> None:
        id, due = tick.parcel.id, tick.parcel.due - BEGINNING
        queued = self.history.queued.get(id)
        if queued is None:
            return self.complain("a tick that is decided is sent", f"{kind}, due {due:.3f}: {id}")
        end, lease = self.end_of(id), 2 * RESEND
        if not end.reason and end.state not in ("SUCCESS", "REJECTED"):
            self.complain("a tick comes to something", f"{kind}, due {due:.3f}: {id} {end}")
        # What has to wait for the run before it is due when that has ended.
        if "overlap" in KINDS[kind][0]:
            due = tick.looked - BEGINNING
        well = [who.name for who, born in self.lives if born <= due and self.history.is_well(who, due, due + lease)]
        if queued > due + lease and well:
            self.complain("a tick is taken over within two leases", f"{kind}, due {due:.3f}: at {queued:.3f}, {well}")
        for sent in self.history.publishes:
            if sent.id == id and sent.by in (who for who, _ in self.lives):
                self._sent_by_its_owner(kind, tick, sent)
        self._recognised(id)

    def _sent_by_its_owner(self, kind: str, tick: Decided, sent: Published) -> None:
        """Complain if a scheduler has set about sending a tick that it had not, or not any more."""
        key, owner, since, until = f"out/{sent.id}", None, 0.0, 0.0
        for place, commit in self._commits(kind):
            for write in commit.change.writes if place < sent.after else ():
                match write:
                    case Put(key=written) if written == key:
                        owner, since = commit.by, commit.at
                    case Delete(key=written) if written == key:
                        owner = None
                    case Index(key=written, at=at) if written == key:
                        until = at - BEGINNING
        held_up = any(
            strike.process is sent.by and strike.call.startswith(ON_THE_WAY) and since <= strike.at <= sent.at
            for strike in self.history.strikes
        )
        if not held_up and (owner is not sent.by or sent.at > until - SAFE):
            had = f"{owner.name if owner is not None else 'nobody'} had it until {until:.3f}"
            self.complain("a tick is sent by who has it", f"{kind}: {sent.by.name} at {sent.at:.3f}, {had}")

    def _recognised(self, id: str) -> None:
        """Complain if a tick ran again, sent twice, though its worker could know that it had succeeded."""
        history = self.history
        done = [change.at for change in history.results.get(id, ()) if change.after.state == "SUCCESS"]
        for run in history.runs_of(id):
            if done and done[0] < run.lent and history.blind.get(run.process.name, 0.0) <= run.lent:
                self.complain("a tick that has run does not run again", f"{id} at {run.began:.3f}, done {done[0]:.3f}")

    def _none_is_lost(self, kind: str, period: float, ticks: list[Decided]) -> None:
        """Complain of instants that were passed over and should not have been, and of ticks that came too late."""
        words, standings = KINDS[kind][0], self._standings(kind)
        if not standings:
            return self.complain("schedules are kept", f"{kind}: nothing is")
        since = standings[0][1].since
        sent = {round((tick.parcel.due - since) / period) for tick in ticks}
        disabled = standings[-1][0].at
        last = standings[-1][1].last
        dealt = 0 if last is None else round((last - since) / period)
        if "overlap" not in words and since + (dealt + 1) * period < BEGINNING + disabled - PROMPT:
            self.complain("a schedule is kept up with", f"{kind}: at {disabled:.3f} its last tick is number {dealt}")
        if words == {"missed": "all"} and sent != set(range(1, dealt + 1)):
            missing = sorted(set(range(1, dealt + 1)) - sent)
            self.complain("all that was missed is made up for", f"{kind}, every {period:g}: not {missing}")
        for tick in ticks:
            late = tick.looked - tick.parcel.due
            if words == {"missed": "once"} and late > period + ROUNDED:
                self.complain(
                    "the last of what was missed is made up for", f"{kind}: {tick.parcel.id}, {late:.3f} late"
                )
            if late > words.get("deadline", inf) + ROUNDED:
                self.complain("no tick is sent after its deadline", f"{kind}: {tick.parcel.id}, {late:.3f} late")
        if "deadline" in words:
            for number in sorted(set(range(1, dealt + 1)) - sent):
                due = since + number * period
                passed = next(commit.at for commit, each in standings if each.last is not None and each.last >= due)
                if BEGINNING + passed - due <= words["deadline"]:
                    self.complain(
                        "a tick is sent until its deadline", f"{kind}: {due - BEGINNING:.3f}, at {passed:.3f}"
                    )

    def _one_at_a_time(self, kind: str, ticks: list[Decided]) -> None:
        """Complain of a tick that was to be sent though the one before it had not ended."""
        for before, tick in zip(ticks, ticks[1:], strict=False):
            id, at = before.parcel.id, tick.commit.at
            stored = [change for change in self.history.results.get(id, ()) if change.at <= at]
            # What the backend does not know, because it was away when that was sent, is not waited for.
            if stored and not any(change.after.final for change in stored) and id not in self.stage.ends:
                self.complain(
                    "a tick waits for the run before it", f"{kind}: {tick.parcel.id} at {at:.3f}, {id} had not"
                )
