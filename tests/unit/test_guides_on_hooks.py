"""What the guides show of callbacks, signals and webhooks does what its comments say."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dray import AsyncResult, Dray, Queue, Task, signals
from dray.signals import Signal
from dray.testing import Driver, Enqueued

logger = logging.getLogger("shop")


@pytest.fixture(autouse=True)
def nobody_stays_connected() -> Iterator[None]:
    yield
    for signal in vars(signals).values():
        if isinstance(signal, Signal):
            signal.receivers = ()


# Classes with hooks


class CallbackTask(Task[Any, Any]):
    """Custom task class with lifecycle hooks"""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Called when task succeeds"""
        logger.info("Task %s succeeded with result: %s", task_id, retval)

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called when task fails"""
        logger.error("Task %s failed: %s", task_id, exc)

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called when task is retried"""
        logger.warning("Task %s retry: %s", task_id, exc)

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called after task returns (success or failure)"""
        logger.info("Task %s returned: %s", task_id, status)


def test_a_base_class_hears_of_every_end(dray_app: Dray, dray_worker: Driver, caplog: pytest.LogCaptureFixture) -> None:
    @dray_app.task(base=CallbackTask, bind=True, default_retry_delay=0)
    def monitored_task(self: Task[Any, Any], data: int) -> int:
        if data < 0 and not self.request.retries:
            raise self.retry(exc=ValueError("negative"))
        return 1 // data

    ids = [monitored_task.delay(data).id for data in (1, 0, -1)]
    with caplog.at_level(logging.INFO, "shop"):
        dray_worker.run_until_idle()
    told = [record.getMessage() for record in caplog.records if record.name == "shop"]
    told = [text.replace(id, str(n)) for text in told for n, id in enumerate(ids) if id in text]
    assert sorted(told) == [
        "Task 0 returned: SUCCESS",
        "Task 0 succeeded with result: 1",
        "Task 1 failed: integer division or modulo by zero",
        "Task 1 returned: FAILURE",
        "Task 2 retry: negative",
        "Task 2 returned: RETRY",
        "Task 2 returned: SUCCESS",
        "Task 2 succeeded with result: -1",
    ]


class Connection:
    """Stands for a database."""

    opened = closed = 0

    def __init__(self) -> None:
        type(self).opened += 1

    def close(self) -> None:
        type(self).closed += 1


class DatabaseTask(Task[Any, Any]):
    """Task that automatically manages database connections"""

    _db: Connection | None = None

    @property
    def db(self) -> Connection:
        if self._db is None:
            self._db = Connection()
        return self._db

    def after_return(self, *args: Any, **kwargs: Any) -> None:
        """Close database connection after task"""
        if self._db is not None:
            self._db.close()
            self._db = None


def test_a_base_class_closes_what_its_task_has_opened(dray_app: Dray, dray_worker: Driver) -> None:
    @dray_app.task(base=DatabaseTask, bind=True)
    def task_with_db(self: Any, user_id: int) -> str:
        return type(self.db).__name__

    results = [task_with_db.delay(n) for n in range(3)]
    dray_worker.run_until_idle()
    assert [result.get() for result in results] == ["Connection"] * 3
    assert (Connection.opened, Connection.closed) == (3, 3)


# Callbacks at the call, and functions of the task


def test_callbacks_given_at_the_call_are_called(dray_app: Dray, dray_worker: Driver) -> None:
    told: list[Any] = []
    success_handler = dray_app.task(name="success_handler")(lambda result: told.append(f"succeeded: {result}"))
    error_handler = dray_app.task(name="error_handler")(lambda id: told.append(f"Task {id} failed"))

    @dray_app.task
    def send_email_task(to: str, subject: str, body: str) -> str:
        if to == "nobody":
            raise ValueError("no such address")
        return "sent"

    def send(to: str) -> AsyncResult[str]:
        return send_email_task.apply_async(
            args=[to, "Subject", "Body"],
            link=success_handler.s(),  # On success
            link_error=error_handler.s(),  # On error
        )

    send("user@example.com")
    failed = send("nobody")
    dray_worker.run_until_idle()
    assert sorted(told) == [f"Task {failed.id} failed", "succeeded: sent"]


def test_on_failure_moves_a_task_to_a_queue_of_its_own_making(dray_app: Dray, dray_worker: Driver) -> None:
    pushed: list[tuple[str, Any]] = []

    class redis:
        @staticmethod
        async def lpush(key: str, value: str) -> None:
            pushed.append((key, json.loads(value)))

    async def move_to_dlq(task_id: str, error: Exception) -> None:
        await redis.lpush("dlq:important_task", json.dumps({"task_id": task_id, "error": str(error)}))

    @dray_app.task(max_retries=3, on_failure=move_to_dlq)
    async def important_task() -> None:
        raise ValueError("no")

    id = important_task.delay().id
    dray_worker.run_until_idle()
    assert pushed == [("dlq:important_task", {"task_id": id, "error": "no"})]


# Signals


@pytest.mark.dray(
    task_queues=[
        Queue(name="default", exchange="default", routing_key="default"),
        Queue(name="high_priority", exchange="priority", routing_key="high"),
        Queue(name="email", exchange="default", routing_key="email"),
        Queue(name="reports", exchange="default", routing_key="reports"),
    ],
    task_routes={
        "app.tasks.email.*": {"queue": "email", "routing_key": "email", "priority": 5},
        "app.tasks.reports.generate_monthly_report": {"queue": "reports", "routing_key": "reports", "priority": 1},
        "*": {"queue": "default", "routing_key": "default"},
    },
)
def test_routes_by_name_pattern_and_star_and_a_signal_over_all_of_them(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    @signals.before_task_publish.connect
    def route_task_dynamically(sender: Any = None, headers: Any = None, body: Any = None, **kwargs: Any) -> None:
        """Route tasks dynamically based on payload"""
        if "priority" in body[1]:  # Check task kwargs
            priority = body[1]["priority"]
            if priority == "high":
                headers["routing_key"] = "high"
                headers["queue"] = "high_priority"

    for name in ("app.tasks.email.send", "app.tasks.reports.generate_monthly_report", "app.tasks.other"):
        dray_app.task(name=name)(lambda priority="low": None).delay()
    dray_app.tasks["app.tasks.email.send"].delay(priority="high")
    found = {(message.task.rpartition(".")[2], message.queue, message.priority) for message in dray_enqueued.all()}
    assert found == {
        ("send", "email", 5),
        ("generate_monthly_report", "reports", 1),
        ("other", "default", 0),
        ("send", "high_priority", 5),
    }


def test_signals_measure_how_long_a_task_took_and_tell_of_failures_and_retries(
    dray_app: Dray, dray_worker: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    metrics: list[Any] = []

    @signals.task_prerun.connect
    def task_prerun_handler(sender: Any = None, task_id: Any = None, task: Any = None, **kwargs: Any) -> None:
        """Called before task execution"""
        task.start_time = time.time()
        logger.info("Starting task %s", task.name)

    @signals.task_postrun.connect
    def task_postrun_handler(sender: Any = None, task_id: Any = None, task: Any = None, **kwargs: Any) -> None:
        """Called after task execution"""
        if hasattr(task, "start_time"):
            metrics.append((time.time() - task.start_time, [f"task:{task.name}"]))

    @signals.task_failure.connect
    def task_failure_handler(sender: Any = None, task_id: Any = None, exception: Any = None, **kwargs: Any) -> None:
        """Called on task failure"""
        logger.error("Task %s failed: %s", sender.name, exception)

    @signals.task_retry.connect
    def task_retry_handler(sender: Any = None, task_id: Any = None, reason: Any = None, **kwargs: Any) -> None:
        """Called on task retry"""
        logger.warning("Task %s retry: %s", sender.name, reason)

    @signals.worker_ready.connect
    def worker_ready_handler(sender: Any = None, **kwargs: Any) -> None:
        """Called when worker is ready"""
        logger.info("Worker ready and accepting tasks")

    @signals.worker_shutdown.connect
    def worker_shutdown_handler(sender: Any = None, **kwargs: Any) -> None:
        """Called when worker shuts down"""
        logger.info("Worker shutting down")

    @dray_app.task(name="work", bind=True, max_retries=1, default_retry_delay=0)
    def work(self: Task[Any, Any]) -> None:
        raise self.retry(exc=ValueError("no"))

    work.delay()
    with caplog.at_level(logging.INFO, "shop"):
        dray_app.worker().run_until_idle()
    told = [record.getMessage() for record in caplog.records if record.name == "shop"]
    told.remove("Worker ready and accepting tasks")  # at about the time when it takes the first one
    assert told == [
        "Starting task work",
        "Task work retry: no",
        "Starting task work",
        "Task work failed: no",
        "Worker shutting down",
    ]
    assert [tags for _, tags in metrics] == [["task:work"], ["task:work"]]


# A webhook that a task calls itself


@pytest.mark.parametrize(("data", "status"), [(2, "success"), (0, "failed")])
def test_a_task_calls_a_webhook_on_completion(dray_app: Dray, dray_worker: Driver, data: int, status: str) -> None:
    posted: list[Any] = []

    def send_webhook(url: str, data: dict[str, Any]) -> None:
        posted.append((url, data))

    @dray_app.task(bind=True)
    def task_with_webhook(self: Task[Any, Any], data: int, webhook_url: str | None = None) -> int:
        """Task that calls webhook on completion"""
        try:
            result = 10 // data
            if webhook_url:
                send_webhook(webhook_url, {"task_id": self.request.id, "status": "success", "result": result})
            return result
        except Exception as e:
            if webhook_url:
                send_webhook(webhook_url, {"task_id": self.request.id, "status": "failed", "error": str(e)})
            raise

    result = task_with_webhook.delay(data, webhook_url="https://example.com/hook")
    dray_worker.run_until_idle()
    ((url, told),) = posted
    assert (url, told["task_id"], told["status"]) == ("https://example.com/hook", result.id, status)
