"""The 24 snippets of the guides that do something else than they say, where they come from: here they do it.

Each test holds the snippet, or, where dray has other words for it, those. What the real libraries make of them is in
the comments of the guides' own words, and for Celery in docs/celery.md. Where a trap is about more than one call
(limits, locks, retries, dead letters), its own file has the rest.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import threading
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import dray
import dray_backends.plugin
import dray_brokers.plugin
from dray import (
    Dray,
    ManualClock,
    Reject,
    ResultError,
    SettingError,
    Take,
    Task,
    TaskRejected,
    TaskRevoked,
    shared_task,
    signals,
    states,
)
from dray.testing import Driver, Enqueued


def began(app: Dray, **options: Any) -> tuple[Any, list[float]]:
    """Return a task with these options, and a list of when it began."""
    times: list[float] = []
    return app.task(**options)(lambda n=0: times.append(app.clock.time())), times


def most_in(seconds: float, times: list[float]) -> int:
    """Return how many are in the fullest window of so many seconds."""
    return max(sum(1 for at in times if start <= at < start + seconds - 0.001) for start in times)


# Sending


class DeduplicatedTask(Task[Any, Any]):
    """Base task class that prevents duplicate execution"""

    def apply_async(
        self, args: Any = None, kwargs: Any = None, task_id: str | None = None, **options: Any
    ) -> dray.AsyncResult[Any]:
        """Override apply_async to generate deterministic task ID"""
        if task_id is None:
            task_id = hashlib.md5(f"{self.name}:{args}:{kwargs}".encode()).hexdigest()
        return super().apply_async(args=args, kwargs=kwargs, task_id=task_id, **options)


@pytest.mark.parametrize("options", [{"base": DeduplicatedTask, "acks_late": True}, {"unique": True}], ids=str)
def test_trap_1_the_same_arguments_queue_one_task(
    dray_app: Dray, dray_worker: Driver, dray_enqueued: Enqueued, options: dict[str, Any]
) -> None:
    sent: list[tuple[int, str]] = []
    send_notification = dray_app.task(name="notify", **options)(
        lambda user_id, message: sent.append((user_id, message))
    )
    for _ in range(3):
        send_notification.delay(123, "Hello")
    dray_enqueued.assert_enqueued("notify", count=1)
    dray_worker.run_until_idle()
    assert sent == [(123, "Hello")]


def test_trap_11_an_id_of_what_is_sent_is_the_same_in_every_process() -> None:
    """`hash(subject)` is not; `stable_id` is what to use."""
    program = "import dray; print(dray.stable_id('email', 'a@example.com', 'Welcome'), hash('Welcome'))"

    def told(seed: str) -> list[str]:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
        return run.stdout.decode().split()

    (first, hash_there), (second, hash_here) = told("1"), told("2")
    assert hash_there != hash_here
    assert first == second == dray.stable_id("email", "a@example.com", "Welcome")


def test_trap_18_retry_at_the_call_is_about_sending_and_never_runs_a_task_again(
    dray_app: Dray, dray_worker: Driver
) -> None:
    runs: list[int] = []

    @dray_app.task(name="work")
    def work() -> None:
        runs.append(1)
        raise ValueError("no")

    result = work.apply_async(
        retry=True,
        retry_policy={"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2},
    )
    dray_worker.advance(10)
    assert runs == [1]
    with pytest.raises((ValueError, ResultError)):
        result.get()


def test_trap_19_priority_9_is_the_most_urgent(dray_app: Dray, dray_worker: Driver) -> None:
    """Here on memory; the conformance kit asks it of every broker that has priorities."""
    order: list[int] = []
    work = dray_app.task(name="work")(lambda n: order.append(n))
    for priority in (0, 9, 5):
        work.apply_async((priority,), priority=priority)
    dray_worker.run_until_idle()
    assert order == [9, 5, 0]


@pytest.mark.dray(task_routes={"*": {"queue": "default"}})
def test_trap_5_a_signal_before_sending_and_a_function_can_both_say_the_queue(
    dray_app: Dray, dray_enqueued: Enqueued
) -> None:
    def route_task_dynamically(sender: Any = None, headers: Any = None, body: Any = None, **kwargs: Any) -> None:
        if body[1].get("priority") == "high":
            headers["queue"] = "high_priority"

    task = dray_app.task(name="work")(lambda priority="low": None)
    signals.before_task_publish.connect(route_task_dynamically)
    try:
        urgent, _ = task.delay(priority="high"), task.delay(priority="low")
    finally:
        signals.before_task_publish.disconnect(route_task_dynamically)
    assert sorted(message.queue for message in dray_enqueued.all()) == ["default", "high_priority"]
    assert dray_enqueued.all(queue="high_priority")[0].id == urgent.id


@pytest.mark.dray(task_routes=[lambda name, args, kwargs, options: {"queue": kwargs.get("priority", "default")}])
def test_trap_5_a_function_in_task_routes_sees_the_arguments(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    task = dray_app.task(name="work")(lambda priority="low": None)
    urgent, _ = task.delay(priority="high_priority"), task.delay()
    assert sorted(message.queue for message in dray_enqueued.all()) == ["default", "high_priority"]
    assert dray_enqueued.all(queue="high_priority")[0].id == urgent.id


def test_trap_23_queue_and_priority_may_be_said_at_the_task(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    @dray_app.task(queue="high-priority", priority=9)
    def urgent_task() -> None: ...

    urgent_task.delay()
    urgent_task.apply_async(queue="email", priority=1)
    found = {(message.queue, message.priority) for message in dray_enqueued.all()}
    assert found == {("high-priority", 9), ("email", 1)}


# Limits and locks


def test_trap_2_a_day_is_a_unit_of_a_rate(dray_app: Dray, dray_worker: Driver) -> None:
    task, times = began(dray_app, rate_limit="5000/d")  # 5000 per day
    task.delay_many((n,) for n in range(3))
    dray_worker.advance(40)
    assert [later - before for before, later in zip(times, times[1:], strict=False)] == pytest.approx([17.28, 17.28])


def test_trap_3_ten_a_minute_are_ten_over_all_workers_and_hold_up_nobody(dray_app: Dray, dray_worker: Driver) -> None:
    send_sms, times = began(dray_app, name="send_sms", rate_limit="10/m")  # Max 10 tasks per minute
    other, also = began(dray_app, name="other")
    send_sms.delay_many((n,) for n in range(20))
    other.delay()
    workers = [threading.Thread(target=dray_app.worker().run_until_idle) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (len(times), len(also)) == (1, 1)
    dray_worker.advance(180)
    assert (len(times), most_in(60, times)) == (20, 10)


@pytest.mark.dray(task_routes={"app.tasks.api.*": {"queue": "api_calls", "rate_limit": "1/m"}})
def test_trap_4_a_rate_in_task_routes_is_that_of_the_queue(dray_app: Dray, dray_worker: Driver) -> None:
    tasks = [began(dray_app, name=f"app.tasks.api.{name}") for name in ("one", "two")]
    for task, _ in tasks:
        task.delay_many((n,) for n in range(3))
    dray_worker.run_until_idle()
    assert sum(len(times) for _, times in tasks) == 1
    dray_worker.advance(400)
    assert [len(times) for _, times in tasks] == [3, 3]


def test_trap_20_two_who_want_the_last_token_never_both_get_it(dray_app: Dray) -> None:
    """The guide's bucket is read, changed and written in three steps: two workers take the same token."""
    store, waits = dray_app.store("this test"), list[float]()

    def take() -> None:
        for _ in range(10):
            waits.extend(store.take([Take("bucket", every=0.2, burst=10)]))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert waits.count(0.0) == 10


