"""What a worker does with tasks that have a limit: they begin in their turn, and are in nobody's way meanwhile."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from dray import (
    Dray,
    Hold,
    LimitExceeded,
    ManualClock,
    Store,
    StoreUnavailable,
    Take,
    TaskRejected,
    TaskRevoked,
    states,
)
from dray.clock import SYSTEM_CLOCK
from dray.limits import CHANGES, places_part
from dray.message import Turn
from dray.testing import memory_app, wait_until

from .conftest import Gate


class KeepersClock(ManualClock):
    """A clock that knows until when a worker's keeper sleeps."""

    until = -math.inf

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if threading.current_thread().name != "dray-keeper":
            return super().wait(event, seconds)
        end = self.until = self.monotonic() + seconds
        while not event.is_set() and self.monotonic() < end:
            event.wait(0.002)
        return event.is_set()


@pytest.fixture
def clock() -> KeepersClock:
    return KeepersClock()


@pytest.fixture
def app_with(clock: ManualClock) -> Iterator[Callable[..., Dray]]:
    made: list[Dray] = []

    def make(**settings: Any) -> Dray:
        made.append(memory_app(clock, **settings))
        return made[-1]

    yield make
    for app in made:
        app.close()


@pytest.fixture
def app(app_with: Callable[..., Dray]) -> Dray:
    return app_with()


def work(app: Dray) -> None:
    app.worker().run_until_idle()


def counting(app: Dray, **options: Any) -> tuple[Any, list[tuple[float, Any]]]:
    """Return a task with these options, and a list of when it began, and with what."""
    began: list[tuple[float, Any]] = []
    task = app.task(name=options.pop("name", "t"), **options)(lambda n=0: began.append((app.clock.time(), n)))
    return task, began


def run_for(app: Dray, clock: ManualClock, seconds: float, step: float = 1.0) -> None:
    """Let a worker take what is due, again and again, while so many seconds pass."""
    work(app)
    for _ in range(round(seconds / step)):
        clock.advance(step)
        work(app)


def most_in(seconds: float, began: Sequence[tuple[float, Any]]) -> int:
    """Return how many began in the fullest window of so many seconds (the second end not counted)."""
    return max(sum(1 for at, _ in began if start <= at < start + seconds) for start, _ in began)


# How often


def test_ten_a_minute_are_ten_in_every_minute(app: Dray, clock: ManualClock) -> None:
    task, began = counting(app, rate_limit="10/m")
    task.delay_many((n,) for n in range(25))
    run_for(app, clock, 300)
    assert sorted(n for _, n in began) == list(range(25))
    assert most_in(60, began) == 10


def test_those_that_wait_keep_their_order_and_their_turns(app: Dray, clock: ManualClock) -> None:
    task, began = counting(app, rate_limit="1/s")
    task.delay_many((n,) for n in range(8))
    start = clock.time()
    run_for(app, clock, 10)
    assert [(round(at - start), n) for at, n in began] == [(n, n) for n in range(8)]


def test_a_burst_may_come_at_once_after_a_rest(app: Dray, clock: ManualClock) -> None:
    task, began = counting(app, rate_limit="1/s", burst=5)
    task.delay_many((n,) for n in range(8))
    work(app)
    assert [n for _, n in began] == [0, 1, 2, 3, 4]
    run_for(app, clock, 3)
    assert [n for _, n in began] == list(range(8))


def test_days_are_a_unit(app: Dray, clock: ManualClock) -> None:
    task, began = counting(app, rate_limit="5000/d")
    task.delay_many((n,) for n in range(3))
    run_for(app, clock, 18)
    assert len(began) == 2


def test_it_is_waited_for_without_a_delivery_and_without_circling(app: Dray, clock: ManualClock) -> None:
    seen: list[Any] = []
    task = app.task(name="t", rate_limit="1/s", bind=True, max_deliveries=1)(
        lambda self: seen.append((self.request.delivery_count, self.request.releases, self.request.id))
    )
    sent = task.delay_many([()] * 20)
    run_for(app, clock, 25)
    assert [id for _, _, id in seen] == [result.id for result in sent]
    assert {count for count, _, _ in seen} == {1}
    # The turn of each is reserved at the first look: it comes out once more, when that has come.
    assert max(releases for _, releases, _ in seen) == 1


