"""Many workers that lost the same broker do not come back in the same moment."""

from __future__ import annotations

import threading

import pytest

from dray import BrokerUnavailable, Worker
from dray.cli.process import worker_process
from dray.cli.process.service import Service
from dray.cli.process.worker_process import FIRST_PAUSE, LONGEST_PAUSE, WorkerProcess
from dray.clock import ManualClock
from dray.testing.memory import memory_app

TRIES = 12


class Waits(ManualClock):
    """A clock whose every wait is over at once, and remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        self.advance(seconds)
        return event.is_set()


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is away for the first TRIES tries of every worker."""
    tries: dict[Worker, int] = {}

    def start(self: Worker) -> Worker:
        tries[self] = tries.get(self, 0) + 1
        if tries[self] <= TRIES:
            raise BrokerUnavailable("away")
        return self

    monkeypatch.setattr(Worker, "start", start)
    monkeypatch.setattr(WorkerProcess, "_warn", lambda self: None)


def pauses() -> list[float]:
    clock = Waits()
    worker = WorkerProcess(memory_app(clock), None, Service())
    worker.start()
    worker.ended()
    return clock.waits


@pytest.mark.usefixtures("away")
def test_two_workers_wait_for_their_broker_at_different_moments() -> None:
    one, two = pauses(), pauses()
    assert len(one) == len(two) == TRIES
    assert all(a != b for a, b in zip(one, two, strict=True))


@pytest.mark.usefixtures("away")
def test_pauses_grow_to_a_bound() -> None:
    waits = pauses()
    middle = [min(FIRST_PAUSE * 2**n, LONGEST_PAUSE) for n in range(TRIES)]
    assert all(0.8 * at <= wait <= 1.2 * at for wait, at in zip(waits, middle, strict=True))


@pytest.mark.usefixtures("away")
def test_who_is_told_to_stop_while_it_waits_never_starts() -> None:
    worker = WorkerProcess(memory_app(Waits()), None, Service())
    worker.heed(15)
    with pytest.raises(worker_process._NeverStarted):
        worker.start()
    assert worker.asked == [15]
