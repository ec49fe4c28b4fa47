"""Schedules as values: cron expressions against a slow oracle, summer time, intervals, and how people write them."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import count
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dray
from dray import ConfigurationError, Schedule, at, crontab, every, schedule
from dray.schedules import as_table, jittered, latest, read_schedule, ticks

BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")
#: 2026-01-01, a Thursday.
START = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


def after(found: Schedule, moment: datetime, number: int = 1) -> list[str]:
    """Return the next instants after `moment`, as they are shown in its zone."""
    told: list[str] = []
    at: float | None = moment.timestamp()
    for _ in range(number):
        at = found.next(at or 0.0, 0.0)
        assert at is not None
        told.append(f"{datetime.fromtimestamp(at, moment.tzinfo):%Y-%m-%d %H:%M:%S %z}")
    return told


# Cron expressions


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (crontab(), "* * * * *"),
        (crontab(minute="*/15"), "*/15 * * * *"),
        (crontab(30), "30 * * * *"),
        (crontab(minute=0, hour="*/3,8-17"), "0 */3,8-17 * * *"),
        (crontab(minute=[0, 30], hour=range(8, 10)), "0,30 8,9 * * *"),
        (crontab(minute=0, hour=8, day_of_week="mon-fri"), "0 8 * * 1-5"),
        (crontab(minute=0, hour=8, day_of_week="Monday, thu"), "0 8 * * 1,4"),
        (crontab(minute=0, hour=0, day_of_week="fri-mon"), "0 0 * * 5,6,0,1"),
        (crontab(minute=0, hour=0, month_of_year="nov-feb/2"), "0 0 * 11,1 *"),
        (crontab(minute=0, hour=0, day_of_month="L"), "0 0 L * *"),
        (crontab(minute=0, hour=0, day_of_week="mon#2"), "0 0 * * mon#2"),
        (crontab(minute="*", second="*/10"), "*/10 * * * * *"),
        (schedule("@daily"), "0 0 * * *"),
        (schedule("*/15 * * * * *"), "*/15 * * * * *"),
        (schedule("0 9 * * MON-FRI"), "0 9 * * 1-5"),
    ],
)
def test_a_field_may_be_a_number_a_list_a_range_a_step_or_a_name(made: Any, text: str) -> None:
    assert made.text == text


def test_crontab_without_anything_is_every_minute() -> None:
    assert after(crontab(), datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC), 2) == [
        "2026-01-01 00:01:00 +0000",
        "2026-01-01 00:02:00 +0000",
    ]


def test_with_seconds_it_is_finer_than_a_minute() -> None:
    assert after(crontab(second="*/20"), datetime(2026, 1, 1, tzinfo=UTC), 3) == [
        "2026-01-01 00:00:20 +0000",
        "2026-01-01 00:00:40 +0000",
        "2026-01-01 00:01:00 +0000",
    ]


def test_sunday_is_0_and_7() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    told = {after(crontab(minute=0, hour=0, day_of_week=day), moment)[0] for day in (0, 7, "sun", "sunday")}
    assert told == {"2026-01-04 00:00:00 +0000"}


def test_crontab_wants_both_days_as_celery_does_and_text_wants_one_of_them_as_cron_does() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    first_monday = crontab(minute=0, hour=0, day_of_month="1-7", day_of_week="mon")
    assert after(first_monday, moment, 2) == ["2026-01-05 00:00:00 +0000", "2026-02-02 00:00:00 +0000"]
    assert after(schedule("0 0 1-7 * 1"), moment, 2) == ["2026-01-02 00:00:00 +0000", "2026-01-03 00:00:00 +0000"]


def test_a_fraction_of_a_second_passes_over_nothing() -> None:
    each = crontab(second="*")
    assert each.next(START + 0.9999995, 0) == START + 1
    assert each.next(START + 1, 0) == START + 2


def oracle(minutes: set[int], hours: set[int], days: set[int], fixed: bool, zone: tzinfo, start: float) -> float:
    """Find the next instant by looking at every minute there is."""
    first = math.floor(start) // 60 * 60
    if not fixed:
        each = (datetime.fromtimestamp(first + n * 60, zone) for n in count(1))
        return next(
            local.timestamp()
            for local in each
            if local.minute in minutes and local.hour in hours and local.isoweekday() % 7 in days
        )
    wall = (datetime.fromtimestamp(first, zone) - timedelta(days=1)).replace(tzinfo=None, second=0)
    for n in count():
        local = wall + timedelta(minutes=n)
        if local.minute in minutes and local.hour in hours and local.isoweekday() % 7 in days:
            while (there := local.replace(tzinfo=zone)) != there.astimezone(UTC).astimezone(zone):
                local += timedelta(minutes=1)  # an hour that is left out: at its end
            if there.timestamp() > start:
                return there.timestamp()
    raise AssertionError("not reached")


@st.composite
def fields(draw: st.DrawFn, size: int) -> tuple[str, set[int]]:
    """A field's text, and what it means."""
    low = draw(st.integers(0, size - 1))
    high, step = draw(st.integers(low, size - 1)), draw(st.integers(1, size - 1))
    several = draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=4))
    return draw(
        st.sampled_from(
            [
                ("*", set(range(size))),
                (f"*/{step}", set(range(0, size, step))),
                (str(low), {low}),
                (f"{low}-{high}", set(range(low, high + 1))),
                (f"{low}-{high}/{step}", set(range(low, high + 1, step))),
                (",".join(map(str, sorted(several))), several),
            ]
        )
    )


