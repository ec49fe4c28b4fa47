"""Routers: tables, patterns, functions and their paths in `task_routes`, and what becomes of their answers."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Sequence
from typing import Any

import pytest

from dray import Dray, Queue, SettingError, TaskOptionError
from dray.settings import Settings
from dray.testing import Enqueued

QUEUES = [
    Queue(name="video", exchange="media", type="topic", routing_key="media.video.#"),
    Queue(name="left", exchange="both", type="fanout"),
    Queue(name="right", exchange="both", type="fanout"),
    Queue(name="mail", routing_key="mail"),
]


@pytest.fixture
def task(dray_app: Dray) -> Any:
    return dray_app.task(name="work")(lambda *args, **kwargs: None)


def by_customer(name: str, args: Sequence[Any], kwargs: dict[str, Any], options: dict[str, Any]) -> Any:
    """A router that sends the calls of big customers elsewhere."""
    return {"queue": "big", "priority": 7} if name == "work" and args and args[0] == "acme" else None


class OldRouter:
    def route_for_task(self, task: str, args: Sequence[Any] = (), kwargs: Any = None) -> str | None:
        return "old" if task == "work" else None


def sent_to(task: Any, enqueued: Enqueued, *args: Any, **options: Any) -> tuple[str, int]:
    task.apply_async(args, **options)
    (message,) = enqueued.drain()
    return message.queue, message.priority


@pytest.mark.dray(task_routes=[by_customer, {"wo*": "some"}, ("*", {"queue": "rest", "priority": 1})])
def test_the_first_router_that_answers_decides(dray_app: Dray, task: Any, dray_enqueued: Enqueued) -> None:
    assert sent_to(task, dray_enqueued, "acme") == ("big", 7)
    assert sent_to(task, dray_enqueued, "tiny") == ("some", 0)
    assert sent_to(task, dray_enqueued) == ("some", 0)
    # What the call says, and what the task says, is not asked of any router.
    assert sent_to(task, dray_enqueued, "acme", queue="mine") == ("mine", 0)
    assert sent_to(task, dray_enqueued, "acme", priority=2) == ("big", 2)
    own = dray_app.task(name="own", queue="mine")(lambda *args: None)
    assert sent_to(own, dray_enqueued, "acme") == ("mine", 1)
    dray_app.send_task("unknown")
    assert dray_enqueued.drain()[0].queue == "rest"
    dray_app.send_task("work", ("acme",))
    assert dray_enqueued.drain()[0].queue == "big"


@pytest.mark.dray(task_routes=by_customer)
def test_calls_of_one_batch_are_routed_one_by_one(task: Any, dray_enqueued: Enqueued) -> None:
    task.delay_many([("acme",), ("tiny",), {"customer": 3}])
    assert sorted(message.queue for message in dray_enqueued.drain()) == ["big", "default", "default"]


@pytest.mark.dray(task_routes=by_customer)
def test_callbacks_are_routed_by_their_arguments(task: Any, dray_app: Dray, dray_enqueued: Enqueued) -> None:
    @dray_app.task(name="first")
    def first() -> str:
        return "acme"

    first.apply_async(link=[task.s(), task.si("acme"), task.si("tiny")])
    dray_app.worker(["default"]).run_until_idle()
    assert [(m.queue, m.args) for m in dray_enqueued.drain()] == [("big", ("acme",)), ("big", ("acme",))]


@pytest.mark.dray(task_routes=by_customer, task_always_eager=True)
def test_an_eager_call_knows_its_queue(dray_app: Dray) -> None:
    told = dray_app.task(name="work", bind=True)(lambda self, customer: self.request.queue)
    assert told.delay("acme").get() == "big"


@pytest.mark.parametrize("router", [OldRouter(), OldRouter])
def test_an_object_with_route_for_task_is_a_router(dray_app: Dray, dray_enqueued: Enqueued, router: Any) -> None:
    dray_app.conf.task_routes = [router]
    assert sent_to(dray_app.task(name="work")(lambda: None), dray_enqueued) == ("old", 0)


@pytest.fixture
def routing(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The module `shop_routing`."""
    module = types.ModuleType("shop_routing")
    module.route = by_customer  # type: ignore[attr-defined]
    module.number = 5  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop_routing", module)
    return module


