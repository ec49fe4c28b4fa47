"""What becomes of a task that returns, raises, steers itself, or takes its worker by surprise."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

from dray import Ignore, ManualClock, Reject, Retry, TaskExpired, TaskFailed, TaskRejected, TaskRevoked
from dray.testing.faults import wait_until

from .conftest import Gate, Shop

Make = Callable[..., Shop]


def test_def_and_async_def_tasks_run_in_one_worker(shop: Shop) -> None:
    @shop.app.task
    def double(x: int) -> int:
        return 2 * x

    @shop.app.task
    async def triple(x: int) -> int:
        await asyncio.sleep(0)
        return 3 * x

    results = [task.delay(n) for n in range(50) for task in (double, triple)]
    assert shop.run() == 100
    assert [r.get(timeout=5) for r in results] == [factor * n for n in range(50) for factor in (2, 3)]
    assert shop.sizes() == {"ready": 0, "delayed": 0, "leased": 0, "dead": 0}


def test_a_worker_can_be_run_again_and_again(shop: Shop) -> None:
    @shop.app.task
    def one() -> int:
        return 1

    worker = shop.app.worker()
    for _ in range(3):
        one.delay()
        assert worker.run_until_idle() == 1
    with worker:
        assert one.delay().get(timeout=10) == 1
        # It went on after the queue was empty: the burst of before is over.
        assert one.delay().get(timeout=10) == 1


async def test_a_worker_lives_in_an_async_with_block(shop: Shop) -> None:
    @shop.app.task
    async def shout(text: str) -> str:
        return text.upper()

    async with shop.app.worker() as worker:
        assert await shout.delay("hello").aget(timeout=10) == "HELLO"
        assert "Worker" in repr(worker)


def test_two_workers_of_one_app_share_the_work(shop: Shop, gate: Gate) -> None:
    @shop.app.task
    def meet(n: int) -> int:
        gate.pass_through(n)
        return n

    with shop.app.worker(concurrency=2, name="a"), shop.app.worker(concurrency=2, name="b"):
        results = [meet.delay(n) for n in range(4)]
        wait_until(lambda: len(gate.entered) == 4)
        gate.open()
        assert [r.get(timeout=10) for r in results] == [0, 1, 2, 3]
        assert {r.worker for r in results} == {"a", "b"}


@pytest.mark.parametrize("leaving", [SystemExit(3), KeyboardInterrupt("no"), GeneratorExit(), BaseException("bare")])
@pytest.mark.parametrize("kind", ["def", "async"])
def test_what_would_end_a_process_ends_only_the_task(
    shop: Shop, leaving: BaseException, kind: str, value: Callable[..., Any]
) -> None:
    def raising() -> None:
        raise leaving

    async def araising() -> None:
        raise leaving

    @shop.app.task
    def after() -> str:
        return "still here"

    bad = shop.app.task(raising if kind == "def" else araising).delay()
    good = after.delay()
    shop.run(concurrency=1)
    assert bad.state == "FAILURE"
    # Raised where the result is asked for it would end that process: it comes as a failure that names it.
    assert isinstance(value(bad), TaskFailed)
    assert value(bad).exc_type == type(leaving).__name__
    assert good.get(timeout=5) == "still here"


def test_an_exit_in_a_background_coroutine_does_not_stop_the_loop(shop: Shop) -> None:
    async def leave() -> None:
        raise SystemExit(1)

    background: list[asyncio.Task[None]] = []

    @shop.app.task
    async def start() -> None:
        background.append(asyncio.create_task(leave()))

    @shop.app.task
    async def after() -> str:
        return "still here"

    with shop.app.worker():
        start.delay().get(timeout=10)
        assert after.delay().get(timeout=10) == "still here"
    assert isinstance(background[0].exception(), SystemExit)


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")

    __repr__ = __str__


class Picky(Exception):
    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(code, where)
        self.lock = sys.stdout  # something no pickle takes

    def __reduce__(self) -> Any:
        raise TypeError("not me")


class Word(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "error",
    [
        Silent(),
        Picky(4, where="here"),
        OSError("a bad name \udce4 in a folder"),
        ValueError(2**100),
        ValueError(Word("one word")),
        ValueError(object(), [1, 2]),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
        ExceptionGroup("many", [ValueError("a"), KeyError("b")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_exception_can_be_stored_as_a_failure(shop: Shop, error: Exception, value: Callable[..., Any]) -> None:
    @shop.app.task(track_started=True)
    def bad() -> None:
        raise error

    @shop.app.task
    def good() -> int:
        return 1

    results = [good.delay(), bad.delay(), good.delay()]
    shop.run()
    assert [r.state for r in results] == ["SUCCESS", "FAILURE", "SUCCESS"]
    assert isinstance(value(results[1]), type(error) | TaskFailed)
    assert shop.sizes()["leased"] == 0


def test_a_result_that_cannot_be_serialised_is_a_failure_that_says_so(shop: Shop, value: Callable[..., Any]) -> None:
    @shop.app.task
    def bad() -> object:
        return object()

    failed: list[str] = []

    @shop.app.task
    def on_error(id: str) -> None:
        failed.append(id)

    result = bad.apply_async(link_error=on_error.s())
    shop.run()
    assert result.state == "FAILURE"
    assert "object" in str(value(result))
    assert failed == [result.id]


@pytest.mark.parametrize(
    "steering",
    [Retry(countdown="soon"), Retry(eta="tomorrow"), Reject("no", requeue=True, delay="later")],  # type: ignore[arg-type]
    ids=["countdown", "eta", "delay"],
)
def test_a_task_that_steers_wrongly_costs_one_message_and_no_thread(shop: Shop, steering: Exception) -> None:
    @shop.app.task
    def wrong() -> None:
        raise steering

    @shop.app.task
    def good() -> int:
        return 1

    bad = wrong.delay()
    results = [good.delay() for _ in range(5)]
    with shop.app.worker(concurrency=1, lease=0.3):
        assert [r.get(timeout=10) for r in results] == [1] * 5
        wait_until(lambda: bad.ready())
    assert bad.state in ("FAILURE", "REJECTED")
    assert shop.sizes()["leased"] == 0


def test_reject_ignore_and_requeue_do_what_they_say(shop: Shop, value: Callable[..., Any]) -> None:
    seen: list[int] = []

    @shop.app.task(bind=True)
    def steer(self: Any, how: str) -> None:
        if how == "reject":
            raise Reject("not today")
        if how == "ignore":
            raise Ignore
        seen.append(self.request.delivery_count)
        if len(seen) < 3:
            raise Reject(requeue=True, delay=0.0)

    reject, ignore, requeue = (steer.delay(how) for how in ("reject", "ignore", "requeue"))
    shop.run()
    assert isinstance(value(reject), TaskRejected)
    assert [(letter.id, letter.reason) for letter in shop.dead()] == [(reject.id, "not today")]
    assert ignore.state == "UNKNOWN"
    assert seen == [1, 2, 3]
    assert requeue.state == "SUCCESS"


def test_what_expired_before_it_came_is_not_run(shop_with: Make, value: Callable[..., Any]) -> None:
    clock = ManualClock()
    shop = shop_with(clock)
    ran = []

    @shop.app.task
    def late() -> None:
        ran.append(1)

    result = late.apply_async(expires=10)
    clock.advance(11)
    shop.run()
    assert not ran
    assert isinstance(value(result), TaskExpired)


def test_what_expires_while_it_waits_for_a_thread_is_not_run(shop_with: Make, gate: Gate) -> None:
    clock = ManualClock()
    shop = shop_with(clock)

    @shop.app.task
    def step(who: str) -> None:
        gate.pass_through(who)

    shop.app.conf.worker_prefetch_multiplier = 2
    worker = shop.app.worker(concurrency=1, burst=True)
    step.delay("first")
    late = step.apply_async(("late",), expires=5)
    with worker:
        wait_until(lambda: gate.entered == ["first"] and shop.sizes()["leased"] == 2)
        clock.advance(6)
        gate.open()
        wait_until(lambda: late.state == "EXPIRED")
    assert gate.entered == ["first"]


def test_what_is_revoked_while_it_waits_for_a_thread_is_not_run(shop: Shop, gate: Gate) -> None:
    @shop.app.task
    def step(who: str) -> None:
        gate.pass_through(who)

    shop.app.conf.worker_prefetch_multiplier = 2
    first, second = step.delay("first"), step.delay("second")
    with shop.app.worker(concurrency=1, lease=0.6):
        wait_until(lambda: gate.entered == ["first"] and shop.sizes()["leased"] == 2)
        second.revoke()
        asked = shop.broker.calls["cancelled"]
        wait_until(lambda: shop.broker.calls["cancelled"] > asked + 1)
        gate.open()
        assert isinstance(second.get(timeout=10, propagate=False), TaskRevoked)
        assert first.get(timeout=10) is None
    assert gate.entered == ["first"]


def test_a_revoked_coroutine_is_cancelled_and_its_worker_goes_on(shop: Shop) -> None:
    began = []

    @shop.app.task
    async def endless() -> None:
        began.append(1)
        await asyncio.Event().wait()

    @shop.app.task
    async def other() -> int:
        return 1

    with shop.app.worker(lease=0.6):
        result = endless.delay()
        wait_until(lambda: began)
        result.revoke()
        assert isinstance(result.get(timeout=10, propagate=False), TaskRevoked)
        assert other.delay().get(timeout=10) == 1


def test_a_coroutine_revoked_in_its_own_hook_still_ends(shop: Shop) -> None:
    from dray.task import AsyncTask

    began = []

    class Hooked(AsyncTask[..., Any]):
        async def on_success(self, *args: Any) -> None:  # type: ignore[override]
            began.append(1)
            await asyncio.Event().wait()

    @shop.app.task(base=Hooked)
    async def quick() -> int:
        return 1

    with shop.app.worker(lease=0.6):
        result = quick.delay()
        wait_until(lambda: began)
        result.revoke()
        wait_until(lambda: shop.sizes()["leased"] == 0)
    assert result.ready()


def test_a_callback_that_cannot_be_built_costs_one_message_and_no_thread(shop: Shop) -> None:
    @shop.app.task
    def good() -> int:
        return 1

    @shop.app.task
    def callback(x: int) -> None: ...

    # Written by a sender that may write pickle; this worker may not read it.
    result = good.apply_async(link=callback.s().set(serializer="pickle"))
    others = [good.delay() for _ in range(5)]
    with shop.app.worker(concurrency=1):
        assert [r.get(timeout=10) for r in others] == [1] * 5
        wait_until(lambda: shop.sizes()["leased"] == 0)
    assert [letter.id for letter in shop.dead()] == [result.id]


def test_links_run_after_success_and_error_links_after_failure(shop: Shop) -> None:
    heard: list[Any] = []

    @shop.app.task
    def half(x: int) -> float:
        return 10 / x

    @shop.app.task
    def note(*args: Any) -> None:
        heard.append(args)

    good = half.apply_async((2,), link=note.s("ok"), link_error=note.s("bad"))
    bad = half.apply_async((0,), link=note.s("ok"), link_error=note.s("bad"))
    shop.run()
    assert sorted(heard, key=str) == sorted([(5.0, "ok"), (bad.id, "bad")], key=str)
    assert good.state == "SUCCESS"


def test_delayed_tasks_run_when_they_are_due_and_not_before(shop_with: Make) -> None:
    clock = ManualClock()
    shop = shop_with(clock)
    ran = []

    @shop.app.task
    def later(n: int) -> None:
        ran.append(n)

    for n, delay in enumerate((5, 1, 3)):
        later.apply_async((n,), countdown=delay)
    assert shop.run() == 0
    clock.advance(0.999)
    assert shop.run() == 0
    for seconds, seen in ((0.001, [1]), (2, [1, 2]), (2, [1, 2, 0])):
        clock.advance(seconds)
        assert shop.run() == 1
        assert ran == seen
    assert shop.sizes()["delayed"] == 0


def test_run_until_idle_leaves_delayed_tasks_where_they_are(shop: Shop) -> None:
    @shop.app.task
    def later() -> None: ...

    later.apply_async(countdown=3600)
    later.delay()
    assert shop.run() == 1
    assert shop.sizes() == {"ready": 0, "delayed": 1, "leased": 0, "dead": 0}


def test_run_until_idle_runs_what_its_tasks_send_and_their_immediate_retries(shop: Shop) -> None:
    depth = []

    @shop.app.task(bind=True, max_retries=2)
    def down(self: Any, n: int) -> None:
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        depth.append(n)
        if n:
            down.delay(n - 1)

    down.delay(10)
    shop.run()
    assert depth == list(range(10, -1, -1))
