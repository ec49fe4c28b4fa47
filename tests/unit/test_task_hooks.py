"""Functions given to a task as hooks: called where it ran, with what their parameters name."""

from __future__ import annotations

from typing import Any

import pytest

from dray import Dray, Task, TaskOptionError
from dray.testing import Driver

Calls = list[Any]


def test_an_async_function_hears_of_the_failure_of_an_async_task(dray_app: Dray, dray_worker: Driver) -> None:
    calls: Calls = []

    async def move_to_dlq(task_id: str, error: Exception) -> None:
        calls.append((task_id, repr(error)))

    @dray_app.task(name="work", max_retries=3, on_failure=move_to_dlq)
    async def work() -> None:
        raise ValueError("no")

    id = work.delay().id
    dray_worker.run_until_idle()
    assert calls == [(id, "ValueError('no')")]


def test_each_hook_is_called_with_what_it_names(dray_app: Dray, dray_worker: Driver) -> None:
    calls: Calls = []

    def before(task: Task[Any, Any], args: Any) -> None:
        calls.append(("before", task.name, args))

    def retried(exc: BaseException, einfo: str, request: Any) -> None:
        calls.append(("retry", str(exc), "not yet" in einfo, request.retries))

    def succeeded(result: int, kwargs: dict[str, Any]) -> None:
        calls.append(("success", result, kwargs))

    def after(**told: Any) -> None:
        calls.append(("after", told["state"], told["status"], told["task_id"]))

    @dray_app.task(
        name="work",
        bind=True,
        default_retry_delay=0,
        before_start=before,
        on_retry=retried,
        on_success=succeeded,
        after_return=after,
    )
    def work(self: Task[Any, Any], x: int, y: int = 0) -> int:
        if not self.request.retries:
            raise self.retry(exc=ValueError("not yet"))
        return x + y

    id = work.delay(1, y=2).id
    dray_worker.run_until_idle()
    assert calls == [
        ("before", "work", (1,)),
        ("retry", "not yet", True, 0),
        ("after", "RETRY", "RETRY", id),
        ("before", "work", (1,)),
        ("success", 3, {"y": 2}),
        ("after", "SUCCESS", "SUCCESS", id),
    ]


def test_a_function_that_names_nothing_gets_what_the_method_gets(dray_app: Dray, dray_worker: Driver) -> None:
    calls: Calls = []
    dray_app.task(name="work", on_success=lambda *all: calls.append(all))(lambda: 7).delay()
    dray_worker.run_until_idle()
    ((value, _, args, kwargs),) = calls
    assert (value, args, kwargs) == (7, (), {})


def test_celerys_signature_with_the_task_in_front_fits(dray_app: Dray, dray_worker: Driver) -> None:
    calls: Calls = []

    def my_on_failure(self: Any, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
        calls.append((self.name, str(exc), args, "ValueError" in einfo))

    dray_app.conf.task_annotations = {"*": {"on_failure": my_on_failure}}

    @dray_app.task(name="work")
    def work(x: int) -> None:
        raise ValueError("no")

    work.delay(1)
    dray_worker.run_until_idle()
    assert calls == [("work", "no", (1,), True)]


def test_a_hook_that_raises_changes_nothing(
    dray_app: Dray, dray_worker: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(result: int) -> None:
        raise RuntimeError("no")

    result = dray_app.task(name="work", on_success=broken)(lambda: 1).delay()
    dray_worker.run_until_idle()
    assert result.get() == 1
    assert "on_success of work" in caplog.text


def wants_more(task_id: str, eror: Exception) -> None: ...


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (5, "on_failure is a function; got 5"),
        (wants_more, "on_failure=wants_more wants 'eror', and nobody knows what that is; did you mean 'error'"),
    ],
)
def test_a_hook_that_could_not_be_called_is_refused_when_it_is_declared(dray_app: Dray, given: Any, wrong: str) -> None:
    with pytest.raises(TaskOptionError, match=wrong):
        dray_app.task(name="work", on_failure=given)(lambda: None)


def test_a_hook_that_is_a_method_of_the_base_and_an_option_is_refused(dray_app: Dray) -> None:
    class Callback(Task[Any, Any]):
        def on_failure(self, *_: Any) -> None: ...

    with pytest.raises(TaskOptionError, match="on_failure is a method of .*Callback and an option"):
        dray_app.task(name="work", base=Callback, on_failure=lambda error: None)(lambda: None)
    dray_app.task(name="work", base=Callback, on_success=lambda result: None)(lambda: None)
