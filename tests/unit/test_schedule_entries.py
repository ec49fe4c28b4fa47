"""Entries: gathered from settings, decorators and code, and refused when they can never work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
import pytest

from dray import ArgumentsError, ConfigurationError, Dray, NotSupported, Sensitive, TaskOptionError, crontab, every
from dray.schedule_entries import Entry, call_of, check_overlap, gather, read_entry


@pytest.fixture
def app() -> Iterator[Dray]:
    with Dray("shop", broker="memory://", set_as_current=False) as app:

        @app.task(name="shop.clean")
        def clean(what: str = "all", *, force: bool = False) -> None: ...

        @app.task(name="shop.login")
        def login(user: str, password: Annotated[str, Sensitive]) -> None: ...

        yield app


def first_runs(app: Dray, entry: Entry, number: int = 2) -> list[str]:
    """Return when an entry is due first, if it begins with the Thursday 2026-01-01."""
    since = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    found, told = entry.when(app), []
    at = found.first(since)
    while at is not None and len(told) < number:
        told.append(f"{datetime.fromtimestamp(at, UTC):%a %m-%d %H:%M:%S}")
        at = found.next(at, since)
    return told


# Where they are written


def test_a_task_may_say_an_interval_or_all_words_of_an_entry(app: Dray) -> None:
    @app.task(name="poll", every=timedelta(minutes=2))
    def poll() -> None: ...

    @app.task(name="report", schedule={"schedule": "0 9 * * *", "timezone": "Europe/Berlin", "args": ("daily",)})
    def report(kind: str) -> None: ...

    entries = gather(app)
    assert first_runs(app, entries["poll"], 1) == ["Thu 01-01 00:02:00"]
    assert first_runs(app, entries["report"], 1) == ["Thu 01-01 08:00:00"]
    assert call_of(app, entries["report"].call).args == ("daily",)


def test_add_periodic_task_takes_signatures_as_in_celery(app: Dray) -> None:
    clean = app.tasks["shop.clean"]
    made = app.add_periodic_task(10.0, clean.s("logs", force=True), queue="slow", expires=5, jitter=3)
    app.add_periodic_task(crontab(hour=7, minute=30, day_of_week=1), clean.s("mail"), name="weekly")
    entries = gather(app)
    assert set(entries) == {made, "weekly"}
    call = call_of(app, entries[made].call)
    assert (call.args, call.kwargs, call.options["queue"]) == (("logs",), {"force": True}, "slow")
    assert (entries[made].jitter, call.options["expires"]) == (3.0, 5)


def test_schedules_are_added_when_the_modules_of_the_app_are_imported(app: Dray) -> None:
    @app.on_after_configure.connect
    def setup_periodic_tasks(sender: Dray, **kwargs: Any) -> None:
        sender.add_periodic_task(10.0, say.s("hello"), name="add every 10")
        sender.add_periodic_task(crontab(hour=7, minute=30, day_of_week=1), say.s("Happy Mondays!"), expires=10)

    @app.task(name="say")
    def say(arg: str) -> None: ...

    assert app.periodic == []
    for _ in range(2):  # by the worker, and by the scheduler within it
        app.load_tasks()
    assert {name: first_runs(app, entry, 1) for name, entry in gather(app).items()} == {
        "add every 10": ["Thu 01-01 00:00:10"],
        "say('Happy Mondays!')": ["Mon 01-05 07:30:00"],
    }


def test_a_function_that_cannot_add_its_schedules_keeps_the_app_from_starting(app: Dray) -> None:
    @app.on_after_finalize.connect
    def setup_periodic_tasks(sender: Dray, **kwargs: Any) -> None:
        sender.add_periodic_task("often", sender.tasks["shop.clean"].s())

    for _ in range(2):
        with pytest.raises(ConfigurationError, match="'often' is no schedule"):
            app.load_tasks()


def test_a_name_made_of_a_call_hides_what_is_sensitive(app: Dray) -> None:
    name = app.add_periodic_task(10.0, app.tasks["shop.login"].s("me", "hunter2"))
    assert "shop.login" in name and "hunter2" not in name


def test_an_entry_has_arguments_options_and_everything_that_is_kept(app: Dray) -> None:
    table = {
        "task": "shop.clean",
        "schedule": "0 3 * * *",
        "args": ["tmp"],
        "kwargs": {"force": True},
        "options": {"queue": "slow", "priority": 3, "link": app.tasks["shop.clean"].si("log")},
        "timezone": "Europe/Berlin",
        "overlap": "skip",
        "missed": "all",
        "deadline": "1h",
        "jitter": timedelta(seconds=30),
        "enabled": False,
    }
    entry = read_entry(app, "nightly", table)
    call = call_of(app, entry.call)
    assert (call.args, call.kwargs, call.options["queue"]) == (("tmp",), {"force": True}, "slow")
    assert call.options["link"] == [app.tasks["shop.clean"].si("log").set(serializer="json")]
    assert (entry.overlap, entry.missed, entry.deadline, entry.jitter, entry.enabled) == (
        "skip",
        "all",
        3600,
        30,
        False,
    )
    assert str(entry.when(app)) == "0 3 * * * (Europe/Berlin)"


def test_without_a_zone_of_its_own_an_entry_is_in_the_apps(app: Dray) -> None:
    app.conf.timezone = "America/New_York"
    entry = read_entry(app, "noon", {"task": "shop.clean", "schedule": crontab(hour=12, minute=0)})
    assert first_runs(app, entry, 1) == ["Thu 01-01 17:00:00"]


def test_schedules_in_a_file_are_plain_values(app: Dray) -> None:
    entry = read_entry(app, "n", {"task": "shop.clean", "schedule": {"kind": "every", "seconds": 5}, "args": ["x"]})
    assert first_runs(app, entry, 1) == ["Thu 01-01 00:00:05"]


# What is refused


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"task": "shop.cleen", "schedule": 5}, "not registered; did you mean 'shop.clean'?"),
        ({"task": "nothing like it", "schedule": 5}, "Registered: shop.clean, shop.login."),
        ({"schedule": 5}, "names no task"),
        ({"task": "shop.clean"}, "says its schedule= or every="),
        ({"task": "shop.clean", "schedule": 5, "every": 5}, "one of them"),
        ({"task": "shop.clean", "schedule": "sometimes"}, "the schedule 'x': 'sometimes' is no schedule"),
        ({"task": "shop.clean", "schedule": 5, "timezone": "Europe/Berlim"}, "did you mean 'Europe/Berlin'?"),
        ({"task": "shop.clean", "schedule": 5, "timezone": 3}, "timezone=3"),
        ({"task": "shop.clean", "shedule": 5}, "has no 'shedule'; did you mean 'schedule'?"),
        ({"task": "shop.clean", "schedule": 5, "relative": True}, "every(..., start=...)"),
        ({"task": "shop.clean", "schedule": 5, "overlap": "never"}, "overlap is 'allow' or 'skip' or 'queue'"),
        ({"task": "shop.clean", "schedule": 5, "missed": "some"}, "missed is 'once' or 'skip' or 'all'"),
        ({"task": "shop.clean", "schedule": 5, "deadline": "soon"}, "deadline is a number of seconds"),
        ({"task": "shop.clean", "schedule": 5, "jitter": -1}, "jitter is a number of seconds"),
        ({"task": "shop.clean", "schedule": 5, "enabled": "yes"}, "enabled is True or False"),
        ({"task": "shop.clean", "schedule": 5, "options": {"task_id": "mine"}}, "sent again and again"),
        ("every day", "is a table of task, schedule, args"),
    ],
)
def test_an_entry_that_can_never_work_is_refused_with_what_would(app: Dray, table: Any, told: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        read_entry(app, "x", table)
    assert told in str(error.value)
    assert "'x'" in str(error.value)


def test_arguments_that_do_not_fit_are_refused(app: Dray) -> None:
    with pytest.raises(ArgumentsError, match="the schedule 'x'"):
        read_entry(app, "x", {"task": "shop.login", "schedule": 5})
    with pytest.raises(TaskOptionError, match="there is no option 'que'"):
        read_entry(app, "x", {"task": "shop.clean", "schedule": 5, "options": {"que": "slow"}})


@pytest.mark.parametrize("name", ["", "x" * 300, "a\nb"])
def test_a_name_is_a_printable_text_that_is_not_too_long(app: Dray, name: str) -> None:
    with pytest.raises(ConfigurationError, match="printable text of 1 to"):
        read_entry(app, name, {"task": "shop.clean", "schedule": 5})


def both_in_settings_and_code(app: Dray) -> None:
    app.conf.beat_schedule = {"n": {"task": "shop.clean", "schedule": 5}}
    app.add_periodic_task(5, app.tasks["shop.clean"].s(), name="n")


def twice_in_code(app: Dray) -> None:
    for _ in range(2):
        app.add_periodic_task(5, app.tasks["shop.clean"].s(), name="n")


def named_like_a_task(app: Dray) -> None:
    app.task(name="n", every=5)(lambda: None)
    app.add_periodic_task(5, app.tasks["shop.clean"].s(), name="n")


@pytest.mark.parametrize("declare", [both_in_settings_and_code, twice_in_code, named_like_a_task])
def test_two_entries_with_one_name_are_refused(app: Dray, declare: Callable[[Dray], None]) -> None:
    declare(app)
    with pytest.raises(ConfigurationError, match=r"two schedules named 'n': .*; give one of them another name"):
        gather(app)


def test_what_is_no_schedule_is_refused_where_it_is_declared(app: Dray) -> None:
    with pytest.raises(ConfigurationError, match="@app.task of .*: 'daily' is no schedule"):
        app.task(schedule="daily")(lambda: None)
    with pytest.raises(ConfigurationError, match="at least 0.1"):
        app.task(every=0)(lambda: None)
    with pytest.raises(TaskOptionError, match="schedule= or every=, not both"):
        app.task(every=5, schedule="@daily")(lambda: None)
    with pytest.raises(ConfigurationError, match="'often' is no schedule"):
        app.add_periodic_task("often", app.tasks["shop.clean"].s())


def test_who_must_know_whether_a_run_has_ended_needs_somebody_to_ask(app: Dray) -> None:
    entry = read_entry(app, "n", {"task": "shop.clean", "schedule": every(5), "overlap": "skip"})
    check_overlap(app, [entry])
    app.close()
    app = Dray("shop", broker="memory://", backend="disabled", set_as_current=False)
    check_overlap(app, [entry])  # the broker can look for messages
    app.broker.capabilities = msgspec.structs.replace(app.broker.capabilities, find=False)
    with pytest.raises(NotSupported, match="DRAY_RESULT_BACKEND"):
        check_overlap(app, [entry])
