"""Declaring tasks: decorators, names, bound tasks, base classes with their hooks, class-based tasks, the registry."""

from __future__ import annotations

import functools
import sys
import threading
import types
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dray import Dray, SerializationError, Task, TaskOptionError, UnknownTask, current_app, shared_task
from dray.testing import Driver, Enqueued
from dray.testing.background import Background


class Recorder(Task[Any, Any]):
    """A base class that writes down every hook that is called."""

    calls: list[tuple[Any, ...]]

    def before_start(self, task_id: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.calls.append(("before_start", task_id, args, kwargs))

    def on_success(self, retval: Any, task_id: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.calls.append(("on_success", retval, task_id, args, kwargs))

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: str) -> None:
        self.calls.append(("on_retry", repr(exc), task_id, args, kwargs, "Traceback" in einfo))

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: str) -> None:
        self.calls.append(("on_failure", repr(exc), task_id, args, kwargs, "Traceback" in einfo))

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: str) -> None:
        self.calls.append(("after_return", status, task_id, args, kwargs, "Traceback" in einfo))


@pytest.fixture
def recorder() -> type[Recorder]:
    return type("FreshRecorder", (Recorder,), {"calls": []})


def add(x: int, y: int = 1) -> int:
    """Add two numbers."""
    return x + y


async def aadd(x: int, y: int = 1) -> int:
    return x + y


class CallableObject:
    def __call__(self, x: int) -> int:
        return x + 1


# The decorator


def test_a_bare_decorator_makes_a_task_named_after_module_and_function(dray_app: Dray) -> None:
    task = dray_app.task(add)
    assert isinstance(task, Task)
    assert task.name == f"{__name__}.add"
    assert task.__name__ == "add"
    assert task.__doc__ == "Add two numbers."
    assert dray_app.tasks[task.name] is task


def test_a_decorator_with_options_makes_a_task_too(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    task = dray_app.task(name="sum", queue="math", max_retries=7)(add)
    task.delay(1)
    assert task.name == "sum"
    assert task.max_retries == 7
    dray_enqueued.assert_enqueued("sum", queue="math")


def test_a_task_can_be_called_as_the_function_it_is(dray_app: Dray) -> None:
    task = dray_app.task(add)
    assert task(2, y=3) == 5
    assert dray_app.broker.queues() == []


async def test_an_async_task_called_directly_gives_the_coroutine(dray_app: Dray) -> None:
    assert await dray_app.task(aadd)(2, y=3) == 5


def test_a_direct_call_knows_that_it_is_one(dray_app: Dray) -> None:
    @dray_app.task(bind=True)
    def who(self: Task[Any, Any]) -> tuple[bool, str, int]:
        return self.request.called_directly, self.request.id, self.request.retries

    assert who() == (True, "", 0)


@pytest.mark.parametrize("function", [functools.partial(add, 1), CallableObject()], ids=["partial", "object"])
def test_what_has_no_name_of_its_own_needs_one(dray_app: Dray, dray_worker: Driver, function: Any) -> None:
    with pytest.raises(TaskOptionError, match="name="):
        dray_app.task(function)
    result = dray_app.task(name="named")(function).delay(5)
    dray_worker.run_until_idle()
    assert result.get() == 6


@pytest.mark.parametrize("name", [5, b"x", "x" * 10_000], ids=["number", "bytes", "long"])
def test_an_impossible_name_is_refused(dray_app: Dray, name: Any) -> None:
    with pytest.raises(TaskOptionError, match="name"):
        dray_app.task(name=name)(add)


def test_a_coroutine_hidden_by_a_plain_decorator_is_an_error_that_says_so(dray_app: Dray, dray_worker: Driver) -> None:
    @functools.wraps(aadd)
    def hiding(*args: int) -> Any:
        coroutine = aadd(*args)
        opened.append(coroutine)
        return coroutine

    opened: list[Any] = []
    result = dray_app.task(hiding).delay(1)
    dray_worker.run_until_idle()
    with pytest.raises(SerializationError, match="await it first"):
        result.get()
    opened[0].close()


def test_an_expected_exception_is_logged_without_its_traceback(
    dray_app: Dray, dray_worker: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(text: str) -> None:
        raise LookupError(text)

    dray_app.task(name="quiet", throws=LookupError)(fail).delay("expected")
    dray_app.task(name="loud")(fail).delay("unexpected")
    dray_worker.run_until_idle()
    tracebacks = {record.args[0]: bool(record.exc_info) for record in caplog.records if record.levelname == "ERROR"}  # type: ignore[index]
    assert tracebacks == {"quiet": False, "loud": True}


def test_decorating_something_that_cannot_be_called_says_how_options_are_given(dray_app: Dray) -> None:
    with pytest.raises(TaskOptionError, match="decorates a function; got 'mail'. Options are given by name"):
        dray_app.task("mail")  # type: ignore[call-overload]


def test_an_unknown_option_is_an_error_at_the_declaration_that_names_the_nearest(dray_app: Dray) -> None:
    with pytest.raises(TaskOptionError, match="no option 'max_retires'; did you mean 'max_retries'"):
        dray_app.task(max_retires=3)(add)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"priority": 10}, "priority is a whole number from 0 to 9"),
        ({"queue": "two words"}, "a queue is named by 1 to 128 characters without whitespace"),
        ({"max_retries": -1}, "max_retries is a whole number >= 0, or None"),
        ({"max_deliveries": 0}, "max_deliveries is a whole number >= 1"),
        ({"expires": -5}, "expires is a number of seconds >= 0"),
        ({"default_retry_delay": "soon"}, "default_retry_delay is a number of seconds"),
        ({"autoretry_for": (1,)}, "autoretry_for is a tuple of exception classes; got 1"),
        ({"retry_backoff": []}, "retry_backoff is an empty list"),
        ({"retry_kwargs": {"delay": 1}}, "retry_kwargs takes max_retries and countdown, not 'delay'"),
        ({"base": int}, "base is a subclass of dray.Task"),
    ],
)
def test_a_bad_value_is_an_error_at_the_declaration(dray_app: Dray, options: Any, complaint: str) -> None:
    with pytest.raises(TaskOptionError, match=complaint):
        dray_app.task(**options)(add)


