"""Middleware: the onion around every publish and every run, from code and from plugins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from dray import ConfigurationError, Dray, Message, Middleware, Retry, Task, hookimpl
from dray.testing import Driver, Enqueued


def add(x: int, y: int = 1) -> int:
    return x + y


async def aadd(x: int, y: int = 1) -> int:
    return x + y


class Trace(Middleware):
    """Notes when it is entered and left."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def publish(self, message: Message, call_next: Callable[[Message], Message]) -> Message:
        self.log.append(f"{self.name}>publish")
        sent = call_next(message)
        self.log.append(f"{self.name}<publish")
        return sent

    def execute(self, message: Message, call_next: Callable[[Message], Any]) -> Any:
        self.log.append(f"{self.name}>execute{message.args}")
        value = call_next(message)
        self.log.append(f"{self.name}<execute {value}")
        return value

    async def aexecute(self, message: Message, call_next: Callable[[Message], Awaitable[Any]]) -> Any:
        self.log.append(f"{self.name}>aexecute{message.args}")
        value = await call_next(message)
        self.log.append(f"{self.name}<aexecute {value}")
        return value


def test_the_first_middleware_is_outermost(dray_app: Dray, dray_worker: Driver) -> None:
    log: list[str] = []
    dray_app.use(Trace("a", log), Trace("b", log))
    dray_app.task(add).delay(1, 2)
    assert log == ["a>publish", "b>publish", "b<publish", "a<publish"]
    log.clear()
    dray_worker.run_until_idle()
    assert log == ["a>execute(1, 2)", "b>execute(1, 2)", "b<execute 3", "a<execute 3"]


def test_coroutines_go_through_aexecute(dray_app: Dray, dray_worker: Driver) -> None:
    log: list[str] = []
    dray_app.use(Trace("a", log))
    dray_app.task(aadd).delay(1)
    log.clear()
    dray_worker.run_until_idle()
    assert log == ["a>aexecute(1,)", "a<aexecute 2"]


def test_a_publish_can_be_changed(dray_app: Dray, dray_worker: Driver, dray_enqueued: Enqueued) -> None:
    class Tenant(Middleware):
        def publish(self, message: Message, call_next: Callable[[Message], Message]) -> Message:
            return call_next(
                message.but(queue="tenant-7", priority=5, headers={**message.headers, "tenant": 7}, args=(10,))
            )

    dray_app.use(Tenant())
    result = dray_app.task(add).delay(1)
    (message,) = dray_enqueued.all()
    assert (message.queue, message.priority, message.headers, message.args) == ("tenant-7", 5, {"tenant": 7}, (10,))
    dray_worker.run_until_idle()
    assert result.get() == 11


def test_what_publish_returns_is_how_it_travelled(dray_app: Dray) -> None:
    seen = []

    class Look(Middleware):
        def publish(self, message: Message, call_next: Callable[[Message], Message]) -> Message:
            sent = call_next(message)
            seen.append((message.payload, sent.payload, sent.content_type))
            return sent

    dray_app.use(Look())
    dray_app.task(add).delay(1)
    assert seen == [(b"", b"[[1],{}]", "application/json")]