def test_trap_20_a_lock_that_was_lost_is_not_deleted_by_who_had_it(dray_app: Dray, dray_clock: ManualClock) -> None:
    late, owner = dray_app.lock("task_lock:7", ttl=300), dray_app.lock("task_lock:7", ttl=300)
    assert late.acquire(wait=0)
    dray_app.connections.holds.stop()  # its process is frozen
    dray_clock.advance(301)
    dray_app.connections.__dict__.pop("holds")
    assert owner.acquire(wait=0)
    late.release()
    assert not dray_app.lock("task_lock:7").acquire(wait=0)
    owner.release()


def test_trap_20_a_user_has_ten_actions_in_any_minute_also_around_its_turn(dray_app: Dray, dray_worker: Driver) -> None:
    """The guide's counter begins anew with every minute of the clock: twenty fit around that instant."""
    times: list[float] = []

    @dray_app.task(rate_limit="10/m", limit_key="{user_id}-{action}")
    def user_rate_limited_task(user_id: int, action: str) -> None:
        times.append(dray_app.clock.time())

    dray_worker.advance(45)
    user_rate_limited_task.delay_many((7, "post") for _ in range(25))
    dray_worker.advance(300)
    assert (len(times), most_in(60, times)) == (25, 10)


# Running


@pytest.mark.usefixtures("dray_app")
def test_trap_6_a_coroutine_is_awaited(dray_worker: Driver) -> None:
    @shared_task(bind=True)
    async def native_async_task(self: Task[Any, Any], user_id: int) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"status": "success", "user": user_id, "id": self.request.id}

    result = native_async_task.delay(7)
    dray_worker.run_until_idle()
    assert result.get() == {"status": "success", "user": 7, "id": result.id}


