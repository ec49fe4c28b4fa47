"""update_state: what a task says of itself while it runs, and that it can never harm the final result."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from dray import Dray, Retry, SerializationError, Task, states
from dray.testing import Driver


@pytest.fixture
def look(dray_app: Dray) -> Callable[[str], tuple[str, Any, bool]]:
    """Return what others see of a task by its id: state, info, and whether it counts as ended."""

    def seen(id: str) -> tuple[str, Any, bool]:
        result = dray_app.AsyncResult(id)
        return result.state, result.info, result.ready()

    return seen


def test_others_see_progress_while_the_task_runs_and_then_its_result(dray_app: Dray) -> None:
    import threading

    said, go = threading.Event(), threading.Event()

    @dray_app.task(bind=True)
    def work(self: Task[Any, Any]) -> str:
        self.update_state(state=states.PROGRESS, meta={"current": 3, "total": 10})
        said.set()
        go.wait(10)
        return "done"

    with dray_app.worker(concurrency=1):
        result = work.delay()
        assert said.wait(10)
        while result.state == "PENDING":  # stored by another thread, in a moment
            said.wait(0.001)
        assert (result.state, result.info) == ("PROGRESS", {"current": 3, "total": 10})
        assert (result.ready(), result.successful(), result.failed()) == (False, False, False)
        go.set()
        assert result.get(timeout=10) == "done"
    assert (result.state, result.info) == ("SUCCESS", "done")


def test_the_last_word_before_a_retry_is_the_retry(dray_app: Dray, dray_worker: Driver) -> None:
    @dray_app.task(bind=True)
    def work(self: Task[Any, Any]) -> None:
        self.update_state(state="HALFWAY", meta=50)
        raise Retry(countdown=60)

    result = work.delay()
    dray_worker.run_until_idle()
    assert result.state == "RETRY"


@pytest.mark.parametrize("state", ["FAILURE", "SUCCESS", "REVOKED", "REJECTED", "EXPIRED"])
def test_a_state_named_like_a_final_one_is_a_note_and_ends_nothing(
    dray_app: Dray, dray_worker: Driver, state: str
) -> None:
    @dray_app.task(bind=True)
    def work(self: Task[Any, Any], fails: bool) -> str:
        self.update_state(state=state, meta={"error": "not really"})
        if fails:
            raise OSError("really")
        return "value"

    good, bad = work.delay(False), work.delay(True)
    dray_worker.run_until_idle()
    assert (good.state, good.get()) == ("SUCCESS", "value")
    assert bad.state == "FAILURE"
    with pytest.raises(OSError, match="really"):
        bad.get()


def test_a_note_named_failure_is_readable_and_not_an_end(dray_app: Dray, look: Any) -> None:
    task = dray_app.task(name="x")(lambda: None)
    task.update_state("some-id", "FAILURE", {"error": "x"})
    assert look("some-id") == ("FAILURE", {"error": "x"}, False)
    result = dray_app.AsyncResult("some-id")
    assert (result.failed(), result.traceback) == (False, None)


def test_a_final_result_is_never_replaced_by_a_note(dray_app: Dray, dray_worker: Driver, look: Any) -> None:
    task = dray_app.task(name="x")(lambda: 5)
    result = task.delay()
    dray_worker.run_until_idle()
    task.update_state(result.id, "PROGRESS", {"late": True})
    assert look(result.id) == ("SUCCESS", 5, True)


def test_a_state_without_a_name_is_progress(dray_app: Dray, look: Any) -> None:
    dray_app.task(name="x")(lambda: None).update_state("id", meta=[1, None])
    assert look("id") == ("PROGRESS", [1, None], False)


def test_outside_a_task_an_id_is_needed(dray_app: Dray) -> None:
    with pytest.raises(ValueError, match="needs a task_id"):
        dray_app.task(name="x")(lambda: None).update_state(state="PROGRESS")


def test_meta_that_cannot_be_serialised_is_an_error_in_the_task(dray_app: Dray, dray_worker: Driver) -> None:
    @dray_app.task(bind=True)
    def work(self: Task[Any, Any]) -> str:
        try:
            self.update_state(meta=object())
        except SerializationError:
            return "told"
        return "not told"

    result = work.delay()
    dray_worker.run_until_idle()
    assert result.get() == "told"


def test_meta_may_be_what_the_serializer_takes(dray_app: Dray, look: Any) -> None:
    id = uuid.uuid4()
    dray_app.task(name="x")(lambda: None).update_state("id", "UPLOADING", {"file": id, "at": (1, 2)})
    assert look("id") == ("UPLOADING", {"file": str(id), "at": [1, 2]}, False)


def test_an_async_task_says_how_far_it_is(dray_app: Dray, dray_worker: Driver) -> None:
    @dray_app.task(bind=True)
    async def work(self: Task[Any, Any]) -> str:
        for n in range(3):
            self.update_state(state="PROGRESS", meta=n)
        return "done"

    result = work.delay()
    dray_worker.run_until_idle()
    assert result.get() == "done"


@pytest.mark.dray(result_backend="disabled")
def test_without_a_backend_progress_is_said_to_nobody(dray_app: Dray, dray_worker: Driver) -> None:
    ended = []

    @dray_app.task(bind=True)
    def work(self: Task[Any, Any]) -> None:
        self.update_state(state="PROGRESS", meta=1)
        ended.append(True)

    work.delay()
    dray_worker.run_until_idle()
    assert ended == [True]


def test_the_states_have_names() -> None:
    assert states.PROGRESS == "PROGRESS"
    assert {"SUCCESS", "FAILURE", "REVOKED", "EXPIRED", "REJECTED"} == states.FINAL_STATES
    assert states.EXCEPTION_STATES < states.FINAL_STATES
