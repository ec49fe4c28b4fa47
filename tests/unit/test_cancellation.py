"""Cancelling: a revoked task does not start, stays revoked whatever restarts, and is told when it runs already."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dray import Dray, ManualClock, NotSupported, Retry, Task, TaskRevoked
from dray.testing import Driver


def add(x: int, y: int = 1) -> int:
    return x + y


# Before it starts


def test_a_revoked_task_does_not_run(dray_app: Dray, dray_worker: Driver) -> None:
    ran = []
    task = dray_app.task(name="note")(lambda x: ran.append(x))
    revoked, other = task.delay(1), task.delay(2)
    revoked.revoke()
    assert (revoked.state, revoked.ready()) == ("REVOKED", True)
    dray_worker.run_until_idle()
    assert ran == [2]
    assert (revoked.state, other.state) == ("REVOKED", "SUCCESS")
    with pytest.raises(TaskRevoked):
        revoked.get()
    assert dray_app.broker.queues() == []


def test_several_tasks_are_revoked_by_id(dray_app: Dray, dray_worker: Driver) -> None:
    ran = []
    results = dray_app.task(name="note")(lambda x: ran.append(x)).delay_many([(n,) for n in range(4)])
    dray_app.revoke([results[0].id, results[2].id])
    dray_app.revoke(results[3].id)
    dray_worker.run_until_idle()
    assert ran == [1]


def test_a_delayed_task_is_revoked_while_it_waits(dray_app: Dray, dray_worker: Driver) -> None:
    result = dray_app.task(add).apply_async((1,), countdown=3600)
    dray_worker.advance(10)
    result.revoke()
    dray_worker.advance(3600)
    assert result.state == "REVOKED"


def test_an_id_can_be_revoked_before_it_is_sent(dray_app: Dray, dray_worker: Driver) -> None:
    dray_app.revoke("later")
    result = dray_app.task(add).apply_async((1,), task_id="later")
    dray_worker.run_until_idle()
    assert result.state == "REVOKED"


def test_a_task_revoked_between_two_tries_is_not_tried_again(dray_app: Dray, dray_worker: Driver) -> None:
    ran = []

    @dray_app.task
    def flaky() -> None:
        ran.append(1)
        raise Retry(countdown=60)

    result = flaky.delay()
    dray_worker.run_until_idle()
    result.revoke()
    dray_worker.advance(1000)
    assert (ran, result.state) == ([1], "REVOKED")


def test_a_finished_task_keeps_its_result_when_it_is_revoked(dray_app: Dray, dray_worker: Driver) -> None:
    result = dray_app.task(add).delay(1)
    dray_worker.run_until_idle()
    result.revoke()
    assert dray_app.AsyncResult(result.id).get() == 2


def test_a_revoked_task_calls_neither_callbacks_nor_hooks(dray_app: Dray, dray_worker: Driver) -> None:
    called: list[str] = []

    class Base(Task[Any, Any]):
        def on_failure(self, *args: Any) -> None:
            called.append("on_failure")

    note = dray_app.task(name="note")(lambda *args: called.append("callback"))
    result = dray_app.task(base=Base)(add).apply_async((1,), link=note.si(), link_error=note.si())
    result.revoke()
    dray_worker.run_until_idle()
    assert called == []


def test_a_broker_that_cannot_cancel_says_so(dray_app: Dray, monkeypatch: pytest.MonkeyPatch) -> None:
    from dray import Broker

    monkeypatch.setattr(type(dray_app.broker), "cancel", Broker.cancel)
    with pytest.raises(NotSupported, match="memory:// cannot cancel messages"):
        dray_app.task(add).delay(1).revoke()


# Across restarts


def test_a_revoked_id_stays_revoked_through_restarts_of_sender_and_worker(
    tmp_path: Path,
) -> None:
    ran: list[int] = []

    def start() -> Dray:
        app = Dray("shop", broker=f"sqlite:///{tmp_path}/q.db", set_as_current=False)
        app.task(name="note")(lambda x: ran.append(x))
        return app

    with start() as sender:
        ids = [result.id for result in sender.tasks["note"].delay_many([(1,), (2,), (3,)])]
    with start() as revoker:
        revoker.revoke(ids[1])
    with start() as first:
        first.worker().run_until_idle()
    with start() as second:
        assert second.worker().run_until_idle() == 0
        assert [second.AsyncResult(id).state for id in ids] == ["SUCCESS", "REVOKED", "SUCCESS"]
    assert ran == [1, 3]


def test_a_task_revoked_while_no_worker_is_there_is_not_tried_again_by_the_next_one(
    tmp_path: Path, dray_clock: ManualClock, dray_worker_for: Callable[..., Driver]
) -> None:
    tries: list[int] = []

    def start() -> Dray:
        app = Dray("shop", broker=f"sqlite:///{tmp_path}/q.db", clock=dray_clock, set_as_current=False)

        @app.task(name="flaky", bind=True)
        def flaky(self: Task[Any, Any]) -> None:
            tries.append(self.request.retries)
            raise Retry(countdown=60)

        return app

    with start() as app:
        id = app.tasks["flaky"].delay().id
        dray_worker_for(app).run_until_idle()
    with start() as app:
        app.revoke(id)
    with start() as app:
        dray_worker_for(app).advance(600)
        assert app.AsyncResult(id).state == "REVOKED"
    assert tries == [0]


# While it runs


def until(condition: Callable[[], bool], clock: ManualClock, step: float = 0.6) -> None:
    """Let time pass on the clock until `condition` holds."""
    pause = threading.Event()
    for _ in range(2000):
        if condition():
            return
        clock.advance(step)
        pause.wait(0.005)
    pytest.fail("it never came about")


def test_a_running_def_task_sees_that_it_is_cancelled(dray_app: Dray, dray_clock: ManualClock) -> None:
    began, ended = threading.Event(), threading.Event()

    @dray_app.task(bind=True)
    def work(self: Task[Any, Any]) -> str:
        began.set()
        while not self.request.cancelled:
            ended.wait(0.001)
        return "stopped in good order"

    with dray_app.worker(concurrency=1):
        result = work.delay()
        assert began.wait(10)
        result.revoke()
        until(lambda: result.state == "REVOKED", dray_clock)
    with pytest.raises(TaskRevoked, match="revoked while it ran"):
        result.get()
    assert dray_app.broker.queues() == []


def test_a_running_coroutine_is_cancelled_and_can_clean_up(dray_app: Dray, dray_clock: ManualClock) -> None:
    began, cleaned = threading.Event(), threading.Event()

    @dray_app.task
    async def work() -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    with dray_app.worker():
        result = work.delay()
        assert began.wait(10)
        result.revoke()
        until(lambda: result.state == "REVOKED", dray_clock)
    assert cleaned.is_set()


def test_only_the_task_revoked_is_cancelled(dray_app: Dray, dray_clock: ManualClock) -> None:
    go = threading.Event()
    began = threading.Barrier(3)

    @dray_app.task(bind=True)
    def work(self: Task[Any, Any]) -> bool:
        began.wait(10)
        while not self.request.cancelled and not go.is_set():
            go.wait(0.001)
        return self.request.cancelled

    with dray_app.worker(concurrency=2):
        revoked, other = work.delay(), work.delay()
        began.wait(10)
        revoked.revoke()
        until(lambda: revoked.state == "REVOKED", dray_clock)
        assert other.state == "PENDING"
        go.set()
        assert other.get(timeout=10) is False


def test_a_running_task_that_retries_after_it_was_revoked_does_not_run_again(
    dray_app: Dray, dray_clock: ManualClock
) -> None:
    began, runs = threading.Event(), []

    @dray_app.task(bind=True)
    def work(self: Task[Any, Any]) -> None:
        runs.append(1)
        began.set()
        while not self.request.cancelled:
            began.wait(0.001)
        self.retry(countdown=1)

    with dray_app.worker(concurrency=1):
        result = work.delay()
        assert began.wait(10)
        result.revoke()
        until(lambda: result.state == "REVOKED", dray_clock)
        until(lambda: dray_app.broker.queues() == [], dray_clock)
    assert runs == [1]
    assert dray_app.AsyncResult(result.id).state == "REVOKED"
