"""Loans: renewed while their tasks run, and worth nothing once they are over."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dray import BrokerUnavailable, Event, ManualClock, hookimpl
from dray.testing.background import Background
from dray.testing.faults import wait_until
from dray.worker import Worker

from .conftest import Gate, Shop

Make = Callable[..., Shop]


class Listener:
    dray_api = (1, 0)

    def __init__(self) -> None:
        self.events: list[Event] = []

    @hookimpl
    def event(self, event: Event) -> None:
        self.events.append(event)

    def types(self) -> list[str]:
        return [event.type for event in self.events]


@contextmanager
def frozen(shop: Shop) -> Iterator[None]:
    """Cut the keepers off, as if their process had been stopped."""
    cut = threading.Event()
    cut.set()

    def refuse(verb: str, moment: str) -> None:
        if verb == "extend" and moment == "before" and cut.is_set():
            raise BrokerUnavailable("frozen")

    shop.broker.observe(refuse)
    yield
    cut.clear()


def stop(worker: Worker, clock: ManualClock) -> None:
    """Stop a worker that waits on a clock which only we move."""
    Background(worker.stop).result(meanwhile=lambda: clock.advance(0.05))


def test_a_task_longer_than_its_lease_runs_once(shop: Shop, gate: Gate) -> None:
    counts = []

    @shop.app.task(bind=True)
    def long(self: Any) -> int:
        counts.append(self.request.delivery_count)
        gate.pass_through()
        return 1

    result = long.delay()
    # Not shorter: a busy machine may keep a thread waiting for some tenths of a second, and each third it renews.
    with shop.app.worker(lease=1.0), shop.app.worker(lease=1.0):
        wait_until(lambda: shop.broker.calls["extend"] >= 6)  # two leases, at least
        gate.open()
        assert result.get(timeout=10) == 1
    assert counts == [1]


def test_what_waits_for_a_thread_is_renewed_too(shop_with: Make, gate: Gate) -> None:
    shop = shop_with(worker_prefetch_multiplier=3)
    seen = []

    @shop.app.task(bind=True)
    def step(self: Any) -> None:
        seen.append(self.request.delivery_count)
        gate.pass_through()

    results = [step.delay() for _ in range(3)]
    with shop.app.worker(concurrency=1, lease=1.0):
        wait_until(lambda: shop.broker.calls["extend"] >= 6)
        gate.open()
        for result in results:
            result.get(timeout=10)
    assert seen == [1, 1, 1]


def test_the_outcome_of_a_lost_lease_is_dropped_and_counted(
    shop_with: Make, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    shop = shop_with(clock)
    listener = Listener()
    shop.app.plugins.register(listener)
    followed = []

    @shop.app.task(bind=True)
    def step(self: Any) -> str:
        if self.request.hostname == "slow":
            gate.pass_through()
        return str(self.request.hostname)

    @shop.app.task
    def follow(name: str) -> None:
        followed.append(name)

    slow = shop.app.worker(concurrency=1, name="slow", lease=30)
    with frozen(shop):
        slow.start()
        result = step.apply_async(link=follow.s())
        wait_until(lambda: gate.entered)
        clock.advance(31)
        assert shop.app.worker(name="quick").run_until_idle() == 2
        assert result.get(timeout=5) == "quick"
    gate.open()
    wait_until(lambda: "lease-lost" in listener.types())
    stop(slow, clock)
    assert slow._settler.stale == 1
    assert shop.app.AsyncResult(result.id).get(timeout=5) == "quick"
    assert followed == ["quick"]
    assert [e.details["ids"] for e in listener.events if e.type == "lease-lost"] == [[result.id]]
    assert "lease was over" in caplog.text
    assert shop.sizes() == {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}


def test_a_late_worker_cannot_overwrite_the_result_of_the_one_that_took_over(shop_with: Make, gate: Gate) -> None:
    clock = ManualClock()
    shop = shop_with(clock)
    stored = threading.Event()

    @shop.app.task(bind=True)
    def step(self: Any) -> str:
        return str(self.request.hostname)

    def hold(verb: str, moment: str) -> None:
        # The slow worker freezes after it has made sure of its lease, and before it writes.
        settling = threading.current_thread().name == "dray-settler"
        if (verb, moment) == ("store", "before") and settling and not stored.is_set():
            stored.set()
            gate.pass_through()

    shop.backend.observe(hold)
    result = step.delay()
    slow = shop.app.worker(concurrency=1, name="slow", lease=30)
    with frozen(shop):
        slow.start()
        wait_until(lambda: gate.entered)
        clock.advance(31)
        shop.app.worker(name="quick").run_until_idle()
        gate.open()
        stop(slow, clock)
    assert result.get(timeout=5) == "quick"
    assert slow._settler.stale == 1


def test_a_thawed_worker_does_not_start_what_others_have_taken(shop_with: Make, gate: Gate) -> None:
    clock = ManualClock()
    shop = shop_with(clock, worker_prefetch_multiplier=3)
    runs: list[tuple[str, int]] = []

    @shop.app.task(bind=True)
    def step(self: Any, n: int) -> None:
        runs.append((self.request.hostname, n))
        if self.request.hostname == "frozen":
            gate.pass_through()

    results = [step.delay(n) for n in range(3)]
    cold = shop.app.worker(concurrency=1, name="frozen", lease=30)
    with frozen(shop):
        cold.start()
        wait_until(lambda: gate.entered and shop.sizes()["leased"] == 3)
        clock.advance(31)
        assert shop.app.worker(name="warm", concurrency=1).run_until_idle() == 3
        gate.open()
        wait_until(lambda: not cold._crew._executors["def"]._line)  # type: ignore[attr-defined]
    stop(cold, clock)
    assert cold._settler.stale == 3
    assert runs == [("frozen", 0), ("warm", 0), ("warm", 1), ("warm", 2)]
    assert [r.worker for r in results] == ["warm"] * 3


def test_a_coroutine_whose_lease_is_lost_is_cancelled(shop_with: Make) -> None:
    clock = ManualClock()
    shop = shop_with(clock)
    began, cancelled = [], []

    @shop.app.task(bind=True)
    async def step(self: Any) -> None:
        began.append(self.request.hostname)
        if self.request.hostname == "slow":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(1)
                raise

    result = step.delay()
    slow = shop.app.worker(name="slow", async_concurrency=1, lease=30)
    with frozen(shop):
        slow.start()
        wait_until(lambda: began)
        clock.advance(31)
        shop.app.worker(name="quick").run_until_idle()
    wait_until(lambda: (clock.advance(1), cancelled)[1])
    stop(slow, clock)
    assert result.worker == "quick"
    assert began == ["slow", "quick"]


def test_a_bug_in_an_adapter_does_not_end_the_renewing(shop: Shop, gate: Gate) -> None:
    runs = []

    @shop.app.task
    def long() -> None:
        runs.append(1)
        gate.pass_through()

    shop.broker.fail("extend", RuntimeError("a bug"), times=1)
    result = long.delay()
    with shop.app.worker(lease=1.0):
        wait_until(lambda: shop.broker.calls["extend"] >= 5)
        gate.open()
        result.get(timeout=10)
    assert runs == [1]


def test_a_message_settled_while_leases_are_renewed_is_not_called_lost(
    shop: Shop, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    acked = threading.Event()

    def meet(verb: str, moment: str) -> None:
        # The settler has acked, and the keeper renews before the settler can say so.
        if verb == "ack" and moment == "after" and not acked.is_set():
            acked.set()
            seen = shop.broker.calls["extend"]
            wait_until(lambda: shop.broker.calls["extend"] > seen + 1)

    shop.broker.observe(meet)

    @shop.app.task
    def step() -> int:
        return 1

    @shop.app.task
    def other() -> None:
        gate.pass_through()

    caplog.set_level(logging.WARNING, "dray.worker")
    with shop.app.worker(lease=1.0):
        held, result = other.delay(), step.delay()
        assert result.get(timeout=10) == 1
        wait_until(acked.is_set)
        gate.open()
        held.get(timeout=10)
    assert "lease was lost" not in caplog.text
