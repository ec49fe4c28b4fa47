"""The pool `solo`: everything in the thread that calls `run()`, the main one, where a debugger has the terminal."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dray import ConfigurationError, SoftTimeLimitExceeded, TimeLimitExceeded
from dray.executors.solo import SIGNAL
from dray.testing.background import Background
from dray.testing.faults import wait_until

from .conftest import Shop

Value = Callable[..., Any]


@pytest.fixture(autouse=True)
def impatient_with_runaways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dray.deadlines.LAST_CHANCE", 0.2)


def busy(seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def burst(shop: Shop, **options: Any) -> int:
    return shop.app.worker(pool="solo", **{"shutdown_timeout": 0, **options}).run_until_idle()


def in_a_thread(shop: Shop) -> None:
    thread = threading.Thread(target=lambda: burst(shop))
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


# Where it runs


def test_def_and_async_def_tasks_run_in_the_thread_that_called_run_one_after_the_other(shop: Shop) -> None:
    threads, at_once, most = set(), [0], [0]

    def note() -> None:
        threads.add(threading.current_thread())
        most[0] = max(most[0], at_once[0])

    @shop.app.task
    def plain() -> None:
        at_once[0] += 1
        note()
        at_once[0] -= 1

    @shop.app.task
    async def coroutine() -> None:
        at_once[0] += 1
        await asyncio.sleep(0.01)
        note()
        at_once[0] -= 1

    for task in (plain, coroutine) * 3:
        task.delay()
    assert burst(shop) == 6
    assert threads == {threading.main_thread()}
    assert most == [1]


def test_all_coroutines_of_a_worker_run_on_one_loop(shop: Shop) -> None:
    loops = []

    @shop.app.task
    async def coroutine() -> None:
        loops.append(asyncio.get_running_loop())

    coroutine.delay_many([()] * 3)
    burst(shop)
    assert len(loops) == 3 and len(set(loops)) == 1
    assert loops[0].is_closed()


def test_it_has_one_slot_whatever_is_asked_for(shop: Shop) -> None:
    worker = shop.app.worker(pool="solo", concurrency=8)
    assert worker.concurrency == 1
    with pytest.raises(ConfigurationError, match=r"the pool 'solo' runs 1 task\(s\).*asked for 2"):
        worker.resize(2)


def test_it_needs_run(shop: Shop) -> None:
    with pytest.raises(ConfigurationError, match="'solo' runs tasks in the thread that calls `run"):
        shop.app.worker(pool="solo").start()


def test_what_is_global_to_the_process_is_as_it_was_afterwards(shop: Shop) -> None:
    before = [signal.getsignal(number) for number in (SIGNAL, signal.SIGINT, signal.SIGTERM)]
    seen = []
    shop.app.task(name="shop.look")(lambda: seen.append(signal.getsignal(SIGNAL))).delay()
    burst(shop)
    assert seen != [before[0]]
    assert [signal.getsignal(number) for number in (SIGNAL, signal.SIGINT, signal.SIGTERM)] == before


def test_a_debugger_has_the_terminal_for_itself(tmp_path: Path) -> None:
    script = tmp_path / "shop.py"
    script.write_text(
        textwrap.dedent(
            """
            from dray import Dray

            app = Dray("shop", broker="memory://", worker_pool="solo")

            @app.task
            def priced(amount):
                total = amount * 2
                breakpoint()
                return total

            if __name__ == "__main__":
                result = priced.delay(21)
                app.worker().run_until_idle()
                print("came to", result.get())
            """
        )
    )
    commands = "p 'total is %d' % total\nwhere\ntotal = 50\ncontinue\n"
    ran = subprocess.run(
        [sys.executable, str(script)], input=commands, capture_output=True, text=True, timeout=60, check=False
    )
    assert "total is 42" in ran.stdout, ran.stderr
    assert "came to 50" in ran.stdout


# Limits


@pytest.mark.parametrize("run", [burst, in_a_thread])
@pytest.mark.parametrize("kind", ["def", "async"])
@pytest.mark.parametrize(
    ("limit", "error"), [("soft_time_limit", SoftTimeLimitExceeded), ("time_limit", TimeLimitExceeded)]
)
def test_limits_end_a_task(shop: Shop, run: Any, kind: str, limit: str, error: type[Exception], value: Value) -> None:
    async def waits() -> None:
        await asyncio.sleep(30)

    late = shop.app.task(name="shop.late", **{limit: 0.1})(busy if kind == "def" else waits).delay()
    after = shop.app.task(name="shop.quick")(lambda: "done").delay()
    run(shop)
    assert isinstance(value(late), error)
    assert value(after) == "done"


def test_a_system_call_is_broken_off(shop: Shop, value: Value) -> None:
    late = shop.app.task(name="shop.late", time_limit=0.1)(lambda: time.sleep(30)).delay()
    began = time.monotonic()
    burst(shop)
    assert isinstance(value(late), TimeLimitExceeded)
    assert time.monotonic() - began < 10


def test_the_soft_limit_can_be_caught_in_the_middle_of_a_system_call(shop: Shop, value: Value) -> None:
    def work() -> str:
        try:
            time.sleep(30)
        except SoftTimeLimitExceeded:
            return "so far"
        return "all"

    result = shop.app.task(name="shop.work", soft_time_limit=0.1)(work).delay()
    burst(shop)
    assert value(result) == "so far"


def test_a_task_that_takes_the_signal_for_itself_does_not_have_it_for_the_next_one(shop: Shop, value: Value) -> None:
    shop.app.task(name="shop.thief")(lambda: signal.signal(SIGNAL, signal.SIG_IGN) and None).delay()
    late = shop.app.task(name="shop.late", time_limit=0.1)(lambda: time.sleep(30)).delay()
    before = signal.getsignal(SIGNAL)
    burst(shop)
    assert isinstance(value(late), TimeLimitExceeded)
    assert signal.getsignal(SIGNAL) == before


def test_many_tasks_that_end_at_their_limit_hit_nobody_else(shop: Shop, value: Value) -> None:
    late = shop.app.task(name="shop.late", soft_time_limit=0.004, time_limit=0.006)(busy)
    innocent = shop.app.task(name="shop.innocent", time_limit=None)(lambda: sum(range(200)))
    results = []
    others = []
    for n in range(300):
        results.append(late.delay(0.002 + 0.000015 * n))
        others.append(innocent.delay())
    burst(shop)
    assert [value(other) for other in others] == [19900] * 300
    assert {type(value(result)) for result in results} <= {type(None), SoftTimeLimitExceeded, TimeLimitExceeded}
    assert {type(value(result)) for result in results} > {type(None)}


def test_a_coroutine_that_swallows_its_end_leaves_the_slot_to_others(shop: Shop, value: Value) -> None:
    async def deaf() -> None:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                pass

    late = shop.app.task(name="shop.deaf", time_limit=0.1)(deaf).delay()
    after = shop.app.task(name="shop.quick")(lambda: "done").delay()
    burst(shop)
    assert isinstance(value(late), TimeLimitExceeded)
    assert value(after) == "done"


# Stopping


@pytest.mark.parametrize("kind", ["def", "async"])
def test_a_stop_lets_a_running_task_end(shop: Shop, kind: str) -> None:
    began, go_on = threading.Event(), threading.Event()

    def on_a_thread() -> str:
        began.set()
        go_on.wait(10)
        return "in time"

    async def on_the_loop() -> str:
        began.set()
        await asyncio.to_thread(go_on.wait, 10)
        return "in time"

    result = shop.app.task(name="shop.work")(on_a_thread if kind == "def" else on_the_loop).delay()
    worker = shop.app.worker(pool="solo", shutdown_timeout=20)

    def stop() -> None:
        assert began.wait(10)
        worker.request_stop()
        wait_until(lambda: worker._source is None or worker._source.finished.is_set())
        go_on.set()

    stopping = Background(stop)
    worker.run()
    stopping.result()
    assert result.get(timeout=5) == "in time"


@pytest.mark.parametrize("kind", ["def", "async"])
def test_what_outlasts_the_grace_is_given_back_and_ended(shop: Shop, kind: str) -> None:
    began, runs = threading.Event(), []

    def on_a_thread() -> str:
        runs.append(1)
        began.set()
        if len(runs) == 1:
            time.sleep(30)
        return "in time"

    async def on_the_loop() -> str:
        runs.append(1)
        began.set()
        if len(runs) == 1:
            await asyncio.sleep(30)
        return "in time"

    result = shop.app.task(name="shop.work")(on_a_thread if kind == "def" else on_the_loop).delay()
    worker = shop.app.worker(pool="solo", shutdown_timeout=0.1)
    stopping = Background(lambda: began.wait(10) and worker.request_stop())
    before = time.monotonic()
    worker.run()
    stopping.result()
    assert time.monotonic() - before < 15
    (waiting,) = shop.app.broker.peek("default", 10)
    assert (waiting.state, waiting.delivery_count) == ("ready", 0)
    burst(shop)
    assert result.get(timeout=5) == "in time"


@pytest.mark.parametrize("kind", ["def", "async"])
def test_ctrl_c_gives_the_running_task_back_and_ends_the_worker(shop: Shop, kind: str) -> None:
    runs = []

    def on_a_thread() -> None:
        runs.append(1)
        if len(runs) == 1:
            os.kill(os.getpid(), signal.SIGINT)
            busy(5)

    async def on_the_loop() -> None:
        runs.append(1)
        if len(runs) == 1:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(5)

    result = shop.app.task(name="shop.work")(on_a_thread if kind == "def" else on_the_loop).delay()
    with pytest.raises(KeyboardInterrupt):
        burst(shop)
    assert len(runs) == 1
    burst(shop)
    assert result.state == "SUCCESS"
