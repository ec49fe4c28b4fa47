"""Embedding: the engine inside any process - with, async with, two apps, a lifespan, a fork - and no trace left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dray import BrokerError, ConfigurationError, Dray, UrlError, current_app


def add(x: int, y: int = 1) -> int:
    return x + y


async def aadd(x: int, y: int = 1) -> int:
    await asyncio.sleep(0)
    return x + y


def new_app(name: str = "embedded", broker: str = "memory://", **settings: Any) -> Dray:
    app = Dray(name, broker=broker, set_as_current=False, **settings)
    app.task(name="add")(add)
    app.task(name="aadd")(aadd)
    return app


def engine_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("dray-")}


# with, async with


def test_a_worker_runs_within_the_block_and_both_kinds_of_tasks() -> None:
    app = new_app()
    with app.worker() as worker:
        assert app.tasks["add"].delay(1).get(timeout=10) == 2
        assert app.tasks["aadd"].delay(2).get(timeout=10) == 3
        assert worker.received == 2
    result = app.tasks["add"].delay(3)
    assert result.state == "PENDING"


def test_nothing_of_the_worker_is_left_behind() -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    policy = asyncio.get_event_loop_policy()
    before = engine_threads()
    app = new_app()
    with app.worker():
        app.tasks["add"].delay(1).get(timeout=10)
        app.tasks["aadd"].delay(1).get(timeout=10)
        assert {number: signal.getsignal(number) for number in handlers} == handlers
        started = engine_threads() - before
        assert {"dray-source", "dray-settler", "dray-keeper", "dray-loop"} < {thread.name for thread in started}
    for thread in started:
        thread.join(10)  # told to end; it may need a moment to hear it
    assert not any(thread.is_alive() for thread in started)
    assert asyncio.get_event_loop_policy() is policy
    assert {number: signal.getsignal(number) for number in handlers} == handlers


async def test_a_worker_starts_and_stops_inside_a_running_loop() -> None:
    app = new_app()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.create_task(tick())
    async with app.worker():
        results = [await app.tasks["add"].adelay(1), await app.tasks["aadd"].adelay(2)]
        assert [await result for result in results] == [2, 3]
    ticking.cancel()
    assert ticks > 10  # the loop went on meanwhile


async def test_the_loop_of_the_process_is_not_the_loop_of_the_tasks() -> None:
    app = new_app()

    @app.task(name="where")
    async def where() -> int:
        return id(asyncio.get_running_loop())

    async with app.worker():
        assert await (await where.adelay()) != id(asyncio.get_running_loop())


def test_a_worker_can_be_started_again_after_it_was_stopped() -> None:
    app = new_app()
    worker = app.worker()
    for n in range(3):
        with worker:
            assert app.tasks["add"].delay(n).get(timeout=10) == n + 1


def test_a_running_worker_cannot_be_started_twice() -> None:
    with new_app().worker() as worker, pytest.raises(ConfigurationError, match="running already"):
        worker.start()


def test_stopping_a_worker_that_never_started_does_nothing() -> None:
    worker = new_app().worker()
    worker.stop()
    worker.stop()
    assert worker.received == 0


def test_an_error_in_the_block_stops_the_worker_and_is_raised() -> None:
    app = new_app()
    with pytest.raises(RuntimeError, match="mine"), app.worker():
        raise RuntimeError("mine")
    assert app.tasks["add"].delay(1).state == "PENDING"


@pytest.mark.parametrize(
    ("broker", "error"),
    [("sqlite:////no/such/directory/q.db", BrokerError), ("memory://host", UrlError), ("nonsense", ConfigurationError)],
)
def test_a_broker_that_cannot_be_opened_is_an_error_at_the_start(broker: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        new_app(broker=broker).worker().start()


def test_run_until_idle_returns_how_many_it_took() -> None:
    app = new_app()
    app.tasks["add"].delay_many([(n,) for n in range(20)])
    assert app.worker().run_until_idle() == 20
    assert app.worker().run_until_idle() == 0


# A lifespan, as web frameworks have it


async def test_a_lifespan_runs_the_worker_for_as_long_as_the_web_application() -> None:
    app = new_app()

    @asynccontextmanager
    async def lifespan(web: object) -> AsyncIterator[None]:
        async with app.worker(concurrency=2):
            yield
        app.close()

    async def endpoint(x: int) -> dict[str, Any]:
        result = await app.tasks["aadd"].adelay(x)
        return {"id": result.id, "value": await result.aget(timeout=10)}

    async with lifespan(object()):
        answers = await asyncio.gather(*(endpoint(n) for n in range(20)))
    assert [answer["value"] for answer in answers] == list(range(1, 21))


# Two apps in one process


def test_two_apps_in_one_process_do_not_see_each_other() -> None:
    one, two = new_app("one"), new_app("two")
    one.task(name="only.one")(add)
    assert "only.one" not in two.tasks
    result = one.tasks["add"].delay(1)
    assert two.AsyncResult(result.id).state == "UNKNOWN"
    assert two.worker().run_until_idle() == 0
    with one.worker(), two.worker():
        assert result.get(timeout=10) == 2
        assert two.tasks["add"].delay(5).get(timeout=10) == 6
    one.conf.update(task_default_queue="elsewhere")
    assert two.conf.task_default_queue == "default"


def test_a_task_knows_which_app_runs_it() -> None:
    one, two = new_app("one"), new_app("two")
    results = [app.task(name="who")(lambda: current_app().name).delay() for app in (one, two)]
    with one.worker(), two.worker():
        assert [result.get(timeout=10) for result in results] == ["one", "two"]


def test_the_newest_app_is_the_current_one_unless_it_says_otherwise() -> None:
    first = Dray("first", broker="memory://")
    Dray("quiet", broker="memory://", set_as_current=False)
    assert current_app() is first
    second = Dray("second", broker="memory://")
    assert current_app() is second


# Connections


def test_making_an_app_reads_and_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRAY_TASK_MAX_DELIVERIES", "not a number")
    app = Dray("lazy", broker=f"sqlite:///{tmp_path}/q.db", set_as_current=False)
    app.task(name="add")(add)
    assert list(tmp_path.iterdir()) == []


def test_a_closed_app_opens_new_connections_when_it_is_used_again(tmp_path: Path) -> None:
    app = new_app(broker=f"sqlite:///{tmp_path}/q.db")
    result = app.tasks["add"].delay(1)
    app.close()
    app.worker().run_until_idle()
    app.close()
    assert app.AsyncResult(result.id).get(timeout=10) == 2
    app.close()
    app.close()


async def test_aget_follows_the_app_to_its_new_connections(tmp_path: Path) -> None:
    app = new_app(broker=f"sqlite:///{tmp_path}/q.db")
    async with app.worker():
        assert await (await app.tasks["add"].adelay(1)) == 2
    app.close()
    async with app.worker():
        assert await (await app.tasks["add"].adelay(2)).aget(timeout=10) == 3
    app.close()


def test_many_threads_may_send_through_one_app(tmp_path: Path) -> None:
    app = new_app(broker=f"sqlite:///{tmp_path}/q.db")

    def send() -> None:
        for n in range(20):
            app.tasks["add"].delay(n)

    threads = [threading.Thread(target=send) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert app.worker().run_until_idle() == 100
    app.close()


# Fork

forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

_FORK = """
import os, sys
from dray import Dray

