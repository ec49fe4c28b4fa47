"""Sending: every option of a call, by name or by task, one or many, blocking or not, and what is refused at once."""

from __future__ import annotations

import dataclasses
import os
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from dray import (
    ArgumentsError,
    BrokerUnavailable,
    Dray,
    DrayError,
    ManualClock,
    NotSupported,
    SerializationError,
    Task,
    TaskOptionError,
    UnknownPlugin,
    UnknownTask,
)
from dray.testing import Driver, Enqueued

#: When the clock of the tests begins.
START = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


@dataclasses.dataclass
class Order:
    id: uuid.UUID
    total: Decimal
    placed: datetime


def place(order: Order, tags: set[str], note: str | None = None) -> tuple[str, str, str, str]:
    return type(order).__name__, type(order.total).__name__, type(order.placed).__name__, type(tags).__name__


def add(x: int, y: int = 1) -> int:
    return x + y


@pytest.fixture
def task(dray_app: Dray) -> Task[[int, int], int]:
    return dray_app.task(name="add")(add)


# delay, send_task


def test_delay_sends_one_message_and_gives_its_handle(task: Any, dray_enqueued: Enqueued) -> None:
    result = task.delay(2, y=3)
    (message,) = dray_enqueued.assert_enqueued(task, args=(2,), kwargs={"y": 3}, queue="default", count=1)
    assert message.id == result.id
    assert message.created == START.timestamp()
    assert (message.retries, message.priority, message.eta, message.expires) == (0, 0, None, None)
    assert result.state == "PENDING"


def test_ids_sort_by_the_time_they_were_made(task: Any, dray_clock: ManualClock) -> None:
    first = task.delay(1)
    dray_clock.advance(1)
    second = task.delay(1)
    assert first.id < second.id
    assert uuid.UUID(first.id).version == 7


def test_each_sending_has_its_own_instant(task: Any, dray_clock: ManualClock, dray_enqueued: Enqueued) -> None:
    task.delay(1)
    dray_clock.advance(5)
    task.delay(2)
    dray_clock.advance(5)
    task.delay_many([(3,), (4,)])
    task.apply_async((5,), countdown=60)
    sent = {message.args[0]: message for message in dray_enqueued.all()}
    assert [sent[n].created - START.timestamp() for n in (1, 2, 3, 4, 5)] == [0, 5, 10, 10, 10]
    assert sent[5].eta == sent[5].created + 60


def test_each_sending_says_who_sends_now(
    dray_app: Dray, task: Any, dray_enqueued: Enqueued, monkeypatch: pytest.MonkeyPatch
) -> None:
    task.delay(1)
    # As in a forked child.
    monkeypatch.setattr(dray_app.connections, "origin", "7@elsewhere")
    task.delay(2)
    first, second = (message.origin for message in dray_enqueued.all())
    assert first.startswith(f"{os.getpid()}@") and second == "7@elsewhere"


