"""Retries: asked for, automatic, backed off, limited, used up; and the other ways in which a task steers its fate."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dray import Dray, Ignore, ManualClock, MaxRetriesExceeded, Reject, Retry, Task, TaskOptionError, TaskRejected
from dray.retries import RetryPolicy
from dray.testing import Driver, Enqueued

START = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


class Journal:
    """When each run of a task began, in seconds since the test began, and what it saw."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._start = clock.time()
        self.entries: list[Any] = []
        self.times: list[float] = []

    def note(self, entry: Any = None) -> None:
        self.entries.append(entry)
        self.times.append(round(self._clock.time() - self._start, 3))


@pytest.fixture
def journal(dray_clock: ManualClock) -> Journal:
    return Journal(dray_clock)


@pytest.fixture
def failing(dray_app: Dray, journal: Journal) -> Callable[..., Task[..., Any]]:
    """Make a task with these options that always raises `error`."""

    def make(error: BaseException | None = None, **options: Any) -> Task[..., Any]:
        @dray_app.task(bind=True, name="failing", **options)
        def fail(self: Task[Any, Any], *args: Any) -> None:
            journal.note(self.request.retries)
            raise error or OSError("no")

        return fail

    return make


# self.retry()


def test_retry_runs_the_task_again_after_the_countdown_and_counts(
    dray_app: Dray, dray_worker: Driver, journal: Journal
) -> None:
    @dray_app.task(bind=True)
    def flaky(self: Task[Any, Any], x: int) -> str:
        journal.note((self.request.id, x, self.request.retries))
        if self.request.retries < 2:
            raise self.retry(countdown=30)
        return "done"

    result = flaky.delay(7)
    dray_worker.run_until_idle()
    assert (result.state, result.retries) == ("RETRY", 0)
    dray_worker.advance(60)
    assert journal.times == [0, 30, 60]
    assert journal.entries == [(result.id, 7, 0), (result.id, 7, 1), (result.id, 7, 2)]
    assert (result.get(), result.retries) == ("done", 2)


def test_retry_without_a_time_waits_as_the_task_says(dray_app: Dray, dray_worker: Driver, journal: Journal) -> None:
    @dray_app.task(bind=True, default_retry_delay=timedelta(minutes=2), max_retries=1)
    def flaky(self: Task[Any, Any]) -> None:
        journal.note()
        self.retry()

    flaky.delay()
    dray_worker.advance(200)
    assert journal.times == [0, 120]


@pytest.mark.dray(task_default_retry_delay=7, task_default_max_retries=2)
def test_a_task_that_says_nothing_retries_as_the_settings_say(
    dray_app: Dray, dray_worker: Driver, journal: Journal
) -> None:
    @dray_app.task(bind=True)
    def flaky(self: Task[Any, Any]) -> None:
        journal.note()
        self.retry()

    flaky.delay()
    dray_worker.advance(100)
    assert journal.times == [0, 7, 14]


@pytest.mark.parametrize(
    "eta", [START + timedelta(seconds=45), (START + timedelta(seconds=45)).replace(tzinfo=None)], ids=["aware", "naive"]
)
def test_retry_at_an_instant(dray_app: Dray, dray_worker: Driver, journal: Journal, eta: datetime) -> None:
    @dray_app.task(bind=True)
    def flaky(self: Task[Any, Any]) -> None:
        journal.note(self.request.eta)
        if not self.request.retries:
            self.retry(eta=eta)

    flaky.delay()
    dray_worker.advance(60)
    assert journal.times == [0, 45]
    assert journal.entries == [None, START + timedelta(seconds=45)]