@settings(max_examples=200)
@given(
    fields(60),
    fields(24),
    fields(7),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
    # Around the changes of 2026: 8 and 29 March, 25 October and 1 November; and anywhere else.
    st.sampled_from([(2026, 3, 7), (2026, 3, 28), (2026, 10, 24), (2026, 10, 31), (2026, 6, 1), (2024, 2, 28)]),
    st.floats(0, 2 * 86400),
)
def test_the_next_instant_is_the_one_that_a_slow_oracle_finds(
    minute: tuple[str, set[int]],
    hour: tuple[str, set[int]],
    day: tuple[str, set[int]],
    zone: str,
    date: tuple[int, int, int],
    offset: float,
) -> None:
    start = datetime(*date, tzinfo=UTC).timestamp() + offset
    found = crontab(minute=minute[0], hour=hour[0], day_of_week=day[0], timezone=zone)
    fixed = not minute[0].startswith("*") and not hour[0].startswith("*")
    tz = UTC if zone == "UTC" else ZoneInfo(zone)
    assert found.next(start, 0) == oracle(minute[1], hour[1], day[1], fixed, tz, start)


@pytest.mark.parametrize(
    ("zone", "day", "told"),
    [
        # The night in which 02:00 becomes 03:00.
        (BERLIN, (3, 28), ["2026-03-29 03:00:00 +0200", "2026-03-30 02:30:00 +0200"]),
        (NEW_YORK, (3, 7), ["2026-03-08 03:00:00 -0400", "2026-03-09 02:30:00 -0400"]),
        # The night in which there are two of 02:30 (Berlin); New York has two of 01:30, and one of 02:30.
        (BERLIN, (10, 24), ["2026-10-25 02:30:00 +0200", "2026-10-26 02:30:00 +0100"]),
        (NEW_YORK, (10, 31), ["2026-11-01 02:30:00 -0500", "2026-11-02 02:30:00 -0500"]),
    ],
)
def test_a_time_of_day_comes_once_in_every_night(zone: ZoneInfo, day: tuple[int, int], told: list[str]) -> None:
    noon = datetime(2026, *day, 12, tzinfo=zone)
    assert after(crontab(minute=30, hour=2, timezone=zone.key), noon, 2) == told


