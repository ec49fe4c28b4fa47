"""The engine on a store that takes no more keys in a change than every store has to: nothing of it is too large."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from dray import (
    Change,
    Changed,
    Dray,
    Group,
    Index,
    ManualClock,
    StoreCapabilities,
    StoreError,
    Unindex,
    chain,
    chord,
    group,
    states,
)
from dray.store import MAX_KEYS
from dray.testing import Driver, memory_app
from dray_backends.memory_store import MemoryStore


def named_in(change: Change) -> int:
    """Return how many keys and entries a change names."""
    entries = {(write.index, write.key) for write in change.writes if isinstance(write, Index | Unindex)}
    written = {write.key for write in change.writes if not isinstance(write, Index | Unindex)}
    return len(entries) + len({*change.reads, *written, *(check.key for check in change.checks)})


@pytest.fixture(autouse=True)
def most(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have stores in memory take no more; return the list of how many keys changes named."""
    seen: list[int] = []
    commit = MemoryStore.commit

    def strict(self: MemoryStore, changes: Sequence[Change]) -> Sequence[Changed]:
        for change in changes:
            seen.append(named_in(change))
            if seen[-1] > MAX_KEYS:
                raise StoreError(f"{change.part} is asked for {seen[-1]} keys at once")
        return commit(self, changes)

    monkeypatch.setattr(MemoryStore, "capabilities", StoreCapabilities(durable=False, shared=False))
    monkeypatch.setattr(MemoryStore, "commit", strict)
    return seen


@pytest.fixture
def double(dray_app: Dray) -> Any:
    return dray_app.task(name="double")(lambda n: 2 * n)


@pytest.fixture
def add_up(dray_app: Dray) -> Any:
    return dray_app.task(name="add_up")(lambda results: sum(results))


def test_a_body_gets_the_results_of_hundreds(
    dray_app: Dray, dray_worker: Driver, double: Any, add_up: Any, most: list[int]
) -> None:
    result = chord((double.s(n) for n in range(700)), add_up.s())()
    streamed = chord(Group.stream(double.s(n) for n in range(700)), add_up.s())()
    dray_worker.run_until_idle()
    assert result.get() == streamed.get() == 700 * 699
    assert max(most) == MAX_KEYS


def test_a_large_group_may_come_later_and_hand_on_to_another(
    dray_app: Dray, dray_worker: Driver, double: Any, add_up: Any
) -> None:
    count = dray_app.task(name="count")(lambda results, n: len(results) + n)
    result = chain(
        double.s(1), group(double.s() for _ in range(100)), group(count.s(n) for n in range(100)), add_up.s()
    )()
    dray_worker.run_until_idle()
    assert result.get() == sum(100 + n for n in range(100))


def test_a_large_group_that_fails_says_so_and_cancels_its_rest(
    dray_app: Dray, dray_worker: Driver, add_up: Any
) -> None:
    told: list[str] = []
    half = dray_app.task(name="half")(lambda n: 1 // n)
    error = dray_app.task(name="error")(lambda request, exc, traceback: told.append(str(exc)))
    header = group((half.s(n) for n in range(150)), cancel_rest=True)
    result = chord(header, add_up.s()).on_error(error.s())()
    dray_worker.run_until_idle()
    assert result.state == states.FAILURE
    assert told == ["integer division or modulo by zero"]


def test_a_policy_that_hands_on_endings_reads_them_in_pages(dray_app: Dray, dray_worker: Driver) -> None:
    half = dray_app.task(name="half")(lambda n: 1 // n)
    count = dray_app.task(name="count")(lambda endings: sum(ending.ok for ending in endings))
    result = chord(group((half.s(n) for n in range(150)), on_error="collect"), count.s())()
    dray_worker.run_until_idle()
    assert result.get() == 149


def test_all_ticks_of_an_outage_are_made_up_for(most: list[int]) -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    with memory_app(clock) as app:
        ran: list[int] = []
        app.task(name="note")(lambda: ran.append(1))
        app.conf.beat_schedule = {"often": {"task": "note", "schedule": 10.0, "missed": "all"}}
        scheduler = app.scheduler()
        scheduler.prepare()
        scheduler.tick()
        clock.advance(1000)
        while not scheduler.tick():
            pass
        app.worker().run_until_idle()
        assert len(ran) == 100
        assert max(most) == MAX_KEYS