def test_two_functions_cannot_have_one_name_in_an_app(dray_app: Dray) -> None:
    dray_app.task(name="x")(add)
    with pytest.raises(TaskOptionError, match=r"two tasks named 'x': .*\.add and .*\.aadd"):
        dray_app.task(name="x")(aadd)


def test_declaring_the_same_function_again_replaces_the_task(dray_app: Dray) -> None:
    dray_app.task(name="x")(add)
    again = dray_app.task(name="x")(add)
    assert dray_app.tasks["x"] is again


def test_a_task_says_what_it_is_and_refuses_to_be_pickled(dray_app: Dray) -> None:
    import pickle

    task = dray_app.task(name="x")(add)
    assert repr(task) == "<task x of test>"
    with pytest.raises(TypeError, match="a task is not data: send its name, 'x'"):
        pickle.dumps(task)


# bind=True and self.request


def test_a_bound_task_sees_its_request(dray_app: Dray, dray_worker: Driver) -> None:
    seen: dict[str, Any] = {}

    @dray_app.task(bind=True, name="look")
    def look(self: Task[Any, Any], *args: Any, **kwargs: Any) -> None:
        request = self.request
        seen.update({name: getattr(request, name) for name in dir(request) if not name.startswith("_")})

    eta = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)  # when the clock of the tests begins
    look.apply_async((1, "a"), {"k": None}, task_id="t1", eta=eta, expires=60, queue="q", priority=4, headers={"h": 1})
    dray_worker.run_until_idle()
    assert (seen["id"], seen["args"], seen["kwargs"], seen["retries"]) == ("t1", (1, "a"), {"k": None}, 0)
    assert (seen["queue"], seen["priority"], seen["headers"]) == ("q", 4, {"h": 1})
    assert seen["eta"] == eta
    assert (seen["expires"] - eta).total_seconds() == 60
    assert (seen["root_id"], seen["parent_id"]) == ("t1", None)
    assert (seen["delivery_count"], seen["called_directly"], seen["is_eager"], seen["cancelled"]) == (
        1,
        False,
        False,
        False,
    )
    assert seen["delivery_info"] == {"routing_key": "q", "priority": 4, "redelivered": False, "delivery_count": 1}
    assert seen["hostname"]
    assert seen["task"] is look


def test_tasks_sent_by_a_task_know_their_parent_and_root(dray_app: Dray, dray_worker: Driver) -> None:
    family: dict[int, tuple[str, str | None, str]] = {}

    @dray_app.task(bind=True)
    def descend(self: Task[Any, Any], depth: int) -> None:
        family[depth] = (self.request.id, self.request.parent_id, self.request.root_id)
        if depth:
            descend.delay(depth - 1)

    root = descend.delay(2)
    assert dray_worker.run_until_idle() == 3
    assert family[2] == (root.id, None, root.id)
    assert family[1][1:] == (root.id, root.id)
    assert family[0][1:] == (family[1][0], root.id)