def test_trap_7_a_task_may_have_a_result_backend_of_its_own(
    dray_app: Dray, dray_worker: Driver, tmp_path: Path
) -> None:
    @dray_app.task(name="own", backend=f"sqlite:///{tmp_path}/own.db")
    def task_with_custom_backend() -> str:
        return "kept there"

    result = task_with_custom_backend.delay()
    dray_worker.run_until_idle()
    assert result.get() == "kept there"
    assert dray_app.backend is not None
    assert dray_app.backend.fetch([result.id]) == {}
    assert set(dray_app.connections.backend_at(f"sqlite:///{tmp_path}/own.db").fetch([result.id])) == {result.id}


def test_trap_8_a_failure_with_a_state_of_its_own_can_be_read(dray_app: Dray, dray_worker: Driver) -> None:
    @dray_app.task(bind=True, ignore_result=False)
    def generate_report(self: Task[Any, Any], user_id: int) -> None:
        try:
            raise RuntimeError("no paper")
        except Exception as exc:
            self.update_state(state="FAILURE", meta={"error": str(exc)})
            raise

    result = generate_report.delay(1)
    dray_worker.run_until_idle()
    assert result.state == "FAILURE"
    assert str(result.result) == "no paper"
    with pytest.raises(RuntimeError, match="no paper"):
        result.get()


def test_trap_9_the_state_progress_has_a_name(dray_app: Dray) -> None:
    task = dray_app.task(name="process_batch_import")(lambda file, user_id: None).delay("data.csv", user_id=1)
    assert task.state in [states.PENDING, states.PROGRESS, states.SUCCESS]


@pytest.mark.parametrize(("jitter", "most"), [(False, [60, 120, 240]), (True, [60, 120, 240])])
def test_trap_10_a_countdown_is_where_the_backoff_begins(
    dray_app: Dray, dray_worker: Driver, jitter: bool, most: list[float]
) -> None:
    """Without jitter 60, 120, 240 s; with it each pause is at most that, as in Celery ("full jitter")."""
    times: list[float] = []

    @dray_app.task(
        bind=True,
        autoretry_for=(ConnectionError, TimeoutError),  # Auto-retry these
        retry_kwargs={"max_retries": 3, "countdown": 60},
        retry_backoff=True,  # Exponential backoff
        retry_backoff_max=600,  # Max 10 minutes between retries
        retry_jitter=jitter,
    )
    def unreliable_task(self: Task[Any, Any]) -> None:
        times.append(dray_app.clock.time())
        raise ConnectionError

    unreliable_task.delay()
    dray_worker.advance(1000)
    pauses = [later - before for before, later in zip(times, times[1:], strict=False)]
    assert len(pauses) == 3
    if jitter:
        assert all(0 <= pause <= longest + 0.01 for pause, longest in zip(pauses, most, strict=True))
    else:
        assert [round(pause) for pause in pauses] == most


def test_trap_12_a_rejected_task_goes_to_the_dead_letters(dray_app: Dray, dray_worker: Driver) -> None:
    @dray_app.task(bind=True, max_retries=3)
    def task_with_dlq(self: Task[Any, Any], data: str) -> None:
        raise Reject(ValueError(f"{data} is not valid"), requeue=False)

    result = task_with_dlq.delay("seven")
    dray_worker.run_until_idle()
    (letter,) = dray_app.dead_letters.find()
    assert (letter.id, letter.reason) == (result.id, "seven is not valid")
    assert result.state == "REJECTED"
    with pytest.raises(TaskRejected, match="seven is not valid"):
        result.get()


