"""Batches: what is called when they end well, badly or at all, and what can be done with them while they run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from dray import BatchResult, Dray, ManualClock, NotSupported, Signature, Task, TaskOptionError, UnknownResult
from dray.fans import Fans
from dray.testing import Driver, Enqueued


class Shop:
    """The tasks of these tests."""

    def __init__(self, app: Dray) -> None:
        #: Which numbers fail, and what was called with what.
        self.bad: set[int] = set()
        self.ran: list[int] = []
        self.called: list[tuple[str, Any]] = []

        @app.task(name="number", max_retries=0)
        def number(n: int) -> int:
            self.ran.append(n)
            if n in self.bad:
                raise ValueError("bad", n)
            return n

        @app.task(name="then")
        def then(values: list[int]) -> None:
            self.called.append(("then", values))

        @app.task(name="catch")
        def catch(id: str) -> None:
            self.called.append(("catch", id.rpartition(".")[2]))

        @app.task(name="last")
        def last(what: str) -> None:
            self.called.append(("finally", what))

        self.app, self.number, self.on_success, self.on_failure, self.last = app, number, then, catch, last

    def send(self, numbers: Iterable[int] | Iterable[Signature], **options: Any) -> BatchResult:
        calls = [self.number.s(each) if isinstance(each, int) else each for each in numbers]
        batch = self.app.batch(calls, **options).then(self.on_success.s()).catch(self.on_failure.s())
        return batch.finally_(self.last.s("over"))()


@pytest.fixture
def shop(dray_app: Dray) -> Shop:
    return Shop(dray_app)


def test_when_all_has_ended_well_then_and_finally_are_called(shop: Shop, dray_worker: Driver) -> None:
    batch = shop.send(range(3), name="import")
    progress = batch.progress()
    assert (batch.name, batch.finished, batch.cancelled) == ("import", False, False)
    assert (progress.total, progress.ended, progress.share) == (3, 0, 0.0)
    dray_worker.run_until_idle()
    assert sorted(shop.called) == [("finally", "over"), ("then", [0, 1, 2])]
    assert (batch.finished, batch.progress().succeeded, batch.get()) == (True, 3, [0, 1, 2])


def test_at_the_first_failure_the_rest_is_cancelled_and_catch_and_finally_are_called(
    shop: Shop, dray_worker: Driver
) -> None:
    shop.bad = {1, 3}
    later = shop.number.s(3).set(countdown=100)
    batch = shop.send([shop.number.s(0), shop.number.s(1), later])
    dray_worker.run_until_idle()
    assert sorted(shop.called) == [("catch", "1"), ("finally", "over")]
    assert (batch.finished, batch.cancelled, batch[2].state) == (True, False, "REVOKED")
    dray_worker.advance(100)
    assert (shop.ran, len(shop.called)) == ([0, 1], 2)


def test_with_allow_failures_all_run_and_catch_is_called_once_and_at_the_first(shop: Shop, dray_worker: Driver) -> None:
    shop.bad = {1, 2}
    later = shop.number.s(3).set(countdown=100)
    batch = shop.send([shop.number.s(0), shop.number.s(1), shop.number.s(2), later], allow_failures=True)
    dray_worker.run_until_idle()
    assert (shop.called, batch.finished) == ([("catch", "1")], False)
    dray_worker.advance(100)
    assert (shop.called, batch.finished) == ([("catch", "1"), ("finally", "over")], True)
    assert (shop.ran, batch.progress().succeeded, batch.progress().failed) == ([0, 1, 2, 3], 2, 2)


def test_what_failed_can_run_again_and_then_it_has_ended_well(shop: Shop, dray_worker: Driver) -> None:
    shop.bad = {1}
    batch = shop.send(range(3), allow_failures=True)
    dray_worker.run_until_idle()
    shop.bad, shop.called = set(), []
    assert batch.retry_failed() == 1
    assert batch.progress().ended == 2
    dray_worker.run_until_idle()
    assert sorted(shop.called) == [("finally", "over"), ("then", [0, 1, 2])]
    assert batch.get() == [0, 1, 2]


def test_what_failed_cannot_run_again_while_others_are_being_cancelled(
    shop: Shop, dray_worker: Driver, dray_clock: ManualClock
) -> None:
    shop.bad = {1}
    batch = shop.send([shop.number.s(1), shop.number.s(2).set(countdown=50)])
    dray_worker.run_until_idle()
    with pytest.raises(NotSupported, match="not yet"):
        batch.retry_failed()
    dray_worker.advance(50)
    shop.bad = set()
    assert batch.retry_failed() == 2
    dray_worker.run_until_idle()
    assert batch.get() == [1, 2]


def test_calls_may_come_while_it_runs_from_outside_and_from_within(shop: Shop, dray_worker: Driver) -> None:
    @shop.app.task(name="more", bind=True)
    def more(self: Task[Any, Any], n: int) -> int:
        self.batch.add([shop.number.s(n), shop.number.s(n + 1)])
        return 0

    batch = shop.send([more.s(5)])
    (added,) = batch.add(shop.number.s(1))
    assert (len(batch), batch.progress().total) == (2, 2)
    dray_worker.run_until_idle()
    assert sorted(shop.called) == [("finally", "over"), ("then", [0, 1, 5, 6])]
    assert (added.get(), batch.progress().total, shop.app.BatchResult(batch.id).get()) == (1, 4, [0, 1, 5, 6])
    with pytest.raises(TaskOptionError, match="takes no more members"):
        batch.add(shop.number.s(2))


def test_what_was_added_and_fails_is_caught_like_the_others(shop: Shop, dray_worker: Driver) -> None:
    shop.bad = {7, 8}
    batch = shop.send([1], allow_failures=True)
    asyncio.run(batch.aadd([shop.number.s(7), shop.number.s(8)]))
    dray_worker.run_until_idle()
    assert sorted(what for what, _ in shop.called) == ["catch", "finally"]


def test_a_batch_that_is_cancelled_runs_no_more_and_takes_no_more(shop: Shop, dray_worker: Driver) -> None:
    batch = shop.send(range(3))
    shop.app.BatchResult(batch.id).cancel()
    assert batch.cancelled
    with pytest.raises(TaskOptionError, match="was cancelled"):
        batch.add(shop.number.s(5))
    dray_worker.run_until_idle()
    assert (shop.ran, batch.finished) == ([], True)
    assert sorted(shop.called) == [("catch", "0"), ("finally", "over")]


def test_an_empty_batch_has_ended_well(shop: Shop, dray_worker: Driver) -> None:
    batch = shop.send([])
    dray_worker.run_until_idle()
    assert sorted(shop.called) == [("finally", "over"), ("then", [])]
    assert (batch.finished, batch.progress().share) == (True, 1.0)


def test_a_batch_without_callbacks_is_kept_as_well(shop: Shop, dray_worker: Driver) -> None:
    batch = asyncio.run(shop.app.batch([shop.number.s(1)]).aapply_async())
    dray_worker.run_until_idle()
    assert (batch.finished, batch.progress().succeeded, batch.get()) == (True, 1, [1])


def test_under_an_id_of_its_own_it_is_sent_once(shop: Shop, dray_enqueued: Enqueued) -> None:
    sent = [shop.app.batch([shop.number.s(1)]).apply_async(id="today") for _ in range(2)]
    assert sent[0].id == sent[1].id
    assert len(dray_enqueued.all()) == 1


def test_what_is_no_batch_is_not_found(shop: Shop, dray_worker: Driver) -> None:
    @shop.app.task(name="alone", bind=True, max_retries=0)
    def alone(self: Task[Any, Any]) -> str:
        return self.batch.name

    result = alone.delay()
    dray_worker.run_until_idle()
    with pytest.raises(UnknownResult, match="no batch"):
        result.get()
    with pytest.raises(UnknownResult, match="no batch 'nothing'"):
        shop.app.BatchResult("nothing")


@pytest.mark.dray(task_always_eager=True)
def test_a_batch_is_not_run_eagerly(shop: Shop) -> None:
    with pytest.raises(NotSupported, match="task_always_eager"):
        shop.send([1])


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", ["settle", "report", "_decide", "_deliver", "publish"])
def test_whatever_fails_at_any_step_the_callbacks_are_called_once(
    shop: Shop, dray_clock: ManualClock, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    shop.bad = {1, 2}
    shop.send(range(4), allow_failures=True)
    shop.send(range(5, 8))
    died: list[str] = []
    truly = getattr(Fans, step)

    def dying(self: Fans, given: Any, *rest: Any) -> Any:
        if died or not given:
            return truly(self, given, *rest)
        if after:
            truly(self, given, *rest)
        died.append(step)
        raise RuntimeError(f"killed in {step}")

    monkeypatch.setattr(Fans, step, dying)
    worker = Driver(shop.app, lease=30.0)
    worker.run_until_idle()
    for _ in range(3):
        dray_clock.advance(40.0)
        shop.app.fans.sweep()
        worker.run_until_idle()
    assert died == [step]
    assert sorted(shop.called, key=str) == [
        ("catch", "1"),
        ("finally", "over"),
        ("finally", "over"),
        ("then", [5, 6, 7]),
    ]
