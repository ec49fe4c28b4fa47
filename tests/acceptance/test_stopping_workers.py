"""SIGTERM: nothing is lost, nothing runs twice, and what cannot be finished is there for others at once."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

import pytest

from dray.testing.faults import wait_until

from .conftest import EMPTY, LONG_LEASE, Crew

Report = Callable[..., None]


def test_workers_of_short_tasks_stop_without_loss_or_repetition(crew: Crew, report: Report) -> None:
    crew.environment["DRAY_WORKER_LEASE"] = LONG_LEASE
    ids = [crew.send(("quick", "aquick")[n % 2], n) for n in range(1500)]
    codes = []
    for _ in range(4):
        done = sum(crew.ledger.runs().values())
        worker = crew.worker("-c", "4")
        after = random.randint(1, 250)
        wait_until(lambda: sum(crew.ledger.runs().values()) >= done + after, timeout=20)  # noqa: B023
        worker.send(signal.SIGTERM)
        codes.append(worker.ended())
        # Given back by the worker itself, before it ended.
        assert crew.sizes()["leased"] == 0
    worker = crew.worker("-c", "4", "--burst")
    codes.append(worker.ended())
    report(stops=4, tasks=len(ids), lost=len(crew.ledger.missing(ids)), repeated=len(crew.ledger.repeated()))
    assert codes == [0] * 5
    assert not crew.ledger.missing(ids)
    assert not crew.ledger.repeated()
    assert crew.sizes() == EMPTY
    assert crew.states(ids) == {"SUCCESS"}


@pytest.mark.parametrize("signals", [1, 2])
def test_long_tasks_are_there_for_others_at_once_and_uncharged(crew: Crew, report: Report, signals: int) -> None:
    # Whoever had to wait for a lease would have to wait for longer than this test may take.
    crew.environment["DRAY_WORKER_LEASE"] = "600"
    crew.environment["DRAY_WORKER_PREFETCH_MULTIPLIER"] = "2"
    ids = [crew.send("slow", n) for n in range(10)]
    grace = "1" if signals == 1 else "600"
    worker = crew.worker("-c", "4", "--shutdown-timeout", grace, FAULTY_SLOW="600")
    wait_until(lambda: sum(crew.ledger.runs().values()) == 4 and crew.sizes()["leased"] == 8)
    for _ in range(signals):
        worker.send(signal.SIGTERM)
        # What waits goes back at the first signal, while the grace lasts.
        wait_until(lambda: crew.sizes()["ready"] >= 6)
    code = worker.ended(30)
    assert crew.sizes() == {**EMPTY, "ready": 10}
    assert [waiting.delivery_count for waiting in crew.app.broker.peek("default", 20)] == [0] * 10
    assert crew.worker("-c", "4", "--burst").ended(30) == 0
    report(lost=len(crew.ledger.missing(ids)), begun_twice=len(crew.ledger.repeated()), code=code)
    assert code == (0 if signals == 1 else 128 + signal.SIGTERM)
    assert crew.states(ids) == {"SUCCESS"}
    assert len(crew.ledger.repeated()) == 4
