"""What five guides show of rates, concurrency and locks: with the words of dray each does what its comment says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dray import Dray, LockTaken
from dray.testing import Driver


def counting(app: Dray, **options: Any) -> tuple[Any, list[tuple[float, Any]]]:
    """Return a task with these options, and a list of when it began, and with what."""
    began: list[tuple[float, Any]] = []
    return app.task(**options)(lambda n=0: began.append((app.clock.time(), n))), began


def most_in(seconds: float, began: list[tuple[float, Any]]) -> int:
    """Return how many began in the fullest window of so many seconds."""
    return max(sum(1 for at, _ in began if start <= at < start + seconds - 0.001) for start, _ in began)


@pytest.mark.parametrize(
    ("rate", "apart"),
    [
        ("10/m", 6.0),  # Max 10 tasks per minute
        ("100/h", 36.0),  # Max 100 tasks per hour
        ("1/s", 1.0),  # Max 1 task per second
        ("10/s", 0.1),  # 10 per second
        ("100/m", 0.6),  # 100 per minute
        ("1000/h", 3.6),  # 1000 per hour
        ("5000/d", 17.28),  # 5000 per day
    ],
)
def test_a_rate_is_kept(dray_app: Dray, dray_worker: Driver, rate: str, apart: float) -> None:
    task, began = counting(dray_app, rate_limit=rate)
    task.delay_many((n,) for n in range(6))
    dray_worker.advance(8 * apart)
    pauses = [later - before for (before, _), (later, _) in zip(began, began[1:], strict=False)]
    assert sorted(n for _, n in began) == [0, 1, 2, 3, 4, 5]
    assert pauses == pytest.approx([apart] * 5, rel=0.001)


def test_no_minute_has_more_than_ten(dray_app: Dray, dray_worker: Driver) -> None:
    send_sms, began = counting(dray_app, name="send_sms", rate_limit="10/m")
    send_sms.delay_many((n,) for n in range(25))
    dray_worker.advance(240)
    assert (len(began), most_in(60, began)) == (25, 10)


@pytest.mark.dray(task_default_rate_limit="100/m")
def test_a_default_rate_is_that_of_tasks_that_say_nothing(dray_app: Dray, dray_worker: Driver) -> None:
    task, began = counting(dray_app)
    task.delay_many((n,) for n in range(120))
    dray_worker.advance(90)
    assert (len(began), most_in(60, began)) == (120, 100)


def test_each_user_has_ten_actions_a_minute(dray_app: Dray, dray_worker: Driver) -> None:
    """The guide's counter in Redis, key by key."""
    began: list[tuple[float, int]] = []

    @dray_app.task(rate_limit="10/m", limit_key="{user_id}:{action}")
    def user_rate_limited_task(user_id: int, action: str) -> dict[str, Any]:
        began.append((dray_app.clock.time(), user_id))
        return {"status": "completed", "user_id": user_id}

    user_rate_limited_task.delay_many((user, "post") for _ in range(12) for user in (1, 2))
    dray_worker.advance(120)
    for user in (1, 2):
        own = [one for one in began if one[1] == user]
        assert (len(own), most_in(60, own)) == (12, 10)


def test_a_token_bucket_of_five_a_second_with_a_burst_of_ten(dray_app: Dray, dray_worker: Driver) -> None:
    began: list[tuple[float, str]] = []

    @dray_app.task(rate_limit="5/s", burst=10, limit_key="{api_key}")
    def token_bucket_task(api_key: str) -> None:
        began.append((dray_app.clock.time(), api_key))

    start = dray_app.clock.time()
    token_bucket_task.delay_many((key,) for _ in range(20) for key in ("a", "b"))
    dray_worker.run_until_idle()
    assert [key for _, key in began].count("a") == [key for _, key in began].count("b") == 10
    dray_worker.advance(10)
    own = [at - start for at, key in began if key == "a"]
    assert len(own) == 20
    assert own[10:] == pytest.approx([0.2 * n for n in range(1, 11)], rel=0.03)


@pytest.mark.dray(
    task_routes={
        "app.tasks.api.*": {
            "queue": "api_calls",
            "rate_limit": "10/s",  # Global limit for this queue
        },
    }
)
def test_the_tasks_of_a_queue_share_its_rate(dray_app: Dray, dray_worker: Driver) -> None:
    one, first = counting(dray_app, name="app.tasks.api.one")
    two, second = counting(dray_app, name="app.tasks.api.two")
    for n in range(15):
        one.delay(n)
        two.delay(n)
    dray_worker.advance(5)
    assert (len(first), len(second), most_in(1, first + second)) == (15, 15, 10)


def test_each_domain_is_asked_ten_times_a_minute(dray_app: Dray, dray_worker: Driver) -> None:
    """The exercise of the web scraper."""
    began: list[tuple[float, str]] = []

    @dray_app.task(rate_limit="10/m", limit_key=lambda url: url.split("/")[2])
    def scrape(url: str) -> None:
        began.append((dray_app.clock.time(), url.split("/")[2]))

    scrape.delay_many((f"https://{host}/{n}",) for n in range(12) for host in ("a.example", "b.example"))
    dray_worker.advance(120)
    for host in ("a.example", "b.example"):
        own = [one for one in began if one[1] == host]
        assert (len(own), most_in(60, own)) == (12, 10)


def test_no_more_than_ten_run_at_a_time(dray_app: Dray, dray_worker: Driver) -> None:
    running = [0, 0]

    @dray_app.task(max_concurrent=10)  # Max 10 concurrent instances
    async def rate_limited_task() -> None:
        running[0] += 1
        running[1] = max(running)
        # However long the others take to come; and then time for one too many.
        for _ in range(5000):
            if running[1] < 10:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        running[0] -= 1

    rate_limited_task.delay_many([() for _ in range(30)])
    dray_worker.advance(60)
    assert running == [0, 10]


def test_a_second_run_on_the_same_resource_is_left_out(dray_app: Dray) -> None:
    """The guides' locks in Redis, which they delete whoever has them by then."""

    @dray_app.task(bind=True)
    def deduplicated_task(self: Any, resource_id: int) -> dict[str, Any]:
        try:
            with dray_app.lock(f"task_lock:{self.name}:{resource_id}", ttl=300, wait=0):
                return {"status": "completed", "inside": deduplicated_task.apply((resource_id,)).get()}
        except LockTaken:
            return {"status": "skipped", "reason": "duplicate_task", "resource_id": resource_id}

    skipped = {"status": "skipped", "reason": "duplicate_task", "resource_id": 7}
    assert deduplicated_task.apply((7,)).get() == {"status": "completed", "inside": skipped}
    assert deduplicated_task.apply((7,)).get()["status"] == "completed"


def test_a_task_that_is_running_already_is_not_run_beside_itself(dray_app: Dray, dray_worker: Driver) -> None:
    inside: list[dict[str, str]] = []

    @dray_app.task
    async def singleton_task(again: bool = True) -> dict[str, str]:
        try:
            async with dray_app.lock("lock:singleton_task", ttl=300, wait=0):
                if again:
                    inside.append(await singleton_task(again=False))
                return {"status": "done"}
        except LockTaken:
            return {"status": "already_running"}

    result = singleton_task.delay()
    dray_worker.run_until_idle()
    assert (result.get(), inside) == ({"status": "done"}, [{"status": "already_running"}])
