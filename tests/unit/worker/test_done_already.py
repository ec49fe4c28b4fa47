"""A worker settles what has succeeded already without running it, and keeps what must not be taken for that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dray import Dray, ManualClock, Message, Middleware, Task
from dray.execution import Execution
from dray.idempotency import call_id
from dray.report import rank, record
from dray.triage import Triage

from .conftest import Shop

Make = Callable[..., Shop]


@pytest.fixture
def clocked(shop_with: Make) -> Shop:
    return shop_with(ManualClock())


def advance(shop: Shop, seconds: float) -> None:
    clock = shop.app.clock
    assert isinstance(clock, ManualClock)
    clock.advance(seconds)


def counting(app: Dray, runs: list[Any], **options: Any) -> Task[Any, Any]:
    @app.task(bind=True, name="count", **options)
    def count(self: Task[Any, Any], fail: int = 0) -> int:
        runs.append(self.request.delivery_count)
        if len(runs) <= fail:
            raise ValueError("not yet")
        return len(runs)

    return count


def killed_before_the_ack(shop: Shop) -> None:
    """Do to the next message what a worker does that is killed once its result is stored."""
    (delivery,) = shop.app.broker.consumer(["default"], 5.0).receive(1, 0)
    execution = Execution(shop.app, "killed")
    ((job, refused),) = Triage(shop.app, execution).look([delivery], float("inf"))
    assert refused is None
    ended = execution.run(job)
    if ended.report is not None:
        place = rank(job.message, delivery.delivery_count)
        shop.app.connections.store([record(shop.app, delivery.id, ended.report, place)], 3600)
    advance(shop, 6)


def test_a_task_that_was_killed_between_its_result_and_its_ack_does_not_run_again(clocked: Shop) -> None:
    runs: list[Any] = []
    result = counting(clocked.app, runs).delay()
    killed_before_the_ack(clocked)
    assert clocked.run() == 1
    assert (runs, result.get()) == ([1], 1)
    assert clocked.sizes() == {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}


def test_a_success_stays_one_when_its_message_is_revoked_before_the_ack(clocked: Shop) -> None:
    runs: list[Any] = []
    result = counting(clocked.app, runs).delay()
    killed_before_the_ack(clocked)
    result.revoke()
    assert clocked.run() == 1
    assert (runs, result.get(), clocked.sizes()["leased"]) == ([1], 1, 0)


def test_a_success_stays_one_when_it_expires_before_the_ack_and_the_backend_cannot_be_asked(clocked: Shop) -> None:
    runs: list[Any] = []
    result = counting(clocked.app, runs).apply_async(expires=3)
    killed_before_the_ack(clocked)
    clocked.backend.fail("fetch")
    assert clocked.run() == 1
    assert (runs, result.get()) == ([1], 1)


def test_a_task_whose_results_are_ignored_runs_again(clocked: Shop) -> None:
    runs: list[Any] = []
    counting(clocked.app, runs, ignore_result=True).delay()
    killed_before_the_ack(clocked)
    clocked.run()
    assert runs == [1, 2]


def test_while_the_backend_is_away_it_runs_again(clocked: Shop) -> None:
    runs: list[Any] = []
    counting(clocked.app, runs).delay()
    killed_before_the_ack(clocked)
    clocked.backend.fail("fetch")
    clocked.run()
    assert runs == [1, 2]


def test_a_key_runs_once_however_often_it_is_sent(clocked: Shop) -> None:
    runs: list[Any] = []
    task = counting(clocked.app, runs, ignore_result=True)
    for _ in range(3):
        result = task.apply_async(idempotency_key="order-7")
        clocked.run()
        advance(clocked, 60)
    assert (runs, result.get()) == ([1], 1)
    task.apply_async(idempotency_key="order-8")
    clocked.run()
    assert runs == [1, 1]


def test_a_key_whose_result_has_expired_runs_again(shop_with: Make) -> None:
    shop = shop_with(ManualClock(), result_expires=100.0)
    runs: list[Any] = []
    task = counting(shop.app, runs)
    for wait in (50, 60, 0):
        task.apply_async(idempotency_key="order-7")
        shop.run()
        advance(shop, wait)
    assert len(runs) == 2


def test_a_key_whose_call_has_failed_runs_again_and_the_handle_is_not_on_the_old_failure(clocked: Shop) -> None:
    runs: list[Any] = []
    task = counting(clocked.app, runs, autoretry_for=(ValueError,), max_retries=1, default_retry_delay=0)
    first = task.apply_async((2,), idempotency_key="order-7")
    clocked.run()
    assert isinstance(first.get(propagate=False), ValueError)
    second = task.apply_async((2,), idempotency_key="order-7")
    assert second.state == "PENDING"
    clocked.run()
    # The first attempt: though it ranks below the failure, which came of a retry.
    assert second.get() == 3


def test_the_worker_forgets_the_failure_when_the_sender_could_not(clocked: Shop) -> None:
    runs: list[Any] = []
    task = counting(clocked.app, runs, autoretry_for=(ValueError,), max_retries=1, default_retry_delay=0)
    task.apply_async((2,), idempotency_key="order-7")
    clocked.run()
    clocked.backend.fail("fetch")
    second = task.apply_async((2,), idempotency_key="order-7")
    assert second.state == "FAILURE"
    clocked.run()
    assert clocked.app.AsyncResult(second.id).get() == 3


def test_a_retry_of_a_call_with_a_key_runs(clocked: Shop) -> None:
    runs: list[Any] = []
    task = counting(clocked.app, runs, autoretry_for=(ValueError,), default_retry_delay=10)
    result = task.apply_async((2,), idempotency_key="order-7")
    for _ in range(3):
        clocked.run()
        advance(clocked, 10)
    assert (len(runs), result.get()) == (3, 3)


def test_a_key_in_a_callback_makes_its_id(clocked: Shop) -> None:
    runs: list[Any] = []
    task = counting(clocked.app, runs)
    follow = clocked.app.task(name="follow")(lambda: "followed")
    for _ in range(2):
        task.apply_async(link=follow.si().set(idempotency_key="order-7"))
        clocked.run()
    assert clocked.app.AsyncResult(call_id("follow", "order-7")).get() == "followed"


class NoFollowing(Middleware):
    """Lets nothing be sent to the task `follow`."""

    def publish(self, message: Message, call_next: Callable[[Message], Message]) -> Message:
        if message.task == "follow":
            raise ValueError("nobody follows")
        return call_next(message)


def test_what_succeeded_and_whose_callback_cannot_be_sent_is_not_taken_for_done(clocked: Shop) -> None:
    runs: list[Any] = []
    clocked.app.use(NoFollowing())
    result = counting(clocked.app, runs).apply_async(link=clocked.app.task(name="follow")(lambda value: None).s())
    killed_before_the_ack(clocked)
    assert result.state == "SUCCESS"
    clocked.run()
    assert runs == [1, 2]
    (letter,) = clocked.dead()
    assert "its callbacks cannot be sent: ValueError: nobody follows" in letter.reason