def test_a_task_can_be_sent_by_name_with_its_own_options(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    dray_app.task(name="mail", queue="mails", priority=3)(add)
    dray_app.send_task("mail", (1,), {"y": 2}, priority=8)
    (message,) = dray_enqueued.all()
    assert (message.task, message.queue, message.priority, message.args, message.kwargs) == (
        "mail",
        "mails",
        8,
        (1,),
        {"y": 2},
    )


@pytest.mark.dray(task_routes={"elsewhere.*": "far"})
def test_a_name_unknown_here_is_sent_all_the_same_and_routed(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    result = dray_app.send_task("elsewhere.charge", ["x"])
    dray_enqueued.assert_enqueued("elsewhere.charge", args=["x"], queue="far", count=1)
    assert result.state == "PENDING"


def test_a_name_unknown_to_the_worker_goes_to_the_dead_letters_with_the_nearest_name(
    dray_app: Dray, task: Any, dray_worker: Driver
) -> None:
    result = dray_app.send_task("ad", (1,))
    dray_worker.run_until_idle()
    (letter,) = dray_app.broker.dead("default", 10)
    assert "unknown task 'ad'" in letter.reason and "did you mean 'add'" in letter.reason
    assert result.state == "REJECTED"


def test_an_unknown_task_is_found_out_before_calling_it_by_signature(dray_app: Dray, task: Any) -> None:
    with pytest.raises(UnknownTask, match="did you mean 'add'"):
        dray_app.signature("ad", (1,))()


# Time


@pytest.mark.parametrize(
    "options",
    [
        {"countdown": 90},
        {"countdown": timedelta(minutes=1, seconds=30)},
        {"eta": START + timedelta(seconds=90)},
        {"eta": (START + timedelta(seconds=90)).replace(tzinfo=None)},
        {"eta": (START + timedelta(seconds=90)).astimezone(timezone(timedelta(hours=5, minutes=30)))},
    ],
    ids=["seconds", "timedelta", "aware", "naive means UTC", "another zone"],
)
def test_a_delayed_task_runs_at_its_instant_and_not_before(
    task: Any, dray_worker: Driver, dray_enqueued: Enqueued, options: dict[str, Any]
) -> None:
    result = task.apply_async((1,), **options)
    assert dray_enqueued.all()[0].eta == START.timestamp() + 90
    assert dray_worker.advance(89.5) == 0
    assert result.state == "PENDING"
    assert dray_worker.advance(0.5) == 1
    assert result.get() == 2
    assert result.date_started == START + timedelta(seconds=90)


@pytest.mark.dray(enable_utc=False, timezone="Asia/Kolkata")
def test_a_naive_eta_is_in_the_zone_of_the_settings_when_they_say_so(task: Any, dray_enqueued: Enqueued) -> None:
    task.apply_async((1,), eta=datetime(2023, 11, 15, 3, 44, 50))
    assert dray_enqueued.all()[0].eta == START.timestamp() + 90


def test_an_eta_in_the_past_is_now(task: Any, dray_worker: Driver) -> None:
    result = task.apply_async((1,), eta=START - timedelta(days=1))
    dray_worker.run_until_idle()
    assert result.get() == 2


@pytest.mark.parametrize(
    "expires",
    [10, timedelta(seconds=10), START + timedelta(seconds=10), (START + timedelta(seconds=10)).replace(tzinfo=None)],
    ids=["seconds", "timedelta", "aware", "naive"],
)
def test_an_expired_task_is_not_started_and_says_so(
    task: Any, dray_worker: Driver, dray_clock: ManualClock, expires: Any
) -> None:
    late, in_time = task.apply_async((1,), expires=expires), task.apply_async((2,), expires=11)
    dray_clock.advance(10)
    dray_worker.run_until_idle()
    assert (late.state, in_time.state) == ("EXPIRED", "SUCCESS")


def test_a_task_may_say_when_its_calls_expire(dray_app: Dray, dray_worker: Driver, dray_clock: ManualClock) -> None:
    result = dray_app.task(expires=timedelta(minutes=1))(add).delay(1)
    dray_clock.advance(61)
    dray_worker.run_until_idle()
    assert result.state == "EXPIRED"


def test_countdown_and_eta_together_are_refused(task: Any) -> None:
    with pytest.raises(TaskOptionError, match=r"give countdown .* or eta .*, not both"):
        task.apply_async((1,), countdown=1, eta=START)


# Where, how urgent, under which id


def test_the_queue_of_the_call_wins_over_the_task_and_that_over_the_routes(
    dray_app: Dray, dray_enqueued: Enqueued
) -> None:
    task = dray_app.task(name="x", queue="own")(add)
    task.apply_async((1,), queue="asked")
    task.apply_async((2,))
    dray_enqueued.assert_enqueued(task, args=(1,), queue="asked", count=1)
    dray_enqueued.assert_enqueued(task, args=(2,), queue="own", count=1)


@pytest.mark.dray(task_routes={"x": {"queue": "routed", "priority": 4}, "*.slow": "slow"}, task_default_queue="rest")
def test_a_task_that_says_nothing_goes_where_the_routes_say(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    for name in ("x", "a.slow", "other"):
        dray_app.task(name=name)(add).delay(1)
    assert {m.task: (m.queue, m.priority) for m in dray_enqueued.all()} == {
        "x": ("routed", 4),
        "a.slow": ("slow", 0),
        "other": ("rest", 0),
    }


@pytest.mark.dray(task_queues=["default", "mail"], task_create_missing_queues=False)
def test_a_queue_that_may_not_be_made_is_refused_with_the_nearest(task: Any, dray_enqueued: Enqueued) -> None:
    with pytest.raises(TaskOptionError, match=r"no queue 'mails' in task_queues.*did you mean 'mail'"):
        task.apply_async((1,), queue="mails")
    assert dray_enqueued.all() == []


def test_higher_priorities_run_first_and_equal_ones_in_order(dray_app: Dray, dray_worker: Driver) -> None:
    order = []
    task = dray_app.task(name="note")(lambda x: order.append(x))
    for number, priority in enumerate([0, 9, 5, 9, None]):
        task.apply_async((number,), priority=priority)
    dray_worker.run_until_idle()
    assert order == [1, 3, 2, 0, 4]


def test_an_id_is_idempotent_while_the_task_waits_and_free_again_afterwards(
    dray_app: Dray, dray_worker: Driver, dray_enqueued: Enqueued
) -> None:
    ran = []
    task = dray_app.task(name="note")(lambda x: ran.append(x))
    for number in range(3):
        assert task.apply_async((number,), task_id="once").id == "once"
    assert len(dray_enqueued) == 1
    dray_worker.run_until_idle()
    task.apply_async((7,), task_id="once")
    dray_worker.run_until_idle()
    assert ran == [0, 7]


@pytest.mark.parametrize("task_id", ["", "x" * 129, 5])
def test_an_impossible_id_is_refused(task: Any, task_id: Any) -> None:
    with pytest.raises(TaskOptionError, match="task_id is a text of 1 to 128 characters"):
        task.apply_async((1,), task_id=task_id)


# What goes along


def test_headers_arrive(dray_app: Dray, dray_worker: Driver) -> None:
    @dray_app.task(bind=True)
    def read(self: Task[Any, Any]) -> dict[str, Any]:
        return dict(self.request.headers)

    headers = {"tenant": "acme", "n": 1, "deep": {"a": [1, None]}}
    result = read.apply_async(headers=headers)
    dray_worker.run_until_idle()
    assert result.get() == headers


@pytest.mark.parametrize("headers", [{"x": object()}, {"ok": 1, "y": [open]}])
def test_a_header_that_cannot_travel_is_refused_where_it_is_sent(
    task: Any, headers: dict[str, Any], dray_enqueued: Enqueued
) -> None:
    with pytest.raises(SerializationError, match="header"):
        task.apply_async((1,), headers=headers)
    assert dray_enqueued.all() == []


def test_the_serializer_of_the_call_wins_over_that_of_the_task(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    task = dray_app.task(serializer="msgpack")(add)
    task.delay(1)
    task.apply_async((2,), serializer="json")
    types = {message.args: message.content_type for message in dray_enqueued.all()}
    assert types == {(1,): "application/x-msgpack", (2,): "application/json"}


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressed_arguments_arrive_whole_and_travel_small(
    dray_app: Dray, dray_worker: Driver, compression: str
) -> None:
    task = dray_app.task(name="size")(len)
    result = task.apply_async(("a" * 100_000,), compression=compression)
    (waiting,) = dray_app.broker.peek("default", 1)
    assert len(waiting.body) < 1000
    dray_worker.run_until_idle()
    assert result.get() == 100_000


@pytest.mark.parametrize("option", ["serializer", "compression"])
def test_an_unknown_serializer_or_compression_is_refused(task: Any, option: str) -> None:
    with pytest.raises(UnknownPlugin, match="'jsn'"):
        task.apply_async((1,), **{option: "jsn"})


def test_a_call_may_ask_for_no_result(task: Any, dray_app: Dray, dray_worker: Driver) -> None:
    result = task.apply_async((1,), ignore_result=True)
    assert result.ignored
    dray_worker.run_until_idle()
    assert result.get() is None
    assert dray_app.AsyncResult(result.id).state == "UNKNOWN"


def test_arguments_arrive_as_their_annotations_say(dray_app: Dray, dray_worker: Driver) -> None:
    order = Order(uuid.uuid4(), Decimal("9.90"), START)
    result = dray_app.task(name="place")(place).delay(order, {"a"})
    dray_worker.run_until_idle()
    assert result.get() == ("Order", "Decimal", "datetime", "set")


# What is refused at once


@pytest.mark.parametrize(
    ("args", "kwargs", "complaint"),
    [
        ((), {}, "got no value for 'x'"),
        ((1, 2, 3), {}, "takes 2 positional arguments and got 3"),
        ((1,), {"z": 1}, "has no parameter 'z'"),
        ((1,), {"x": 1}, "got two values for 'x'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_where_they_are_sent(
    task: Any, dray_enqueued: Enqueued, args: Any, kwargs: Any, complaint: str
) -> None:
    for send in (task.delay, lambda *a, **k: task.apply_async(a, k), lambda *a, **k: task.s(*a, **k).delay()):
        with pytest.raises(ArgumentsError, match=complaint):
            send(*args, **kwargs)
    with pytest.raises(TypeError):  # as it would be in Python
        task.delay(*args, **kwargs)
    assert dray_enqueued.all() == []


def test_typing_false_leaves_the_arguments_to_the_worker(dray_app: Dray, dray_worker: Driver) -> None:
    result = dray_app.task(typing=False)(add).delay(1, 2, 3)
    dray_worker.run_until_idle()
    assert result.state == "REJECTED"
    (letter,) = dray_app.broker.dead("default", 10)
    assert "takes 2 positional arguments and got 3" in letter.reason


class Unspeakable:
    pass


def test_an_argument_that_cannot_be_serialised_is_refused_where_it_is_sent(
    dray_app: Dray, dray_enqueued: Enqueued
) -> None:
    task = dray_app.task(name="any")(lambda x: None)
    with pytest.raises(SerializationError, match="Unspeakable"):
        task.delay({"deep": [Unspeakable()]})
    assert dray_enqueued.all() == []


@pytest.mark.dray(task_max_message_bytes=1000)
def test_an_argument_that_is_too_large_is_refused_with_advice(dray_app: Dray) -> None:
    with pytest.raises(SerializationError, match=r"task_max_message_bytes allows \(1,000\).*send a reference"):
        dray_app.task(name="any")(lambda x: None).delay("x" * 1000)


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("contdown", "no option 'contdown'; did you mean 'countdown'"),
        ("delivery_mode", "every message is stored durably where the broker can"),
        ("max_retries", "say max_retries in the decorator"),
        ("acks_late", "say acks_late in the decorator"),
    ],
)
def test_an_unknown_option_names_the_right_word(task: Any, option: str, complaint: str) -> None:
    with pytest.raises(TaskOptionError, match=complaint):
        task.apply_async((1,), **{option: 1})
    with pytest.raises(TaskOptionError, match=complaint):
        task.s(1).set(**{option: 1})


@pytest.mark.parametrize(
    "options", [{"priority": 10}, {"priority": True}, {"queue": ""}, {"queue": "a b"}, {"countdown": -1j}]
)
def test_a_bad_value_of_an_option_is_refused(task: Any, options: dict[str, Any], dray_enqueued: Enqueued) -> None:
    with pytest.raises(TaskOptionError):
        task.apply_async((1,), **options)
    assert dray_enqueued.all() == []


# Many at once


def test_many_calls_are_sent_in_one_publish_per_batch_of_the_broker(
    task: Any, dray_app: Dray, dray_enqueued: Enqueued, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    publish = dray_app.broker.publish
    monkeypatch.setattr(dray_app.broker, "publish", lambda some: (sizes.append(len(some)), publish(some)))
    results = task.delay_many(((n,) for n in range(2500)), queue="bulk")
    assert sizes == [1000, 1000, 500]
    assert [m.id for m in dray_enqueued.all()] == [result.id for result in results]
    dray_enqueued.assert_enqueued(task, queue="bulk", count=2500)


def test_calls_of_many_may_be_given_as_keywords(task: Any, dray_worker: Driver) -> None:
    results = task.delay_many([(1,), {"x": 1, "y": 5}])
    dray_worker.run_until_idle()
    assert [result.get() for result in results] == [2, 6]


def test_one_bad_call_among_many_and_nothing_is_sent(task: Any, dray_enqueued: Enqueued) -> None:
    with pytest.raises(ArgumentsError):
        task.delay_many([(1,), (), (3,)])
    assert dray_enqueued.all() == []


def test_no_calls_at_all_are_sent_as_nothing(task: Any, dray_enqueued: Enqueued) -> None:
    assert task.delay_many([]) == []
    assert dray_enqueued.all() == []


def test_one_id_cannot_name_many_calls(task: Any) -> None:
    with pytest.raises(TaskOptionError, match="task_id names one call; delay_many sends many"):
        task.delay_many([(1,)], task_id="x")


# From coroutines


async def test_the_async_twins_send_the_same(task: Any, dray_worker: Driver, dray_enqueued: Enqueued) -> None:
    results = [await task.adelay(1), await task.aapply_async((2,), queue="q"), *await task.adelay_many([(3,), (4,)])]
    dray_enqueued.assert_enqueued(task, args=(2,), queue="q", count=1)
    dray_worker.run_until_idle()
    assert [await result for result in results] == [2, 3, 4, 5]


async def test_the_async_twins_refuse_the_same(task: Any) -> None:
    with pytest.raises(ArgumentsError):
        await task.adelay()
    with pytest.raises(TaskOptionError):
        await task.aapply_async((1,), contdown=1)


# A broker that is away


class Flaky:
    """Stands in front of `publish`: away for so many calls, then back."""

    def __init__(self, app: Dray, away: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.away, self.calls = away, 0
        self._publish = app.broker.publish
        monkeypatch.setattr(app.broker, "publish", self)

    def __call__(self, envelopes: Any) -> None:
        self.calls += 1
        if self.calls <= self.away:
            raise BrokerUnavailable("nobody answers")
        self._publish(envelopes)


#: Retries without a pause.
AT_ONCE = {"max_retries": 2, "interval_start": 0, "interval_step": 0, "interval_max": 0}


def test_sending_is_tried_again_until_the_broker_is_back(
    task: Any,
    dray_app: Dray,
    monkeypatch: pytest.MonkeyPatch,
    dray_enqueued: Enqueued,
    caplog: pytest.LogCaptureFixture,
) -> None:
    publish = Flaky(dray_app, 2, monkeypatch)
    task.apply_async((1,), retry_policy=AT_ONCE)
    assert publish.calls == 3
    dray_enqueued.assert_enqueued(task, args=(1,), count=1)
    assert "nobody answers; trying again" in caplog.text


def test_sending_gives_up_after_the_retries_of_the_policy(
    task: Any, dray_app: Dray, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = Flaky(dray_app, 9, monkeypatch)
    with pytest.raises(BrokerUnavailable, match="nobody answers"):
        task.apply_async((1,), retry_policy=AT_ONCE)
    assert publish.calls == 3


def test_sending_is_tried_once_when_asked_not_to_retry(
    task: Any, dray_app: Dray, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = Flaky(dray_app, 9, monkeypatch)
    with pytest.raises(BrokerUnavailable):
        task.apply_async((1,), retry=False)
    assert publish.calls == 1


@pytest.mark.dray(task_publish_retry=False)
def test_retrying_to_send_can_be_switched_off_for_all_and_on_for_one(
    task: Any, dray_app: Dray, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = Flaky(dray_app, 1, monkeypatch)
    with pytest.raises(BrokerUnavailable):
        task.delay(1)
    publish.calls = 0
    task.apply_async((1,), retry=True, retry_policy=AT_ONCE)
    assert publish.calls == 2


def test_the_pauses_between_tries_grow_up_to_the_longest(
    task: Any, dray_app: Dray, monkeypatch: pytest.MonkeyPatch
) -> None:
    Flaky(dray_app, 4, monkeypatch)
    pauses: list[float] = []
    monkeypatch.setattr(dray_app.clock, "wait", lambda event, seconds: pauses.append(seconds))
    task.apply_async(
        (1,), retry_policy={"max_retries": None, "interval_start": 1, "interval_step": 2, "interval_max": 4}
    )
    for pause, nominal in zip(pauses, [1, 3, 4, 4], strict=True):
        assert 0.8 * nominal <= pause <= 1.2 * nominal


# What the broker at hand cannot do


def test_what_the_broker_cannot_do_is_refused_when_it_is_sent(
    task: Any, dray_app: Dray, monkeypatch: pytest.MonkeyPatch, dray_enqueued: Enqueued
) -> None:
    import msgspec

    less = msgspec.structs.replace(
        dray_app.broker.capabilities, max_delay=60.0, priority_levels=1, max_message_bytes=500
    )
    monkeypatch.setattr(dray_app.broker, "capabilities", less, raising=False)
    with pytest.raises(NotSupported, match="delay of 61 s: the broker keeps delays up to 60 s only"):
        task.apply_async((1,), countdown=61)
    with pytest.raises(NotSupported, match="priority 1: the broker has no priorities"):
        task.apply_async((1,), priority=1)
    with pytest.raises(SerializationError, match=r"more than the broker takes \(500\)"):
        task.apply_async((1,), headers={"x": "y" * 500})
    task.apply_async((1,), countdown=60, priority=0)
    assert len(dray_enqueued) == 1


@pytest.mark.parametrize(
    "send", [lambda t: t.apply_async((1,), eta="soon"), lambda t: t.apply_async((1,), expires="x")]
)
def test_times_that_are_none_are_refused(task: Any, send: Callable[[Any], Any]) -> None:
    with pytest.raises(DrayError):
        send(task)


@pytest.mark.parametrize("args", [1, "abc", b"abc", {"x": 1}, 1.5])
def test_arguments_that_are_no_tuple_say_how_to_write_one(task: Any, args: Any, dray_enqueued: Enqueued) -> None:
    with pytest.raises(ArgumentsError, match="tuple"):
        task.apply_async(args)
    assert dray_enqueued.all() == []


@pytest.mark.parametrize("calls", [["abc"], [1, 2], [(1,), "x"]])
def test_calls_of_many_that_are_no_tuples_say_how_to_write_them(task: Any, calls: Any, dray_enqueued: Enqueued) -> None:
    with pytest.raises(ArgumentsError, match="tuple"):
        task.delay_many(calls)
    assert dray_enqueued.all() == []


def test_no_arguments_may_be_written_as_none(task: Any, dray_enqueued: Enqueued) -> None:
    task.apply_async(None, {"x": 1})
    task.apply_async((1,), None)
    assert [(m.args, m.kwargs) for m in dray_enqueued.all()] == [((), {"x": 1}), ((1,), {})]


@pytest.mark.parametrize(
    "options",
    [
        {"headers": "x"},
        {"headers": {1: 2}},
        {"serializer": 5},
        {"eta": 5.0},
        {"retry_policy": {"max_retry": 1}},
        {"retry_policy": {"interval_start": "soon"}},
    ],
    ids=str,
)
def test_an_option_of_the_wrong_kind_is_refused_by_name(
    task: Any, options: dict[str, Any], dray_enqueued: Enqueued
) -> None:
    with pytest.raises((TaskOptionError, SerializationError), match=next(iter(options)).removesuffix("s")):
        task.apply_async((1,), **options)
    assert dray_enqueued.all() == []
