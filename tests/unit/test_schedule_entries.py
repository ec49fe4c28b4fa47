"""Entries: gathered from settings, decorators and code, and refused when they can never work; the guides' own."""

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


# The guides


def test_the_guides_beat_schedule_means_what_its_comments_say() -> None:
    app = Dray("guide", broker="memory://", set_as_current=False)
    for name in ("cleanup_old_data", "sync_external_data", "generate_weekly_report", "generate_invoices"):
        app.task(name=f"tasks.{name}")(lambda: None)
    app.conf.beat_schedule = {
        # Execute every day at midnight
        "cleanup-daily": {"task": "tasks.cleanup_old_data", "schedule": crontab(hour=0, minute=0)},
        # Execute every 15 minutes
        "sync-data": {"task": "tasks.sync_external_data", "schedule": 900.0},  # seconds
        # Execute every Monday at 7:30 AM
        "weekly-report": {
            "task": "tasks.generate_weekly_report",
            "schedule": crontab(hour=7, minute=30, day_of_week=1),
        },
        # Run every minute
        "cleanup-every-minute": {"task": "tasks.cleanup_old_data", "schedule": 60.0},  # seconds
        # Run every hour
        "hourly-report": {"task": "tasks.generate_weekly_report", "schedule": crontab(minute=0)},
        # Run on 1st of every month
        "monthly-invoice": {
            "task": "tasks.generate_invoices",
            "schedule": crontab(day_of_month=1, hour=6, minute=0),
        },
    }
    assert {name: first_runs(app, entry) for name, entry in gather(app).items()} == {
        "cleanup-daily": ["Fri 01-02 00:00:00", "Sat 01-03 00:00:00"],
        "sync-data": ["Thu 01-01 00:15:00", "Thu 01-01 00:30:00"],
        "weekly-report": ["Mon 01-05 07:30:00", "Mon 01-12 07:30:00"],
        "cleanup-every-minute": ["Thu 01-01 00:01:00", "Thu 01-01 00:02:00"],
        "hourly-report": ["Thu 01-01 01:00:00", "Thu 01-01 02:00:00"],
        "monthly-invoice": ["Thu 01-01 06:00:00", "Sun 02-01 06:00:00"],
    }


def test_the_guides_crontab_examples_mean_what_their_comments_say(app: Dray) -> None:
    said = {
        "every minute": crontab(),
        "every 15 minutes": crontab(minute="*/15"),
        "every hour at :30": crontab(minute=30),
        "every day at midnight": crontab(hour=0, minute=0),
        "every Monday at 9 AM": crontab(hour=9, minute=0, day_of_week=1),
        "every weekday at 8 AM": crontab(hour=8, minute=0, day_of_week="mon-fri"),
        "first day of month at 6 AM": crontab(day_of_month=1, hour=6, minute=0),
    }
    entries = {name: read_entry(app, name, {"task": "shop.clean", "schedule": one}) for name, one in said.items()}
    assert {name: first_runs(app, entry, 3) for name, entry in entries.items()} == {
        "every minute": ["Thu 01-01 00:01:00", "Thu 01-01 00:02:00", "Thu 01-01 00:03:00"],
        "every 15 minutes": ["Thu 01-01 00:15:00", "Thu 01-01 00:30:00", "Thu 01-01 00:45:00"],
        "every hour at :30": ["Thu 01-01 00:30:00", "Thu 01-01 01:30:00", "Thu 01-01 02:30:00"],
        "every day at midnight": ["Fri 01-02 00:00:00", "Sat 01-03 00:00:00", "Sun 01-04 00:00:00"],
        "every Monday at 9 AM": ["Mon 01-05 09:00:00", "Mon 01-12 09:00:00", "Mon 01-19 09:00:00"],
        "every weekday at 8 AM": ["Thu 01-01 08:00:00", "Fri 01-02 08:00:00", "Mon 01-05 08:00:00"],
        "first day of month at 6 AM": ["Thu 01-01 06:00:00", "Sun 02-01 06:00:00", "Sun 03-01 06:00:00"],
    }


def test_the_guides_update_of_the_schedule_in_place_is_taken(app: Dray) -> None:
    app.conf.beat_schedule.update(
        {
            "cleanup-task-results": {
                "task": "shop.clean",
                "schedule": crontab(hour=2, minute=0),  # 2 AM daily
            },
        }
    )
    assert first_runs(app, gather(app)["cleanup-task-results"], 1) == ["Thu 01-01 02:00:00"]
    assert Dray("another", broker="memory://", set_as_current=False).conf.beat_schedule == {}


def test_the_guides_decorator_runs_daily_at_midnight(app: Dray) -> None:
    @app.task(schedule="0 0 * * *")  # Daily at midnight
    async def generate_daily_report() -> None: ...

    assert first_runs(app, gather(app)[generate_daily_report.name], 1) == ["Fri 01-02 00:00:00"]


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
