"""Limits over all workers: how often, how many at a time, which calls are one and the same; and locks of the app."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, count
from typing import Any, NamedTuple

from dray import LockLost, LockTaken, Message, Put, StoreError
from dray.gate import MARGIN
from dray.limits import rate_part
from dray.rates import read_rate
from dray.unique import SENDING

from ..history import Run
from ..site import Site
from ..world import BEGINNING
from . import Program

#: What is rounded away of instants since 1970 (seconds).
ROUNDED = 1e-5


class Rates(Program):
    """Tasks that may begin so often, over all workers."""

    name = "rates"

    def __init__(self, stage: Any) -> None:
        super().__init__(stage)
        self.rate, self.burst = self.plan.choice(["4/s", "2/s", "30/m"]), self.plan.choice([1, 1, 3])

    def declare(self, site: Site) -> None:
        site.task("rates.work", lambda request: None, rate_limit=self.rate, burst=self.burst)

    def act(self, client: Site) -> None:
        for n in range(self.plan.randint(3, 8)):
            client.send("rates", "rates.work", id=f"rates-{n}")
            client.rest(self.plan.choice([0.0, 1.0]))

    def check(self) -> None:
        rate = read_rate(self.rate, self.burst)
        assert rate is not None
        every = rate.every + MARGIN / rate.number
        part, turns, full = rate_part("t.rates.work", rate), [], 0.0
        for at, _, change in self.history.commits:
            for write in change.writes if change.part == part else ():
                assert isinstance(write, Put)
                before, full = full, float(write.value) - BEGINNING
                if full - before < every - ROUNDED:
                    self.complain("turns are so far apart as the rate says", f"{before:.3f}, {full:.3f}")
                turns.append(max(at, full - self.burst * every))
        # Of a call that comes a second time both may have had one turn.
        firsts = {run.id: run.began for run in reversed(self.history.runs) if run.task == "rates.work"}
        begun, turns = sorted(firsts.values()), sorted(turns)
        if len(begun) > len(turns):
            self.complain("nothing begins without a turn", f"{len(begun)} have begun, {len(turns)} turns were taken")
        for began, turn in zip(begun, turns, strict=False):
            # Until it has reached the store once, a worker goes by its own clock.
            if began < turn - self.stage.max_skew - 0.01:
                self.complain("nothing begins before its turn", f"at {began:.3f}, its turn is at {turn:.3f}")


class Places(Program):
    """Tasks of which so many may run at a time, over all workers."""

    name = "places"

    def __init__(self, stage: Any) -> None:
        super().__init__(stage)
        self.most = self.plan.choice([1, 1, 2])

    def declare(self, site: Site) -> None:
        def work(request: Any, seconds: float) -> None:
            site.be_in_user_code("places.work", seconds)

        site.task("places.work", work, max_concurrent=self.most)

    def act(self, client: Site) -> None:
        for n in range(self.plan.randint(3, 6)):
            client.send("places", "places.work", self.plan.choice([0.2, 1.0, 3.0]), id=f"places-{n}")
            client.rest(1.0)

    def check(self) -> None:
        running = list(_undisturbed(self))
        for run, _ in running:
            beside = [other.id for other, ended in running if other.began <= run.began < ended]
            if len(beside) > self.most:
                self.complain("no more run at a time than may", f"{beside} at {run.began:.3f}, at most {self.most}")


class Unique(Program):
    """Calls that are one and the same while the first of them has not ended."""

    name = "unique"

    def declare(self, site: Site) -> None:
        def work(request: Any, n: int) -> None:
            site.be_in_user_code("unique.work", 1.0 * n)

        site.task("unique.work", work, unique=True)

    def act(self, client: Site) -> None:
        for _ in range(self.plan.randint(4, 9)):
            client.send("unique", "unique.work", self.plan.randint(1, 2))
            client.rest(1.5)

    def may_be_doubled(self, message: Message) -> bool:
        return False

    def check(self) -> None:
        for sent in self.accepted():
            end = self.end_of(sent.id)
            if end.state not in ("SUCCESS", "REJECTED") and not end.reason:
                self.complain("no accepted call of a unique task is left out", f"{sent.id}: {end}")
        history = self.history
        accepted, copies = {sent.id for sent in self.accepted()}, history.copies
        running = [
            (run, ended)
            for run, ended in _undisturbed(self)
            # Whoever was not told that it is sent may have sent it; and a poor broker may have it twice then.
            if run.id in accepted
            and max(n for (id, _), n in copies.items() if id == run.id) == 1
            # Nor is it one of two runs of a call that was taken for lost: what ends first gives up the claim of both.
            and not any(_overlap(run, ended, other) for other in history.runs)
            # The claim of a call that is not known to be sent lapses.
            and ended < run.sent - BEGINNING + SENDING
        ]
        for (one, ended), (other, other_ended) in combinations(running, 2):
            if one.id != other.id and one.args == other.args and one.began < other_ended and other.began < ended:
                told = f"{one.id} from {one.began:.3f} until {ended:.3f}, {other.id} from {other.began:.3f}"
                self.complain("of unique calls no two run at a time", told)


class Sure(NamedTuple):
    """That somebody had the lock, as far as its `lost` says: an instant, the token, and a number for the holder."""

    at: float
    token: int
    holder: int


class AppLocks(Program):
    """Tasks that work under `app.lock`, for longer than its time, and look whether they still have it."""

    name = "app_locks"

    def __init__(self, stage: Any) -> None:
        super().__init__(stage)
        self.sure: list[Sure] = []
        self.numbers = count()

    def declare(self, site: Site) -> None:
        def work(request: Any, seconds: float) -> None:
            number = next(self.numbers)
            with site.app.lock("app_locks", ttl=3.0, wait=1.0) as lock:
                for _ in range(4):
                    self._look(lock, number)
                    site.be_in_user_code("app_locks.work", seconds / 4)
                    self._look(lock, number)

        again = {"autoretry_for": (StoreError, LockTaken, LockLost), "max_retries": None, "default_retry_delay": 0.5}
        site.task("app_locks.work", work, **again)

    def _look(self, lock: Any, number: int) -> None:
        token = lock.token
        if not lock.lost:
            self.sure.append(Sure(self.stage.world.now, token, number))

    def act(self, client: Site) -> None:
        for n in range(self.plan.randint(3, 6)):
            client.send("app_locks", "app_locks.work", self.plan.choice([0.2, 1.0, 5.0]), id=f"app_locks-{n}")
            client.rest(1.5)

    def check(self) -> None:
        for one, next_one in zip(self.sure, self.sure[1:], strict=False):
            if next_one.token < one.token:
                self.complain("fencing tokens grow", f"{one} and then {next_one}")
            if next_one.token == one.token and next_one.holder != one.holder:
                self.complain("nobody has a lock that another has", f"{one} and then {next_one}")


def _overlap(run: Run, ended: float, other: Run) -> bool:
    """Return whether another run of the same call was there while this one was, or its message lent."""
    there = other is not run and other.id == run.id and other.began < ended
    return there and (other.ended is None or other.ended > run.lent)


def _undisturbed(program: Program) -> Iterator[tuple[Run, float]]:
    """Yield the runs of a program, and when they ended, for whose worker nothing went wrong meanwhile.

    Others may be under way without anybody knowing: whose loan is over is taken for dead.
    """
    history = program.history
    for run in history.runs:
        well = run.ended is not None and history.is_well(run.process, run.lent, run.ended)
        if run.task.startswith(f"{program.name}.") and well and history.blind.get(run.process.name, 0.0) <= run.lent:
            assert run.ended is not None
            yield run, run.ended
