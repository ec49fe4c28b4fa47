"""Limits over real worker processes: as counted by what the tasks themselves noted, also when a worker is killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from dray import Dray
from dray.testing.faults import wait_until

from .conftest import EMPTY, Crew, WorkerProcess

Report = Callable[..., None]


class Event(NamedTuple):
    """A line that a task has written."""

    what: str
    n: int
    pid: int
    at: float


class LimitedCrew:
    """Workers of limited_shop, and what its tasks have noted."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self.events_file: Path = crew.folder / "events.txt"

    def send(self, task: str, *numbers: int) -> None:
        for n in numbers:
            self._crew.app.send_task(f"limited_shop.{task}", (n,))

    def workers(self, count: int) -> list[WorkerProcess]:
        made = [self._crew.worker("-c", "8") for _ in range(count)]
        for worker in made:
            worker.wait_until_ready()
        return made

    def events(self, *kinds: str) -> list[Event]:
        if not self.events_file.exists():
            return []
        lines = (line.split() for line in self.events_file.read_text().splitlines())
        found = [Event(what, int(n), int(pid), float(at)) for what, n, pid, at in lines]
        return sorted((event for event in found if event.what in kinds), key=lambda event: event.at)

    def wait_until_done(self, timeout: float = 60) -> None:
        wait_until(lambda: self._crew.sizes() == EMPTY, timeout, look=0.05)


@pytest.fixture
def limited(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> LimitedCrew:
    with Dray("asked", broker=crew.url, set_as_current=False, plugins=[]) as app:
        if not app.plugins.knows("stores", "sqlite"):
            pytest.skip("no store that processes share is installed")
    monkeypatch.setattr(WorkerProcess, "app", "limited_shop")
    return LimitedCrew(crew)


def test_twenty_a_second_are_twenty_for_two_workers_together(limited: LimitedCrew, report: Report) -> None:
    limited.workers(2)
    start = time.time()
    limited.send("limited", *range(100))
    limited.send("free", 1)
    limited.wait_until_done()
    began = limited.events("limited")
    assert sorted(event.n for event in began) == list(range(100))
    # From the first moment on, so that it is no matter how late each begins on a busy host: a turn each 0.05 s, and no
    # more have begun than there were turns.
    early = [turn for turn, event in enumerate(began) if event.at < start + turn / 20]
    report(took=round(began[-1].at - start, 2), early=len(early))
    assert not early
    (free,) = limited.events("free")
    assert sum(1 for event in began if event.at < free.at) < 50


def test_three_at_a_time_are_three_though_a_worker_is_killed(limited: LimitedCrew, report: Report) -> None:
    limited.send("placed", *range(40))
    first, _ = limited.workers(2)
    wait_until(lambda: len([event for event in limited.events("begin") if event.pid == first.pid]) >= 3, 30)
    first.kill()
    limited.wait_until_done()
    events = limited.events("begin", "end")
    assert {event.n for event in events if event.what == "end"} == set(range(40))
    last_of_killed = max(event.at for event in events if event.pid == first.pid)
    running: set[tuple[int, int]] = set()
    together: list[int] = []
    for event in events:
        if event.at > last_of_killed:
            running = {(n, pid) for n, pid in running if pid != first.pid}
        (running.add if event.what == "begin" else running.discard)((event.n, event.pid))
        together.append(len(running))
    report(most_together=max(together), runs=sum(1 for event in events if event.what == "begin"))
    assert max(together) == 3