def test_retry_may_change_the_arguments(dray_app: Dray, dray_worker: Driver, journal: Journal) -> None:
    @dray_app.task(bind=True)
    def shrink(self: Task[Any, Any], size: int, unit: str = "kB") -> None:
        journal.note((size, unit))
        if size > 1:
            self.retry(args=(size // 2,), kwargs={"unit": "MB"}, countdown=0)

    shrink.delay(4)
    dray_worker.run_until_idle()
    assert journal.entries == [(4, "kB"), (2, "MB"), (1, "MB")]


def test_retry_with_throw_false_lets_the_task_finish_first(
    dray_app: Dray, dray_worker: Driver, journal: Journal
) -> None:
    @dray_app.task(bind=True)
    def flaky(self: Task[Any, Any]) -> str:
        if not self.request.retries:
            asked = self.retry(throw=False, countdown=5)
            journal.note(type(asked).__name__)
        journal.note("after")
        return "value"

    result = flaky.delay()
    dray_worker.advance(5)
    assert journal.entries == ["Retry", "after", "after"]
    assert result.get() == "value"


def test_raising_retry_is_the_same_as_calling_it(dray_app: Dray, dray_worker: Driver, journal: Journal) -> None:
    @dray_app.task(bind=True)
    def flaky(self: Task[Any, Any], n: int) -> int:
        journal.note(n)
        if n < 3:
            raise Retry(countdown=10, args=(n + 1,))
        return n

    result = flaky.delay(1)
    dray_worker.advance(20)
    assert (journal.times, journal.entries) == ([0, 10, 20], [1, 2, 3])
    assert result.get() == 3


async def test_an_async_task_retries_too(dray_app: Dray, dray_worker: Driver, journal: Journal) -> None:
    @dray_app.task(bind=True)
    async def flaky(self: Task[Any, Any]) -> int:
        journal.note()
        if self.request.retries < 2:
            self.retry(countdown=1)
        return self.request.retries

    result = flaky.delay()
    dray_worker.advance(2)
    assert await result == 2
    assert journal.times == [0, 1, 2]


def test_retry_outside_a_worker_raises_the_error_at_once(dray_app: Dray) -> None:
    @dray_app.task(bind=True)
    def flaky(self: Task[Any, Any]) -> None:
        try:
            raise OSError("no")
        except OSError as error:
            self.retry(exc=error)

    with pytest.raises(OSError, match="no"):
        flaky()
    with pytest.raises(MaxRetriesExceeded):
        flaky.retry()


def test_a_task_called_by_another_as_a_function_retries_neither(
    dray_app: Dray, dray_worker: Driver, journal: Journal
) -> None:
    @dray_app.task(bind=True)
    def inner(self: Task[Any, Any]) -> None:
        journal.note(self.request.called_directly)
        self.retry(exc=OSError("inner"), countdown=0)

    @dray_app.task(bind=True)
    def outer(self: Task[Any, Any]) -> str:
        try:
            inner()
        except OSError:
            return f"inner failed in run {self.request.retries} of outer"
        return "never"

    result = outer.delay()
    dray_worker.run_until_idle()
    assert result.get() == "inner failed in run 0 of outer"
    assert journal.entries == [True]


@pytest.mark.parametrize("wish", [{"countdown": "soon"}, {"eta": "tomorrow"}, {"countdown": object()}])
def test_a_retry_at_no_time_at_all_fails_the_task_and_not_the_worker(
    dray_app: Dray, dray_worker: Driver, wish: dict[str, Any]
) -> None:
    @dray_app.task
    def flaky() -> None:
        raise Retry(**wish)

    result = flaky.delay()
    dray_worker.run_until_idle()
    assert result.state == "FAILURE"


def test_a_retry_keeps_queue_priority_headers_and_callbacks(
    dray_app: Dray, dray_worker: Driver, dray_enqueued: Enqueued
) -> None:
    @dray_app.task(bind=True)
    def flaky(self: Task[Any, Any]) -> int:
        if not self.request.retries:
            self.retry(countdown=10)
        return 1

    seen = []
    note = dray_app.task(name="note")(lambda x: seen.append(x))
    flaky.apply_async(queue="q", priority=6, headers={"h": 1}, expires=100, link=note.s())
    dray_worker.run_until_idle()
    (again,) = dray_enqueued.all(flaky)
    assert (again.queue, again.priority, again.headers, again.retries) == ("q", 6, {"h": 1}, 1)
    assert again.expires == START.timestamp() + 100
    dray_worker.advance(10)
    assert seen == [1]


# Limits


def test_when_retries_are_used_up_the_error_given_is_the_result(
    dray_app: Dray, dray_worker: Driver, journal: Journal
) -> None:
    @dray_app.task(bind=True, max_retries=2, default_retry_delay=1)
    def flaky(self: Task[Any, Any]) -> None:
        journal.note()
        self.retry(exc=ConnectionError("down"))

    result = flaky.delay()
    dray_worker.advance(100)
    assert journal.times == [0, 1, 2]
    with pytest.raises(ConnectionError, match="down"):
        result.get()
    assert (result.state, result.retries) == ("FAILURE", 2)


def test_when_retries_are_used_up_the_error_being_handled_is_the_result(dray_app: Dray, dray_worker: Driver) -> None:
    @dray_app.task(bind=True, max_retries=0)
    def flaky(self: Task[Any, Any]) -> None:
        try:
            _ = {}["key"]
        except KeyError:
            self.retry()

    result = flaky.delay()
    dray_worker.run_until_idle()
    with pytest.raises(KeyError, match="key"):
        result.get()


@pytest.mark.parametrize("raising", [False, True])
def test_when_retries_are_used_up_and_there_is_no_error_it_is_max_retries_exceeded(
    dray_app: Dray, dray_worker: Driver, raising: bool
) -> None:
    @dray_app.task(bind=True, max_retries=1)
    def flaky(self: Task[Any, Any]) -> None:
        if raising:
            raise Retry(countdown=0)
        self.retry(countdown=0)

    result = flaky.delay()
    dray_worker.run_until_idle()
    with pytest.raises(MaxRetriesExceeded, match="asked for another retry after 1"):
        result.get()


def test_retry_may_set_its_own_limit(dray_app: Dray, dray_worker: Driver, journal: Journal) -> None:
    @dray_app.task(bind=True, max_retries=0)
    def flaky(self: Task[Any, Any]) -> None:
        journal.note()
        self.retry(countdown=0, max_retries=4)

    flaky.delay()
    dray_worker.run_until_idle()
    assert len(journal.entries) == 5


def test_max_retries_none_has_no_limit(
    failing: Callable[..., Task[..., Any]], dray_worker: Driver, journal: Journal
) -> None:
    failing(autoretry_for=OSError, max_retries=None, default_retry_delay=1).delay()
    dray_worker.advance(50)
    assert journal.entries == list(range(51))


@pytest.mark.parametrize(
    "until", [100, timedelta(seconds=100), START + timedelta(seconds=100)], ids=["seconds", "timedelta", "instant"]
)
def test_retry_until_stops_when_the_next_run_would_be_too_late(
    failing: Callable[..., Task[..., Any]], dray_worker: Driver, journal: Journal, until: Any
) -> None:
    result = failing(autoretry_for=OSError, max_retries=None, default_retry_delay=30, retry_until=until).delay()
    dray_worker.advance(1000)
    assert journal.times == [0, 30, 60, 90]
    assert result.state == "FAILURE"


# autoretry_for


def test_autoretry_retries_the_classes_named_and_their_subclasses(
    failing: Callable[..., Task[..., Any]], dray_worker: Driver, journal: Journal
) -> None:
    result = failing(ConnectionResetError("x"), autoretry_for=(OSError, KeyError), default_retry_delay=10).delay()
    dray_worker.advance(30)
    assert journal.times == [0, 10, 20, 30]  # max_retries is 3
    with pytest.raises(ConnectionResetError):
        result.get()


def test_autoretry_leaves_other_errors_alone(
    failing: Callable[..., Task[..., Any]], dray_worker: Driver, journal: Journal
) -> None:
    result = failing(ValueError("x"), autoretry_for=OSError).delay()
    dray_worker.run_until_idle()
    assert (journal.times, result.state) == ([0], "FAILURE")


def test_dont_autoretry_for_is_stronger(
    failing: Callable[..., Task[..., Any]], dray_worker: Driver, journal: Journal
) -> None:
    failing(PermissionError("x"), autoretry_for=OSError, dont_autoretry_for=PermissionError).delay()
    dray_worker.advance(1000)
    assert journal.times == [0]


def test_the_state_between_tries_shows_the_error_and_its_traceback(
    failing: Callable[..., Task[..., Any]], dray_worker: Driver
) -> None:
    result = failing(OSError("disk"), autoretry_for=OSError).delay()
    dray_worker.run_until_idle()
    assert result.state == "RETRY"
    assert not result.ready()
    assert isinstance(result.info, OSError) and str(result.info) == "disk"
    assert result.traceback is not None and "in fail" in result.traceback


# Backoff


def waits(**options: Any) -> list[float]:
    """Return the first six pauses of a task with these options, declared without jitter."""
    app = Dray("backoff", broker="memory://", set_as_current=False)
    policy = app.task(retry_jitter=False, **options)(print).resolved.policy
    return [policy.wait(retries) for retries in range(6)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"retry_backoff": True}, [1, 2, 4, 8, 16, 32]),
        ({"retry_backoff": 5}, [5, 10, 20, 40, 80, 160]),
        ({"retry_backoff": 0.5}, [0.5, 1, 2, 4, 8, 16]),
        ({"retry_backoff": 60, "retry_backoff_max": 300}, [60, 120, 240, 300, 300, 300]),
        ({"retry_backoff": 60, "retry_backoff_max": timedelta(minutes=5)}, [60, 120, 240, 300, 300, 300]),
        ({"retry_backoff": [10, 30, 60]}, [10, 30, 60, 60, 60, 60]),
        ({"retry_backoff": [timedelta(minutes=1)]}, [60] * 6),
        ({"retry_backoff": False, "default_retry_delay": 9}, [9] * 6),
        ({"retry_backoff": True, "retry_kwargs": {"countdown": 60}}, [60, 120, 240, 480, 600, 600]),
        ({"retry_kwargs": {"countdown": 60}}, [60] * 6),
        ({}, [180] * 6),
    ],
)
def test_the_pauses_of_each_kind_of_backoff(options: dict[str, Any], expected: list[float]) -> None:
    assert waits(**options) == expected


