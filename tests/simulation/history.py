"""What has happened in a simulated world, as seen from outside the engine: by servers, tasks and clients."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from dray import Change, Envelope, Record

if TYPE_CHECKING:
    from .world import Actor, Process, World


class Sent(msgspec.Struct):
    """A call that a client has tried to make."""

    id: str
    program: str
    task: str
    #: True once the engine has said that it is safe; False: the sender was told that it may not be.
    accepted: bool = False
    #: Whether it may never begin at all: it expires, or is revoked.
    may_not_run: bool = False
    #: Whether nothing is stored about it.
    ignored: bool = False


class Run(msgspec.Struct, eq=False):
    """One time that a task's own code was entered."""

    id: str
    task: str
    process: Process
    #: Which attempt it was, and which delivery of it.
    retries: int
    count: int
    args: tuple[Any, ...]
    #: When the call was sent: another one may have the same id.
    sent: float
    #: When the delivery was lent that led to it.
    lent: float
    began: float
    ended: float | None = None


class Read(NamedTuple):
    """What a client has read about a call: its final state and value."""

    at: float
    id: str
    state: str
    value: Any


class Stored(NamedTuple):
    """A change of what is stored about a call."""

    at: float
    before: Record | None
    after: Record
    by: Process | None


class Commit(NamedTuple):
    """A change of the store that was made."""

    at: float
    by: Process | None
    change: Change


class Published(NamedTuple):
    """That a process set about publishing a message; `after` is how many changes the store had made by then."""

    at: float
    by: Process
    id: str
    after: int


class Strike(NamedTuple):
    """That something went wrong at a call: when it began or was over, and which call ("" while a server was away)."""

    at: float
    process: Process
    call: str


class History:
    """Collects what happens; the invariants (invariants.py) and the programs judge it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sent: dict[str, Sent] = {}
        self.runs: list[Run] = []
        self.reads: list[Read] = []
        self.results: defaultdict[str, list[Stored]] = defaultdict(list)
        self.commits: list[Commit] = []
        self.publishes: list[Published] = []
        self.strikes: list[Strike] = []
        #: How often an (id, attempt) was put into a queue.
        self.copies: Counter[tuple[str, int]] = Counter()
        #: When something with this id was first put into a queue.
        self.queued: dict[str, float] = {}
        #: Ids of messages that a fault has lost for good, of those that the broker had promised to keep or not.
        self.lost: set[str] = set()
        #: When a process was first lent an attempt: by its id and number, and the name of the process.
        self.lent: dict[tuple[str, int, str], float] = {}
        #: The same of its latest loan, by id and name.
        self.lent_last: dict[tuple[str, str], float] = {}
        #: When a loan of a process has run out that it had, and has not again, by the same.
        self.ran_out: dict[tuple[str, str], float] = {}
        #: Tasks of calls that a worker has refused, by their ids: one that is about to succeed elsewhere, perhaps.
        self.refused: dict[str, str] = {}
        #: Calls that have put others in their place, one of which has their id.
        self.handed_over: set[str] = set()
        #: Until when a process cannot recognise what is done, by its name: the backend did not answer it.
        self.blind: dict[str, float] = {}
        #: How often a message was perhaps given back uncharged, and run all the same.
        self.perhaps_released: Counter[str] = Counter()
        #: Processes that were stopped in order, and may have given back what ran.
        self.stops = 0

    # Told by tasks

    def began(self, process: Process, task: str, request: Any) -> Run:
        count, sent, now = request.delivery_count, request.message.created, self.world.now
        lent = self.lent_last.get((request.id, process.name), now)
        run = Run(request.id, task, process, request.retries, count, request.args, sent, lent, now)
        self.runs.append(run)
        self.world.say(process.name, f"{task}[{run.id}] begins: attempt {run.retries}, delivery {run.count}")
        return run

    def runs_of(self, id: str) -> list[Run]:
        return [run for run in self.runs if run.id == id]

    def is_well(self, process: Process, since: float, until: float) -> bool:
        """Tell whether nothing went wrong for a process between two instants, and it was alive and awake."""
        return (
            process.over_at >= until
            and not any(start <= until and end >= since for start, end in process.freezes)
            and not any(strike.process is process and since <= strike.at <= until for strike in self.strikes)
        )

    # Told by the gates

    def publishing(self, process: Process, ids: Iterable[str]) -> None:
        after = len(self.commits)
        self.publishes += [Published(self.world.now, process, id, after) for id in ids]

    def struck(self, process: Process, call: str) -> None:
        process.struck = self.world.now
        self.strikes.append(Strike(self.world.now, process, call))

    # Told by the servers

    def enqueued(self, envelope: Envelope) -> None:
        id = envelope.id.rpartition("|")[0] or envelope.id
        self.copies[id, envelope.attempt] += 1
        self.queued.setdefault(id, self.world.now)

    def loan_begins(self, id: str, attempt: int, process: Process) -> None:
        self.lent.setdefault((id, attempt, process.name), self.world.now)
        self.lent_last[id, process.name] = self.world.now
        self.ran_out.pop((id, process.name), None)

    def loan_ran_out(self, id: str, process: Process, renewed: float) -> None:
        """Take note that a loan is over that was renewed last at an instant. Where no fault struck since, why is it?"""
        self.world.say("broker", f"the loan of {id} to {process.name} is over")
        self.ran_out[id, process.name] = self.world.now
        if not process.dead and process.struck < renewed - 0.001:
            self.world.complain("no loan runs out while its worker is well", f"{id}, lent to {process.name}")

    def writes(self, actor: Actor | None, ids: Iterable[str]) -> None:
        """Take note that a thread begins to write for these. A settler that has slept since has to have looked."""
        if actor is None or not actor.name.endswith("/settler"):
            return
        for id in ids:
            over = self.ran_out.get((id, actor.process.name))
            if over is not None and over < actor.awake_since - 0.001 and id not in self.handed_over:
                told = f"{id}, lent to {actor.process.name} until {over:.3f}, awake since {actor.awake_since:.3f}"
                self.world.complain("what a lost loan came to is not written", told)

    def stored(self, before: Record | None, after: Record) -> None:
        self.results[after.id].append(Stored(self.world.now, before, after, self._acting()))

    def forgotten(self, id: str) -> None:
        self.world.say("backend", f"forgets {id}")

    def committed(self, change: Change) -> None:
        self.commits.append(Commit(self.world.now, self._acting(), change))

    # What comes out

    def final(self, id: str) -> Record | None:
        """Return what is stored about a call at last, if it is final."""
        records = self.results.get(id)
        return records[-1].after if records and records[-1].after.final else None

    def _acting(self) -> Process | None:
        actor = self.world.current
        return actor.process if actor is not None else None