@pytest.mark.parametrize("path", ["shop_routing:route", "shop_routing.route", ["shop_routing:route", {"a": "b"}]])
def test_a_router_is_named_by_its_path_and_imported_when_it_is_asked(
    dray_app: Dray, dray_enqueued: Enqueued, routing: types.ModuleType, path: Any
) -> None:
    dray_app.conf.task_routes = path
    assert sent_to(dray_app.task(name="work")(lambda customer: None), dray_enqueued, "acme") == ("big", 7)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("shop_routing:rout", "'shop_routing:rout' cannot be imported: module 'shop_routing' has no attribute 'rout'"),
        ("shop_routin.route", "'shop_routin.route' cannot be imported: No module named 'shop_routin'"),
        ("shop_routing:number", "'shop_routing:number' is int, and not a function"),
    ],
)
def test_a_path_that_leads_nowhere_is_told_when_it_is_asked(
    dray_app: Dray, routing: types.ModuleType, path: str, said: str
) -> None:
    dray_app.conf.task_routes = path  # type: ignore[assignment]
    with pytest.raises(SettingError, match=re.escape(said)):
        dray_app.task(name="work")(lambda: None).delay()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"queu": "x"}, "says: it has no 'queu'; did you mean 'queue'?"),
        ("two words", "'two words' is no route"),
        (5, "5 is no route"),
        ({"priority": 10}, "is no route: that is a queue name without whitespace, or a table of queue, priority (0 to"),
        ({"exchange": "x"}, "no queue is bound to the exchange 'x'"),
    ],
)
def test_an_answer_that_is_no_route_is_told_with_its_router(dray_app: Dray, answer: Any, said: str) -> None:
    def asked(name: str, args: Any, kwargs: Any, options: Any) -> Any:
        return answer

    dray_app.conf.task_routes = asked  # type: ignore[assignment]
    with pytest.raises(TaskOptionError, match=re.escape(said)) as caught:
        dray_app.task(name="work")(lambda: None).delay()
    assert "sending work: " in str(caught.value) and "asked" in str(caught.value)


def test_a_function_that_takes_something_else_is_no_router(dray_app: Dray) -> None:
    dray_app.conf.task_routes = lambda name: "x"  # type: ignore[assignment]
    with pytest.raises(SettingError, match=r"takes \(name\); a function that routes takes what this one does"):
        dray_app.task(name="work")(lambda: None).delay()


@pytest.mark.dray(
    task_queues=QUEUES,
    task_routes=[
        ("exact", "one"),
        (re.compile(r"(video|image)\..*"), {"exchange": "media", "routing_key": "media.video"}),
        ("mail.*", {"routing_key": "mail", "priority": 3}),
        ("later.*", {"priority": 2}),
    ],
)
def test_patterns_may_be_regular_expressions_and_routes_may_name_exchanges(dray_app: Dray) -> None:
    routes = [tuple(dray_app.route(name))[:2] for name in ("exact", "image.crop", "mail.send", "later.x", "other")]
    assert routes == [("one", 0), ("video", 0), ("mail", 3), ("default", 2), ("default", 0)]


@pytest.mark.dray(task_queues=QUEUES, task_routes={"a.*": {"exchange": "media", "routing_key": "nowhere"}})
def test_a_route_that_leads_nowhere_is_an_error_of_the_settings(dray_app: Dray) -> None:
    with pytest.raises(SettingError, match=r"^task_routes\['a\.\*'\]: no queue is bound to the exchange 'media'"):
        dray_app.route("other")


@pytest.mark.dray(task_queues=QUEUES, task_routes={"both.*": {"exchange": "both"}})
def test_a_route_to_several_queues_leaves_the_worker_with_the_declared_ones(dray_app: Dray) -> None:
    dray_app.task(name="both.sides")(lambda: None)
    assert dray_app.route("both.sides").exchange == "both"
    assert "" not in dray_app.worker().queues


def test_what_a_router_raises_comes_out_where_the_task_is_sent(dray_app: Dray) -> None:
    def broken(name: str, args: Any, kwargs: Any, options: Any) -> Any:
        raise KeyError("no such customer")

    dray_app.conf.task_routes = broken  # type: ignore[assignment]
    with pytest.raises(KeyError, match="no such customer"):
        dray_app.task(name="work")(lambda: None).delay()


@pytest.mark.parametrize(
    "said",
    [
        by_customer,
        [by_customer],
        "a.b:c, d.e",
        '["a.b:c", {"x": "y"}]',
        [{"a": "b"}, [("c.*", {"queue": "d"}), (re.compile("e"), "f")], OldRouter()],
        (("a", "b"), ("c", {"priority": 1})),
        {re.compile("a"): "b"},
        {"a": {"queue": "b", "exchange": "x", "routing_key": "k"}},
        {},
    ],
)
def test_routes_read_twice_are_the_same(said: Any) -> None:
    conf = Settings()
    conf.update(task_routes=said)
    again = Settings()
    again.update(task_routes=conf.task_routes)
    assert again.task_routes == conf.task_routes
    assert "task_routes" in conf.shown()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("nodots", "'nodots' is not the path of a function, such as 'shop.routing:route'"),
        ([5], "5 is neither a table nor a function, nor the path of one"),
        ([["a", "b", "c"]], "'a' is not a pair of a task's name or pattern and its route"),
        ({"": "q"}, "a route needs the name or pattern of a task"),
        ({5: "q"}, "(5, 'q') is not a pair"),
        (7, "7 is neither a table"),
    ],
)
def test_what_is_no_router_is_refused_in_words(said: Any, words: str) -> None:
    with pytest.raises(SettingError, match=re.escape(words)):
        Settings().update(task_routes=said)
