"""What five guides show of schedules: each entry is due when its comment says so, and a scheduler sends it then.

What they write for RQ, APScheduler and Laravel is said here in dray's words.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dray import Dray, ManualClock, crontab
from dray.schedule_entries import gather
from dray.testing import Driver, memory_app, wait_until

#: A Thursday.
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START.timestamp())


@pytest.fixture
def app(clock: ManualClock) -> Iterator[Dray]:
    with memory_app(clock) as made:
        yield made


def first_runs(app: Dray, number: int = 2) -> dict[str, list[str]]:
    """Return when each declared entry is due first."""
    since, told = START.timestamp(), dict[str, list[str]]()
    for name, entry in gather(app).items():
        found, told[name] = entry.when(app), []
        at = found.first(since)
        while at is not None and len(told[name]) < number:
            told[name].append(f"{datetime.fromtimestamp(at, UTC):%a %m-%d %H:%M}")
            at = found.next(at, since)
    return told


def declare(app: Dray, names: Iterable[str]) -> list[str]:
    """Declare tasks of these names; return the list of those that have run."""
    ran: list[str] = []
    for name in names:
        app.task(name=name)(lambda name=name: ran.append(name))
    return ran


def run_until_each_was_due(app: Dray, clock: ManualClock) -> None:
    """Have a scheduler and a worker there at the first instant of each entry."""
    scheduler = app.scheduler()
    scheduler.prepare()
    scheduler.tick()
    for at in sorted({entry.when(app).first(START.timestamp()) or 0.0 for entry in gather(app).values()}):
        clock.advance(at - clock.time())
        while not scheduler.tick():
            pass
        app.worker().run_until_idle()


# beat_schedule

BACKGROUND_TASKS: dict[str, Any] = {
    # Execute every day at midnight
    "cleanup-daily": {"task": "tasks.cleanup_old_data", "schedule": crontab(hour=0, minute=0)},
    # Execute every 15 minutes
    "sync-data": {"task": "tasks.sync_external_data", "schedule": 900.0},  # seconds
    # Execute every Monday at 7:30 AM
    "weekly-report": {"task": "tasks.generate_weekly_report", "schedule": crontab(hour=7, minute=30, day_of_week=1)},
}
CHAPTER_9: dict[str, Any] = {
    # Run every minute
    "cleanup-temp-files": {"task": "app.tasks.maintenance.cleanup_temp_files", "schedule": 60.0},  # seconds
    # Run every hour
    "generate-hourly-reports": {"task": "app.tasks.reports.hourly", "schedule": crontab(minute=0)},  # at :00
    # Run daily at 3:00 AM
    "daily-backup": {"task": "app.tasks.maintenance.daily_backup", "schedule": crontab(hour=3, minute=0)},
    # Run every Monday at 8:00 AM
    "weekly-report": {"task": "app.tasks.reports.weekly", "schedule": crontab(hour=8, minute=0, day_of_week=1)},
    # Run on 1st of every month
    "monthly-invoice": {
        "task": "app.tasks.billing.generate_invoices",
        "schedule": crontab(hour=0, minute=0, day_of_month=1),
    },
}
CYCLE_34: dict[str, Any] = {
    "cleanup-every-hour": {"task": "tasks.cleanup", "schedule": crontab(minute=0)},  # Every hour
    "daily-report": {"task": "tasks.generate_report", "schedule": crontab(hour=6, minute=0)},  # 6 AM
}
COMPLETE_GUIDE: dict[str, Any] = {
    # Run every minute
    "cleanup-every-minute": {"task": "app.tasks.cleanup_old_files", "schedule": 60.0},  # seconds
    # Run every hour
    "hourly-report": {"task": "app.tasks.generate_hourly_report", "schedule": crontab(minute=0)},  # at :00
    # Run daily at midnight
    "daily-backup": {"task": "app.tasks.backup_database", "schedule": crontab(hour=0, minute=0)},
    # Run every Monday at 9 AM
    "weekly-digest": {"task": "app.tasks.weekly_digest", "schedule": crontab(hour=9, minute=0, day_of_week=1)},
    # Run on 1st of every month
    "monthly-invoice": {
        "task": "app.tasks.generate_invoices",
        "schedule": crontab(day_of_month=1, hour=6, minute=0),
    },
}


@pytest.mark.parametrize(
    ("beat_schedule", "due"),
    [
        (
            BACKGROUND_TASKS,
            {
                "cleanup-daily": ["Fri 01-02 00:00", "Sat 01-03 00:00"],
                "sync-data": ["Thu 01-01 00:15", "Thu 01-01 00:30"],
                "weekly-report": ["Mon 01-05 07:30", "Mon 01-12 07:30"],
            },
        ),
        (
            CHAPTER_9,
            {
                "cleanup-temp-files": ["Thu 01-01 00:01", "Thu 01-01 00:02"],
                "generate-hourly-reports": ["Thu 01-01 01:00", "Thu 01-01 02:00"],
                "daily-backup": ["Thu 01-01 03:00", "Fri 01-02 03:00"],
                "weekly-report": ["Mon 01-05 08:00", "Mon 01-12 08:00"],
                "monthly-invoice": ["Sun 02-01 00:00", "Sun 03-01 00:00"],
            },
        ),
        (
            CYCLE_34,
            {
                "cleanup-every-hour": ["Thu 01-01 01:00", "Thu 01-01 02:00"],
                "daily-report": ["Thu 01-01 06:00", "Fri 01-02 06:00"],
            },
        ),
        (
            COMPLETE_GUIDE,
            {
                "cleanup-every-minute": ["Thu 01-01 00:01", "Thu 01-01 00:02"],
                "hourly-report": ["Thu 01-01 01:00", "Thu 01-01 02:00"],
                "daily-backup": ["Fri 01-02 00:00", "Sat 01-03 00:00"],
                "weekly-digest": ["Mon 01-05 09:00", "Mon 01-12 09:00"],
                "monthly-invoice": ["Thu 01-01 06:00", "Sun 02-01 06:00"],
            },
        ),
    ],
    ids=["background tasks", "chapter 9", "cycle 34", "complete guide"],
)
def test_each_entry_of_a_beat_schedule_is_due_when_its_comment_says_and_is_sent_then(
    app: Dray, clock: ManualClock, beat_schedule: Mapping[str, Any], due: dict[str, list[str]]
) -> None:
    names = {entry["task"] for entry in beat_schedule.values()}
    ran = declare(app, names)
    app.conf.beat_schedule = dict(beat_schedule)
    assert first_runs(app) == due
    run_until_each_was_due(app, clock)
    assert set(ran) == names


def test_a_schedule_is_added_to_in_place(app: Dray, clock: ManualClock) -> None:
    ran = declare(app, ["app.tasks.maintenance.cleanup_old_task_results"])
    app.conf.beat_schedule.update(
        {
            "cleanup-task-results": {
                "task": "app.tasks.maintenance.cleanup_old_task_results",
                "schedule": crontab(hour=2, minute=0),  # 2 AM daily
            },
        }
    )
    assert first_runs(app) == {"cleanup-task-results": ["Thu 01-01 02:00", "Fri 01-02 02:00"]}
    run_until_each_was_due(app, clock)
    assert ran == ["app.tasks.maintenance.cleanup_old_task_results"]
    assert Dray("another", broker="memory://", set_as_current=False).conf.beat_schedule == {}


def test_the_quick_reference_and_the_exercise_run_daily_at_three(app: Dray, clock: ManualClock) -> None:
    ran = declare(app, ["app.tasks.daily_job"])
    app.conf.beat_schedule = {"daily-task": {"task": "app.tasks.daily_job", "schedule": crontab(hour=3, minute=0)}}
    assert first_runs(app) == {"daily-task": ["Thu 01-01 03:00", "Fri 01-02 03:00"]}
    run_until_each_was_due(app, clock)
    assert ran == ["app.tasks.daily_job"]


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        # Every minute
        (crontab(), ["Thu 01-01 00:01", "Thu 01-01 00:02", "Thu 01-01 00:03"]),
        # Every 15 minutes
        (crontab(minute="*/15"), ["Thu 01-01 00:15", "Thu 01-01 00:30", "Thu 01-01 00:45"]),
        # Every hour at :30
        (crontab(minute=30), ["Thu 01-01 00:30", "Thu 01-01 01:30", "Thu 01-01 02:30"]),
        # Every day at midnight
        (crontab(hour=0, minute=0), ["Fri 01-02 00:00", "Sat 01-03 00:00", "Sun 01-04 00:00"]),
        # Every Monday at 9 AM
        (crontab(hour=9, minute=0, day_of_week=1), ["Mon 01-05 09:00", "Mon 01-12 09:00", "Mon 01-19 09:00"]),
        # Every weekday at 8 AM
        (crontab(hour=8, minute=0, day_of_week="mon-fri"), ["Thu 01-01 08:00", "Fri 01-02 08:00", "Mon 01-05 08:00"]),
        # First day of month at 6 AM
        (crontab(day_of_month=1, hour=6, minute=0), ["Thu 01-01 06:00", "Sun 02-01 06:00", "Sun 03-01 06:00"]),
    ],
    ids=str,
)
def test_a_crontab_is_due_when_its_comment_says(app: Dray, schedule: Any, due: list[str]) -> None:
    declare(app, ["work"])
    app.conf.beat_schedule = {"entry": {"task": "work", "schedule": schedule}}
    assert first_runs(app, 3) == {"entry": due}


# At the task, and in code


def test_a_decorator_with_a_cron_expression_runs_daily_at_midnight(app: Dray, clock: ManualClock) -> None:
    ran: list[str] = []

    @app.task(schedule="0 0 * * *")  # Daily at midnight
    async def generate_daily_report() -> None:
        ran.append("generate_daily_report")

    assert first_runs(app) == {generate_daily_report.name: ["Fri 01-02 00:00", "Sat 01-03 00:00"]}
    run_until_each_was_due(app, clock)
    assert ran == ["generate_daily_report"]


def test_laravels_daily_weekly_and_every_minute(app: Dray, clock: ManualClock) -> None:
    """`$schedule->job(new ProcessReports)->daily()`, `->weekly()` (Sundays at midnight), `->everyMinute()`."""
    names = ["process_reports", "cleanup_old_files", "send_emails"]
    ran = declare(app, names)
    for name, schedule in zip(names, ["@daily", "@weekly", crontab()], strict=True):
        app.add_periodic_task(schedule, app.tasks[name].s(), name=name)
    assert first_runs(app) == {
        "process_reports": ["Fri 01-02 00:00", "Sat 01-03 00:00"],
        "cleanup_old_files": ["Sun 01-04 00:00", "Sun 01-11 00:00"],
        "send_emails": ["Thu 01-01 00:01", "Thu 01-01 00:02"],
    }
    run_until_each_was_due(app, clock)
    assert set(ran) == set(names)


async def test_apschedulers_jobs_run_within_the_life_of_a_web_application(app: Dray, clock: ManualClock) -> None:
    ran: list[str] = []

    @app.task(schedule=crontab(hour=0, minute=0))  # CronTrigger(hour=0, minute=0): Midnight
    async def daily_cleanup() -> None:
        ran.append("daily_cleanup")

    @app.task(every=timedelta(hours=4))  # 'interval', hours=4
    async def periodic_sync() -> None:
        ran.append("periodic_sync")

    @asynccontextmanager
    async def lifespan(web: object) -> AsyncIterator[None]:
        async with app.scheduler():
            yield

    assert first_runs(app) == {
        daily_cleanup.name: ["Fri 01-02 00:00", "Sat 01-03 00:00"],
        periodic_sync.name: ["Thu 01-01 04:00", "Thu 01-01 08:00"],
    }
    async with lifespan(None):
        wait_until(lambda: clock.advance(600) or app.broker.sizes(["default"])["default"]["ready"] == 7)
    app.worker().run_until_idle()
    assert (ran.count("daily_cleanup"), ran.count("periodic_sync")) == (1, 6)


# Once


def test_rqs_enqueue_in_and_enqueue_at(dray_app: Dray, dray_worker: Driver) -> None:
    ran: list[tuple[float, str]] = []
    start = dray_app.clock.time()
    send_email = dray_app.task(name="send_email")(
        lambda to, subject, body: ran.append((round(dray_app.clock.time() - start), subject))
    )
    cleanup_old_data = dray_app.task(name="cleanup")(
        lambda: ran.append((round(dray_app.clock.time() - start), "cleanup"))
    )
    # Schedule job to run in 10 minutes
    send_email.apply_async(("user@example.com", "Reminder", "This is your reminder"), countdown=timedelta(minutes=10))
    # Schedule job at specific time
    at = datetime.fromtimestamp(start + 3600, UTC).replace(tzinfo=None)
    cleanup_old_data.apply_async(eta=at)
    dray_worker.advance(7200)
    assert ran == [(600, "Reminder"), (3600, "cleanup")]


def test_a_reminder_in_an_hour(dray_app: Dray, dray_worker: Driver) -> None:
    ran: list[float] = []
    start = dray_app.clock.time()

    @dray_app.task
    async def send_reminder(user_id: str) -> None:
        ran.append(round(dray_app.clock.time() - start))

    send_reminder.apply_async(kwargs={"user_id": "123"}, countdown=timedelta(hours=1))
    dray_worker.advance(timedelta(hours=2))
    assert ran == [3600]