def test_what_publish_raises_is_raised_to_the_sender(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    class Closed(Middleware):
        def publish(self, message: Message, call_next: Callable[[Message], Message]) -> Message:
            raise PermissionError("closed on Sundays")

    dray_app.use(Closed())
    with pytest.raises(PermissionError, match="closed on Sundays"):
        dray_app.task(add).delay(1)
    assert dray_enqueued.all() == []


def test_an_execution_can_be_changed_replaced_and_skipped(dray_app: Dray, dray_worker: Driver) -> None:
    class Cache(Middleware):
        def execute(self, message: Message, call_next: Callable[[Message], Any]) -> Any:
            if message.args == (0,):
                return "from the cache"
            return call_next(message.but(args=(message.args[0] * 100,))) + 0.5

    dray_app.use(Cache())
    results = dray_app.task(add).delay_many([(0,), (1,)])
    dray_worker.run_until_idle()
    assert [result.get() for result in results] == ["from the cache", 101.5]


def test_what_execute_raises_counts_as_raised_by_the_task(dray_app: Dray, dray_worker: Driver) -> None:
    class Limit(Middleware):
        def execute(self, message: Message, call_next: Callable[[Message], Any]) -> Any:
            if message.retries == 0:
                raise Retry(countdown=5)
            raise TimeoutError("too slow")

    dray_app.use(Limit())
    result = dray_app.task(add).delay(1)
    dray_worker.run_until_idle()
    assert result.state == "RETRY"
    dray_worker.advance(5)
    with pytest.raises(TimeoutError, match="too slow"):
        result.get()


def test_a_middleware_sees_what_the_task_raises(dray_app: Dray, dray_worker: Driver) -> None:
    seen = []

    class Watch(Middleware):
        def execute(self, message: Message, call_next: Callable[[Message], Any]) -> Any:
            try:
                return call_next(message)
            except ZeroDivisionError as error:
                seen.append(repr(error))
                return "caught"

    dray_app.use(Watch())
    result = dray_app.task(name="x")(lambda: 1 / 0).delay()
    dray_worker.run_until_idle()
    assert seen == ["ZeroDivisionError('division by zero')"]
    assert result.get() == "caught"


def test_a_middleware_gets_the_arguments_as_the_task_would(dray_app: Dray, dray_worker: Driver) -> None:
    seen: list[Any] = []

    class Look(Middleware):
        def execute(self, message: Message, call_next: Callable[[Message], Any]) -> Any:
            seen.append((message.args, message.kwargs))
            return call_next(message)

    dray_app.use(Look())
    dray_app.task(unique).delay({1, 2}, more={3})
    dray_worker.run_until_idle()
    assert seen == [(({1, 2},), {"more": {3}})]


def unique(some: set[int], more: set[int]) -> int:
    return len(some | more)


def test_a_base_class_task_still_has_its_request_inside(dray_app: Dray, dray_worker: Driver) -> None:
    dray_app.use(Middleware())

    @dray_app.task(bind=True)
    def who(self: Task[Any, Any]) -> str:
        return self.request.id

    result = who.delay()
    dray_worker.run_until_idle()
    assert result.get() == result.id


@pytest.mark.dray(task_always_eager=True)
def test_eager_tasks_go_through_the_same_middleware(dray_app: Dray) -> None:
    log: list[str] = []
    dray_app.use(Trace("a", log))
    dray_app.task(add).delay(1)
    assert log == ["a>publish", "a<publish", "a>execute(1,)", "a<execute 2"]


def test_plugins_bring_middleware_inside_that_of_the_app(dray_app: Dray) -> None:
    log: list[str] = []

    class Plugin:
        @hookimpl
        def middleware(self, app: Dray) -> Iterable[Middleware]:
            return [Trace("plugin", log)]

    dray_app.plugins.register(Plugin())
    dray_app.use(Trace("own", log))
    dray_app.task(add).delay(1)
    assert log == ["own>publish", "plugin>publish", "plugin<publish", "own<publish"]


def test_middleware_comes_too_late_once_the_app_is_in_use(dray_app: Dray) -> None:
    dray_app.task(add).delay(1)
    with pytest.raises(ConfigurationError, match="too late"):
        dray_app.use(Middleware())


def test_headers_changed_in_place_stay_with_their_own_message(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    class Tenant(Middleware):
        def publish(self, message: Message, call_next: Callable[[Message], Message]) -> Message:
            assert "tenant" not in message.headers
            message.headers["tenant"] = message.args[0]
            return call_next(message)

    dray_app.use(Tenant())
    task = dray_app.task(add)
    task.delay(1)
    task.delay(2)
    task.delay_many([(3,), (4,)])
    assert [message.headers for message in dray_enqueued.all()] == [{"tenant": n} for n in (1, 2, 3, 4)]
