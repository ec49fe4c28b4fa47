"""How many run at once: lanes, resizing a running worker, autoscaling."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from dray import ConfigurationError, SettingError
from dray.autoscale import CALM, Autoscaler
from dray.executors.threads import ThreadExecutor
from dray.testing.faults import wait_until

from .conftest import Gate, Shop

Make = Callable[..., Shop]


# Lanes


def test_def_and_async_def_tasks_do_not_take_each_others_slots(shop: Shop, gate: Gate) -> None:
    shop.app.task(name="shop.long", queue="long")(gate.pass_through).delay_many([()] * 2)

    @shop.app.task(queue="quick")
    async def quick() -> str:
        return "done"

    with shop.app.worker(concurrency=2, async_concurrency=1):
        wait_until(lambda: len(gate.entered) == 2)
        assert quick.delay().get(timeout=10) == "done"
        gate.open()


@pytest.mark.parametrize("pool", ["asyncio", "loop"])
def test_a_pool_for_coroutines_chosen_for_everything_leaves_def_tasks_to_threads(shop_with: Make, pool: str) -> None:
    shop = shop_with(worker_concurrency=None)
    most, at_once, threads = [0], [0], []

    @shop.app.task
    async def waits() -> None:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        await asyncio.sleep(0.02)
        at_once[0] -= 1

    @shop.app.task
    def plain() -> None:
        threads.append(threading.current_thread().name)

    waits.delay_many([()] * 9)
    plain.delay()
    worker = shop.app.worker(pool=pool, concurrency=3)
    assert (worker.pool, worker.async_pool, worker.async_concurrency) == ("threads", pool, 3)
    assert worker.concurrency >= 4
    worker.run_until_idle()
    assert most == [3]
    assert threads[0].startswith("dray-thread-")


def test_a_pool_that_does_not_exist_is_named_with_the_nearest_one(shop: Shop) -> None:
    with pytest.raises(ConfigurationError, match="thread.*threads"):
        shop.app.worker(pool="thread")


@pytest.mark.parametrize(
    ("pool", "reason"), [("threads", "runs no `async def` tasks"), ("solo", "needs the main thread")]
)
def test_what_cannot_run_coroutines_beside_another_pool_is_refused(shop: Shop, pool: str, reason: str) -> None:
    others = {"threads": "processes", "solo": "threads"}
    with pytest.raises(ConfigurationError, match=reason):
        shop.app.worker(pool=others[pool], async_pool=pool)


# Resizing


def test_a_running_worker_gets_more_slots(shop: Shop, gate: Gate) -> None:
    shop.app.task(name="shop.long")(gate.pass_through).delay_many([()] * 5)
    with shop.app.worker(concurrency=1) as worker:
        wait_until(lambda: len(gate.entered) == 1)
        worker.resize(3)
        wait_until(lambda: len(gate.entered) == 3)
        assert worker.concurrency == 3
        gate.open()


def test_a_running_worker_gets_fewer_slots_when_what_runs_has_ended(shop: Shop, gate: Gate) -> None:
    shop.app.task(name="shop.long")(gate.pass_through).delay_many([()] * 4)
    with shop.app.worker(concurrency=4) as worker:
        wait_until(lambda: len(gate.entered) == 4)
        worker.resize(1)
        assert worker.running == 4
        gate.open()
        wait_until(lambda: worker.running == 0)
        most, at_once, lock = [0], [0], threading.Lock()

        def counted() -> None:
            with lock:
                at_once[0] += 1
                most[0] = max(most[0], at_once[0])
            threading.Event().wait(0.005)
            with lock:
                at_once[0] -= 1

        results = shop.app.task(name="shop.counted")(counted).delay_many([()] * 10)
        assert [result.get(timeout=10) for result in results] == [None] * 10
        assert most == [1]


def test_slots_can_go_up_and_down_while_work_flows(shop: Shop) -> None:
    results = shop.app.task(name="shop.quick")(lambda n: n).delay_many([(n,) for n in range(2000)])
    with shop.app.worker(concurrency=2) as worker:
        wait_until(lambda: worker.received)
        assert results[0].get(timeout=10) == 0
        for slots in [8, 1, 5, 2, 1, 16, 3] * 5:
            worker.resize(slots)
        assert [result.get(timeout=30) for result in results] == list(range(2000))
        wait_until(lambda: len(worker._crew._executors["def"]._seats) == 3)  # type: ignore[attr-defined]


def test_less_than_one_slot_is_refused(shop: Shop) -> None:
    worker = shop.app.worker()
    with pytest.raises(ConfigurationError, match="at least 1 task.*asked for 0"):
        worker.resize(0)


class Ran:
    """A host that runs what it is given: callables, in place of jobs."""

    def __init__(self) -> None:
        self.done_with: list[Any] = []

    def run(self, job: Any) -> Any:
        return job()

    def done(self, job: Any, ended: Any) -> None:
        self.done_with.append(ended)


def test_a_thread_that_was_given_up_is_replaced_once_and_leaves_when_it_comes_back() -> None:
    pool = ThreadExecutor(1)
    host, stuck, entered = Ran(), threading.Event(), threading.Event()

    def blocked() -> str:
        entered.set()
        stuck.wait(10)
        return "late"

    before = set(threading.enumerate())

    def its_threads() -> int:
        return len({thread for thread in threading.enumerate() if thread.name.startswith("dray-thread-")} - before)

    pool.start(host)  # type: ignore[arg-type]
    try:
        pool.submit([blocked])
        assert entered.wait(10)
        pool.abandon(blocked)
        pool.abandon(blocked)
        pool.submit([lambda: "meanwhile"])
        wait_until(lambda: host.done_with == ["meanwhile"])
        assert its_threads() == 2
        stuck.set()
        wait_until(lambda: its_threads() == 1)
        pool.submit([lambda: "afterwards"])
        wait_until(lambda: host.done_with == ["meanwhile", "late", "afterwards"])
        pool.abandon(blocked)
        assert its_threads() == 1
    finally:
        pool.stop()
    wait_until(lambda: its_threads() == 0)


# Autoscaling


class Scaled:
    """What an autoscaler sees of a worker."""

    name = "scaled"

    def __init__(self, slots: int) -> None:
        self.concurrency = slots
        self.busy = 0

    def running_jobs(self) -> list[Any]:
        coroutines = [SimpleNamespace(kind="async")] * 50
        return [SimpleNamespace(kind="def")] * self.busy + coroutines

    def resize(self, slots: int) -> None:
        self.concurrency = slots


def test_slots_are_doubled_up_to_the_most_while_all_are_taken(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dray.worker")
    worker = Scaled(3)
    scaler = Autoscaler(worker, (10, 3))  # type: ignore[arg-type]
    grown = []
    for second in range(5):
        worker.busy = worker.concurrency
        scaler.look(float(second))
        grown.append(worker.concurrency)
    assert grown == [6, 10, 10, 10, 10]
    assert [record.getMessage() for record in caplog.records] == [
        "scaled runs 6 task(s) at a time from now on: all 3 are taken",
        "scaled runs 10 task(s) at a time from now on: all 6 are taken",
    ]


def test_slots_that_nobody_needed_for_a_while_are_given_up_one_by_one() -> None:
    worker = Scaled(5)
    scaler = Autoscaler(worker, (5, 2))  # type: ignore[arg-type]
    worker.busy = 1
    shrunk = []
    for second in range(int(CALM) * 5):
        scaler.look(float(second))
        if not shrunk or shrunk[-1][1] != worker.concurrency:
            shrunk.append((second, worker.concurrency))
    assert shrunk == [(0, 5), (30, 4), (60, 3), (90, 2)]


def test_slots_that_are_needed_now_and_then_are_kept() -> None:
    worker = Scaled(4)
    scaler = Autoscaler(worker, (4, 1))  # type: ignore[arg-type]
    for second in range(int(CALM) * 10):
        worker.busy = 4 if second % 20 == 0 else 0
        scaler.look(float(second))
    assert worker.concurrency == 4


def test_autoscaling_a_real_worker_brings_slots_when_they_are_needed(
    shop_with: Make, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dray.autoscale.LOOK", 0.02)
    monkeypatch.setattr("dray.autoscale.CALM", 0.1)
    shop = shop_with(worker_autoscale=[4, 1])
    shop.app.task(name="shop.long")(gate.pass_through).delay_many([()] * 6)
    with shop.app.worker() as worker:
        wait_until(lambda: len(gate.entered) == 4 and worker.concurrency == 4)
        gate.open()
        wait_until(lambda: worker.concurrency == 1)


@pytest.mark.parametrize("bounds", ["3,10", [1, 2]])
def test_bounds_the_wrong_way_round_are_refused_with_the_right_way(shop_with: Make, bounds: Any) -> None:
    with pytest.raises(SettingError, match=r"MAX,MIN, the larger number first; got (3,10: say 10,3|1,2: say 2,1)\?"):
        shop_with(worker_autoscale=bounds).app.worker()


@pytest.mark.parametrize("bounds", ["10", "10,3,1", "ten,3", "0,0", "5,-1"])
def test_what_are_no_bounds_is_refused(shop_with: Make, bounds: str) -> None:
    with pytest.raises(SettingError, match="worker_autoscale"):
        shop_with(worker_autoscale=bounds).app.worker()