def test_trace_headers_are_handed_on_and_other_headers_are_not(dray_app: Dray, dray_worker: Driver) -> None:
    seen = {}

    @dray_app.task(bind=True)
    def child(self: Task[Any, Any]) -> None:
        seen.update(self.request.headers)

    @dray_app.task
    def parent() -> None:
        child.delay()

    parent.apply_async(headers={"traceparent": "00-1-2-01", "mine": 1})
    dray_worker.run_until_idle()
    assert seen == {"traceparent": "00-1-2-01"}


def test_the_request_of_a_task_is_over_when_it_ends(dray_app: Dray, dray_worker: Driver) -> None:
    @dray_app.task(bind=True)
    def quick(self: Task[Any, Any]) -> str:
        return self.request.id

    quick.delay()
    dray_worker.run_until_idle()
    assert quick.request.called_directly


def test_a_bound_task_must_have_a_first_parameter(dray_app: Dray) -> None:
    @dray_app.task(bind=True)
    def none() -> None: ...

    with pytest.raises(TaskOptionError, match="has no first parameter to take the task"):
        none.delay()


# base= and hooks


def test_a_base_class_hears_of_a_success_in_order(
    dray_app: Dray, dray_worker: Driver, recorder: type[Recorder]
) -> None:
    dray_app.task(base=recorder)(add).apply_async((1,), {"y": 2}, task_id="t")
    dray_worker.run_until_idle()
    about = ("t", (1,), {"y": 2})
    assert recorder.calls == [
        ("before_start", *about),
        ("on_success", 3, *about),
        ("after_return", "SUCCESS", *about, False),
    ]


def test_a_base_class_hears_of_retries_and_of_the_failure_at_the_end(
    dray_app: Dray, dray_worker: Driver, recorder: type[Recorder]
) -> None:
    @dray_app.task(base=recorder, autoretry_for=OSError, max_retries=1, default_retry_delay=5)
    def fail() -> None:
        raise OSError("no")

    fail.apply_async(task_id="t")
    dray_worker.advance(5)
    about = ("t", (), {}, True)
    assert [call for call in recorder.calls if call[0] != "before_start"] == [
        ("on_retry", "OSError('no')", *about),
        ("after_return", "RETRY", *about),
        ("on_failure", "OSError('no')", *about),
        ("after_return", "FAILURE", *about),
    ]
    assert len([call for call in recorder.calls if call[0] == "before_start"]) == 2


def test_hooks_of_an_async_task_may_be_coroutines(dray_app: Dray, dray_worker: Driver) -> None:
    called = []

    class Base(Task[Any, Any]):
        async def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            called.append("before_start")

        async def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            called.append(f"on_success {retval}")

        def after_return(self, status: str, *rest: Any) -> None:
            called.append(f"after_return {status}")

    dray_app.task(base=Base)(aadd).delay(1)
    dray_worker.run_until_idle()
    assert called == ["before_start", "on_success 2", "after_return SUCCESS"]


