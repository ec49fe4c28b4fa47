"""Celery's signals: connecting, what each is told, where it is sent, and what a receiver may change."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dray import ConfigurationError, Context, Dray, Ignore, NotSupported, Reject, Task, TaskOptionError, Worker, signals
from dray.message import Queue
from dray.signals import Signal
from dray.testing import Driver, Enqueued

ALL = [value for value in vars(signals).values() if isinstance(value, Signal)]


class Heard(list[tuple[str, dict[str, Any]]]):
    """What receivers were told: (name of the signal, keywords)."""

    def names(self) -> list[str]:
        return [name for name, _ in self]

    def of(self, name: str) -> list[dict[str, Any]]:
        return [told for signal, told in self if signal == name]


@pytest.fixture(autouse=True)
def nobody_stays_connected() -> Iterator[None]:
    yield
    for signal in ALL:
        signal.receivers = ()


@pytest.fixture
def heard() -> Heard:
    """Everything that is sent from here on."""
    found = Heard()

    def hear(signal: Signal, **told: Any) -> None:
        found.append((signal.name, told))

    for signal in ALL:
        signal.connect(hear)
    return found


# Connecting


def test_a_function_is_connected_bare_as_a_decorator_and_with_options() -> None:
    signal, calls = Signal("some"), []

    @signal.connect
    def bare(sender: Any = None, **_: Any) -> str:
        calls.append(("bare", sender))
        return "answer"

    @signal.connect(sender="shop.pay")
    def paid(**_: Any) -> None:
        calls.append(("paid", "shop.pay"))

    assert signal.send(sender="shop.add") == [(bare, "answer")]
    assert signal.send(sender="shop.pay") == [(bare, "answer"), (paid, None)]
    assert calls == [("bare", "shop.add"), ("bare", "shop.pay"), ("paid", "shop.pay")]


def test_a_receiver_is_told_the_signal_and_all_keywords() -> None:
    signal, told = Signal("some"), []
    signal.connect(lambda **keywords: told.append(keywords))
    signal.send(sender=1, a=2)
    assert told == [{"signal": signal, "sender": 1, "a": 2}]


def test_a_receiver_is_connected_once_and_disconnected_with_what_it_was_connected_with() -> None:
    signal, calls = Signal("some"), []

    def receiver(**_: Any) -> None:
        calls.append(1)

    signal.connect(receiver)
    signal.connect(receiver)
    signal.connect(receiver, sender="x")
    signal.send(sender="x")
    assert len(calls) == 2
    assert signal.disconnect(receiver) is True
    assert signal.disconnect(receiver) is False
    assert signal.disconnect(receiver, sender="x") is True
    assert signal.receivers == ()


def test_what_has_a_dispatch_uid_is_connected_once_whichever_function_it_is() -> None:
    signal, calls = Signal("some"), []
    for n in range(3):
        signal.connect(lambda n=n, **_: calls.append(n), dispatch_uid="only one")
    signal.send()
    assert calls == [0]
    assert signal.disconnect(dispatch_uid="only one") is True


def test_a_method_is_connected_once_however_often_it_is_asked_for() -> None:
    class Counter:
        count = 0

        def on_signal(self, **_: Any) -> None:
            self.count += 1

    signal, counter = Signal("some"), Counter()
    signal.connect(counter.on_signal)
    signal.connect(counter.on_signal)
    signal.send()
    assert counter.count == 1
    assert signal.disconnect(counter.on_signal) is True


def test_what_is_connected_weakly_goes_with_its_owner_and_anything_else_stays() -> None:
    class Counter:
        def on_signal(self, **_: Any) -> None:
            calls.append("method")

    calls: list[str] = []
    signal, counter = Signal("some"), Counter()
    signal.connect(counter.on_signal, weak=True)
    signal.connect(lambda **_: calls.append("lambda"))
    signal.send()
    del counter
    gc.collect()
    signal.send()
    assert calls == ["method", "lambda", "lambda"]


def test_a_receiver_that_raises_is_logged_and_the_next_one_called(caplog: pytest.LogCaptureFixture) -> None:
    signal, calls = Signal("some"), []

    def broken(**_: Any) -> None:
        raise ValueError("no")

    def leaving(**_: Any) -> None:
        raise SystemExit(3)

    signal.connect(broken)
    signal.connect(leaving)
    signal.connect(lambda **_: calls.append(1))
    with caplog.at_level(logging.ERROR, "dray.signals"):
        answers = signal.send()
    assert [type(answer).__name__ for _, answer in answers] == ["ValueError", "SystemExit", "NoneType"]
    assert calls == [1]
    assert "broken raised, connected to some" in caplog.text


async def coroutine(**_: Any) -> None: ...


@pytest.mark.parametrize(
    ("receiver", "message"),
    [
        (3, "takes a function; got 3"),
        (coroutine, "receivers are called, not awaited"),
        (lambda sender: None, r"takes no \*\*kwargs"),
    ],
)
def test_what_could_never_be_called_is_refused_when_it_is_connected(receiver: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Signal("some").connect(receiver)


@pytest.mark.parametrize("name", sorted(signals.INSTEAD))
def test_signals_without_a_meaning_here_say_what_to_use(name: str) -> None:
    with pytest.raises(NotSupported, match=f"there is no signal {name}: .*(use|connect)"):
        getattr(signals, name)


def test_a_name_that_no_one_has_is_no_signal() -> None:
    with pytest.raises(AttributeError, match="no attribute 'task_done'"):
        signals.task_done  # noqa: B018


# Runs


def test_a_run_is_told_before_and_after_it(dray_app: Dray, dray_worker: Driver, heard: Heard) -> None:
    @dray_app.task(name="add")
    def add(x: int, y: int = 0) -> int:
        heard.append(("the task", {}))
        return x + y

    id = add.delay(1, y=2).id
    dray_worker.run_until_idle()
    order = [name for name in heard.names() if name.startswith("t") or "publish" in name]
    assert order == [
        "before_task_publish",
        "after_task_publish",
        "task_received",
        "task_prerun",
        "the task",
        "task_success",
        "task_postrun",
    ]
    known = {"sender": add, "task": add, "task_id": id, "args": (1,), "kwargs": {"y": 2}}
    assert heard.of("task_prerun") == [known]
    assert heard.of("task_postrun") == [{**known, "retval": 3, "state": "SUCCESS"}]
    assert heard.of("task_success") == [{"sender": add, "result": 3, "task_id": id}]
    (received,) = heard.of("task_received")
    assert isinstance(received["request"], Context)
    assert received["request"].id == id


async def test_a_coroutine_is_told_of_in_the_same_way(dray_app: Dray, dray_worker: Driver, heard: Heard) -> None:
    @dray_app.task(name="double")
    async def double(x: int) -> int:
        return 2 * x

    await double.adelay(2)
    dray_worker.run_until_idle()
    assert heard.of("task_success")[0]["result"] == 4
    assert heard.of("task_postrun")[0]["state"] == "SUCCESS"


def test_a_failure_carries_the_exception_and_its_traceback(dray_app: Dray, dray_worker: Driver, heard: Heard) -> None:
    @dray_app.task(name="fail")
    def fail(x: int) -> None:
        raise ValueError("no")

    id = fail.delay(7).id
    dray_worker.run_until_idle()
    (told,) = heard.of("task_failure")
    assert (told["sender"], told["task_id"], told["args"], told["kwargs"]) == (fail, id, (7,), {})
    assert repr(told["exception"]) == "ValueError('no')"
    assert told["traceback"] is not None
    assert "in fail" in told["einfo"]
    assert heard.of("task_postrun")[0]["state"] == "FAILURE"
    assert heard.of("task_success") == []


def test_a_retry_is_told_with_the_request_and_the_reason(dray_app: Dray, dray_worker: Driver, heard: Heard) -> None:
    @dray_app.task(name="again", bind=True, max_retries=1, default_retry_delay=0)
    def again(self: Task[Any, Any]) -> None:
        raise self.retry(exc=ValueError("not yet"))

    id = again.delay().id
    dray_worker.run_until_idle()
    (told,) = heard.of("task_retry")
    assert told["request"].id == id
    assert str(told["reason"]) == "not yet"
    assert [one["state"] for one in heard.of("task_postrun")] == ["RETRY", "FAILURE"]


@pytest.mark.parametrize(("error", "state"), [(Ignore(), "IGNORED"), (Reject("not for me", requeue=False), "REJECTED")])
def test_a_run_that_steers_itself_is_neither_a_success_nor_a_failure(
    dray_app: Dray, dray_worker: Driver, heard: Heard, error: Exception, state: str
) -> None:
    @dray_app.task(name="steer")
    def steer() -> None:
        raise error

    steer.delay()
    dray_worker.run_until_idle()
    assert heard.of("task_postrun")[0]["state"] == state
    assert not {"task_success", "task_failure", "task_retry", "task_rejected"} & {*heard.names()}


def test_revoked_and_expired_tasks_are_told_and_not_run(dray_app: Dray, dray_worker: Driver, heard: Heard) -> None:
    task = dray_app.task(name="never")(lambda: None)
    revoked, expired = task.delay(), task.apply_async(expires=1)
    revoked.revoke()
    dray_app.clock.advance(2)  # type: ignore[attr-defined]
    dray_worker.run_until_idle()
    told = {one["request"].id: one for one in heard.of("task_revoked")}
    assert {id: one["expired"] for id, one in told.items()} == {revoked.id: False, expired.id: True}
    assert all(one["terminated"] is False and one["signum"] is None for one in told.values())
    assert heard.of("task_prerun") == []


@pytest.mark.dray(task_unknown_grace=0)
def test_what_cannot_be_run_is_told_as_unknown_or_rejected(dray_app: Dray, dray_worker: Driver, heard: Heard) -> None:
    dray_app.task(name="one")(lambda x: None)
    unknown = dray_app.send_task("nobody.knows")
    refused = _without_check(dray_app)
    dray_worker.run_until_idle()
    (told,) = heard.of("task_unknown")
    assert (told["name"], told["id"]) == ("nobody.knows", unknown.id)
    (told,) = heard.of("task_rejected")
    assert told["message"].id == refused
    assert "its arguments cannot be used" in str(told["exc"])
    assert heard.of("task_prerun") == []


def _without_check(app: Dray) -> str:
    """Send a call of the task `one` whose arguments do not fit."""
    with Dray("other", broker="memory://", set_as_current=False) as other:
        message = other.task(name="one")(lambda: None)
        blank = message._blank({})
        (made,) = message._messages([((), {})], blank, {})
    sent = app.sender.publish([made], app.payloads.writer("json", None), {})
    return sent[0].id


def test_a_receiver_that_raises_does_not_change_what_a_task_comes_to(dray_app: Dray, dray_worker: Driver) -> None:
    @signals.task_prerun.connect
    @signals.task_success.connect
    def broken(**_: Any) -> None:
        raise ValueError("no")

    result = dray_app.task(name="fine")(lambda: 1).delay()
    dray_worker.run_until_idle()
    assert result.get() == 1


def test_signals_of_a_run_are_sent_in_the_thread_that_runs_it(dray_app: Dray, dray_worker: Driver) -> None:
    threads: list[int] = []
    note: Callable[..., None] = lambda **_: threads.append(threading.get_ident())  # noqa: E731
    for signal in (signals.task_prerun, signals.task_success, signals.task_postrun):
        signal.connect(note, dispatch_uid="note")
    dray_app.task(name="here")(lambda: threads.append(threading.get_ident())).delay()
    dray_worker.run_until_idle()
    assert len(threads) == 4
    assert len({*threads}) == 1


def test_a_receiver_for_one_task_hears_of_that_one(dray_app: Dray, dray_worker: Driver) -> None:
    one, other = dray_app.task(name="one")(lambda: 1), dray_app.task(name="other")(lambda: 2)
    heard: list[str] = []
    signals.task_success.connect(lambda result, **_: heard.append(f"task {result}"), sender=one)
    signals.task_success.connect(lambda result, **_: heard.append(f"name {result}"), sender="other")
    one.delay()
    other.delay()
    dray_worker.run_until_idle()
    assert sorted(heard) == ["name 2", "task 1"]


# Workers


def test_a_worker_tells_of_its_life_in_order(dray_app: Dray, dray_worker: Driver, heard: Heard) -> None:
    dray_worker.run_until_idle()
    assert [name for name in heard.names() if name != "heartbeat_sent"] == [
        "worker_init",
        "worker_process_init",
        "worker_ready",
        "worker_shutting_down",
        "worker_process_shutdown",
        "worker_shutdown",
    ]
    assert isinstance(heard.of("worker_ready")[0]["sender"], Worker)
    assert heard.of("worker_shutting_down")[0]["how"] == "Warm"


# Sending


def test_before_and_after_a_publish_the_call_is_told_in_celerys_form(dray_app: Dray, heard: Heard) -> None:
    task = dray_app.task(name="add")(lambda x, y: x + y)
    id = task.apply_async((1,), {"y": 2}, headers={"tenant": "acme"}, priority=3).id
    (before,), (after,) = heard.of("before_task_publish"), heard.of("after_task_publish")
    for told in (before, after):
        assert told["sender"] == "add"
        assert told["body"][:2] == ((1,), {"y": 2})
        assert {**told["headers"], "tenant": "acme", "id": id, "task": "add", "priority": 3} == told["headers"]
        assert told["routing_key"] == "default"
    assert before["properties"]["priority"] == 3


QUEUES = [Queue(name="default"), Queue(name="high_priority", exchange="priority", routing_key="high")]


@pytest.mark.parametrize("way", ["one", "many"])
@pytest.mark.dray(task_queues=QUEUES)
def test_trap_5_the_queue_that_a_receiver_of_before_task_publish_names_is_where_the_message_goes(
    dray_app: Dray, dray_enqueued: Enqueued, way: str
) -> None:
    @signals.before_task_publish.connect
    def route_task_dynamically(sender: Any = None, headers: Any = None, body: Any = None, **kwargs: Any) -> None:
        if "priority" in body[1] and body[1]["priority"] == "high":
            headers["routing_key"] = "high"
            headers["queue"] = "high_priority"

    sent: list[dict[str, Any]] = []
    signals.after_task_publish.connect(lambda headers, **_: sent.append(headers))
    task = dray_app.task(name="work")(lambda n, priority="low": n)
    if way == "one":
        task.delay(1, priority="high")
        task.delay(2)
    else:
        task.delay_many([{"n": 1, "priority": "high"}, (2,)])
    assert [(message.queue, message.args or message.kwargs) for message in sorted_by(dray_enqueued)] == [
        ("default", (2,)),
        ("high_priority", {"n": 1, "priority": "high"} if way == "many" else (1,)),
    ]
    assert [headers["queue"] for headers in sent] == ["high_priority", "default"]


def sorted_by(enqueued: Enqueued) -> list[Any]:
    return sorted(enqueued.all(), key=lambda message: message.queue)


@pytest.mark.dray(task_queues=[*QUEUES, Queue(name="media", exchange="media", routing_key="video")])
def test_a_receiver_may_change_exchange_and_key_priority_headers_and_arguments(
    dray_app: Dray, dray_enqueued: Enqueued
) -> None:
    @signals.before_task_publish.connect
    def change(headers: Any, body: Any, properties: Any, **_: Any) -> None:
        headers["exchange"], headers["routing_key"] = "media", "video"
        headers["tenant"] = "acme"
        del headers["old"]
        properties["priority"] = 7
        body[1]["added"] = True

    dray_app.task(name="work")(lambda **_: None).apply_async(headers={"old": 1, "queue": "a header of mine"})
    (message,) = dray_enqueued.all()
    assert (message.queue, message.priority) == ("media", 7)
    assert message.headers == {"tenant": "acme", "queue": "a header of mine"}
    assert message.kwargs == {"added": True}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queue": 5}, "as a receiver of before_task_publish has it"),
        ({"priority": 10}, "priority is a whole number from 0 to 9"),
        ({"id": "another"}, r"a receiver changed headers\['id'\]"),
        ({"exchange": "nowhere", "routing_key": "x"}, "no queue is bound"),
    ],
)
def test_what_a_receiver_changes_into_nonsense_is_not_sent(
    dray_app: Dray, dray_enqueued: Enqueued, changes: dict[str, Any], message: str
) -> None:
    signals.before_task_publish.connect(lambda headers, **_: headers.update(changes))
    with pytest.raises(TaskOptionError, match=message):
        dray_app.task(name="work")(lambda: None).delay()
    assert dray_enqueued.all() == []


def test_callbacks_are_published_like_any_other_call(dray_app: Dray, dray_worker: Driver, heard: Heard) -> None:
    got: list[Any] = []
    first = dray_app.task(name="first")(lambda: 1)
    then = dray_app.task(name="then")(lambda value, extra=0: got.append((value, extra)))

    @signals.before_task_publish.connect(sender="then")
    def change(body: Any, headers: Any, **_: Any) -> None:
        assert body[0] == (1,)
        body[1]["extra"] = 5
        headers["queue"] = "elsewhere"

    first.apply_async(link=then.s())
    dray_worker.run_until_idle()
    assert got == [(1, 5)]
    assert [(told["sender"], told["headers"]["queue"]) for told in heard.of("after_task_publish")] == [
        ("first", "default"),
        ("then", "elsewhere"),
    ]


def test_nothing_is_gathered_when_nobody_is_connected(dray_app: Dray, monkeypatch: pytest.MonkeyPatch) -> None:
    def gathered(*_: Any, **__: Any) -> None:
        raise AssertionError("gathered for nobody")

    for name in ("began", "ended", "came_to", "received", "not_run", "published", "announced"):
        monkeypatch.setattr(f"dray.signalling.{name}", gathered)
    result = dray_app.task(name="quiet")(lambda: 1).delay()
    Driver(dray_app).run_until_idle()
    assert result.get() == 1


# Logging


def test_whoever_is_connected_to_setup_logging_does_that_instead_of_the_command_line(heard: Heard) -> None:
    from dray.cli.logs import as_log

    root = logging.getLogger()
    before = root.handlers[:], root.level
    with as_log("warning", as_json=False, file="w.log") as ours:
        assert not ours
        assert (root.handlers, root.level) == before
    (told,) = heard.of("setup_logging")
    assert (told["loglevel"], told["logfile"]) == (logging.WARNING, "w.log")