app = Dray("forked", broker=sys.argv[1], set_as_current=False)
add = app.task(name="add")(lambda x: x + 1)
sent = [add.delay(0).id]                      # the parent has its connections open
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.close(reading)
    ids = [add.delay(n).id for n in range(1, 4)]
    os.write(writing, " ".join(ids).encode())
    os._exit(0)
os.close(writing)
assert os.waitpid(child, 0)[1] == 0
sent += os.read(reading, 10_000).decode().split()
sent.append(add.delay(4).id)                  # the parent's connection is none the worse
assert len(set(sent)) == 5, sent              # the ids of parent and child differ
assert app.worker().run_until_idle() == 5
print([app.AsyncResult(id).get(timeout=10) for id in sent])
"""


@forking
def test_a_forked_child_sends_safely_and_so_does_its_parent(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORK, f"sqlite:///{tmp_path}/q.db"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stderr == ""
    assert ran.stdout.strip() == "[1, 2, 3, 4, 5]"


_BESIDE_A_WORKER = """
import os, sys
from dray import Dray

running = Dray("running", broker="memory://", set_as_current=False)
app = Dray("forked", broker=sys.argv[1], set_as_current=False)
add = app.task(name="add")(lambda x: x + 1)
busy = running.task(name="busy")(lambda: None)
with running.worker():
    busy.delay_many([()] * 2000)
    children = []
    for n in range(5):                        # while the engine's threads are at work
        child = os.fork()
        if child == 0:
            add.delay(n)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 5
print(app.worker().run_until_idle())
"""


@forking
def test_children_forked_beside_a_running_worker_send_safely(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _BESIDE_A_WORKER, f"sqlite:///{tmp_path}/q.db"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ran.stdout.strip(), ran.stderr) == ("5", "")
