"""Stopping: what has not begun goes back at once and uncharged, what runs may end, nothing is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dray import ManualClock
from dray.testing.background import Background
from dray.testing.faults import wait_until

from .conftest import Gate, Shop

Make = Callable[..., Shop]


def engine_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dray-")]


def counts(shop: Shop) -> list[int]:
    """How often each waiting message has been delivered, as far as it was charged."""
    return [waiting.delivery_count for waiting in shop.app.broker.peek("default", 100)]


def test_stopping_gives_back_what_waits_at_once_and_lets_finish_what_runs(shop_with: Make, gate: Gate) -> None:
    shop = shop_with(worker_prefetch_multiplier=5)
    seen = []

    @shop.app.task(bind=True)
    def step(self: Any, n: int) -> int:
        seen.append((n, self.request.delivery_count))
        gate.pass_through()
        return n

    results = [step.delay(n) for n in range(5)]
    worker = shop.app.worker(concurrency=1).start()
    wait_until(lambda: gate.entered and shop.sizes()["leased"] == 5)
    stopping = Background(worker.stop)
    wait_until(lambda: shop.sizes() == {"ready": 4, "delayed": 0, "leased": 1, "dead": 0})
    assert [w.delivery_count for w in shop.app.broker.peek("default", 10) if w.state == "ready"] == [0, 0, 0, 0]
    gate.open()
    stopping.result()
    assert results[0].get(timeout=5) == 0
    assert shop.run(concurrency=1) == 4
    # In their old places, and as if nobody had touched them.
    assert seen == [(n, 1) for n in range(5)]
    assert [r.get(timeout=5) for r in results] == list(range(5))


def test_what_outlasts_the_grace_is_given_back_uncharged(shop: Shop, gate: Gate) -> None:
    runs = []

    @shop.app.task(bind=True)
    def step(self: Any) -> str:
        runs.append(self.request.delivery_count)
        if len(runs) == 1:
            gate.pass_through()
            return "too late"
        return "in time"

    result = step.delay()
    worker = shop.app.worker().start()
    wait_until(lambda: gate.entered)
    worker.stop(0.05)
    assert counts(shop) == [0]
    assert shop.sizes()["ready"] == 1
    # The abandoned thread comes to its end meanwhile; what it came to is nobody's any more.
    gate.open()
    shop.run()
    assert result.get(timeout=5) == "in time"
    assert runs == [1, 1]


def test_a_second_request_to_stop_does_not_wait(shop: Shop, gate: Gate) -> None:
    @shop.app.task
    def step() -> None:
        gate.pass_through()

    step.delay()
    worker = shop.app.worker(shutdown_timeout=3600)
    running = Background(worker.run)
    wait_until(lambda: gate.entered)
    worker.request_stop()
    worker.request_stop()
    running.result()
    assert counts(shop) == [0]


def test_coroutines_are_cancelled_when_the_grace_is_over_and_run_again_elsewhere(shop: Shop) -> None:
    began, cleaned = [], []

    @shop.app.task(bind=True)
    async def step(self: Any, n: int) -> int:
        began.append(self.request.delivery_count)
        if len(began) <= 10:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.01)
                cleaned.append(n)
        return n

    results = [step.delay(n) for n in range(10)]
    worker = shop.app.worker().start()
    wait_until(lambda: len(began) == 10)
    worker.stop(0)
    assert sorted(cleaned) == list(range(10))
    assert counts(shop) == [0] * 10
    shop.run()
    assert [r.get(timeout=5) for r in results] == list(range(10))
    assert set(began) == {1}


def test_a_coroutine_that_ends_well_in_spite_of_being_cancelled_is_done(shop: Shop) -> None:
    began = []

    @shop.app.task
    async def step() -> str:
        began.append(1)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "saved"
        return "never"

    result = step.delay()
    worker = shop.app.worker().start()
    wait_until(lambda: began)
    worker.stop(0)
    assert result.get(timeout=5) == "saved"
    assert shop.sizes() == {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}


def test_a_coroutine_that_refuses_to_end_is_given_back(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dray.worker.LAST_WORDS", 0.1)
    began, refused = [], []

    @shop.app.task
    async def step() -> None:
        began.append(1)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            refused.append(1)
        await asyncio.Event().wait()

    step.delay()
    worker = shop.app.worker().start()
    wait_until(lambda: began)
    worker.stop(0)
    assert refused
    assert counts(shop) == [0]


@pytest.mark.parametrize("kind", ["def", "async"])
def test_at_most_once_tasks_that_have_not_begun_are_not_lost(shop_with: Make, gate: Gate, kind: str) -> None:
    shop = shop_with(worker_prefetch_multiplier=6)
    ran: list[int] = []
    let_go = threading.Event()

    def step(n: int) -> None:
        ran.append(n)
        if not let_go.is_set():
            gate.pass_through(n)

    async def astep(n: int) -> None:
        ran.append(n)
        while not let_go.is_set():
            gate.entered.append(n)
            await asyncio.sleep(0.002)

    task = shop.app.task(acks_late=False)(step if kind == "def" else astep)
    results = [task.delay(n) for n in range(6)]
    worker = shop.app.worker(concurrency=1, async_concurrency=1).start()
    wait_until(lambda: gate.entered and shop.broker.calls["ack"] and shop.sizes()["ready"] == 0)
    stopping = Background(worker.stop)
    wait_until(lambda: shop.sizes()["ready"] == 5)
    let_go.set()
    gate.open()
    stopping.result()
    shop.run()
    assert sorted(ran) == list(range(6))
    for result in results:
        result.get(timeout=5)


def test_an_at_most_once_task_that_outlasts_the_grace_does_not_run_again(shop: Shop, gate: Gate) -> None:
    ran = []

    @shop.app.task(acks_late=False)
    def step() -> None:
        ran.append(1)
        gate.pass_through()

    step.delay()
    worker = shop.app.worker().start()
    wait_until(lambda: gate.entered)
    worker.stop(0)
    shop.run()
    assert ran == [1]


def test_stopping_leaves_no_thread_behind_and_can_be_done_twice(shop: Shop) -> None:
    @shop.app.task
    def a() -> int:
        return 1

    @shop.app.task
    async def b() -> int:
        return 2

    worker = shop.app.worker().start()
    assert (a.delay().get(timeout=10), b.delay().get(timeout=10)) == (1, 2)
    worker.stop()
    worker.stop()
    wait_until(lambda: not engine_threads())


def test_a_worker_stops_while_the_broker_is_away(shop: Shop, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dray.worker.LAST_WORDS", 0.2)

    @shop.app.task
    def step() -> None:
        gate.pass_through()

    step.delay()
    worker = shop.app.worker(concurrency=1).start()
    wait_until(lambda: gate.entered)
    shop.broker.sleep()
    gate.open()
    worker.stop(0.1)
    shop.broker.wake()
    published = len(shop.broker.history)
    # Nothing is written once it has stopped, although it could be now.
    wait_until(lambda: not engine_threads())
    assert [call.verb for call in shop.broker.history[published:]] == []
    assert shop.sizes()["leased"] == 1


def test_stopping_waits_for_the_last_outcome_to_be_settled(shop: Shop) -> None:
    reached, go = threading.Event(), threading.Event()

    def hold(verb: str, moment: str) -> None:
        if (verb, moment) == ("ack", "before"):
            reached.set()
            go.wait(20)

    shop.broker.observe(hold)

    @shop.app.task
    def step() -> None: ...

    step.delay()
    worker = shop.app.worker().start()
    assert reached.wait(10)
    stopping = Background(worker.stop)
    go.set()
    stopping.result()
    assert shop.sizes() == {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}


def test_many_stops_and_starts_lose_nothing_and_repeat_nothing(shop_with: Make) -> None:
    shop = shop_with(worker_prefetch_multiplier=4)
    lock, ran = threading.Lock(), []

    @shop.app.task
    def step(n: int) -> None:
        with lock:
            ran.append(n)

    @shop.app.task(acks_late=False)
    def once(n: int) -> None:
        with lock:
            ran.append(n)

    @shop.app.task
    async def astep(n: int) -> None:
        await asyncio.sleep(0)
        ran.append(n)

    for n in range(3000):
        (step, once, astep)[n % 3].delay(n)
    for _ in range(40):
        with shop.app.worker(concurrency=3, async_concurrency=3):
            before = len(ran)
            wait_until(lambda before=before: len(ran) > before + 20 or len(ran) >= 3000)  # type: ignore[misc]
    shop.run()
    assert sorted(ran) == list(range(3000))


def test_a_worker_on_a_clock_that_stands_still_can_be_stopped(shop_with: Make) -> None:
    clock = ManualClock()
    shop = shop_with(clock)
    worker = shop.app.worker().start()
    Background(worker.stop).result(meanwhile=lambda: clock.advance(0.1))
    wait_until(lambda: not engine_threads())