def test_the_thousandth_retry_waits_the_longest_and_does_not_overflow() -> None:
    policy = RetryPolicy(backoff=(1.0,), jitter=False, backoff_max=600)
    assert policy.wait(1000) == 600


def test_jitter_draws_from_nothing_up_to_the_backoff() -> None:
    policy = RetryPolicy(backoff=(8.0,))
    random.seed(1)
    drawn = [policy.wait(1) for _ in range(500)]
    assert all(0 <= pause <= 16 for pause in drawn)
    assert min(drawn) < 1 and max(drawn) > 15


def test_jitter_leaves_a_list_of_pauses_alone() -> None:
    policy = RetryPolicy(backoff=(10.0, 30.0), jitter=True)
    assert [policy.wait(n) for n in range(3)] == [10, 30, 30]


def test_a_task_backs_off_on_the_clock(
    failing: Callable[..., Task[..., Any]], dray_worker: Driver, journal: Journal
) -> None:
    failing(autoretry_for=OSError, retry_backoff=10, retry_jitter=False, retry_kwargs={"max_retries": 4}).delay()
    dray_worker.advance(1000)
    assert journal.times == [0, 10, 30, 70, 150]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"retry_backoff": "fast"}, "retry_backoff is a number of seconds"),
        ({"retry_backoff": [1, -1]}, "retry_backoff is a number of seconds >= 0"),
        ({"retry_backoff_max": -1}, "retry_backoff_max is a number of seconds >= 0"),
        ({"retry_until": "never"}, "retry_until is a number of seconds"),
        ({"autoretry_for": [OSError, "x"]}, "autoretry_for is a tuple of exception classes; got 'x'"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_at_the_declaration(
    dray_app: Dray, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(TaskOptionError, match=complaint):
        dray_app.task(**options)(print)


# The end of all retries


def test_at_the_end_the_failure_is_stored_on_failure_called_and_the_message_kept_if_asked(
    dray_app: Dray, dray_worker: Driver
) -> None:
    told = []

    class Base(Task[Any, Any]):
        def on_failure(self, exc: BaseException, task_id: str, *rest: Any) -> None:
            told.append((repr(exc), task_id))

    @dray_app.task(base=Base, autoretry_for=OSError, max_retries=1, default_retry_delay=1, dead_letter=True)
    def fail(x: int) -> None:
        raise OSError("no")

    result = fail.delay(5)
    dray_worker.advance(10)
    assert told == [("OSError('no')", result.id)]
    with pytest.raises(OSError, match="no"):
        result.get()
    (letter,) = dray_app.dead_letters.find()
    assert (letter.id, letter.reason) == (result.id, "failed: OSError: no")


def test_a_dead_letter_can_be_replayed_and_succeed(dray_app: Dray, dray_worker: Driver) -> None:
    broken = [True]

    @dray_app.task(dead_letter=True)
    def charge(order: int) -> int:
        if broken:
            raise OSError("bank closed")
        return order

    result = charge.delay(9)
    dray_worker.run_until_idle()
    assert result.state == "FAILURE"
    broken.clear()
    assert dray_app.broker.replay("default") == 1
    dray_worker.run_until_idle()
    assert dray_app.AsyncResult(result.id).get() == 9


def test_without_dead_letter_a_failed_message_is_gone(
    failing: Callable[..., Task[..., Any]], dray_app: Dray, dray_worker: Driver
) -> None:
    failing().delay()
    dray_worker.run_until_idle()
    assert dray_app.broker.queues() == []


# Reject and Ignore


def test_a_rejected_message_goes_to_the_dead_letters_with_its_reason(dray_app: Dray, dray_worker: Driver) -> None:
    @dray_app.task
    def picky(x: int) -> None:
        raise Reject("too small")

    result = picky.delay(1)
    dray_worker.run_until_idle()
    (letter,) = dray_app.broker.dead("default", 10)
    assert (letter.id, letter.reason) == (result.id, "too small")
    assert result.state == "REJECTED"
    with pytest.raises(TaskRejected, match="too small"):
        result.get()


def test_a_requeued_message_comes_back_after_its_delay_and_not_for_ever(
    dray_app: Dray, dray_worker: Driver, journal: Journal
) -> None:
    @dray_app.task(bind=True, max_deliveries=3)
    def later(self: Task[Any, Any]) -> None:
        journal.note(self.request.delivery_count)
        raise Reject("busy", requeue=True, delay=20)

    result = later.delay()
    dray_worker.advance(100)
    assert (journal.times, journal.entries) == ([0, 20, 40], [1, 2, 3])
    assert result.state == "REJECTED"


def test_an_ignored_task_ends_without_a_trace(dray_app: Dray, dray_worker: Driver) -> None:
    @dray_app.task
    def nothing_to_do() -> None:
        raise Ignore

    result = nothing_to_do.delay()
    dray_worker.run_until_idle()
    assert result.state == "UNKNOWN"
    assert dray_app.broker.queues() == []


@pytest.mark.parametrize(("error", "state"), [(Reject("x"), "REJECTED"), (Ignore(), "UNKNOWN")])
def test_reject_and_ignore_are_not_retried(
    failing: Callable[..., Task[..., Any]], dray_worker: Driver, journal: Journal, error: Exception, state: str
) -> None:
    result = failing(error, autoretry_for=Exception).delay()
    dray_worker.advance(1000)
    assert (journal.times, result.state) == ([0], state)
