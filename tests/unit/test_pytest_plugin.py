"""The pytest plugin: its clock, app, worker and assertions, for a new app and for one that is there already."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from dray import (
    Dray,
    Envelope,
    ManualClock,
    ResultTimeout,
    Retry,
    SettingError,
    SystemClock,
    Task,
    current_app,
    shared_task,
)
from dray.testing import Driver, Enqueued, HeldClock, on_memory

pytest_plugins = ("pytester",)

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run pytest on the files that the test has made, with this plugin and no other."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return lambda *args: pytester.runpytest_inprocess("-p", "dray.testing.pytest_plugin", *args)


def add(x: int, y: int = 1) -> int:
    return x + y


def remind(when: datetime) -> str:
    return type(when).__name__


# dray_clock


def test_the_clock_stands_still_until_it_is_moved(dray_clock: ManualClock) -> None:
    before = dray_clock.time(), dray_clock.monotonic()
    assert (dray_clock.time(), dray_clock.monotonic()) == before
    dray_clock.advance(90)
    assert (dray_clock.time(), dray_clock.monotonic()) == (before[0] + 90, before[1] + 90)


def test_who_waits_on_the_clock_waits_in_real_time_and_moves_it(dray_clock: ManualClock) -> None:
    before = dray_clock.time()
    assert dray_clock.wait(threading.Event(), 0.02) is False
    assert dray_clock.time() == before + 0.02


def test_a_wait_ends_when_its_event_is_set_and_the_clock_has_not_moved() -> None:
    clock, event = HeldClock(), threading.Event()
    before = clock.time()
    event.set()
    assert clock.wait(event, 1000) is True
    assert clock.time() == before


def test_a_wait_ends_when_the_clock_is_moved_far_enough() -> None:
    clock, waited = HeldClock(), []
    before = clock.time()
    thread = threading.Thread(target=lambda: waited.append(clock.wait(threading.Event(), 1000)))
    thread.start()
    clock.advance(1001)
    thread.join(20)
    assert waited == [False]
    assert clock.time() == before + 1001


def test_waiting_for_a_result_that_nobody_brings_does_not_hang(dray_app: Dray) -> None:
    result = dray_app.task(add).delay(1)
    with pytest.raises(ResultTimeout):
        result.get(timeout=0.05)


async def test_awaiting_a_result_that_nobody_brings_does_not_hang(dray_app: Dray) -> None:
    result = await dray_app.task(add).adelay(1)
    with pytest.raises(ResultTimeout):
        await result.aget(timeout=0.05)


def test_a_worker_in_the_background_stops_although_the_clock_is_held(dray_app: Dray) -> None:
    with dray_app.worker():
        assert dray_app.task(add).delay(1).get(timeout=10) == 2


# dray_app


def test_the_app_lives_in_memory_on_the_clock_of_the_test(dray_app: Dray, dray_clock: ManualClock) -> None:
    assert dray_app.clock is dray_clock
    assert dray_app.conf.broker_url == dray_app.conf.result_backend == "memory://"
    assert dray_app.broker.clock is dray_clock


def test_the_app_is_the_current_one_during_the_test(dray_app: Dray) -> None:
    assert current_app() is dray_app
    shared_task(name="plugin.shared")(add).delay(1)
    assert dray_app.broker.sizes(["default"])["default"]["ready"] == 1


async def test_the_app_is_the_current_one_in_a_coroutine_too(dray_app: Dray) -> None:
    assert current_app() is dray_app
    assert await asyncio.to_thread(current_app) is dray_app


def test_apps_of_two_tests_have_nothing_in_common(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        import pytest
        from dray import ConfigurationError, current_app

        @pytest.mark.parametrize("n", [1, 2])
        def test_each(dray_app, dray_enqueued, n):
            assert len(dray_enqueued) == 0 and "x" not in dray_app.tasks
            dray_app.task(name="x")(lambda: None).delay()
            assert len(dray_enqueued) == 1
        """
    )
    run().assert_outcomes(passed=2)