@pytest.mark.dray(task_always_eager=True, task_eager_propagates=True)
def test_trap_13_in_eager_tests_retries_happen_immediately(dray_app: Dray) -> None:
    answers: list[Any] = [ConnectionError("Network error"), {"sales": []}]
    asked: list[int] = []

    @dray_app.task(bind=True)
    def generate_sales_report(self: Task[Any, Any], user_id: int) -> Any:
        asked.append(user_id)
        try:
            if isinstance(answer := answers.pop(0), Exception):
                raise answer
        except ConnectionError as exc:
            raise self.retry(exc=exc, countdown=60) from exc
        return answer

    result = generate_sales_report.delay(1)
    assert result.status == "SUCCESS"
    assert asked == [1, 1]


def test_trap_24_a_task_that_is_cancelled_while_no_worker_is_there_never_begins(tmp_path: Path) -> None:
    ran: list[int] = []

    def shop() -> tuple[Dray, Any]:
        app = Dray("shop", broker=f"sqlite:///{tmp_path}/shop.db", set_as_current=False)
        return app, app.task(name="work")(lambda: ran.append(1))

    app, work = shop()
    with app:
        result = work.delay()
        app.revoke(result.id, terminate=True)
    app, _ = shop()  # a worker that was not there
    with app:
        app.worker().run_until_idle()
        with pytest.raises(TaskRevoked):
            app.AsyncResult(result.id).get()
    assert ran == []


# What is configured, installed, looked at


def test_trap_14_the_version_of_a_format_signs_nothing_and_is_refused(dray_app: Dray, dray_clock: ManualClock) -> None:
    with pytest.raises(SettingError, match="message_security"):
        dray_app.conf.update(task_protocol=2)  # "Enable message signing"


def test_trap_16_the_extra_of_each_scheme_is_one_that_can_be_installed() -> None:
    """`pip install celery[amqp]` installs nothing; here that name stands for RabbitMQ as well."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    asked_for = {*dray_brokers.plugin.extras.values(), *dray_backends.plugin.extras.values(), "amqp"}
    assert asked_for <= project["optional-dependencies"].keys()


def test_trap_17_a_job_runs_in_ten_minutes_or_at_an_instant(dray_app: Dray, dray_worker: Driver) -> None:
    """RQ's `Scheduler` is in another package than the guide imports it from; here no scheduler is needed."""
    send_email, times = began(dray_app, name="send_email")
    start = dray_app.clock.time()
    send_email.apply_async(countdown=timedelta(minutes=10))  # enqueue_in
    send_email.apply_async(eta=datetime.fromtimestamp(start + 1800, UTC))  # enqueue_at
    send_email.apply_async(eta=datetime(2020, 1, 1, 0, 0))  # long over: at once
    dray_worker.advance(3600)
    assert [round(at - start) for at in times] == [0, 600, 1800]


@pytest.mark.parametrize("trap", [15, 21])
def test_the_number_of_waiting_tasks_can_be_asked_for(dray_app: Dray, trap: int) -> None:
    """Trap 15 counts what was executed, trap 21 asks a sorted set for the length of a list."""
    task = dray_app.task(name="work", queue="mail")(lambda: None)
    task.delay_many([() for _ in range(3)])
    task.apply_async(countdown=60)
    sizes = dray_app.broker.sizes(["mail"])["mail"]
    assert (sizes["ready"], sizes["delayed"]) == (3, 1)


def test_trap_22_schedule_concurrency_queue_and_a_function_for_failures_are_options_of_a_task(
    dray_app: Dray, dray_worker: Driver, dray_enqueued: Enqueued
) -> None:
    """An API that the guide has made up. Its `enqueue(..., _delay=...)` is `aapply_async(..., countdown=...)`."""
    moved: list[tuple[str, str]] = []

    async def move_to_dlq(task_id: str, error: Exception) -> None:
        moved.append((task_id, str(error)))

    @dray_app.task(schedule="0 0 * * *", max_concurrent=10, queue="low", max_retries=0, on_failure=move_to_dlq)
    async def generate_daily_report(user_id: str = "") -> None:
        raise ValueError("no figures")

    async def send() -> str:
        await generate_daily_report.adelay(user_id="123")
        result = await generate_daily_report.aapply_async(kwargs={"user_id": "123"}, countdown=timedelta(hours=1))
        return result.id

    later = asyncio.run(send())
    (entry,) = dray_app.schedules.list()
    assert str(entry.next_run)[11:19] == "00:00:00"
    dray_enqueued.assert_enqueued(generate_daily_report, count=2)
    dray_worker.run_until_idle()
    assert len(moved) == 1
    dray_worker.advance(3600)
    assert moved[1] == (later, "no figures")
    assert list(dray_app.worker(["high", "default", "low"]).queues) == ["high", "default", "low"]  # Priority order
