"""Results: states, values, exceptions and times as they are read from anywhere, and how they are waited for."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import logging
import sys
import types
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from dray import (
    AsyncResult,
    BlockingCallError,
    Dray,
    ManualClock,
    NotSupported,
    ResultTimeout,
    SerializationError,
    Task,
    TaskExpired,
    TaskFailed,
    TaskRejected,
    TaskRevoked,
    UnknownResult,
)
from dray.testing import Driver
from dray.testing.background import HANGS, Background

START = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


@dataclasses.dataclass
class Invoice:
    id: uuid.UUID
    total: Decimal


def add(x: int, y: int = 1) -> int:
    return x + y


def invoice(id: uuid.UUID) -> Invoice:
    return Invoice(id, Decimal("1.10"))


def fail(text: str = "no") -> None:
    raise ValueError(text, 3)


class OutOfStock(Exception):
    """An exception whose __init__ cannot be called with its args."""

    def __init__(self, *, item: str, left: int) -> None:
        super().__init__(f"{item}: {left} left")
        self.item = item


Run = Callable[..., AsyncResult[Any]]


@pytest.fixture
def run(dray_app: Dray, dray_worker: Driver) -> Run:
    """Send one call of a function, run it, and return its result."""

    def send_and_run(function: Callable[..., Any], *args: Any, **options: Any) -> AsyncResult[Any]:
        task = dray_app.task(**options)(function)
        result = task.delay(*args)
        dray_worker.run_until_idle()
        return result

    return send_and_run


# States


def test_a_result_goes_from_pending_to_success(dray_app: Dray, dray_worker: Driver) -> None:
    result = dray_app.task(add).delay(1)
    assert (result.state, result.status, result.result) == ("PENDING", "PENDING", None)
    assert (result.ready(), result.successful(), result.failed(), result.exists()) == (False, False, False, True)
    dray_worker.run_until_idle()
    assert (result.state, result.result, result.info) == ("SUCCESS", 2, 2)
    assert (result.ready(), result.successful(), result.failed(), result.exists()) == (True, True, False, True)


def test_a_failed_result_says_what_went_wrong(run: Run) -> None:
    result = run(fail)
    assert (result.state, result.ready(), result.successful(), result.failed()) == ("FAILURE", True, False, True)
    assert isinstance(result.result, ValueError) and result.result.args == ("no", 3)
    assert result.traceback is not None
    assert "ValueError: ('no', 3)" in result.traceback
    assert "in fail" in result.traceback
    assert "execution.py" not in result.traceback  # it begins with the user's own code


def test_an_id_nobody_has_heard_of_is_not_pending(dray_app: Dray) -> None:
    result = dray_app.AsyncResult("never-sent")
    assert (result.state, result.exists(), result.ready()) == ("UNKNOWN", False, False)
    with pytest.raises(UnknownResult, match="never-sent"):
        result.get(timeout=1)


def test_a_result_is_read_from_its_id_alone(dray_app: Dray, run: Run) -> None:
    sent = run(add, 1)
    found = dray_app.AsyncResult(sent.id)
    assert found == sent and hash(found) == hash(sent) and str(found) == sent.id
    assert found.get() == 2


def test_a_delayed_task_is_pending(dray_app: Dray) -> None:
    result = dray_app.task(add).apply_async((1,), countdown=3600)
    assert dray_app.AsyncResult(result.id).state == "PENDING"


def test_a_running_task_is_pending_or_started_as_it_says(dray_app: Dray, dray_worker: Driver) -> None:
    seen = []

    def look(self: Task[Any, Any]) -> None:
        seen.append(dray_app.AsyncResult(self.request.id).state)

    dray_app.task(bind=True, name="plain")(look).delay()
    dray_worker.run_until_idle()
    assert seen == ["PENDING"]


def test_a_tracked_task_stores_that_it_has_started(dray_app: Dray) -> None:
    import threading

    began, go = threading.Event(), threading.Event()

    @dray_app.task(track_started=True)
    def wait() -> str:
        began.set()
        go.wait(10)
        return "done"

    with dray_app.worker(concurrency=1):
        result = wait.delay()
        assert began.wait(10)
        while result.state == "PENDING":  # stored by another thread, in a moment
            began.wait(0.001)
        assert result.state == "STARTED"
        assert (result.ready(), result.date_started, result.date_done) == (False, START, None)
        go.set()
        assert result.get(timeout=10) == "done"


# get()


def test_get_raises_what_the_task_raised_with_its_own_type(run: Run) -> None:
    with pytest.raises(ValueError, match="no") as caught:
        run(fail).get()
    assert caught.value.args == ("no", 3)
    assert any("the traceback in the worker was" in note for note in caught.value.__notes__)


def test_get_returns_the_exception_when_it_shall_not_raise(run: Run) -> None:
    assert isinstance(run(fail).get(propagate=False), ValueError)


def test_an_exception_comes_back_although_its_init_takes_other_arguments(run: Run) -> None:
    def buy() -> None:
        raise OutOfStock(item="cart", left=0)

    with pytest.raises(OutOfStock, match="cart: 0 left"):
        run(buy).get()


def test_an_exception_whose_class_is_not_here_comes_back_as_task_failed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("only_in_the_worker")
    exec("class Odd(Exception): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_in_the_worker", module)

    def odd() -> None:
        raise module.Odd("strange")

    result = run(odd)
    monkeypatch.delitem(sys.modules, "only_in_the_worker")
    with pytest.raises(TaskFailed, match=r"only_in_the_worker\.Odd: strange") as caught:
        result.get()
    assert (caught.value.exc_type, caught.value.exc_message) == ("only_in_the_worker.Odd", "strange")
    assert "only_in_the_worker" not in sys.modules  # nothing is imported for a result


def test_an_exception_of_a_local_class_comes_back_as_task_failed(run: Run) -> None:
    class Local(Exception):
        pass

    def odd() -> None:
        raise Local("strange")

    with pytest.raises(TaskFailed, match="Local: strange"):
        run(odd).get()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_a_task_that_exits_ends_neither_its_worker_nor_who_asks(run: Run, error: BaseException) -> None:
    def leave() -> None:
        raise error

    result = run(leave)
    assert result.state == "FAILURE"
    with pytest.raises(TaskFailed, match=type(error).__name__):
        result.get()


class Text(str):
    pass


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")

    __repr__ = __str__


@pytest.mark.parametrize(
    "error",
    [
        ValueError(2**100),
        ValueError("\ud800"),
        OSError("bad name \udce4"),
        ValueError(Text("text")),
        ValueError(object(), {"a": {1}}, b"\x00"),
        ValueError(float("nan"), float("inf")),
        ValueError(lambda: None),
        Unprintable("x"),
        ExceptionGroup("several", [ValueError(1), KeyError("k")]),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    ],
    ids=lambda error: repr(type(error).__name__),
)
def test_any_exception_whatever_can_be_stored_and_read(
    run: Run, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "dray.task")  # pytest-xdist cannot carry a captured lone surrogate

    def odd() -> None:
        raise error

    result = run(odd)
    assert result.state == "FAILURE"
    with pytest.raises((type(error), TaskFailed)):
        result.get()


def test_a_result_that_cannot_be_serialised_is_a_failure_that_says_so(run: Run) -> None:
    result = run(lambda: object(), name="odd")
    assert result.state == "FAILURE"
    with pytest.raises(SerializationError, match="object"):
        result.get()


def test_get_times_out_and_says_where_the_task_is(dray_app: Dray) -> None:
    result = dray_app.task(add).delay(1)
    with pytest.raises(ResultTimeout, match=f"task {result.id} has not ended within 0 s; its state is PENDING"):
        result.get(timeout=0)
    with pytest.raises(TimeoutError):
        result.get(timeout=0.01)


def test_get_asks_the_broker_nothing_about_a_task_that_ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Dray("shop", broker="memory://", set_as_current=False)
    asked, find = list[object](), app.broker.find
    monkeypatch.setattr(app.broker, "find", lambda ids: (asked.append(ids), find(ids))[1])
    monkeypatch.setattr("dray.result.AT_FIRST", HANGS)
    waiting = Background(app.task(add).delay(1).get)
    with app.worker():
        assert waiting.result() == 2
    assert asked == []
    monkeypatch.setattr("dray.result.AT_FIRST", 0.01)
    with pytest.raises(UnknownResult):
        app.AsyncResult("never-sent").get()
    assert asked == [["never-sent"]]


def test_get_on_a_clock_that_stands_still_says_why_there_is_no_result(dray_app: Dray) -> None:
    result = dray_app.task(add).delay(1)
    result.revoke()
    with pytest.raises(TaskRevoked):
        Background(result.get).result()


async def test_aget_times_out_too(dray_app: Dray) -> None:
    with pytest.raises(ResultTimeout, match="its state is PENDING"):
        await dray_app.task(add).delay(1).aget(timeout=0.01)


async def test_awaiting_a_result_is_aget(dray_app: Dray, dray_worker: Driver) -> None:
    good, bad = dray_app.task(add).delay(1), dray_app.task(fail).delay()
    dray_worker.run_until_idle()
    assert await good == 2
    assert await good.aget(timeout=1) == 2
    with pytest.raises(ValueError, match="no"):
        await bad
    assert isinstance(await bad.aget(propagate=False), ValueError)


async def test_many_coroutines_wait_for_results_that_a_worker_brings_meanwhile(dray_app: Dray) -> None:
    task = dray_app.task(add)
    async with dray_app.worker():
        results = await task.adelay_many([(n,) for n in range(100)])
        assert await asyncio.gather(*results) == list(range(1, 101))


async def test_a_coroutine_that_stops_waiting_disturbs_no_other(dray_app: Dray) -> None:
    result = dray_app.task(add).delay(1)
    impatient = asyncio.create_task(result.aget())
    patient = asyncio.create_task(result.aget(timeout=20))
    await asyncio.sleep(0)
    impatient.cancel()
    async with dray_app.worker():
        assert await patient == 2
    with pytest.raises(asyncio.CancelledError):
        await impatient


async def test_get_in_a_running_loop_says_what_to_write_instead(dray_app: Dray) -> None:
    result = dray_app.task(add).delay(1)
    with pytest.raises(BlockingCallError, match="await result.aget"):
        result.get(timeout=1)


def test_get_in_a_task_says_what_to_do_instead_unless_insisted_on(dray_app: Dray, dray_worker: Driver) -> None:
    inner = dray_app.task(name="inner")(add).delay(1)
    dray_worker.run_until_idle()

    @dray_app.task
    def outer(insist: bool) -> int:
        return dray_app.AsyncResult(inner.id).get(disable_sync_subtasks=not insist)

    refused, insisted = outer.delay(False), outer.delay(True)
    dray_worker.run_until_idle()
    with pytest.raises(BlockingCallError, match="link="):
        refused.get()
    assert insisted.get() == 2


def test_a_result_of_a_task_that_never_ran_raises_why(
    dray_app: Dray, dray_worker: Driver, dray_clock: ManualClock
) -> None:
    task = dray_app.task(add)
    expired, revoked = task.apply_async((1,), expires=5), task.delay(2)
    rejected = dray_app.send_task("unknown")
    revoked.revoke()
    dray_clock.advance(10)
    dray_worker.run_until_idle()
    for result, kind in ((expired, TaskExpired), (revoked, TaskRevoked), (rejected, TaskRejected)):
        assert result.ready() and not result.successful() and not result.failed()
        with pytest.raises(kind):
            result.get()
        assert isinstance(result.get(propagate=False), kind)


def test_get_of_a_task_that_is_revoked_but_still_waits_does_not_wait_for_it(dray_app: Dray) -> None:
    result = dray_app.task(add).apply_async((1,), countdown=86400)
    result.revoke()
    assert result.ready()
    with pytest.raises(TaskRevoked):
        result.get(timeout=5)
    assert isinstance(result.get(timeout=5, propagate=False), TaskRevoked)


async def test_aget_of_a_dead_letter_without_a_report_does_not_wait_for_it(dray_app: Dray, dray_worker: Driver) -> None:
    sent = dray_app.send_task("unknown", ignore_result=True)
    dray_worker.run_until_idle()
    result = dray_app.AsyncResult(sent.id)
    assert result.state == "REJECTED"
    with pytest.raises(TaskRejected):
        await result.aget(timeout=5)


# What else is known


def test_a_result_knows_when_it_was_sent_started_and_done(dray_app: Dray, dray_worker: Driver, dray_clock: Any) -> None:
    @dray_app.task
    def slow() -> None:
        dray_clock.advance(2)

    result = slow.delay()
    assert (result.date_sent, result.date_started, result.date_done) == (None, None, None)
    dray_clock.advance(5)
    dray_worker.run_until_idle()
    assert result.date_sent == START
    assert result.date_started == START + timedelta(seconds=5)
    assert result.date_done == START + timedelta(seconds=7)


def test_a_result_knows_its_task_worker_and_queue(dray_app: Dray, dray_worker_for: Callable[..., Driver]) -> None:
    result = dray_app.task(name="sum", queue="math")(add).delay(1)
    assert (result.name, result.worker, result.queue) == (None, None, None)
    dray_worker_for(dray_app, name="w1").run_until_idle()
    assert (result.name, result.worker, result.queue, result.retries) == ("sum", "w1", "math", 0)


def test_a_result_knows_the_tasks_that_its_task_has_sent(dray_app: Dray, dray_worker: Driver) -> None:
    task = dray_app.task(name="sum")(add)

    @dray_app.task
    def parent() -> None:
        task.delay(1)
        task.delay_many([(2,), (3,)])

    result = parent.delay()
    assert result.children == []
    dray_worker.run_until_idle()
    assert [child.get() for child in result.children] == [2, 3, 4]


@pytest.mark.dray(result_extended=True)
def test_an_extended_result_keeps_the_arguments(dray_app: Dray, dray_worker: Driver) -> None:
    good, bad = dray_app.task(add).delay(1, y=5), dray_app.task(fail).delay("x")
    dray_worker.run_until_idle()
    found = dray_app.AsyncResult(good.id)
    assert (found.args, found.kwargs) == ((1,), {"y": 5})
    assert (bad.args, bad.kwargs) == (("x",), {})


def test_a_plain_result_does_not_keep_the_arguments(run: Run) -> None:
    result = run(add, 1)
    assert (result.args, result.kwargs) == (None, None)


# How long, and whether at all


@pytest.mark.dray(result_expires=60)
def test_a_result_expires(run: Run, dray_clock: ManualClock, dray_app: Dray) -> None:
    result = dray_app.AsyncResult(run(add, 1).id)
    dray_clock.advance(59)
    assert result.state == "SUCCESS"
    later = dray_app.AsyncResult(result.id)
    dray_clock.advance(1)
    assert later.state == "UNKNOWN"
    with pytest.raises(UnknownResult, match="expired"):
        later.get()


@pytest.mark.dray(result_expires=None)
def test_a_result_may_be_kept_for_ever(run: Run, dray_clock: ManualClock, dray_app: Dray) -> None:
    result = run(add, 1)
    dray_clock.advance(10 * 365 * 86400)
    assert dray_app.AsyncResult(result.id).get() == 2


def test_a_forgotten_result_is_unknown(run: Run) -> None:
    result = run(add, 1)
    assert result.get() == 2
    result.forget()
    assert result.state == "UNKNOWN"


@pytest.mark.dray(task_ignore_result=True)
def test_ignored_results_are_none_at_once_and_nothing_is_stored(dray_app: Dray, dray_worker: Driver) -> None:
    result = dray_app.task(add).delay(1)
    assert result.get() is None
    dray_worker.run_until_idle()
    assert result.get(timeout=0) is None
    assert result.state == "UNKNOWN"


@pytest.mark.dray(task_ignore_result=True)
def test_a_task_or_a_call_may_want_its_result_all_the_same(dray_app: Dray, dray_worker: Driver) -> None:
    own = dray_app.task(name="a", ignore_result=False)(add).delay(1)
    call = dray_app.task(name="b")(add).apply_async((1,), ignore_result=False)
    dray_worker.run_until_idle()
    assert (own.get(), call.get()) == (2, 2)


def test_failures_can_be_stored_although_results_are_ignored(dray_app: Dray, dray_worker: Driver) -> None:
    task = dray_app.task(ignore_result=True, store_errors_even_if_ignored=True)(fail)
    sent = task.delay()
    dray_worker.run_until_idle()
    with pytest.raises(ValueError, match="no"):
        dray_app.AsyncResult(sent.id).get()


@pytest.mark.dray(result_backend="disabled")
def test_without_a_backend_tasks_run_and_reading_results_says_what_to_set(dray_app: Dray, dray_worker: Driver) -> None:
    ran = []
    result = dray_app.task(name="note")(lambda: ran.append(1)).delay()
    dray_worker.run_until_idle()
    assert ran == [1]
    with pytest.raises(NotSupported, match="set result_backend"):
        result.get(timeout=0)


# Types


def test_a_value_comes_back_as_the_return_annotation_says(run: Run, dray_app: Dray) -> None:
    id = uuid.uuid4()
    result = run(invoice, id)
    assert result.get() == Invoice(id, Decimal("1.10"))
    assert dray_app.AsyncResult(result.id).get() == Invoice(id, Decimal("1.10"))


def test_an_app_that_does_not_know_the_task_gets_plain_values(run: Run, dray_app: Dray) -> None:
    id = uuid.uuid4()
    result = run(invoice, id)
    dray_app.tasks.clear()
    assert dray_app.AsyncResult(result.id).get() == {"id": str(id), "total": "1.10"}


def test_a_wrong_return_annotation_does_not_cost_the_result(run: Run) -> None:
    def lies() -> dt.date:
        return "no date at all"  # type: ignore[return-value]

    assert run(lies).get() == "no date at all"


@pytest.mark.dray(result_serializer="msgpack", result_compression="gzip")
def test_results_are_written_as_the_settings_say(run: Run) -> None:
    assert run(lambda: {"blob": b"\x00\xff", "n": [None, 1.5]}, name="x").get() == {
        "blob": b"\x00\xff",
        "n": [None, 1.5],
    }