def test_turns_that_are_far_away_are_not_reserved_and_come_by_now_and_then(app: Dray, clock: ManualClock) -> None:
    task, began = counting(app, rate_limit="1/m")
    task.delay_many((n,) for n in range(6))
    run_for(app, clock, 900, 5)
    assert sorted(n for _, n in began) == list(range(6))
    assert most_in(60, began) == 1


def test_the_task_without_a_limit_behind_many_that_wait_begins_at_once(app: Dray, clock: ManualClock) -> None:
    task, began = counting(app, rate_limit="1/h")
    free, ran = counting(app, name="free")
    task.delay_many((n,) for n in range(500))
    free.delay(7)
    work(app)
    assert (len(began), [n for _, n in ran]) == (1, [7])
    assert app.broker.sizes(["default"])["default"]["ready"] == 0


def test_a_limit_holds_for_all_workers_together(clock: ManualClock, app: Dray) -> None:
    task, began = counting(app, rate_limit="10/m")
    task.delay_many((n,) for n in range(40))
    threads = [threading.Thread(target=work, args=(app,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(began) == 1


def test_a_turn_that_was_missed_is_not_made_up_for_in_a_rush(app: Dray, clock: ManualClock) -> None:
    """The broker is away for a minute, or every worker: what has waited does not begin all at once."""
    task, began = counting(app, rate_limit="1/s")
    task.delay_many((n,) for n in range(20))
    work(app)
    clock.advance(60)
    work(app)
    assert len(began) == 2
    run_for(app, clock, 30)
    assert len(began) == 20
    assert most_in(1, began) == 1


def test_each_group_has_the_limit_to_itself(app: Dray) -> None:
    began: list[Any] = []
    app.task(name="t", rate_limit="1/m", key=lambda user_id, **_: user_id)(
        lambda user_id, action: began.append(user_id)
    )
    app.task(name="u", rate_limit="1/m", limit_key="{user_id}-{action}")(
        lambda user_id, action="read": began.append((user_id, action))
    )
    app.tasks["t"].delay_many([(1, "a"), (1, "b"), (2, "a"), (2, "b")])
    app.tasks["u"].delay_many([(1,), (1, "read"), (1, "write"), {"user_id": 1, "action": "write"}])
    work(app)
    assert began == [1, 2, (1, "read"), (1, "write")]


def test_a_group_that_cannot_be_told_buries_the_message(app: Dray) -> None:
    task = app.task(name="t", rate_limit="1/m", limit_key=lambda n: 1 // n)(lambda n: n)
    result = task.delay(0)
    work(app)
    with pytest.raises(TaskRejected, match="its limit_key cannot be worked out: ZeroDivisionError"):
        result.get()


def test_a_queue_can_have_a_limit_and_tasks_of_other_queues_do_not_mind(app_with: Callable[..., Dray]) -> None:
    """The guide's `task_routes` with a rate: in Celery it is ignored, and all of them run at once."""
    routes = {"app.tasks.api.*": {"queue": "api_calls", "rate_limit": "1/m"}}
    app = app_with(task_routes=routes)
    first, began = counting(app, name="app.tasks.api.one")
    second, also = counting(app, name="app.tasks.api.two")
    other, free = counting(app, name="other")
    for n in range(5):
        for one in (first, second, other):
            one.delay(n)
    work(app)
    assert (len(began) + len(also), len(free)) == (1, 5)


def test_a_task_and_its_queue_can_both_have_one(app_with: Callable[..., Dray], clock: ManualClock) -> None:
    app = app_with(task_queue_limits={"default": {"rate_limit": "1/s", "burst": 2}})
    task, began = counting(app, rate_limit="1/s")
    other, also = counting(app, name="other")
    task.delay_many((n,) for n in range(4))
    other.delay_many((n,) for n in range(4))
    run_for(app, clock, 20)
    assert len(began) == len(also) == 4
    assert most_in(1, began) == 1
    assert most_in(1, sorted([*began, *also])) <= 2


def test_a_limit_is_changed_while_tasks_wait(app: Dray, clock: ManualClock) -> None:
    task, began = counting(app, rate_limit="1/h")
    task.delay_many((n,) for n in range(10))
    work(app)
    assert len(began) == 1
    app.limits.set(task, rate=None)
    # Whatever waits looks again after FURTHEST seconds at the latest.
    run_for(app, clock, 300, 30)
    assert len(began) == 10


def test_a_task_that_says_nothing_can_be_limited_at_run_time(app: Dray) -> None:
    task, began = counting(app)
    app.limits.set("t", rate="1/m")
    task.delay_many((n,) for n in range(5))
    work(app)
    assert len(began) == 1
    app.limits.clear("t")
    task.delay_many((n,) for n in range(5))
    work(app)
    assert len(began) == 6


@pytest.fixture
def looks(app: Dray, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A list of when limits that were changed at run time have been looked for."""
    store, at = app.connections.records, list[float]()
    assert store is not None
    scan = store.scan

    def noting(part: str, prefix: str = "", after: str = "", limit: int = 1000) -> Sequence[tuple[str, bytes]]:
        if part == CHANGES:
            at.append(clock.monotonic())
        return scan(part, prefix, after, limit)

    monkeypatch.setattr(store, "scan", noting)
    return at


def pass_time(clock: KeepersClock, seconds: float) -> None:
    """Let time go by, and the worker's keeper see it: a step that it is not asleep for would not wake it."""
    wait_until(lambda: clock.until > clock.monotonic())
    clock.advance(seconds)
    wait_until(lambda: clock.until > clock.monotonic())


def test_an_idle_worker_looks_seldom_for_changes(app: Dray, clock: KeepersClock, looks: list[float]) -> None:
    with app.worker():
        for _ in range(150):
            pass_time(clock, 1.0)
        wait_until(lambda: len(looks) >= 8)
    assert len(looks) <= 11


def test_a_worker_hears_of_a_change_once_something_comes(app: Dray, clock: KeepersClock, looks: list[float]) -> None:
    task, began = counting(app)
    with app.worker():
        pass_time(clock, 1.0)
        wait_until(lambda: bool(looks))
        app.limits.set("t", rate="1/d")
        for sent in range(1, 20):
            task.delay(sent)
            pass_time(clock, 0.5)
            wait_until(lambda: app.broker.sizes(["default"])["default"]["ready"] == 0)
            if app.broker.sizes(["default"])["default"]["delayed"]:
                break
    # Sooner than an idle worker would look.
    assert 0 < len(began) < sent < 19


def test_a_retry_needs_a_turn_of_its_own(app: Dray, clock: ManualClock) -> None:
    began: list[float] = []

    @app.task(name="t", rate_limit="1/m", autoretry_for=(ValueError,), retry_backoff=False, default_retry_delay=0)
    def fails() -> None:
        began.append(clock.time())
        if len(began) < 3:
            raise ValueError

    fails.delay()
    run_for(app, clock, 200, 5)
    assert len(began) == 3
    assert min(b - a for a, b in zip(began, began[1:], strict=False)) >= 60


def test_an_unknown_task_that_has_waited_for_its_turn_has_all_its_grace(app_with: Callable[..., Dray]) -> None:
    app = app_with(task_unknown_grace=60.0)
    task, _ = counting(app, rate_limit="1/s")
    blank = next(task._messages([((), {})], task._blank({}), {}))
    waited = blank.but(handed_back=50, turn=Turn(50), task="newer.task")
    app.broker.publish([app.sender.enclose(app.sender.prepare(waited, task._writer({}).fill))])
    work(app)
    assert app.broker.sizes(["default"])["default"] == {"ready": 0, "delayed": 1, "leased": 0, "dead": 0}


# What else may become of it


def test_what_would_exceed_its_limit_can_be_dropped(app: Dray) -> None:
    task, began = counting(app, rate_limit="1/m", on_limit="drop")
    results = task.delay_many((n,) for n in range(3))
    work(app)
    assert [n for _, n in began] == [0]
    assert [result.state for result in results] == [states.SUCCESS, states.REVOKED, states.REVOKED]
    with pytest.raises(TaskRevoked, match="dropped: t would exceed its rate_limit"):
        results[1].get()


def test_what_would_exceed_its_limit_can_fail(app: Dray) -> None:
    told: list[str] = []
    app.task(name="told")(lambda id: told.append(id))
    task, began = counting(app, rate_limit="1/m", on_limit="error")
    results = [task.apply_async((n,), link_error=app.tasks["told"].s()) for n in range(2)]
    work(app)
    assert len(began) == 1
    with pytest.raises(LimitExceeded, match="t would exceed its rate_limit"):
        results[1].get()
    assert told == [results[1].id]


def test_what_would_exceed_its_limit_can_be_retried_as_often_as_tasks_are(app: Dray, clock: ManualClock) -> None:
    """The guide's `self.retry(countdown=...)` when a user has exceeded the limit."""
    task, began = counting(app, rate_limit="1/h", on_limit="reschedule", max_retries=2)
    results = task.delay_many((n,) for n in range(2))
    work(app)
    assert [result.state for result in results] == [states.SUCCESS, states.RETRY]
    app.limits.set(task, rate="2/h")
    run_for(app, clock, 3600, 600)
    assert len(began) == 2
    app.limits.clear(task)
    last = task.delay(3)
    run_for(app, clock, 8 * 3600, 1800)
    assert last.state == states.SUCCESS


def test_a_task_that_was_rescheduled_too_often_has_failed(app: Dray) -> None:
    task, _ = counting(app, max_concurrent=1, on_limit="reschedule", max_retries=0)
    app.limits.set(task, rate="1/d")
    results = task.delay_many([(1,), (2,)])
    work(app)
    with pytest.raises(LimitExceeded):
        results[1].get()


# How many at a time


def test_no_more_than_so_many_run_at_a_time(gate: Gate) -> None:
    with memory_app(SYSTEM_CLOCK, worker_concurrency=8) as app:
        task = app.task(name="t", max_concurrent=3)(gate.pass_through)
        free, ran = counting(app, name="free")
        with app.worker(), app.worker():
            task.delay_many((n,) for n in range(10))
            free.delay(1)
            wait_until(lambda: len(gate.entered) == 3 and ran)
            # The others come by, again and again, and find no place.
            wait_until(lambda: [one.attempt > 1 for one in app.broker.peek("default", 10) if one.attempt] == [True] * 7)
            assert len(gate.entered) == 3
            gate.open()
            wait_until(lambda: len(gate.entered) == 10)
    assert sorted(gate.entered) == list(range(10))


def test_a_place_is_free_again_whatever_a_task_comes_to(app: Dray, clock: ManualClock) -> None:
    began: list[int] = []

    @app.task(name="t", max_concurrent=1, max_retries=1, default_retry_delay=1)
    def ends_badly(n: int) -> None:
        began.append(n)
        if n == 0:
            raise ValueError
        if n == 1:
            raise ends_badly.retry()

    ends_badly.delay_many((n,) for n in range(3))
    run_for(app, clock, 60)
    assert sorted(began) == [0, 1, 1, 2]


def test_the_place_of_a_worker_that_died_is_free_when_its_time_is_over(app: Dray, clock: ManualClock) -> None:
    task, began = counting(app, max_concurrent=1)
    assert store(app).hold([Hold(places_part("t.t"), "a worker that is dead by now", app.conf.worker_lease)]) == [1]
    task.delay()
    run_for(app, clock, 29)
    assert began == []
    run_for(app, clock, 10)
    assert len(began) == 1


def test_places_are_for_each_group_or_a_whole_queue(app_with: Callable[..., Dray], gate: Gate) -> None:
    app = app_with(worker_concurrency=8, task_queue_limits={"q": {"max_concurrent": 2}})
    app.task(name="t", max_concurrent=1, limit_key="{who}")(gate.pass_through)
    app.task(name="u", queue="q")(gate.pass_through)
    with app.worker():
        app.tasks["t"].delay_many([(1,), (1,), (2,)])
        app.tasks["u"].delay_many([("x",), ("y",), ("z",)])
        wait_until(lambda: len(gate.entered) == 4)
        wait_until(lambda: app.broker.sizes(["default", "q"])["q"]["delayed"] == 1)
        assert sorted(map(str, gate.entered))[:2] == ["1", "2"]
        gate.open()


# A store that is away


def store(app: Dray) -> Store:
    found = app.connections.records
    assert found is not None
    return found


def test_while_the_store_is_away_nothing_with_a_limit_begins_and_all_else_does(
    app: Dray, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, began = counting(app, rate_limit="10/s")
    busy, also = counting(app, name="busy", max_concurrent=5)
    free, ran = counting(app, name="free")

    def away(*_: Any) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store(app), "take", away)
    monkeypatch.setattr(store(app), "hold", away)
    for one in (task, busy, free):
        one.delay(1)
    run_for(app, clock, 20)
    assert (len(began), len(also), len(ran)) == (0, 0, 1)
    monkeypatch.undo()
    run_for(app, clock, 10)
    assert (len(began), len(also)) == (1, 1)


def test_a_turn_that_was_taken_although_the_answer_was_lost_costs_that_turn_and_no_more(
    app: Dray, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, began = counting(app, rate_limit="1/m")
    take, lost = store(app).take, [True]

    def lose_the_answer(takes: Sequence[Take]) -> Sequence[float]:
        found = take(takes)
        if lost:
            lost.clear()
            raise StoreUnavailable("the reply got lost")
        return found

    monkeypatch.setattr(store(app), "take", lose_the_answer)
    task.delay_many([(1,), (2,)])
    run_for(app, clock, 300, 5)
    assert len(began) == 2
    assert most_in(60, began) == 1


# Near turns are waited for in the worker


def test_a_turn_that_is_near_is_waited_for_here_and_is_in_nobodys_way(app: Dray, clock: ManualClock) -> None:
    task, began = counting(app, rate_limit="5/s")
    free, ran = counting(app, name="free")
    with app.worker() as worker:
        task.delay_many((n,) for n in range(3))
        wait_until(lambda: len(began) == 1 and len(worker.jobs()) == 2)
        free.delay(1)
        wait_until(lambda: len(ran) == 1)
        assert len(began) == 1
        clock.advance(0.21)
        wait_until(lambda: len(began) == 2)
        clock.advance(0.21)
        wait_until(lambda: len(began) == 3)


def test_many_that_are_waited_for_here_take_no_room(app: Dray) -> None:
    task, began = counting(app, rate_limit="100/s")
    free, ran = counting(app, name="free")
    task.delay_many((n,) for n in range(40))
    free.delay(1)
    with app.worker() as worker:
        wait_until(lambda: len(ran) == 1 and len(worker.jobs()) == 39)
        assert len(began) == 1


def test_a_worker_that_stops_sends_those_again_with_their_turns(app: Dray, clock: ManualClock) -> None:
    task, began = counting(app, rate_limit="5/s")
    with app.worker() as worker:
        task.delay_many((n,) for n in range(3))
        wait_until(lambda: len(began) == 1 and len(worker.jobs()) == 2)
    assert app.broker.sizes(["default"])["default"]["delayed"] == 2
    run_for(app, clock, 1, 0.25)
    assert [n for _, n in began] == [0, 1, 2]


def test_an_at_most_once_task_is_acked_when_its_turn_has_come(app: Dray, clock: ManualClock) -> None:
    task, began = counting(app, rate_limit="1/s", acks_late=False)
    task.delay_many((n,) for n in range(3))
    run_for(app, clock, 3)
    assert [n for _, n in began] == [0, 1, 2]


def test_a_task_that_is_revoked_while_it_waits_does_not_begin(app: Dray, clock: ManualClock) -> None:
    task, began = counting(app, rate_limit="1/s")
    results = task.delay_many((n,) for n in range(3))
    work(app)
    results[1].revoke()
    run_for(app, clock, 5)
    assert [n for _, n in began] == [0, 2]