@pytest.mark.dray(task_acks_late=False, task_default_queue="mine")
class TestMarkedClass:
    def test_settings_come_from_the_marker(self, dray_app: Dray) -> None:
        assert (dray_app.conf.task_acks_late, dray_app.conf.task_default_queue) == (False, "mine")

    @pytest.mark.dray(task_default_queue="nearer")
    def test_the_nearest_marker_wins(self, dray_app: Dray) -> None:
        assert (dray_app.conf.task_acks_late, dray_app.conf.task_default_queue) == (False, "nearer")


@pytest.mark.dray(broker_url="sqlite:///q.db", result_backend="sqlite:///q.db")
def test_the_marker_may_name_another_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    app, worker = request.getfixturevalue("dray_app"), request.getfixturevalue("dray_worker")
    result = app.task(add).apply_async((1,), countdown=60)
    assert worker.advance(59) == 0
    assert worker.advance(1) == 1
    assert result.get() == 2


def test_environment_file_and_installed_plugins_have_no_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "dray.toml").write_text('task_default_queue = "from-the-file"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRAY_BROKER_URL", "redis://nowhere")
    monkeypatch.setenv("DRAY_TASK_DEFAULT_PRIORITY", "7")
    app = request.getfixturevalue("dray_app")
    assert app.conf.task_default_queue == "default"
    assert app.conf.task_default_priority == 0
    assert app.conf.broker_url == "memory://"
    assert {plugin.source for plugin in app.plugins.report() if plugin.state == "loaded"} == {"built-in"}


def test_a_wrong_setting_in_the_marker_names_the_right_one(request: pytest.FixtureRequest) -> None:
    request.node.add_marker(pytest.mark.dray(task_acks_lat=True))
    with pytest.raises(SettingError, match="did you mean 'task_acks_late'"):
        request.getfixturevalue("dray_app")


def test_a_setting_without_a_name_is_a_usage_error(request: pytest.FixtureRequest) -> None:
    request.node.add_marker(pytest.mark.dray(True))
    with pytest.raises(pytest.UsageError, match="takes settings by name"):
        request.getfixturevalue("dray_app")


# dray_worker


def test_run_until_idle_runs_what_is_due_and_what_that_sends_in_every_queue(
    dray_app: Dray, dray_worker: Driver, dray_enqueued: Enqueued
) -> None:
    order = []

    @dray_app.task
    def visit(place: str, then: list[str]) -> None:
        order.append(place)
        if then:
            visit.apply_async((then[0], then[1:]), queue=f"queue-of-{then[0]}")

    visit.delay("a", ["b", "c", "d"])
    visit.apply_async(("later", []), countdown=1)
    assert dray_worker.run_until_idle() == 4
    assert order == ["a", "b", "c", "d"]
    assert len(dray_enqueued) == 1
    assert dray_worker.run_until_idle() == 0


def test_tasks_run_one_after_the_other_in_order(dray_app: Dray, dray_worker: Driver) -> None:
    order = []
    running = threading.Semaphore(1)

    @dray_app.task
    def note(n: int) -> None:
        assert running.acquire(blocking=False)
        order.append(n)
        running.release()

    note.delay_many([(n,) for n in range(200)])
    assert dray_worker.run_until_idle() == 200
    assert order == list(range(200))


@pytest.mark.dray(worker_concurrency=3)
def test_tasks_run_beside_each_other_when_the_settings_say_so(dray_app: Dray, dray_worker: Driver) -> None:
    together = threading.Barrier(3)
    results = dray_app.task(name="meet")(lambda: together.wait(10) >= 0).delay_many([()] * 3)
    dray_worker.run_until_idle()
    assert [result.get() for result in results] == [True] * 3


def test_a_slow_task_is_waited_for_while_the_clock_stands_still(
    dray_app: Dray, dray_worker: Driver, dray_clock: ManualClock
) -> None:
    before = dray_clock.time()
    result = dray_app.task(name="slow")(lambda: threading.Event().wait(0.05)).delay()
    dray_worker.run_until_idle()
    assert result.get() is False
    assert dray_clock.time() == before


def test_advance_runs_each_message_at_its_own_instant(
    dray_app: Dray, dray_worker: Driver, dray_clock: ManualClock
) -> None:
    start, times = dray_clock.time(), []
    note = dray_app.task(name="note")(lambda: times.append(round(dray_clock.time() - start, 3)))
    for countdown in (50, 0, 20, 20, 200):
        note.apply_async(countdown=countdown)
    assert dray_worker.advance(timedelta(seconds=100)) == 4
    assert times == [0, 20, 20, 50]
    assert dray_clock.time() == start + 100
    assert dray_worker.advance(100) == 1
    assert times[-1] == 200


def test_what_is_sent_on_the_way_is_run_on_the_way(
    dray_app: Dray, dray_worker: Driver, dray_clock: ManualClock
) -> None:
    start, times = dray_clock.time(), []

    @dray_app.task(bind=True, max_retries=None)
    def beat(self: Task[Any, Any]) -> None:
        times.append(round(dray_clock.time() - start))
        raise Retry(countdown=10)

    beat.delay()
    dray_worker.advance(35)
    assert times == [0, 10, 20, 30]


def test_advance_without_anything_to_do_just_moves_the_clock(dray_worker: Driver, dray_clock: ManualClock) -> None:
    before = dray_clock.time()
    assert dray_worker.advance(10) == 0
    assert dray_clock.time() == before + 10


def test_a_task_that_takes_hours_of_the_clock_is_not_taken_for_dead(
    dray_app: Dray, dray_worker: Driver, dray_clock: ManualClock
) -> None:
    ran = []

    @dray_app.task
    def long() -> None:
        ran.append(1)
        dray_clock.advance(3 * 3600)

    result = long.delay()
    assert dray_worker.run_until_idle() == 1
    assert (ran, result.state) == ([1], "SUCCESS")


def test_advance_on_a_clock_that_nobody_can_move_says_what_to_do(dray_worker_for: Callable[..., Driver]) -> None:
    app = Dray("real", broker="memory://", set_as_current=False)
    with pytest.raises(TypeError, match="runs on SystemClock, which nobody can move; give it a ManualClock"):
        dray_worker_for(app).advance(1)


def test_a_worker_for_another_app_with_options_of_its_own(dray_worker_for: Callable[..., Driver]) -> None:
    app = Dray("other", broker="memory://", set_as_current=False)
    result = app.task(add).delay(1)
    assert dray_worker_for(app, name="w9").run_until_idle() == 1
    assert result.worker == "w9"


# dray_enqueued


def test_assert_enqueued_finds_what_waits_and_gives_it_back(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    task = dray_app.task(name="plugin.asked")(add)
    sent = task.apply_async((1,), {"y": 2}, queue="q", countdown=60)
    for asked in (task, "plugin.asked", shared_task(name="plugin.asked")(add)):
        assert [message.id for message in dray_enqueued.assert_enqueued(asked)] == [sent.id]
    dray_enqueued.assert_enqueued(task, (1,))
    dray_enqueued.assert_enqueued(task, [1], {"y": 2}, queue="q", count=1)
    dray_enqueued.assert_enqueued(task, (ANY,), kwargs={"y": ANY})
    dray_enqueued.assert_enqueued("nothing of that name", count=0)


@pytest.mark.parametrize(
    "wanted",
    [
        {"args": (2,)},
        {"kwargs": {}},
        {"queue": "other"},
        {"count": 2},
        {"count": 0},
        {"args": (object(),)},
        {"args": ()},
    ],
)
def test_assert_enqueued_fails_and_shows_what_waits(
    dray_app: Dray, dray_enqueued: Enqueued, wanted: dict[str, Any]
) -> None:
    dray_app.task(name="add")(add).apply_async((1,), {"y": 2}, queue="q", countdown=60)
    with pytest.raises(AssertionError, match=r"(?s)of add\(.*add\(1, y=2\) in 'q', due 60 s after it was sent"):
        dray_enqueued.assert_enqueued("add", **wanted)


def test_assert_enqueued_says_when_nothing_waits(dray_enqueued: Enqueued) -> None:
    with pytest.raises(
        AssertionError, match=r"at least one of add\(1, \.\.\.\) should wait, found 0; nothing is waiting"
    ):
        dray_enqueued.assert_enqueued("add", args=(1,))


def test_refute_enqueued_is_the_opposite(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    dray_app.task(name="add")(add).delay(1)
    dray_enqueued.refute_enqueued("mul")
    dray_enqueued.refute_enqueued("add", args=(2,))
    dray_enqueued.refute_enqueued("add", queue="other")
    with pytest.raises(AssertionError, match=r"no add\(1, \.\.\.\) should wait, found 1"):
        dray_enqueued.refute_enqueued("add", args=(1,))


def test_arguments_are_compared_as_the_task_would_get_them(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    when = datetime(2024, 1, 2, tzinfo=UTC)
    dray_app.task(name="remind")(remind).delay(when)
    dray_app.task(name="free")(lambda *args, **kwargs: None).delay((1, 2), {"a": when}, k={3})
    dray_enqueued.assert_enqueued("remind", args=(when,))
    dray_enqueued.assert_enqueued("free", args=((1, 2), {"a": when}), kwargs={"k": {3}})
    dray_enqueued.refute_enqueued("free", args=((1, 3), {"a": when}))


def test_all_lists_messages_decoded_in_the_order_in_which_they_will_come_out(
    dray_app: Dray, dray_enqueued: Enqueued
) -> None:
    task = dray_app.task(name="add")(add)
    task.apply_async((1,), countdown=10)
    task.apply_async((2,))
    task.apply_async((3,), priority=5)
    dray_app.send_task("mul", (4,), queue="a")
    assert [m.args for m in dray_enqueued.all()] == [(4,), (3,), (2,), (1,)]
    assert [m.args for m in dray_enqueued.all(task)] == [(3,), (2,), (1,)]
    assert [m.args for m in dray_enqueued.all("mul", queue="a")] == [(4,)]
    assert len(dray_enqueued) == 4


def test_messages_that_cannot_be_read_are_passed_over(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    dray_app.broker.publish([Envelope(id="bad", queue="default", body=b"garbage")])
    dray_app.send_task("add", (1,))
    assert [m.task for m in dray_enqueued.all()] == ["add"]


def test_looking_leaves_everything_where_it_is(dray_app: Dray, dray_worker: Driver, dray_enqueued: Enqueued) -> None:
    result = dray_app.task(name="add")(add).delay(1)
    dray_enqueued.assert_enqueued("add")
    dray_enqueued.all()
    dray_worker.run_until_idle()
    assert result.get() == 2
    dray_enqueued.refute_enqueued("add")


def test_drain_takes_everything_away_unrun(dray_app: Dray, dray_worker: Driver, dray_enqueued: Enqueued) -> None:
    task = dray_app.task(name="add")(add)
    task.delay(1)
    task.apply_async((2,), countdown=60, queue="q")
    assert [m.args for m in dray_enqueued.drain()] == [(1,), (2,)]
    assert dray_enqueued.all() == []
    assert dray_worker.advance(100) == 0


def test_something_that_is_no_task_is_refused(dray_enqueued: Enqueued) -> None:
    with pytest.raises(TypeError, match="a task, or the name of one, is asked for; got 5"):
        dray_enqueued.all(5)


# An app that is there already


def test_on_memory_keeps_an_app_off_its_own_connections_and_puts_them_back(
    tmp_path: Path, dray_clock: ManualClock, dray_worker_for: Callable[..., Driver]
) -> None:
    url = f"sqlite:///{tmp_path}/real.db"
    app = Dray("shop", broker=url, set_as_current=False)
    task = app.task(name="add")(add)
    real = task.delay(1)
    with on_memory(app, dray_clock) as same:
        assert same is app
        assert app.AsyncResult(real.id).state == "UNKNOWN"
        result = task.apply_async((5,), countdown=60)
        dray_worker_for(app).advance(60)
        assert result.get() == 6
        assert app.conf.broker_url == "memory://"
    assert (app.conf.broker_url, app.conf.result_backend) == (url, None)
    assert (app.conf.origin("broker_url"), app.conf.origin("result_backend")) == ("code", "default")
    assert isinstance(app.clock, SystemClock)
    assert app.AsyncResult(real.id).state == "PENDING"
    assert app.AsyncResult(result.id).state == "UNKNOWN"
    assert app.worker().run_until_idle() == 1
    assert real.get(timeout=10) == 2
    app.close()


def test_on_memory_begins_empty_each_time_and_may_be_nested() -> None:
    app = Dray("shop", broker="memory://", set_as_current=False)
    outside = app.task(name="add")(add).delay(1)
    with on_memory(app):
        within = app.send_task("add", (2,))
        with on_memory(app):
            assert Enqueued(app).all() == []
        assert [m.id for m in Enqueued(app).all()] == [within.id]
    assert [m.id for m in Enqueued(app).all()] == [outside.id]


def test_on_memory_puts_everything_back_when_the_test_fails() -> None:
    app = Dray("shop", broker="memory://", set_as_current=False)
    broker = app.broker
    with pytest.raises(RuntimeError), on_memory(app, HeldClock()):
        raise RuntimeError
    assert app.broker is broker
    assert isinstance(app.clock, SystemClock)


def test_on_memory_leaves_disabled_results_disabled() -> None:
    app = Dray("shop", broker="redis://nowhere", backend="disabled", set_as_current=False)
    with on_memory(app):
        assert app.backend is None
        app.send_task("x")


def test_an_app_of_ones_own_takes_the_place_of_dray_app(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        shop="""
        from dray import Dray

        app = Dray("shop", broker="redis://nowhere.invalid")

        @app.task(bind=True, default_retry_delay=30)
        def charge(self, order):
            if not self.request.retries:
                raise self.retry()
            return order * 2
        """,
        test_shop="""
        import pytest, shop
        from dray.testing import on_memory

        @pytest.fixture
        def dray_app(dray_clock):
            with on_memory(shop.app, dray_clock) as app:
                yield app

        def test_a_charge_is_tried_again(dray_worker, dray_enqueued):
            result = shop.charge.delay(21)
            dray_enqueued.assert_enqueued(shop.charge, args=(21,), count=1)
            dray_worker.run_until_idle()
            assert result.state == "RETRY"
            dray_worker.advance(30)
            assert result.get() == 42
        """,
    )
    pytester.syspathinsert()
    run().assert_outcomes(passed=1)


# What it costs, and what else it brings


def test_the_marker_is_known_under_strict_markers(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.dray(task_acks_late=True)\ndef test_x(): pass\n")
    run("--strict-markers").assert_outcomes(passed=1)
    run("--markers").stdout.fnmatch_lines(["*@pytest.mark.dray(**settings)*"])


def test_the_fixtures_are_documented(run: Run) -> None:
    listed = run("--fixtures").stdout.str()
    for fixture in ("dray_app", "dray_clock", "dray_worker", "dray_worker_for", "dray_enqueued"):
        assert f"{fixture} --" in listed


def test_a_run_that_does_not_use_it_does_not_load_the_engine(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing_of_the_engine_is_there():
            assert "dray.testing.pytest_plugin" in sys.modules
            loaded = {name for name in sys.modules if name.startswith("dray")}
            assert loaded <= {"dray", "dray.testing", "dray.testing.pytest_plugin", "dray.testing.grades"}
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_a_conformance_kit_prints_its_grade_card(pytester: pytest.Pytester, run: Run) -> None:
    pytester.makepyfile(
        """
        from dray import Url
        from dray.testing import SerializerContract
        from dray_serializers.json import JsonSerializer

        class TestJson(SerializerContract):
            def make_serializer(self):
                return JsonSerializer()
        """
    )
    run().stdout.fnmatch_lines(["*SerializerContract: TestJson*"])


def test_it_can_be_switched_off(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_x(dray_app): pass\n")
    pytester.runpytest_subprocess("-p", "no:dray").assert_outcomes(errors=1)


def test_helpers_can_be_used_without_pytest() -> None:
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "from dray.testing import Driver, Enqueued, HeldClock, memory_app\n"
        "app = memory_app(HeldClock())\n"
        "result = app.task(name='x')(lambda: 5).apply_async(countdown=9)\n"
        "assert len(Enqueued(app)) == 1 and Driver(app).advance(9) == 1 and result.get() == 5\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
