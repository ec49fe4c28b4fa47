"""Ending what runs: `revoke(terminate=True)` on threads and on the loop, before, while and after a task runs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dray import ConfigurationError, TaskRevoked
from dray.crew import Crew
from dray.revocations import ENDING, terminated
from dray.testing.faults import wait_until

from .conftest import Shop

Value = Callable[..., Any]


@pytest.fixture(autouse=True)
def quick_to_hear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dray.leases.LOOK", 0.02)


@pytest.fixture
def crew(shop: Shop) -> Iterator[Crew]:
    """A worker that works beside the test, two tasks of each kind at a time."""
    with shop.app.worker(concurrency=2, async_concurrency=2, shutdown_timeout=0) as worker:
        yield worker._crew


class Endless:
    """A task of either kind that runs until it is ended, and how often it began and was ended."""

    def __init__(self, shop: Shop, kind: str) -> None:
        self.began = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)

        def on_a_thread() -> None:
            try:
                self.began.release()
                while True:
                    time.sleep(0.001)
            finally:
                self.ended.release()

        async def on_the_loop() -> None:
            try:
                self.began.release()
                await asyncio.Event().wait()
            finally:
                self.ended.release()

        self.task = shop.app.task(name="shop.endless")(on_a_thread if kind == "def" else on_the_loop)


KINDS = pytest.mark.parametrize("kind", ["def", "async"])


@KINDS
def test_a_running_task_is_ended(shop: Shop, crew: Crew, kind: str, value: Value) -> None:
    endless = Endless(shop, kind)
    result = endless.task.delay()
    assert endless.began.acquire(timeout=10)
    result.revoke(terminate=True)
    error = value(result)
    assert isinstance(error, TaskRevoked)
    assert "terminated while it ran (SIGTERM)" in str(error)
    assert result.state == "REVOKED"
    assert endless.ended.acquire(timeout=10)
    assert crew.runaways == 0
    assert shop.app.broker.queues() == []


@KINDS
def test_only_the_one_that_is_named_is_ended(shop: Shop, crew: Crew, kind: str, value: Value) -> None:
    endless = Endless(shop, kind)
    ended, other = endless.task.delay(), endless.task.delay()
    assert endless.began.acquire(timeout=10) and endless.began.acquire(timeout=10)
    shop.app.revoke([ended.id], terminate=True, signal="KILL")
    assert "(SIGKILL)" in str(value(ended))
    assert endless.ended.acquire(timeout=10)
    assert not endless.ended.acquire(timeout=0.1)
    assert other.state == "PENDING"


@KINDS
def test_one_that_waits_for_a_slot_never_begins(shop: Shop, crew: Crew, kind: str, value: Value) -> None:
    endless = Endless(shop, kind)
    running = endless.task.delay_many([(), ()])
    assert endless.began.acquire(timeout=10) and endless.began.acquire(timeout=10)
    waiting = endless.task.delay()
    waiting.revoke(terminate=True)
    for result in running:
        result.revoke(terminate=True)
    for result in running:
        assert isinstance(value(result), TaskRevoked)
    wait_until(lambda: shop.app.broker.queues() == [])
    assert waiting.state == "REVOKED"
    assert not endless.began.acquire(blocking=False)


def test_one_that_has_ended_keeps_its_result(shop: Shop, crew: Crew) -> None:
    result = shop.app.task(name="shop.quick")(lambda: "done").delay()
    assert result.get(timeout=10) == "done"
    result.revoke(terminate=True)
    assert shop.app.AsyncResult(result.id).get(timeout=5) == "done"


def test_a_plain_revoke_can_be_followed_by_one_that_ends_it(shop: Shop, crew: Crew, value: Value) -> None:
    endless = Endless(shop, "def")
    result = endless.task.delay()
    assert endless.began.acquire(timeout=10)
    result.revoke()
    # It is told, and does not listen.
    assert not endless.ended.acquire(timeout=0.2)
    assert shop.app.broker.sizes(["default"])["default"]["leased"] == 1
    result.revoke(terminate=True)
    assert isinstance(value(result), TaskRevoked)
    assert endless.ended.acquire(timeout=10)


def test_one_that_cannot_be_ended_is_revoked_all_the_same_and_its_slot_replaced(
    shop: Shop, crew: Crew, value: Value, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dray.deadlines.LAST_CHANCE", 0.2)
    began, let_go, ended = threading.Event(), threading.Event(), threading.Event()

    @shop.app.task
    def deaf() -> str:
        began.set()
        while not let_go.is_set():
            try:
                time.sleep(0.001)
            except BaseException:
                pass
        ended.set()
        return "too late"

    result = deaf.delay()
    assert began.wait(10)
    result.revoke(terminate=True)
    assert isinstance(value(result), TaskRevoked)
    assert crew.runaways == 1
    assert "cannot be ended" in caplog.text
    quick = shop.app.task(name="shop.quick")(lambda: "done")
    assert quick.delay().get(timeout=10) == "done"
    let_go.set()
    assert ended.wait(10)
    assert shop.app.AsyncResult(result.id).state == "REVOKED"


def test_it_is_not_charged_with_what_it_did_not_do(shop: Shop, crew: Crew, value: Value) -> None:
    """Neither a callback for failures nor a dead letter: somebody wanted it to end."""
    endless = Endless(shop, "def")
    called = threading.Event()
    note = shop.app.task(name="shop.note")(lambda *args: called.set())
    result = endless.task.apply_async(link_error=note.si())
    assert endless.began.acquire(timeout=10)
    result.revoke(terminate=True)
    assert isinstance(value(result), TaskRevoked)
    assert shop.dead() == []
    assert not called.is_set()


# The signal


@pytest.mark.parametrize("signal", ["SIGTERMS", "STOP", "", 0, 999, "9"])
def test_a_signal_that_ends_nothing_is_refused_in_words(shop: Shop, signal: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"a task can be ended with SIGTERM, SIGKILL, .*; asked for "):
        shop.app.revoke("id", terminate=True, signal=signal)
    assert list(shop.app.broker.cancelled(["id"])) == []


@pytest.mark.parametrize("signal", ["TERM", "SIGTERM", 15, ENDING["SIGTERM"]])
def test_a_signal_is_named_in_any_of_the_usual_ways(shop: Shop, signal: Any) -> None:
    shop.app.revoke("id", terminate=True, signal=signal)
    assert terminated(shop.app.broker, ["id"]) == {"id": 15}


def test_whoever_is_revoked_without_a_signal_is_not_to_be_ended(shop: Shop) -> None:
    shop.app.revoke(["a", "b"])
    shop.app.revoke("b", terminate=True, signal="HUP")
    assert terminated(shop.app.broker, ["a", "b"]) == {"a": None, "b": 1}
    assert terminated(shop.app.broker, []) == {}
