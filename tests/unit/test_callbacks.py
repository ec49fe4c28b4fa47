"""Callbacks and signatures: calls as values, and the tasks that follow on a success or a failure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dray import Dray, ManualClock, Message, Middleware, Retry, Signature, Task, TaskOptionError, signature
from dray.testing import Driver, Enqueued

START = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


def add(x: int, y: int = 1) -> int:
    return x + y


def fail(*_: Any) -> None:
    raise ValueError("no")


class Listener:
    """A task that keeps what it was called with."""

    def __init__(self, app: Dray, **options: Any) -> None:
        self.calls: list[Any] = []
        self.requests: list[Any] = []

        @app.task(bind=True, name="listen", **options)
        def listen(task: Task[Any, Any], *args: Any, **kwargs: Any) -> None:
            self.calls.append((*args, kwargs) if kwargs else args)
            self.requests.append(task.request)

        self.task = listen


@pytest.fixture
def listener(dray_app: Dray) -> Listener:
    return Listener(dray_app)


# link


def test_a_link_is_called_with_the_result_in_front_of_its_own_arguments(
    dray_app: Dray, dray_worker: Driver, listener: Listener
) -> None:
    dray_app.task(add).apply_async((1,), link=listener.task.s("own", key=2))
    dray_worker.run_until_idle()
    assert listener.calls == [(2, "own", {"key": 2})]


def test_an_immutable_link_gets_its_own_arguments_only(dray_app: Dray, dray_worker: Driver, listener: Listener) -> None:
    dray_app.task(add).apply_async((1,), link=listener.task.si("own"))
    dray_worker.run_until_idle()
    assert listener.calls == [("own",)]


def test_several_links_are_all_called(dray_app: Dray, dray_worker: Driver, listener: Listener) -> None:
    dray_app.task(add).apply_async((1,), link=[listener.task.s("a"), listener.task.s("b")])
    dray_worker.run_until_idle()
    assert sorted(listener.calls) == [(2, "a"), (2, "b")]


def test_links_have_links_of_their_own(dray_app: Dray, dray_worker: Driver, listener: Listener) -> None:
    task = dray_app.task(add)
    task.apply_async((1,), link=task.s(10).link(task.s(100).link(listener.task.s())))
    assert dray_worker.run_until_idle() == 4
    assert listener.calls == [(112,)]


def test_a_link_runs_once_after_all_retries(dray_app: Dray, dray_worker: Driver, listener: Listener) -> None:
    @dray_app.task(bind=True)
    def flaky(self: Task[Any, Any]) -> int:
        if self.request.retries < 2:
            raise Retry(countdown=5)
        return self.request.retries

    flaky.apply_async(link=listener.task.s(), link_error=listener.task.s("error"))
    dray_worker.advance(10)
    assert listener.calls == [(2,)]


def test_a_link_belongs_to_the_family_of_its_task(dray_app: Dray, dray_worker: Driver, listener: Listener) -> None:
    result = dray_app.task(add).apply_async((1,), headers={"traceparent": "00-1"}, link=listener.task.s())
    dray_worker.run_until_idle()
    (request,) = listener.requests
    assert (request.root_id, request.parent_id) == (result.id, result.id)
    assert request.headers == {"traceparent": "00-1"}


def test_a_run_repeated_after_a_crash_calls_the_link_under_the_same_id(dray_app: Dray, dray_worker: Driver) -> None:
    listener = Listener(dray_app)
    task = dray_app.task(add)
    for _ in range(2):  # the same message twice: as if the worker had died before it could ack
        task.apply_async((1,), task_id="same", link=listener.task.s())
        dray_worker.run_until_idle()
    assert {request.id for request in listener.requests} == {"same-l0"}


@pytest.mark.parametrize(
    ("options", "due"),
    [
        ({"countdown": 60}, 60),
        ({"countdown": timedelta(minutes=1)}, 60),
        ({"eta": START + timedelta(seconds=90)}, 90),
        ({"eta": (START + timedelta(seconds=90)).replace(tzinfo=None)}, 90),
    ],
)
def test_a_link_may_be_delayed(
    dray_app: Dray, dray_worker: Driver, dray_enqueued: Enqueued, listener: Listener, options: Any, due: int
) -> None:
    dray_app.task(add).apply_async((1,), link=listener.task.s().set(**options))
    dray_worker.run_until_idle()
    assert listener.calls == []
    assert dray_enqueued.all(listener.task)[0].eta == START.timestamp() + due
    dray_worker.advance(due)
    assert listener.calls == [(2,)]


@pytest.mark.parametrize("expires", [30, timedelta(seconds=30), START + timedelta(seconds=30)])
def test_a_link_may_expire(
    dray_app: Dray, dray_worker: Driver, dray_enqueued: Enqueued, dray_clock: ManualClock, expires: Any
) -> None:
    listener = Listener(dray_app, queue="later")
    dray_app.task(add).apply_async((1,), link=listener.task.s().set(expires=expires))
    dray_app.worker("default").run_until_idle()
    dray_enqueued.assert_enqueued(listener.task, queue="later")
    dray_clock.advance(31)
    dray_worker.run_until_idle()
    assert listener.calls == []


def test_a_link_says_its_own_queue_priority_headers_and_id(
    dray_app: Dray, dray_enqueued: Enqueued, listener: Listener
) -> None:
    own = {"queue": "q", "priority": 7, "headers": {"h": 1}, "task_id": "mine", "serializer": "msgpack"}
    dray_app.task(add).apply_async((1,), link=listener.task.s().set(**own))
    dray_app.worker("default").run_until_idle()
    (message,) = dray_enqueued.all()
    assert (message.queue, message.priority, message.headers, message.id) == ("q", 7, {"h": 1}, "mine")
    assert message.content_type == "application/x-msgpack"


def test_a_link_has_the_options_of_its_task(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    listener = Listener(dray_app, queue="mail", priority=3, ignore_result=True)
    dray_app.task(add).apply_async((1,), link=listener.task.s())
    dray_app.worker("default").run_until_idle()
    (message,) = dray_enqueued.all()
    assert (message.queue, message.priority, message.ignore_result) == ("mail", 3, True)


def test_a_link_need_not_be_importable_here(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    dray_app.task(add).apply_async((1,), link=signature("elsewhere.note", ("x",), queue="far"))
    dray_app.worker("default").run_until_idle()
    dray_enqueued.assert_enqueued("elsewhere.note", args=(2, "x"), queue="far", count=1)


def test_the_result_of_a_linked_task_does_not_change(dray_app: Dray, dray_worker: Driver, listener: Listener) -> None:
    result = dray_app.task(add).apply_async((1,), link=listener.task.s())
    dray_worker.run_until_idle()
    assert result.get() == 2


# link_error


def test_a_link_error_is_called_with_the_id_of_what_failed(
    dray_app: Dray, dray_worker: Driver, listener: Listener
) -> None:
    result = dray_app.task(fail).apply_async(
        link=listener.task.s("never"), link_error=[listener.task.s("a"), listener.task.si("b")]
    )
    dray_worker.run_until_idle()
    assert sorted(listener.calls, key=len) == [("b",), (result.id, "a")]


def test_a_link_error_can_read_the_failure(dray_app: Dray, dray_worker: Driver) -> None:
    seen = []

    @dray_app.task
    def report(failed_id: str) -> None:
        seen.append(repr(dray_app.AsyncResult(failed_id).result))

    dray_app.task(fail).apply_async(link_error=report.s())
    dray_worker.run_until_idle()
    assert seen == ["ValueError('no')"]


def test_a_link_error_is_called_for_a_message_that_is_rejected(
    dray_app: Dray, dray_worker: Driver, listener: Listener
) -> None:
    sent = dray_app.send_task("unknown", link_error=listener.task.s())
    dray_worker.run_until_idle()
    assert listener.calls == [(sent.id,)]


# What can go wrong with a callback


def test_a_message_whose_result_cannot_be_handed_to_the_link_is_kept_in_the_dead_letters(
    dray_app: Dray, dray_worker: Driver, listener: Listener
) -> None:
    task = dray_app.task(name="odd", ignore_result=True)(lambda: object())
    task.apply_async(link=listener.task.s())
    dray_worker.run_until_idle()
    assert listener.calls == []
    (letter,) = dray_app.broker.dead("default", 10)
    assert "its callbacks cannot be sent" in letter.reason


def test_a_middleware_that_refuses_a_callback_costs_neither_the_result_nor_the_worker(
    dray_app: Dray, dray_worker: Driver, listener: Listener
) -> None:
    class NoListening(Middleware):
        def publish(self, message: Message, call_next: Any) -> Message:
            if message.task == "listen":
                raise PermissionError("not listening")
            return call_next(message)  # type: ignore[no-any-return]

    dray_app.use(NoListening())
    linked = dray_app.task(name="a")(add).apply_async((1,), link=listener.task.s())
    other = dray_app.task(name="b")(add).delay(2)
    dray_worker.run_until_idle()
    assert (linked.get(), other.get()) == (2, 3)
    (letter,) = dray_app.broker.dead("default", 10)
    assert letter.id == linked.id and "not listening" in letter.reason


@pytest.mark.parametrize("link", ["listen", 5, [add], {"task": "listen"}])
def test_a_link_that_is_no_signature_is_refused_where_it_is_sent(dray_app: Dray, link: Any) -> None:
    with pytest.raises(TaskOptionError, match=r"link takes signatures such as notify.s\(\)"):
        dray_app.task(add).apply_async((1,), link=link)


# Signatures


def test_a_signature_is_a_call_that_has_not_been_made(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    task = dray_app.task(name="add")(add)
    call = task.s(1, y=2).set(queue="q", countdown=5)
    assert isinstance(call, Signature)
    assert (call.task, call.args, call.kwargs, call.immutable) == ("add", (1,), {"y": 2}, False)
    assert repr(call) == "add(1, y=2)"
    assert dray_enqueued.all() == []
    call.delay()
    dray_enqueued.assert_enqueued("add", args=(1,), kwargs={"y": 2}, queue="q")


def test_arguments_of_the_call_come_in_front_of_those_of_the_signature(dray_app: Dray) -> None:
    task = dray_app.task(name="add")(lambda *args, **kwargs: (args, kwargs))
    assert task.s("own", k=1)("first", k=2, j=3) == (("first", "own"), {"k": 2, "j": 3})
    assert task.si("own")("first", j=3) == (("own",), {})


def test_changing_a_signature_gives_a_copy(dray_app: Dray) -> None:
    task = dray_app.task(name="add")(add)
    call = task.s(1)
    assert call.set(queue="q").options == {"queue": "q"} and call.options == {}
    assert call.clone((0,), countdown=1).args == (0, 1) and call.args == (1,)
    assert call.set(immutable=True).immutable and not call.immutable


def test_equal_calls_are_equal(dray_app: Dray) -> None:
    task = dray_app.task(name="add")(add)
    assert task.s(1, y=2) == task.s(1, y=2) == signature("add", (1,), {"y": 2}, app=dray_app)
    assert hash(task.s(1)) == hash(task.s(1))
    assert task.s(1) != task.si(1) != task.s(2)
    assert task.s([1]) == task.s([1])
    assert len({task.s([1]), task.s([1])}) == 1


def test_a_signature_of_a_signature_adds_to_it(dray_app: Dray) -> None:
    call = signature(signature("add", (2,)), (1,), {"z": 3}, queue="q")
    assert (call.args, call.kwargs, call.options) == ((1, 2), {"z": 3}, {"queue": "q"})


def test_a_signature_made_without_an_app_is_sent_by_the_current_one(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    signature("far.away", (1,)).delay()
    dray_enqueued.assert_enqueued("far.away", args=(1,), count=1)
