"""`app.schedules`: schedules are looked at, added, changed, disabled, run and removed while schedulers run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from dray import ConfigurationError, crontab
from dray.schedule_book import NEW, Book

from .test_scheduler import START, Site, settled, site

__all__ = ["site"]


def test_a_schedule_that_is_added_is_sent_without_a_restart(site: Site) -> None:
    scheduler = site.scheduler()
    made = site.app.schedules.add("n", "note", 10, kwargs={"text": "hello"}, jitter=0, missed="all")
    assert (made.name, made.task, made.schedule, made.origin, made.enabled) == ("n", "note", "every 10s", "store", True)
    assert made.next_run == datetime.fromtimestamp(START + 10, UTC)
    site.passes(20, scheduler)
    assert site.work() == ["n@00:00:10", "n@00:00:20"]
    assert site.app.schedules.get("n").last_run == datetime.fromtimestamp(START + 20, UTC)


def test_the_list_has_those_of_the_code_also_before_any_scheduler_has_run(site: Site) -> None:
    site.entry("coded", crontab(minute=5, hour=0))
    site.app.schedules.add("added", "note", "@daily")
    assert [(entry.name, entry.origin, entry.schedule) for entry in site.app.schedules] == [
        ("added", "store", "0 0 * * * (UTC)"),
        ("coded", "code", "5 0 * * * (UTC)"),
    ]
    assert site.app.schedules.list()[1].next_run == datetime.fromtimestamp(START + 300, UTC)


def test_one_that_is_disabled_rests_and_makes_up_for_nothing(site: Site) -> None:
    site.entry("n", 10)
    scheduler = site.scheduler()
    site.passes(10, scheduler)
    assert site.app.schedules.disable("n").next_run is None
    site.passes(60, scheduler, site.scheduler())
    assert site.app.schedules.enable("n").next_run == datetime.fromtimestamp(START + 80, UTC)
    site.passes(10, scheduler)
    assert site.work() == ["n@00:00:10", "n@00:01:20"]


def test_a_change_of_what_the_code_says_outlives_restarts_and_the_rest_follows_the_code(site: Site) -> None:
    site.entry("n", 10, args=("old",))
    site.scheduler()
    changed = site.app.schedules.change("n", every=20)
    assert (changed.schedule, changed.changed) == ("every 20s", ("schedule",))
    site.clock.advance(1)
    site.entry("n", 10, args=("new",))
    site.scheduler()
    found = site.app.schedules.get("n")
    assert (found.schedule, found.call.args, found.changed) == ("every 20s", ("new",), ("schedule",))


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        ({"schedule": "0 5 * * *"}, "schedule", "0 5 * * * (UTC)"),
        ({"timezone": "Europe/Berlin"}, "schedule", "0 4 * * * (Europe/Berlin)"),
        ({"missed": "skip"}, "missed", "skip"),
        ({"deadline": "5m"}, "deadline", 300.0),
        ({"overlap": "queue"}, "overlap", "queue"),
        ({"jitter": 5}, "jitter", 5.0),
    ],
)
def test_each_word_can_be_changed_and_the_others_stay(site: Site, words: Any, field: str, value: Any) -> None:
    before = site.app.schedules.add("n", "note", "0 4 * * *", args=("x",))
    after = site.app.schedules.change("n", **words)
    assert getattr(after, field) == value
    same = set(before._fields) - {field, "next_run"}
    assert {name: getattr(after, name) for name in same} == {name: getattr(before, name) for name in same}


def test_arguments_can_be_changed_while_the_schedule_stands_where_it_stood(site: Site) -> None:
    site.app.schedules.add("n", "note", 60)
    scheduler = site.scheduler()
    site.passes(30, scheduler)
    site.app.schedules.change("n", args=("new",))
    assert site.app.schedules.get("n").next_run == datetime.fromtimestamp(START + 60, UTC)
    assert site.app.schedules.get("n").call.args == ("new",)


def test_what_is_removed_is_gone_with_its_name(site: Site) -> None:
    scheduler = site.scheduler()
    site.app.schedules.add("n", "note", 10)
    site.app.schedules.remove("n")
    site.passes(30, scheduler)
    assert site.work() == []
    assert site.app.schedules.list() == []
    site.clock.advance(NEW)
    site.scheduler()
    assert Book(site.app, site.app.store("tests")).names() == []


def test_run_now_sends_it_once_besides_its_ticks(site: Site) -> None:
    site.entry("n", 60, args=("hello",))
    scheduler = site.scheduler()
    site.passes(30, scheduler)
    result = site.app.schedules.run_now("n")
    assert site.work() == ["n@00:00:30"]
    assert result.ready()
    site.passes(30, scheduler)
    assert site.work() == ["n@00:00:30", "n@00:01:00"]
    assert [(tick.what, tick.id == result.id) for tick in site.app.schedules.history("n")] == [
        ("sent", False),
        ("by hand", True),
    ]


def test_the_history_keeps_the_last_ticks_and_says_who_sent_them(site: Site) -> None:
    site.entry("n", 1)
    scheduler = site.scheduler("me")
    site.passes(40, scheduler)
    ticks = site.app.schedules.history("n")
    assert len(ticks) == 30
    assert ticks[0].due == datetime.fromtimestamp(START + 40, UTC)
    assert {tick.by for tick in ticks} == {"me"}
    assert site.app.broker.find([ticks[0].id])


def test_one_instant_that_was_added_is_forgotten_a_week_after_it_was_sent(site: Site) -> None:
    site.app.schedules.add("once", "note", datetime.fromtimestamp(START + 10, UTC))
    scheduler = site.scheduler()
    site.passes(10, scheduler)
    assert site.app.schedules.get("once").next_run is None
    site.clock.advance(8 * 86400)
    assert site.app.schedules.list() == []
    settled(scheduler)


def test_what_cannot_be_done_is_refused_with_what_can(site: Site) -> None:
    site.entry("coded", 10)
    site.app.schedules.add("added", "note", 10)
    schedules = site.app.schedules
    for wrong, told in [
        (lambda: schedules.add("added", "note", 5), "there is a schedule 'added' already: change\\(\\)"),
        (lambda: schedules.add("coded", "note", 5), "there is a schedule 'coded' already"),
        (lambda: schedules.add("n", "nite", 5), "did you mean 'note'"),
        (lambda: schedules.add("n", "note"), "schedule= or every="),
        (lambda: schedules.add("n", "note", crontab, colour="red"), "has no 'colour'"),
        (lambda: schedules.get("aded"), "did you mean 'added'"),
        (lambda: schedules.remove("coded"), "disable\\(\\) it"),
        (lambda: schedules.change("added", colour="red"), "has no 'colour'"),
        (lambda: schedules.change("added", schedule="never"), "is no schedule"),
        (lambda: schedules.run_now("nothing"), "There is: added, coded"),
    ]:
        with pytest.raises(ConfigurationError, match=told):
            wrong()  # type: ignore[no-untyped-call]


def test_one_whose_task_is_unknown_here_can_still_be_disabled(site: Site) -> None:
    site.app.task(name="old")(lambda: None)
    site.app.schedules.add("n", "old", 10)
    del site.app.tasks["old"]
    assert site.app.schedules.disable("n").enabled is False


def test_sensitive_arguments_are_not_shown(site: Site) -> None:
    site.app.task(name="login", sensitive=("password",))(lambda user, password: None)
    entry = site.app.schedules.add("n", "login", 10, args=("me", "hunter2"))
    assert "hunter2" not in repr(entry)
