"""Eager mode: tasks run at once where they are sent, with everything a worker does but the waiting."""

from __future__ import annotations

from typing import Any

import pytest

from dray import ArgumentsError, Dray, Ignore, ManualClock, MaxRetriesExceeded, Reject, Task, TaskRejected
from dray.testing import Enqueued

eager = pytest.mark.dray(task_always_eager=True)
propagating = pytest.mark.dray(task_always_eager=True, task_eager_propagates=True)


def add(x: int, y: int = 1) -> int:
    return x + y


async def aadd(x: int, y: int = 1) -> int:
    return x + y


def fail() -> None:
    raise ValueError("no", 3)


@eager
def test_a_task_runs_where_it_is_sent_and_nothing_is_sent(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    task = dray_app.task(add)
    results = [task.delay(1), task.apply_async((1,), {"y": 2}), task.s(3).delay(), *task.delay_many([(4,)])]
    assert [result.get() for result in results] == [2, 3, 4, 5]
    assert results[0].state == "SUCCESS" and results[0].successful()
    assert dray_enqueued.all() == []


def test_apply_runs_one_call_eagerly_whatever_the_settings_say(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    result = dray_app.task(add).apply((1,), {"y": 5})
    assert result.get() == 6
    assert dray_enqueued.all() == []


@eager
def test_a_registered_name_runs_eagerly_and_an_unknown_one_is_sent(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    dray_app.task(name="add")(add)
    assert dray_app.send_task("add", (1,)).get() == 2
    dray_app.send_task("far.away")
    dray_enqueued.assert_enqueued("far.away", count=1)


@eager
def test_arguments_go_through_the_serializer_as_in_production(dray_app: Dray) -> None:
    seen = []
    dray_app.task(name="note")(lambda x: seen.append(x)).delay((1, 2))
    assert seen == [[1, 2]]
    with pytest.raises(ArgumentsError):
        dray_app.task(add).delay()


@eager
def test_a_task_knows_that_it_runs_eagerly(dray_app: Dray) -> None:
    @dray_app.task(bind=True)
    def look(self: Task[Any, Any]) -> tuple[bool, bool, str]:
        return self.request.is_eager, self.request.called_directly, self.request.id

    result = look.apply_async(task_id="t1")
    assert tuple(result.get()) == (True, False, "t1")


@eager
def test_a_failure_is_in_the_result(dray_app: Dray) -> None:
    result = dray_app.task(fail).delay()
    assert (result.state, result.failed()) == ("FAILURE", True)
    assert result.traceback is not None and "in fail" in result.traceback
    with pytest.raises(ValueError, match="no") as caught:
        result.get()
    assert caught.value.args == ("no", 3)


@propagating
def test_a_failure_raises_where_it_was_sent_if_the_settings_say_so(dray_app: Dray) -> None:
    with pytest.raises(ValueError, match="no"):
        dray_app.task(fail).delay()


@pytest.mark.parametrize("propagates", [False, True])
def test_retries_happen_at_once_and_are_counted(dray_app: Dray, dray_clock: ManualClock, propagates: bool) -> None:
    dray_app.conf.update(task_always_eager=True, task_eager_propagates=propagates)
    seen = []
    before = dray_clock.time()

    @dray_app.task(bind=True, max_retries=3, default_retry_delay=3600)
    def flaky(self: Task[Any, Any], x: int) -> int:
        seen.append((self.request.retries, x))
        if self.request.retries < 2:
            raise self.retry(args=(x + 1,))
        return x

    result = flaky.delay(1)
    assert seen == [(0, 1), (1, 2), (2, 3)]
    assert (result.get(), result.retries) == (3, 2)
    assert dray_clock.time() == before


@eager
def test_automatic_retries_end_as_in_production(dray_app: Dray) -> None:
    ran = []

    @dray_app.task(autoretry_for=OSError, max_retries=4, retry_backoff=True)
    def flaky() -> None:
        ran.append(1)
        raise OSError("down")

    result = flaky.delay()
    assert (len(ran), result.state, result.retries) == (5, "FAILURE", 4)
    with pytest.raises(OSError, match="down"):
        result.get()


@eager
def test_retry_without_an_error_ends_in_max_retries_exceeded(dray_app: Dray) -> None:
    @dray_app.task(bind=True, max_retries=1)
    def flaky(self: Task[Any, Any]) -> None:
        self.retry()

    with pytest.raises(MaxRetriesExceeded):
        flaky.delay().get()


@pytest.mark.parametrize("delay", [0, 30])
def test_eager_retries_need_no_broker(delay: int) -> None:
    # Nothing can be opened in a directory that does not exist.
    app = Dray(
        "nowhere", broker="sqlite:////no/such/directory/q.db", backend="disabled", task_always_eager=True,
        set_as_current=False,
    )  # fmt: skip

    @app.task(bind=True)
    def flaky(self: Task[Any, Any]) -> int:
        if not self.request.retries:
            self.retry(countdown=delay)
        return self.request.retries

    assert flaky.delay().get() == 1


@eager
def test_links_run_at_once(dray_app: Dray) -> None:
    seen = []
    note = dray_app.task(name="note")(lambda *args: seen.append(args))
    dray_app.task(add).apply_async((1,), link=note.s("then"), link_error=note.s("error"))
    failed = dray_app.task(fail).apply_async(link=note.s("then"), link_error=note.s("error"))
    assert seen == [(2, "then"), (failed.id, "error")]


@eager
def test_hooks_of_the_base_class_are_called(dray_app: Dray) -> None:
    called = []

    class Base(Task[Any, Any]):
        def before_start(self, *args: Any) -> None:
            called.append("before_start")

        def on_success(self, *args: Any) -> None:
            called.append("on_success")

        def after_return(self, *args: Any) -> None:
            called.append("after_return")

    dray_app.task(base=Base)(add).delay(1)
    assert called == ["before_start", "on_success", "after_return"]


@eager
def test_an_eager_task_may_send_others_and_wait_for_them(dray_app: Dray) -> None:
    inner = dray_app.task(name="inner")(add)

    @dray_app.task
    def outer() -> int:
        return inner.delay(1).get() + inner.delay(2).get()

    assert outer.delay().get() == 5


@eager
@pytest.mark.parametrize(("error", "state"), [(Reject("bad"), "REJECTED"), (Ignore(), "PENDING")])
def test_reject_and_ignore_end_it(dray_app: Dray, error: Exception, state: str) -> None:
    @dray_app.task
    def odd() -> None:
        raise error

    result = odd.delay()
    assert result.state == state
    if state == "REJECTED":
        with pytest.raises(TaskRejected, match="bad"):
            result.get()


# Coroutines


@eager
def test_an_async_task_runs_to_its_end_from_plain_code(dray_app: Dray) -> None:
    assert dray_app.task(aadd).delay(1).get() == 2


@propagating
async def test_tasks_of_both_kinds_run_eagerly_inside_a_running_loop(dray_app: Dray) -> None:
    results = [dray_app.task(aadd).delay(1), dray_app.task(add).delay(2)]
    assert [result.get() for result in results] == [2, 3]  # over already: nothing is blocked
    assert [await result for result in results] == [2, 3]


@propagating
async def test_failures_propagate_inside_a_running_loop(dray_app: Dray) -> None:
    with pytest.raises(ValueError, match="no"):
        dray_app.task(fail).delay()


@eager
async def test_the_async_twins_run_eagerly_too(dray_app: Dray) -> None:
    task = dray_app.task(aadd)
    assert await (await task.adelay(1)) == 2
    assert await (await task.aapply_async((2,))).aget() == 3
    assert [await result for result in await task.adelay_many([(3,)])] == [4]


@eager
def test_an_async_task_retries_eagerly(dray_app: Dray) -> None:
    @dray_app.task(bind=True)
    async def flaky(self: Task[Any, Any]) -> int:
        if self.request.retries < 2:
            self.retry(countdown=60)
        return self.request.retries

    assert flaky.delay().get() == 2


# Storing


@eager
def test_eager_results_are_not_stored_unless_asked_for(dray_app: Dray) -> None:
    result = dray_app.task(add).delay(1)
    assert dray_app.AsyncResult(result.id).state == "UNKNOWN"


@pytest.mark.dray(task_always_eager=True, task_store_eager_result=True)
def test_eager_results_can_be_stored(dray_app: Dray) -> None:
    result = dray_app.task(add).delay(1)
    assert dray_app.AsyncResult(result.id).get() == 2
    ignored = dray_app.task(name="x")(add).apply_async((1,), ignore_result=True)
    assert dray_app.AsyncResult(ignored.id).state == "UNKNOWN"


@pytest.mark.dray(task_always_eager=True, result_backend="disabled")
def test_progress_of_an_eager_task_needs_no_backend(dray_app: Dray) -> None:
    @dray_app.task(bind=True)
    def work(self: Task[Any, Any]) -> str:
        self.update_state(state="PROGRESS", meta={"done": 1})
        return "done"

    assert work.delay().get() == "done"