def test_a_hook_that_raises_is_logged_and_costs_no_result(
    dray_app: Dray, dray_worker: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    class Base(Task[Any, Any]):
        def on_success(self, *args: Any) -> None:
            raise RuntimeError("in the hook")

    result = dray_app.task(base=Base, name="x")(add).delay(1)
    dray_worker.run_until_idle()
    assert result.get() == 2
    assert "on_success of x" in caplog.text and "in the hook" in caplog.text


def test_a_hook_that_exits_does_not_take_the_worker_with_it(dray_app: Dray, dray_worker: Driver) -> None:
    class Base(Task[Any, Any]):
        def on_success(self, *args: Any) -> None:
            sys.exit(1)

    first = dray_app.task(base=Base, name="x")(add).delay(1)
    second = dray_app.task(name="y")(add).delay(2)
    dray_worker.run_until_idle()
    assert (first.get(), second.get()) == (2, 3)


def test_before_start_that_raises_fails_the_task(dray_app: Dray, dray_worker: Driver) -> None:
    class Base(Task[Any, Any]):
        def before_start(self, *args: Any) -> None:
            raise PermissionError("not today")

    result = dray_app.task(base=Base)(add).delay(1)
    dray_worker.run_until_idle()
    with pytest.raises(PermissionError, match="not today"):
        result.get()


def test_class_attributes_of_a_base_class_are_defaults_for_its_tasks(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    class Mail(Task[Any, Any]):
        queue = "mail"
        priority = 5
        max_retries = 9
        autoretry_for = (OSError,)
        ignore_result = True

    task = dray_app.task(base=Mail, name="a")(add)
    own = dray_app.task(base=Mail, queue="other", name="b")(add)
    task.delay(1)
    own.delay(1)
    (sent,) = dray_enqueued.all(task)
    assert (sent.queue, sent.priority, sent.ignore_result) == ("mail", 5, True)
    assert task.resolved.policy.max_retries == 9
    assert task.resolved.policy.wants(OSError())
    dray_enqueued.assert_enqueued(own, queue="other")


def test_a_class_attribute_of_none_means_no_limit_to_retries(dray_app: Dray) -> None:
    class Stubborn(Task[Any, Any]):
        max_retries = None

    assert dray_app.task(base=Stubborn)(add).resolved.policy.max_retries is None


def test_the_app_can_have_a_base_class_for_all_its_tasks() -> None:
    class Ours(Task[Any, Any]):
        def shout(self) -> str:
            return self.name.upper()

    app = Dray("mine", broker="memory://", task_cls=Ours, set_as_current=False)
    assert app.task(name="x")(add).shout() == "X"  # type: ignore[attr-defined]
    assert app.task(name="y")(aadd).is_async


# Class-based tasks


class Resize(Task[..., Any]):
    """A task as a class."""

    queue = "images"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.runs = 0

    def run(self, width: int, height: int = 1) -> int:
        self.runs += 1
        return width * height * (1 if self.request.called_directly else 10)


class Fetch(Task[..., Any]):
    name = "fetch"

    async def run(self, url: str) -> str:
        return url + "!"


def test_a_task_class_is_registered_and_run(dray_app: Dray, dray_worker: Driver) -> None:
    resize = dray_app.register_task(Resize)
    assert resize(2, 3) == 6
    result = resize.delay(2, height=4)
    dray_worker.run_until_idle()
    assert result.get() == 80
    assert result.queue == "images"
    assert resize.runs == 2  # type: ignore[attr-defined]


def test_a_task_class_is_named_after_its_class(dray_app: Dray) -> None:
    assert dray_app.register_task(Resize).name == f"{__name__}.Resize"
    assert dray_app.register_task(Fetch).name == "fetch"


def test_the_run_of_a_task_class_may_be_a_coroutine(dray_app: Dray, dray_worker: Driver) -> None:
    result = dray_app.register_task(Fetch).delay("x")
    dray_worker.run_until_idle()
    assert result.get() == "x!"


def test_a_task_instance_can_be_registered(dray_app: Dray) -> None:
    made = Resize(dray_app)
    assert dray_app.register_task(made) is made
    assert dray_app.tasks[made.name] is made


def test_a_task_class_without_a_run_says_so(dray_app: Dray) -> None:
    class Empty(Task[Any, Any]):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty defines no run\(\)"):
        dray_app.register_task(Empty)()


# Shared tasks


def test_a_shared_task_is_a_task_of_every_app(dray_app: Dray, dray_worker: Driver) -> None:
    @shared_task(name="declaring.double")
    def double(x: int) -> int:
        return 2 * x

    other = Dray("other", broker="memory://", set_as_current=False)
    assert double(4) == 8
    assert "declaring.double" in dray_app.tasks and "declaring.double" in other.tasks
    result = double.delay(5)
    assert result.app is dray_app  # the current one
    dray_worker.run_until_idle()
    assert result.get() == 10


def test_a_bare_shared_task_is_named_after_its_function(dray_app: Dray) -> None:
    @shared_task
    def shared_bare_in_declaring() -> None:
        """Documented."""

    assert shared_bare_in_declaring.name == f"{__name__}.shared_bare_in_declaring"
    assert shared_bare_in_declaring.__doc__ == "Documented."
    assert f"{__name__}.shared_bare_in_declaring" in dray_app.tasks


def test_a_shared_task_may_be_bound_and_have_options(dray_app: Dray, dray_worker: Driver) -> None:
    @shared_task(bind=True, name="declaring.whoami", queue="here")
    def whoami(self: Task[Any, Any]) -> str:
        return f"{self.request.queue} {current_app().name}"

    result = whoami.delay()
    dray_worker.run_until_idle()
    assert result.get() == "here test"


def test_as_current_chooses_the_app_of_a_shared_task(dray_app: Dray) -> None:
    shared_task(name="declaring.chosen")(add)
    other = Dray("other", broker="memory://", set_as_current=False)
    with other.as_current():
        assert current_app() is other
    assert current_app() is dray_app


def test_who_asks_for_a_shared_task_while_another_thread_makes_it_waits_for_it() -> None:
    begun, go, waits = threading.Event(), threading.Event(), threading.Event()

    class Slow(Task[Any, Any]):
        def __init__(self, app: Dray, function: Any = None, options: Any = None, bind: bool = False) -> None:
            super().__init__(app, function, options, bind)
            if self.name == "declaring.slow":
                assert "declaring.slow" not in app.tasks, "asking while it is made neither waits nor makes it again"
                begun.set()
                go.wait(30)

    class Watched:
        def __init__(self) -> None:
            self.lock = threading.RLock()

        def __enter__(self) -> None:
            if not self.lock.acquire(blocking=False):
                waits.set()
                self.lock.acquire()

        def __exit__(self, *exc: object) -> None:
            self.lock.release()

    def ask() -> Task[Any, Any]:
        try:
            return app.tasks["declaring.slow"]
        finally:
            waits.set()

    shared_task(name="declaring.slow")(add)
    app = Dray("slow", broker="memory://", task_cls=Slow, set_as_current=False)
    app._lock = Watched()  # type: ignore[assignment]
    first = Background(lambda: app.tasks["declaring.slow"])
    assert begun.wait(30)
    second = Background(ask)
    assert waits.wait(30)
    go.set()
    assert first.result() is second.result()


# The registry


def test_an_unknown_name_names_the_nearest_task(dray_app: Dray) -> None:
    dray_app.task(name="shop.add")(add)
    with pytest.raises(UnknownTask, match=r"no task named 'shop.ad'; did you mean 'shop.add'\?"):
        dray_app.tasks["shop.ad"]
    assert dray_app.tasks.get("shop.ad") is None


def test_an_unknown_name_like_no_other_lists_what_is_registered(dray_app: Dray) -> None:
    dray_app.task(name="shop.add")(add)
    with pytest.raises(UnknownTask, match=r"no task named 'zzz'\. Registered: .*shop\.add"):
        dray_app.tasks["zzz"]


def test_tasks_are_found_in_the_modules_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dray_worker_for: Callable[..., Driver]
) -> None:
    (tmp_path / "discovered").mkdir()
    (tmp_path / "discovered" / "__init__.py").write_text("")
    (tmp_path / "discovered" / "tasks.py").write_text(
        "from dray import current_app\n\n@current_app().task\ndef hello():\n    return 'hello'\n"
    )
    (tmp_path / "taskless").mkdir()
    (tmp_path / "taskless" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    app = Dray("found", broker="memory://", set_as_current=False)
    app.autodiscover_tasks(["discovered", "taskless"])
    assert "discovered.tasks" not in sys.modules
    with app.as_current():
        result = app.send_task("discovered.tasks.hello")
        dray_worker_for(app).run_until_idle()
    assert result.get() == "hello"


def test_a_module_that_cannot_be_imported_stops_the_worker_at_its_start(
    dray_worker_for: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Dray("broken", broker="memory://", include=["no_such_module_anywhere"], set_as_current=False)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        dray_worker_for(app).run_until_idle()


def test_a_task_in_a_script_is_named_after_its_file(monkeypatch: pytest.MonkeyPatch, dray_app: Dray) -> None:
    script = types.ModuleType("__main__")
    script.__file__ = "/srv/shop.py"
    monkeypatch.setitem(sys.modules, "__main__", script)

    def charge() -> None: ...

    charge.__module__ = "__main__"
    assert dray_app.task(charge).name == "shop.charge"


# Settings laid over tasks


@pytest.mark.dray(task_annotations={"*": {"priority": 2}, "shop.*": {"queue": "shop"}, "shop.add": {"priority": 7}})
def test_annotations_in_the_settings_win_over_the_task_the_most_specific_last(
    dray_app: Dray, dray_enqueued: Enqueued
) -> None:
    dray_app.task(name="shop.add", queue="mine")(add).delay(1)
    dray_app.task(name="other")(aadd).delay(1)
    assert [(m.task, m.queue, m.priority) for m in dray_enqueued.all()] == [
        ("other", "default", 2),
        ("shop.add", "shop", 7),
    ]


@pytest.mark.dray(task_annotations={"x": {"max_retires": 1}})
def test_an_annotation_with_an_unknown_option_is_an_error(dray_app: Dray) -> None:
    with pytest.raises(TaskOptionError, match="did you mean 'max_retries'"):
        dray_app.task(name="x")(add).delay(1)
