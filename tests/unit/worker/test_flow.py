"""What a worker takes from where, how much of it, and in which order."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest

from dray import ConfigurationError, ManualClock, TaskRejected
from dray.credit import Credit
from dray.executors import Host
from dray.executors.threads import ThreadExecutor
from dray.testing.faults import wait_until

from .conftest import Gate, Shop

EMPTY = {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}

Make = Callable[..., Shop]


def test_higher_priorities_run_first_and_equal_ones_in_the_order_sent(shop: Shop) -> None:
    order: list[tuple[int, int]] = []

    @shop.app.task
    def step(priority: int, n: int) -> None:
        order.append((priority, n))

    for n in range(3):
        for priority in (0, 9, 5):
            step.apply_async((priority, n), priority=priority)
    shop.run(concurrency=1)
    assert order == [(priority, n) for priority in (9, 5, 0) for n in range(3)]


def test_strict_order_looks_at_a_queue_only_when_those_before_it_are_empty(shop: Shop) -> None:
    order: list[str] = []

    @shop.app.task
    def step(queue: str) -> None:
        order.append(queue)

    for _ in range(5):
        for queue in ("low", "high"):
            step.apply_async((queue,), queue=queue)
    shop.run(queues=["high", "low"], concurrency=1)
    assert order == ["high"] * 5 + ["low"] * 5


def test_weighted_order_gives_every_queue_its_share(shop_with: Make) -> None:
    credit = Credit({"def": 1}, ["a", "b", "c"], weights={"a": 6, "b": 3})
    first = Counter(credit.allow().queues[0] for _ in range(4000))
    # c has the weight 1 that nobody gave it.
    assert first["a"] > first["b"] > first["c"] > 0
    assert sum(first.values()) == 4000


def test_weighted_order_without_weights_gives_equal_shares() -> None:
    credit = Credit({"def": 1}, ["a", "b"], weights={})
    assert {credit.allow().queues[0] for _ in range(200)} == {"a", "b"}


def test_a_queue_has_no_more_running_than_its_own_concurrency(shop_with: Make, gate: Gate) -> None:
    shop = shop_with(worker_queue_concurrency={"narrow": 2})

    @shop.app.task
    def step(queue: str) -> None:
        gate.pass_through(queue)

    narrow = [step.apply_async(("narrow",), queue="narrow") for _ in range(10)]
    wide = [step.apply_async(("wide",), queue="wide") for _ in range(4)]
    with shop.app.worker(["narrow", "wide"], concurrency=6):
        wait_until(lambda: len(gate.entered) == 6)
        assert Counter(gate.entered) == {"narrow": 2, "wide": 4}
        assert shop.sizes("narrow") == {"ready": 8, "delayed": 0, "leased": 2, "dead": 0}
        gate.open()
        for result in narrow + wide:
            result.get(timeout=10)


def test_long_tasks_are_not_hoarded(shop: Shop, gate: Gate) -> None:
    @shop.app.task
    def long(n: int) -> None:
        gate.pass_through(n)

    long.delay_many((n,) for n in range(100))
    with shop.app.worker(concurrency=4):
        wait_until(lambda: len(gate.entered) == 4)
        # Nobody lends the worker more than its threads can begin.
        assert shop.sizes() == {"ready": 96, "delayed": 0, "leased": 4, "dead": 0}
        with shop.app.worker(concurrency=4):
            wait_until(lambda: len(gate.entered) == 8)
            assert shop.sizes()["ready"] == 92
            gate.open()
            wait_until(lambda: len(gate.entered) == 100)


def test_what_waits_behind_tasks_that_turn_out_long_is_given_back(
    shop: Shop, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More than the tenth of a second of work that may lie ready, as it really is: or some of it would be taken again.
    monkeypatch.setattr("dray.source.SHARE_AFTER", 0.15)

    @shop.app.task(ignore_result=True)
    def short() -> None: ...

    @shop.app.task
    def long(n: int) -> None:
        gate.pass_through(n)

    with shop.app.worker(concurrency=4):
        short.delay_many(() for _ in range(5000))
        wait_until(lambda: shop.sizes()["ready"] == shop.sizes()["leased"] == 0)
        long.delay_many((n,) for n in range(100))
        wait_until(lambda: len(gate.entered) == 4)
        # The worker took them all for short ones; now it keeps what its threads have begun.
        wait_until(lambda: shop.sizes()["ready"] == 96)
        (first, *_) = shop.app.broker.peek("default", 1)
        assert first.delivery_count == 0
        gate.open()
        wait_until(lambda: len(gate.entered) == 100)


def test_what_comes_after_a_quiet_time_waits_for_a_slot_like_any_other(shop: Shop, gate: Gate) -> None:
    @shop.app.task(ignore_result=True)
    def short() -> None: ...

    @shop.app.task
    def long() -> None:
        gate.pass_through()

    with shop.app.worker(concurrency=1) as worker:
        short.delay_many(() for _ in range(500))
        wait_until(lambda: shop.sizes() == EMPTY)
        assert worker._source is not None
        worker._source._last_end -= 60  # nothing has come or ended for a minute
        long.delay_many([()])
        short.delay()
        wait_until(lambda: shop.sizes()["leased"] == 2)
        looks = shop.broker.calls["receive"]
        wait_until(lambda: shop.broker.calls["receive"] > looks + 1)
        assert shop.broker.calls["release"] == 0
        gate.open()
        wait_until(lambda: shop.sizes() == EMPTY)


def test_short_tasks_come_in_batches(shop: Shop) -> None:
    @shop.app.task(ignore_result=True)
    def short() -> None: ...

    short.delay_many(() for _ in range(5000))
    assert shop.run() == 5000
    assert shop.broker.calls["receive"] < 500
    assert shop.broker.calls["ack"] < 1000


def test_a_prefetch_multiplier_says_how_many_may_be_held(shop_with: Make, gate: Gate) -> None:
    shop = shop_with(worker_prefetch_multiplier=3)

    @shop.app.task
    def long() -> None:
        gate.pass_through()

    long.delay_many(() for _ in range(100))
    with shop.app.worker(concurrency=2):
        wait_until(lambda: shop.sizes()["leased"] == 6)
        gate.open()


@pytest.mark.parametrize(("multiplier", "room"), [(None, 4), (1, 4), (3, 12), (0, 2048)])
def test_the_room_for_tasks_of_which_nothing_is_known(multiplier: int | None, room: int) -> None:
    assert Credit({"def": 4}, ["q"], multiplier=multiplier).allow().limit == room


def test_a_queue_of_def_tasks_waits_while_one_of_coroutines_goes_on(shop: Shop, gate: Gate) -> None:
    @shop.app.task
    def slow() -> None:
        gate.pass_through()

    @shop.app.task
    async def quick(n: int) -> int:
        await asyncio.sleep(0)
        return n

    for _ in range(10):
        slow.apply_async(queue="defs")
    with shop.app.worker(["defs", "asyncs"], concurrency=2):
        wait_until(lambda: len(gate.entered) == 2)
        for n in range(20):
            assert quick.apply_async((n,), queue="asyncs").get(timeout=10) == n
        assert shop.sizes("defs")["leased"] == 2
        gate.open()


def test_coroutines_run_side_by_side_up_to_their_number(shop: Shop) -> None:
    here, most = 0, 0

    @shop.app.task
    async def meet() -> None:
        nonlocal here, most
        here += 1
        most = max(most, here)
        await asyncio.sleep(0.005)
        here -= 1

    for _ in range(60):
        meet.delay()
    shop.run(async_concurrency=7)
    assert most == 7


def test_a_message_is_acked_after_its_run_or_before_it_as_its_task_says(shop: Shop, gate: Gate) -> None:
    @shop.app.task(acks_late=False)
    def early() -> int:
        gate.pass_through("early")
        return 1

    @shop.app.task
    def late() -> int:
        gate.pass_through("late")
        return 2

    results = [early.apply_async(queue="early"), late.apply_async(queue="late")]
    with shop.app.worker(["early", "late"]):
        wait_until(lambda: len(gate.entered) == 2)
        assert (shop.sizes("early")["leased"], shop.sizes("late")["leased"]) == (0, 1)
        gate.open()
        assert [r.get(timeout=10) for r in results] == [1, 2]


def test_an_at_most_once_task_that_fails_is_gone_but_its_failure_is_stored(shop: Shop) -> None:
    @shop.app.task(acks_late=False)
    def bad() -> None:
        raise ValueError("once")

    result = bad.delay()
    shop.run()
    assert isinstance(result.get(timeout=5, propagate=False), ValueError)
    assert shop.sizes() == {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}


def test_a_message_that_outlives_its_workers_is_buried_and_its_neighbours_are_not(shop_with: Make) -> None:
    clock = ManualClock()
    shop = shop_with(clock)
    ran: list[str] = []

    @shop.app.task
    def step(who: str) -> None:
        ran.append(who)

    @shop.app.task(max_deliveries=5)
    def tougher() -> None:
        ran.append("tougher")

    poison = step.delay("poison")
    tougher.delay()
    for _ in range(3):  # three workers take both, and die
        assert len(shop.broker.inner.consumer(["default"], 30.0).receive(2, 0)) == 2
        clock.advance(31)
    step.delay("neighbour")
    shop.run()
    assert ran == ["tougher", "neighbour"]
    (letter,) = shop.dead()
    assert letter.id == poison.id
    assert "delivered 4 times" in letter.reason
    assert "max_deliveries is 3" in letter.reason
    assert isinstance(poison.get(timeout=5, propagate=False), TaskRejected)


def test_a_worker_without_queues_takes_from_all_that_tasks_and_settings_name(shop_with: Make) -> None:
    shop = shop_with(task_routes={"b": "routed"})

    @shop.app.task(name="a", queue="own")
    def a() -> None: ...

    @shop.app.task(name="b")
    def b() -> None: ...

    assert {"default", "own", "routed"} <= set(shop.app.worker().queues)
    assert shop.app.worker("one").queues == ["one"]
    assert shop.app.worker(["b", "a"]).queues == ["b", "a"]


def test_a_worker_is_started_once_at_a_time(shop: Shop) -> None:
    with shop.app.worker() as worker, pytest.raises(ConfigurationError, match="running already"):
        worker.start()


class Line:
    """Jobs for a bare executor: functions."""

    def __init__(self, slots: int) -> None:
        self.executor = ThreadExecutor(slots)
        self.ended: list[Any] = []
        self.executor.start(cast(Host, self))

    def run(self, job: Any) -> Any:
        return job()

    def done(self, job: Any, ended: Any) -> None:
        self.ended.append(ended)


def test_a_short_job_never_waits_behind_a_long_one_while_a_thread_is_free() -> None:
    line, opened = Line(2), threading.Event()
    try:
        # All threads are busy when the first of them would appoint a watch: there is nobody to be appointed.
        line.executor.submit([lambda: 0] * 3)
        for number in range(1, 41):
            line.executor.submit([lambda: 0] * 50)
            wait_until(lambda number=number: len(line.ended) == 3 + 50 * number)  # type: ignore[misc]
        line.executor.submit([lambda: opened.wait(20), lambda: "short"])
        wait_until(lambda: "short" in line.ended)
    finally:
        opened.set()
        line.executor.stop()


def test_where_threads_only_take_the_interpreter_from_each_other_one_runs_all_the_short_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.process_time", time.perf_counter)
    line = Line(4)
    try:
        line.executor.submit([threading.get_ident] * 40_000)
        wait_until(lambda: len(line.ended) == 40_000, 30)
    finally:
        line.executor.stop()
    ((_, most),) = Counter(line.ended[10_000:]).most_common(1)
    assert most > 0.6 * 30_000


@pytest.mark.parametrize("slots", [2, 3, 4])
def test_short_jobs_go_on_when_the_thread_that_runs_them_gets_stuck(
    monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    monkeypatch.setattr("time.process_time", time.perf_counter)
    line, opened = Line(slots), threading.Event()
    stuck = lambda: opened.wait(30)  # noqa: E731
    try:
        for _ in range(slots - 1):
            line.executor.submit([*([lambda: "short"] * 2000), stuck, *([lambda: "short"] * 2000)])
        wait_until(lambda: line.ended.count("short") == 4000 * (slots - 1), 20)
        opened.set()
        wait_until(lambda: len(line.ended) == 4001 * (slots - 1))
        line.executor.submit([lambda: "again"] * 500)
        wait_until(lambda: line.ended.count("again") == 500)
    finally:
        opened.set()
        line.executor.stop()