def test_an_hour_that_is_there_twice_has_a_time_of_day_once_and_every_quarter_twice() -> None:
    noon = datetime(2026, 10, 31, 12, tzinfo=NEW_YORK)
    assert after(crontab(minute=30, hour=1, timezone="America/New_York"), noon, 2) == [
        "2026-11-01 01:30:00 -0400",
        "2026-11-02 01:30:00 -0500",
    ]
    half_past = datetime(2026, 11, 1, 1, 30, tzinfo=NEW_YORK)
    assert after(crontab(minute="*/30", timezone="America/New_York"), half_past, 3) == [
        "2026-11-01 01:00:00 -0500",
        "2026-11-01 01:30:00 -0500",
        "2026-11-01 02:00:00 -0500",
    ]


def test_asked_in_the_second_of_two_hours_it_does_not_go_back_to_the_first() -> None:
    second = datetime(2026, 10, 25, 2, 10, tzinfo=BERLIN, fold=1)
    found = crontab(minute=30, hour=2, timezone="Europe/Berlin")
    assert after(found, second) == ["2026-10-26 02:30:00 +0100"]


def test_its_own_zone_wins_over_that_of_the_entry() -> None:
    assert str(crontab(timezone="Europe/Berlin").within("UTC")) == "* * * * * (Europe/Berlin)"
    assert str(crontab().within("America/New_York")) == "* * * * * (America/New_York)"


# Intervals and instants


def test_an_interval_is_counted_from_its_beginning_however_late_one_asks() -> None:
    found = every(10)
    assert found.first(100.25) == 110.25
    assert found.next(137.0, 100.25) == 140.25
    assert found.next(140.25, 100.25) == 150.25


def test_an_interval_with_a_start_begins_there() -> None:
    found = every(hours=1, start=datetime.fromtimestamp(START, UTC))
    assert found.first(START - 5000) == START
    assert found.next(START, 0) == START + 3600


@given(st.floats(0.1, 1e6), st.floats(0, 2e9), st.floats(0, 1e8))
def test_the_next_tick_of_an_interval_is_later_and_no_more_than_one_interval_away(
    length: float, since: float, passed: float
) -> None:
    found, asked = every(length), since + passed
    following = found.next(asked, since)
    assert following is not None
    assert asked < following <= asked + length * (1 + 1e-6) + 1e-6


def test_one_instant_comes_once_and_is_late_rather_than_lost() -> None:
    once = at(datetime.fromtimestamp(START, UTC))
    assert once.next(START - 1, 0) == START
    assert once.next(START, 0) is None
    assert once.first(START + 99) == START


# What a scheduler asks


@given(st.integers(0, 3_000_000), st.sampled_from(["*/7 * * * *", "0 3 * * *", "*/20 * 3 * * *"]))
def test_the_last_instant_is_found_as_if_each_had_been_looked_at(passed: int, text: str) -> None:
    found = schedule(text)
    first = found.next(START, START)
    assert first is not None
    until = first + passed % 300_000
    assert latest(found, first, until, START) == list(ticks(found, first, until, START))[-1]


def test_a_jitter_is_the_same_for_all_who_ask_and_within_its_bounds() -> None:
    told = [jittered("nightly", START + n, 30.0) - START - n for n in range(200)]
    assert told == [jittered("nightly", START + n, 30.0) - START - n for n in range(200)]
    assert all(0 <= offset < 30 for offset in told)
    assert len({round(offset) for offset in told}) > 20
    assert jittered("nightly", START, 0.0) == START


@pytest.mark.parametrize("found", [crontab(minute=5, timezone="Europe/Berlin"), every(1.5), at(datetime.now(UTC))])
def test_a_schedule_is_the_same_after_it_was_kept(found: Schedule) -> None:
    assert read_schedule(as_table(found), "here") == found


