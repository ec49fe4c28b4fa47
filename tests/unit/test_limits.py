"""Limits as they are declared: what tasks, queues and settings may say, and what is refused in words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dray import Dray, Limit, ManualClock, NotSupported, SettingError, TaskOptionError, stable_id
from dray.rates import Rate, read_rate
from dray.testing import Enqueued, memory_app


@pytest.mark.parametrize(
    ("said", "number", "per"),
    [
        ("10/s", 10, 1),
        ("100/m", 100, 60),
        ("1000/h", 1000, 3600),
        ("5000/d", 5000, 86400),
        (" 2.5 / s ", 2.5, 1),
        (3, 3, 1),
        (0.5, 0.5, 1),
        ("7", 7, 1),
    ],
)
def test_a_rate_is_a_number_in_a_unit_of_time_or_in_a_second(said: Any, number: float, per: float) -> None:
    assert read_rate(said) == Rate(number, per)


@pytest.mark.parametrize("said", [None, 0, "0", "0/m"])
def test_nothing_and_zero_are_no_limit_as_in_celery(said: Any) -> None:
    assert read_rate(said) is None


def test_a_rate_prints_as_it_is_written() -> None:
    assert [str(read_rate(said)) for said in ("10/m", "2.5/s", 3)] == ["10/m", "2.5/s", "3/s"]


@pytest.mark.parametrize("said", ["10/x", "ten/m", "10/", "-1/s", -1, True, float("inf"), "10/min", [10]])
def test_what_is_no_rate_is_refused_where_the_task_is_declared(dray_app: Dray, said: Any) -> None:
    with pytest.raises(TaskOptionError, match=r'rate_limit: a rate is a number and a unit, such as "10/s"'):
        dray_app.task(name="t", rate_limit=said)(lambda: None)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"max_concurrent": 0}, "max_concurrent is a whole number >= 1; got 0"),
        ({"max_concurrent": "3"}, "max_concurrent is a whole number >= 1; got '3'"),
        ({"rate_limit": "1/s", "burst": 0}, "burst is a whole number >= 1; got 0"),
        ({"burst": 2}, "burst is how many may come at once within a rate_limit; say that one too"),
        ({"rate_limit": "1/s", "on_limit": "wiat"}, "got 'wiat'; did you mean 'wait'"),
        ({"limit_key": "{user_id}"}, "it is grouped by a key, and has no limit"),
        ({"key": lambda user_id: user_id}, "it is grouped by a key, and has no limit"),
        ({"rate_limit": "1/s", "limit_key": "{usr_id}"}, "names a parameter 'usr_id' that it does not have; did you"),
        ({"rate_limit": "1/s", "limit_key": "users"}, "is the same for every call; name a parameter"),
        ({"rate_limit": "1/s", "limit_key": "{user_id"}, "is no format"),
        ({"rate_limit": "1/s", "limit_key": 7}, "limit_key is a function of the arguments, or text"),
    ],
)
def test_nonsense_about_limits_is_refused_where_the_task_is_declared(
    dray_app: Dray, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(TaskOptionError) as refused:
        dray_app.task(name="t", **options)(lambda user_id: None)
    assert complaint in str(refused.value)


def test_limits_belong_in_the_decorator_and_not_in_one_sending(dray_app: Dray) -> None:
    task = dray_app.task(name="t")(lambda: None)
    with pytest.raises(TaskOptionError, match="no option 'rate_limit'; it is the task's"):
        task.apply_async(rate_limit="1/s")  # type: ignore[call-arg]


def test_a_key_with_a_parameter_in_it_groups_a_limit_and_is_not_the_brokers(dray_app: Dray) -> None:
    limited = dray_app.task(name="t", rate_limit="1/s", key="{user_id}")(lambda user_id: None)
    plain = dray_app.task(name="u", key="{braces}")(lambda user_id: None)
    assert limited.resolved.key is None
    assert limited.resolved.limits.key is not None
    assert limited.resolved.limits.key({"user_id": 7}) == "7"
    assert (plain.resolved.key, plain.resolved.limits.key) == ("{braces}", None)


def test_a_function_is_given_those_arguments_that_it_names(dray_app: Dray) -> None:
    some = dray_app.task(name="t", rate_limit="1/s", key=lambda user_id: user_id)(lambda user_id, action="x": None)
    every = dray_app.task(name="u", rate_limit="1/s", limit_key=lambda user_id, **more: (user_id, *more.values()))(
        lambda user_id, action="x": None
    )
    for task, told in ((some, 7), (every, (7, "x"))):
        key = task.resolved.limits.key
        assert key is not None
        assert key(task.parameters.whole((7,), {})) == told


# Without a store


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate_limit": "1/s"}, "t, which has a limit, needs a store"),
        ({"max_concurrent": 1}, "t, which has a limit, needs a store"),
        ({"unique": True}, "t, which is unique, needs a store"),
    ],
)
def test_without_a_store_the_first_sending_says_which_url_to_add(options: dict[str, Any], words: str) -> None:
    with memory_app(ManualClock(), store_url="disabled") as app:
        task = app.task(name="t", **options)(lambda: None)
        for send in (task.delay, task.apply_async, lambda: task.delay_many([()])):
            with pytest.raises(NotSupported, match="store_url='sqlite:///dray.db'") as refused:
                send()
            assert words in str(refused.value)
        with pytest.raises(NotSupported, match="needs a store"):
            app.worker().run_until_idle()


def test_locks_and_changes_at_run_time_need_a_store_too() -> None:
    with memory_app(ManualClock(), store_url="disabled") as app:
        for wanted in (lambda: app.lock("x"), lambda: app.semaphore("x", 2), lambda: app.limits.set("t", rate=1)):
            with pytest.raises(NotSupported, match="needs a store, and test has none: set store_url"):
                wanted()


def test_an_eager_task_has_no_limits_and_needs_no_store() -> None:
    with memory_app(ManualClock(), store_url="disabled", task_always_eager=True) as app:
        task = app.task(name="t", rate_limit="1/d", max_concurrent=1, unique=True)(lambda n: n)
        assert [task.delay(1).get(), task.delay(1).get()] == [1, 1]


# Settings


def test_the_default_rate_is_that_of_every_task_that_says_nothing() -> None:
    with memory_app(ManualClock(), task_default_rate_limit="100/m") as app:
        says = [app.task(name=f"t{n}", **said)(lambda: None) for n, said in enumerate(({}, {"rate_limit": None}))]
        assert [str(task.resolved.limits.limit.rate) for task in says] == ["100/m", "None"]


def test_annotations_lay_a_limit_over_a_task() -> None:
    with memory_app(ManualClock(), task_annotations={"t": {"rate_limit": "10/s"}}) as app:
        assert str(app.task(name="t")(lambda: None).resolved.limits.limit.rate) == "10/s"


@pytest.mark.parametrize(
    "settings",
    [
        {"task_default_rate_limit": "100/y"},
        {"task_queue_limits": {"api": {"rate_limit": "10/x"}}},
        {"task_queue_limits": {"api": {"max_concurrent": 0}}},
        {"task_queue_limits": {"api": {"rate": "10/s"}}},
        {"task_routes": {"api.*": {"queue": "api", "rate_limit": "10/x"}}},
        {"task_routes": {"api.*": {"priority": 3, "rate_limit": "10/s"}}},
    ],
)
def test_a_setting_that_is_no_limit_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        memory_app(ManualClock(), **settings)


def test_a_rate_in_a_route_is_that_of_its_queue() -> None:
    routes = {"app.tasks.api.*": {"queue": "api_calls", "rate_limit": "10/s"}}
    with memory_app(ManualClock(), task_routes=routes) as app:
        assert app.limits.get(queue="api_calls") == Limit(rate=Rate(10, 1))
        assert app.limits.get(queue="default") == Limit()


def test_a_function_that_routes_cannot_say_a_rate() -> None:
    app = memory_app(ManualClock(), task_routes=lambda *a, **k: {"queue": "q", "rate_limit": "1/s"})
    with app, pytest.raises(TaskOptionError, match="rate_limit belongs in a table"):
        app.task(name="t")(lambda: None).delay()


# At run time


def test_limits_are_changed_at_run_time_in_part_and_cleared() -> None:
    with memory_app(ManualClock()) as app:
        task = app.task(name="t", rate_limit="10/m", max_concurrent=5)(lambda: None)
        app.limits.set(task, rate="1/s", burst=3)
        assert app.limits.get("t") == Limit(Rate(1, 1, 3), 5)
        app.limits.set("t", max_concurrent=None)
        assert app.limits.get(task) == Limit(Rate(1, 1, 3), None)
        app.limits.clear("t")
        assert app.limits.get("t") == Limit(Rate(10, 60), 5)


def test_tasks_that_are_not_known_here_and_queues_can_be_limited() -> None:
    with memory_app(ManualClock()) as app:
        app.limits.set("elsewhere." + "x" * 240, rate=2)
        app.limits.set(queue="q", max_concurrent=2)
        assert app.limits.get("elsewhere." + "x" * 240) == Limit(Rate(2, 1))
        assert app.limits.get("elsewhere." + "x" * 239) == Limit()
        assert app.limits.get(queue="q") == Limit(None, 2)


@pytest.mark.parametrize(
    ("arguments", "options", "complaint"),
    [
        (("t",), {}, "say what is to change"),
        ((), {"rate": 1}, "say a task, or queue="),
        (("t",), {"queue": "q", "rate": 1}, "say a task, or queue="),
        (("t",), {"rate": "1/x"}, "limits.set: rate: a rate is"),
        (("t",), {"max_concurrent": 0}, "max_concurrent is a whole number"),
        (("t",), {"burst": 2}, "burst is how many may come at once"),
    ],
)
def test_nonsense_at_run_time_is_refused(arguments: Any, options: Any, complaint: str) -> None:
    with memory_app(ManualClock()) as app, pytest.raises(TaskOptionError, match=complaint):
        app.limits.set(*arguments, **options)


# Ids of one's own


def test_a_stable_id_is_the_same_in_every_process_and_for_ever() -> None:
    # Written out: ids made by an older dray are to be met by those of a newer one.
    assert stable_id("email", "a@b.c", "Hello ä") == "28891844d75eef8163d35e7af9ab2c35"
    assert stable_id({"b": 1, "a": {3, 1, 2}}) == stable_id({"a": {2, 3, 1}, "b": 1})
    assert len({stable_id(1), stable_id("1"), stable_id(1, 1), stable_id([1]), stable_id(None)}) == 5


# Tenants; tests/unit/test_lanes.py has more


def test_tenants_take_turns_where_the_broker_lets_keys_do_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with memory_app(ManualClock()) as app:
        task = app.task(name="t")(lambda: None)
        fair = msgspec.structs.replace(app.broker.capabilities, key="fair")
        monkeypatch.setattr(app.broker, "capabilities", fair)
        task.apply_async(tenant="acme")
        assert [message.key for message in Enqueued(app).all()] == ["acme"]


def test_where_they_would_not_it_is_refused_with_what_would_work() -> None:
    with memory_app(ManualClock()) as app:
        task = app.task(name="t")(lambda: None)
        with pytest.raises(NotSupported, match=r"do not take turns.*: task_tenant_lanes=\{'default': 16\}"):
            task.apply_async(tenant="acme")
        for wrong in ({"tenant": ""}, {"tenant": 7}, {"tenant": "acme", "key": "k"}):
            with pytest.raises(TaskOptionError, match="tenant"):
                task.apply_async(**wrong)  # type: ignore[arg-type]