# How people write them


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (900.0, "every 15m"),
        (90, "every 1m30s"),
        (0.5, "every 0.5s"),
        (timedelta(hours=36), "every 1d12h"),
        ("1h30m", "every 1h30m"),
        ("90", "every 1m30s"),
        ("0 0 * * *", "0 0 * * *"),
        ("2027-01-01T09:00:00+01:00", "once at 2027-01-01 08:00:00 UTC"),
        ("2027-01-01 09:00", "once at 2027-01-01 09:00:00 UTC"),
        (datetime(2027, 1, 1), "once at 2027-01-01 00:00:00 UTC"),
        ({"kind": "every", "seconds": 3}, "every 3s"),
    ],
)
def test_a_schedule_can_be_written_in_many_ways(written: Any, shown: str) -> None:
    assert str(schedule(written)) == shown


def test_celerys_word_for_an_interval_works_too() -> None:
    assert schedule(run_every=timedelta(seconds=30)) == every(30)
    assert schedule("0 8 * * *", timezone="Europe/Berlin") == schedule("0 8 * * *").within("Europe/Berlin")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: crontab(minute=61), "crontab(minute=61): minute takes 0 to 59"),
        (lambda: crontab(minute=-1), "minute takes 0 to 59"),
        (lambda: crontab(hour="8-25"), "hour takes 0 to 23"),
        (lambda: crontab(minute="*/0"), "minute takes 0 to 59"),
        (lambda: crontab(minute=""), "minute takes 0 to 59"),
        (lambda: crontab(minute=True), "minute takes 0 to 59"),
        (lambda: crontab(minute=None), "minute takes 0 to 59"),
        (lambda: crontab(minute=1.5), "minute takes 0 to 59"),
        (lambda: crontab(day_of_week="mo-fr"), "'mon-fri', 0 and 7 being Sunday"),
        (lambda: crontab(month_of_year=13), "month_of_year takes 1 to 12"),
        (lambda: crontab(day_of_month=31, month_of_year="feb"), "never comes"),
        (lambda: crontab(timezone="Europe/Berlim"), "did you mean 'Europe/Berlin'?"),
        (lambda: schedule("0 25 * * *"), "hour takes 0 to 23"),
        (lambda: schedule("0 0 * *"), "is no schedule"),
        (lambda: schedule("@dayly"), "did you mean '@daily'?"),
        (lambda: schedule(None), "It takes: seconds (900)"),
        (lambda: schedule(True), "is no schedule"),
        (lambda: schedule({"kind": "crontab"}), "`text`"),
        (lambda: schedule({"kind": "chrontab"}), "did you mean 'crontab'?"),
        (lambda: schedule({"text": "* * * * *"}), "says its kind"),
        (lambda: schedule("0 8 * * *", timezone="Mars/Olympus"), "no such time zone"),
        (lambda: every(0), "at least 0.1"),
        (lambda: every("often"), "at least 0.1"),
        (lambda: every(float("nan")), "at least 0.1"),
        (lambda: at(datetime(2027, 1, 1)), "depends on a zone"),
    ],
)
def test_what_is_no_schedule_is_refused_with_what_would_be_one(wrong: Callable[[], object], told: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        wrong()
    assert told in str(error.value)


# Kinds that plugins bring


class Tides(Schedule, frozen=True):
    """Every 12 hours and 25 minutes."""

    kind = "tides"
    harbour: str

    def next(self, after: float, since: float) -> float | None:
        return (after // 44_700 + 1) * 44_700


class Plugin:
    dray_api = (1, 0)

    @dray.hookimpl
    def register_schedules(self, register: Callable[[str, Any], None]) -> None:
        register("tides", Tides)


def test_a_plugin_brings_a_kind_of_schedule() -> None:
    app = dray.Dray("harbour", broker="memory://", set_as_current=False)
    app.plugins.register(Plugin())
    found = read_schedule({"kind": "tides", "harbour": "Dover"}, "here", plugins=app.plugins)
    assert found == Tides("Dover")
    assert found.next(100.0, 0.0) == 44_700
    assert as_table(found) == {"kind": "tides", "harbour": "Dover"}
    assert {"at", "crontab", "every", "tides"} <= set(app.plugins.names("schedules"))
