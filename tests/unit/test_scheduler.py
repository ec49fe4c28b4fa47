"""The scheduler on a clock that is moved: each tick once, whatever stops, freezes, races or jumps."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from dray import (
    BrokerUnavailable,
    Change,
    Changed,
    ConfigurationError,
    Dray,
    ManualClock,
    NotSupported,
    Schedule,
    Scheduler,
    Store,
    StoreUnavailable,
    crontab,
    hookimpl,
    signals,
)
from dray.schedule_book import RESEND, Book
from dray.scheduler import BEATEN
from dray.testing import memory_app
from dray.testing.background import Background
from dray.testing.faults import wait_until

#: 2026-01-01 00:00 UTC.
START = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


class Killed(BaseException):
    """The process dies here."""


class FlakyStore:
    """Stands in front of the app's store: loses requests, or replies of what was done."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: What becomes of the next commits that write a tick: "before", "after" or "killed".
        self.faults: list[str] = []
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def due(self, *args: Any, **options: Any) -> Any:
        self.calls += 1
        return self._store.due(*args, **options)

    def now(self) -> float:
        self.calls += 1
        return self._store.now()

    def commit(self, changes: Sequence[Change]) -> Sequence[Changed]:
        self.calls += 1
        fault = self.faults.pop(0) if self.faults and any(change.writes for change in changes) else ""
        if fault == "before":
            raise StoreUnavailable("cut before it was sent")
        done = self._store.commit(changes)
        if fault == "after":
            raise StoreUnavailable("cut before the reply came")
        if fault == "killed":
            raise Killed
        return done


class Site:
    """An app on memory, its clock, and what has been sent."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.app = memory_app(self.clock)
        self.runs: list[str] = []

        @self.app.task(name="note", bind=True)
        def note(task: Any, text: str = "") -> None:
            self.runs.append(f"{task.request.headers['schedule']}@{task.request.headers['due'][11:19]}")

        self.store = FlakyStore(self.app.store("tests"))
        self.app.connections._records = self.store  # type: ignore[assignment]

    def entry(self, name: str, schedule: Any, **words: Any) -> None:
        self.app.conf.beat_schedule[name] = {"task": "note", "schedule": schedule, **words}

    def scheduler(self, name: str = "") -> Scheduler:
        made = Scheduler(self.app, name=name or None)
        made.prepare()
        settled(made)
        return made

    def passes(self, seconds: float, *schedulers: Scheduler, step: float = 1.0) -> None:
        """Let time pass in steps, and every scheduler look at each of them."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            for each in schedulers:
                settled(each)

    def work(self) -> list[str]:
        """Run what was sent; return what all runs so far were for."""
        self.app.worker().run_until_idle()
        return self.runs

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Let time pass, not too fast for the threads, until they have come so far."""
        wait_until(lambda: self.clock.advance(0.1) or condition())

    def history(self, name: str) -> list[str]:
        return [f"{tick.what} {tick.due:%H:%M:%S}" for tick in reversed(self.app.schedules.history(name))]


def settled(scheduler: Scheduler) -> None:
    """Have it look until nothing is due."""
    for _ in range(100):
        if scheduler.tick() not in (0.0, BEATEN):
            return
    raise AssertionError("it never comes to rest")


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.app.close()


# Ticks


def test_each_tick_is_sent_when_it_is_due(site: Site) -> None:
    site.entry("poll", 10)
    site.entry("minute", crontab())
    scheduler = site.scheduler()
    site.passes(60, scheduler)
    assert sorted(site.work()) == ["minute@00:01:00", *(f"poll@00:00:{n}0" for n in range(1, 6)), "poll@00:01:00"]
    assert scheduler.sent == 7


def test_it_sleeps_until_the_next_tick_and_no_longer_than_it_looks_for_changes(site: Site) -> None:
    site.entry("soon", 2.5)
    scheduler = site.scheduler()
    assert scheduler.tick() == pytest.approx(2.5)
    site.app.schedules.disable("soon")
    assert scheduler.tick() == site.app.conf.beat_max_loop_interval == 5.0


def test_a_tick_carries_arguments_options_and_what_it_is_for(site: Site) -> None:
    site.entry("n", 10, args=("hello",), options={"queue": "slow", "headers": {"mine": 1}})
    site.passes(10, site.scheduler())
    (waiting,) = site.app.broker.peek("slow", 10)
    assert waiting.id.startswith("key-")
    seen: list[Any] = []
    site.app.tasks["note"].function = lambda task, text: seen.append((text, dict(task.request.headers)))
    site.app.worker(["slow"]).run_until_idle()
    assert seen == [("hello", {"mine": 1, "schedule": "n", "due": "2026-01-01T00:00:10+00:00"})]


def test_a_jitter_makes_a_tick_later_and_leaves_its_instant_as_it_is(site: Site) -> None:
    site.entry("n", 60, jitter=30)
    scheduler = site.scheduler()
    site.passes(60, scheduler)
    planned = site.app.schedules.get("n").next_run
    assert planned is not None and 60 < planned.timestamp() - START <= 90
    site.passes(30, scheduler)
    assert site.work() == ["n@00:01:00"]


def test_one_instant_comes_once_also_when_it_has_passed(site: Site) -> None:
    site.entry("once", datetime.fromtimestamp(START - 5, UTC))
    scheduler = site.scheduler()
    site.passes(120, scheduler, site.scheduler())
    assert site.work() == ["once@23:59:55"]
    assert site.app.schedules.get("once").next_run is None


def test_hooks_hear_of_ticks(site: Site) -> None:
    heard: list[Any] = []
    site.app.on("scheduler-tick")(lambda event: heard.append((event.details["schedule"], event.details["what"])))
    site.entry("n", 10)
    site.passes(10, site.scheduler())
    assert heard == [("n", "sent")]


# Stops


@pytest.mark.parametrize(
    ("missed", "runs"),
    [
        ("once", ["n@00:00:10", "n@00:05:00"]),
        ("skip", ["n@00:00:10", "n@00:05:00"]),
        ("all", [f"n@00:0{n // 60}:{n % 60:02}" for n in range(10, 301, 10)]),
    ],
)
def test_what_was_missed_while_nobody_was_there_is_made_up_for_as_the_entry_says(
    site: Site, missed: str, runs: list[str]
) -> None:
    site.entry("n", 10, missed=missed)
    site.passes(10, site.scheduler())
    site.clock.advance(290)
    site.passes(1, site.scheduler())
    assert site.work() == runs


def test_a_tick_that_is_too_late_is_not_sent_and_is_in_the_history(site: Site) -> None:
    site.entry("skipping", 3600, missed="skip")
    site.entry("deadline", 3600, deadline="30m")
    site.entry("patient", 3600)
    site.scheduler()
    site.clock.advance(2 * 3600 - 1)
    site.scheduler()
    assert site.work() == ["patient@01:00:00"]
    assert site.history("skipping") == site.history("deadline") == ["missed 01:00:00"]
    site.passes(1, site.scheduler())
    assert sorted(site.work()[1:]) == ["deadline@02:00:00", "patient@02:00:00", "skipping@02:00:00"]


def test_a_year_of_missed_seconds_is_made_up_for_at_once(site: Site) -> None:
    site.entry("n", crontab(second="*"))
    site.scheduler()
    site.clock.advance(365 * 86400)
    site.scheduler()
    assert len(site.work()) == 1
    assert site.history("n") == ["missed 00:00:01", "sent 00:00:00"]


def test_a_restart_with_the_same_code_changes_nothing(site: Site) -> None:
    site.entry("n", 60)
    for _ in range(12):
        site.passes(10, site.scheduler())
    assert site.work() == ["n@00:01:00", "n@00:02:00"]


def test_a_restart_with_another_schedule_begins_anew(site: Site) -> None:
    site.entry("n", 60)
    site.scheduler()
    site.passes(30)
    site.entry("n", 45)
    site.passes(60, site.scheduler())
    assert site.work() == ["n@00:01:15"]


def test_an_entry_that_the_code_does_not_have_any_more_is_dropped(site: Site) -> None:
    site.entry("old", 10)
    site.app.task(name="more")(lambda: None)
    site.app.schedules.add("kept", "more", 10)
    site.scheduler()
    del site.app.conf.beat_schedule["old"]
    site.clock.advance(1)
    site.scheduler()
    assert [entry.name for entry in site.app.schedules.list()] == ["kept"]


def test_the_scheduler_that_started_last_says_what_the_code_is(site: Site) -> None:
    site.entry("n", 60)
    old = Scheduler(site.app)
    old.prepare()
    site.clock.advance(5)
    site.entry("n", 20)
    site.scheduler()
    settled(old)
    assert site.app.schedules.get("n").schedule == "every 20s"


# Many schedulers


def test_many_schedulers_send_each_tick_once(site: Site) -> None:
    site.entry("a", 10)
    site.entry("b", crontab())
    schedulers = [site.scheduler(f"s{n}") for n in range(10)]
    site.passes(120, *schedulers)
    assert sorted(Counter(site.work()).values()) == [1] * 14


def test_schedulers_that_race_in_threads_send_each_tick_once(site: Site) -> None:
    for n in range(5):
        site.entry(f"e{n}", 10, missed="all")
    schedulers = [site.scheduler(f"s{n}") for n in range(8)]
    for _ in range(10):
        site.clock.advance(30)
        gate = threading.Barrier(len(schedulers))

        def look(one: Scheduler, gate: threading.Barrier = gate) -> None:
            gate.wait()
            settled(one)

        for racing in [Background(lambda one=one: look(one)) for one in schedulers]:  # type: ignore[misc]
            racing.result()
    assert sum(one.sent for one in schedulers) == 5 * 30
    assert sorted(Counter(site.work()).values()) == [1] * 5 * 30


@pytest.mark.parametrize("meanwhile", ["tick", "change", "disable", "remove"])
def test_what_was_dealt_with_or_changed_meanwhile_is_not_decided_again(site: Site, meanwhile: str) -> None:
    """Between its reading and its writing, somebody else sends the tick, or changes the entry."""
    site.app.schedules.add("n", "note", 60)
    first, second = site.scheduler("first"), site.scheduler("second")
    site.clock.advance(60)
    commit, come = site.store.commit, []

    def interrupted(changes: Sequence[Change]) -> Sequence[Changed]:
        if any(change.writes for change in changes) and not come:
            come.append(True)
            schedules = site.app.schedules
            {
                "tick": lambda: settled(second),
                "change": lambda: schedules.change("n", schedule=90),
                "disable": lambda: schedules.disable("n"),
                "remove": lambda: schedules.remove("n"),
            }[meanwhile]()
        return commit(changes)

    site.store.commit = interrupted  # type: ignore[method-assign]
    first.tick()
    assert come and first.sent == 0
    assert site.work() == (["n@00:01:00"] if meanwhile == "tick" else [])


def test_one_that_is_killed_after_it_has_decided_is_made_up_for_by_another(site: Site) -> None:
    site.entry("n", 60)
    first, second = site.scheduler("first"), site.scheduler("second")
    site.clock.advance(60)
    site.store.faults = ["killed"]
    with pytest.raises(Killed):
        first.tick()
    site.passes(RESEND - 1, second)
    assert site.work() == []
    site.passes(2, second)
    assert site.work() == ["n@00:01:00"]
    site.passes(60, second)
    assert site.work() == ["n@00:01:00", "n@00:02:00"]


def test_what_one_has_just_taken_over_is_left_to_it_by_another_that_found_it_too(site: Site) -> None:
    site.entry("n", 60)
    killed, first, second = site.scheduler("killed"), site.scheduler("first"), site.scheduler("second")
    site.clock.advance(60)
    site.store.faults = ["killed"]
    with pytest.raises(Killed):
        killed.tick()
    site.clock.advance(RESEND)
    due = site.store.due

    def overtaken(*args: Any, **options: Any) -> Any:
        found = due(*args, **options)
        site.store.due = due  # type: ignore[method-assign]
        site.store.faults = ["killed"]
        with pytest.raises(Killed):
            first.tick()
        return found

    site.store.due = overtaken  # type: ignore[method-assign]
    settled(second)
    assert (first.sent, second.sent) == (0, 0)
    site.passes(RESEND + 1, second)
    assert second.sent == 1
    assert site.work() == ["n@00:01:00"]


def test_one_that_is_killed_before_it_has_decided_costs_nothing(site: Site) -> None:
    site.entry("n", 60)
    first, second = site.scheduler("first"), site.scheduler("second")
    site.clock.advance(60)
    site.store.faults = ["before"]
    with pytest.raises(StoreUnavailable):
        first.tick()
    settled(second)
    assert site.work() == ["n@00:01:00"]


@pytest.mark.parametrize("fault", ["before", "after"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_store_that_is_cut_off_loses_and_doubles_nothing(site: Site, fault: str, place: int) -> None:
    site.entry("n", 60)
    scheduler = site.scheduler()
    for _ in range(5):
        site.clock.advance(60)
        site.store.faults = ["", fault][1 - place :]
        for _ in range(3):
            try:
                settled(scheduler)
            except StoreUnavailable:
                continue
        site.passes(RESEND + 1, scheduler)
        site.clock.advance(60 - RESEND - 1)
    settled(scheduler)
    assert all(count == 1 for count in Counter(site.work()).values())
    sent = [line for line in site.history("n") if line.startswith("sent")]
    assert len(site.runs) == len(sent) >= 5


def test_one_that_was_frozen_after_it_has_decided_leaves_the_tick_to_others(site: Site) -> None:
    site.entry("n", 60)
    frozen, other = site.scheduler("frozen"), site.scheduler("other")
    site.clock.advance(60)
    commit, woken = site.store.commit, []

    def freeze(changes: Sequence[Change]) -> Sequence[Changed]:
        done = commit(changes)
        if any(change.writes for change in changes) and not woken:
            woken.append(True)
            site.passes(RESEND + 5, other)
        return done

    site.store.commit = freeze  # type: ignore[method-assign]
    settled(frozen)
    assert (frozen.sent, other.sent) == (0, 1)
    assert site.work() == ["n@00:01:00"]


def test_a_tick_that_is_sent_twice_runs_once(site: Site) -> None:
    """Frozen in the very step of sending, one sends what another has sent already, and what has run already."""
    site.entry("n", 60)
    scheduler = site.scheduler()
    site.passes(60, scheduler)
    leaf = Book(site.app, site.app.store("tests")).leaves(["n"])["n"]
    parcel = Book(site.app, site.app.store("tests")).parcel(leaf, START + 60)
    scheduler._publish("n", parcel)
    assert len(site.app.broker.peek("default", 10)) == 1
    assert site.work() == ["n@00:01:00"]
    scheduler._publish("n", parcel)
    assert site.work() == ["n@00:01:00"]


# A broker that is away


def test_ticks_wait_for_a_broker_that_is_away(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.app.conf.task_publish_retry = False
    site.entry("n", 30, missed="all")
    scheduler = site.scheduler()
    with monkeypatch.context() as patched:

        def away(*args: Any) -> None:
            raise BrokerUnavailable("gone")

        patched.setattr(site.app.broker, "publish", away)
        site.passes(90, scheduler)
        assert scheduler.sent == 0
    site.passes(RESEND + 1, scheduler)
    assert sorted(site.work()) == ["n@00:00:30", "n@00:01:00", "n@00:01:30"]


def test_what_can_never_be_sent_is_given_up_and_told(site: Site) -> None:
    site.entry("n", 3600, options={"priority": 5})
    scheduler = site.scheduler()
    site.app.broker.capabilities = msgspec.structs.replace(site.app.broker.capabilities, priority_levels=1)
    site.clock.advance(3600)
    site.passes(5 * RESEND, scheduler)
    assert site.history("n") == ["sent 01:00:00", "failed 01:00:00"]
    assert "has no priorities" in site.app.schedules.history("n")[0].note
    assert scheduler.tick() == 5.0


# Runs that overlap


def test_a_tick_is_left_out_while_the_last_run_goes_on(site: Site) -> None:
    site.entry("n", 60, overlap="skip")
    scheduler = site.scheduler()
    site.passes(180, scheduler)
    assert site.history("n") == ["sent 00:01:00", "skipped 00:02:00", "skipped 00:03:00"]
    site.work()
    site.passes(60, scheduler)
    assert site.work() == ["n@00:01:00", "n@00:04:00"]


@pytest.mark.parametrize(("missed", "runs"), [("once", ["n@00:03:00"]), ("all", ["n@00:02:00", "n@00:03:00"])])
def test_a_tick_waits_for_the_end_of_the_last_run(site: Site, missed: str, runs: list[str]) -> None:
    site.entry("n", 60, overlap="queue", missed=missed)
    scheduler = site.scheduler()
    site.passes(190, scheduler)
    assert site.history("n") == ["sent 00:01:00"]
    for _ in range(3):
        site.work()
        site.passes(3, scheduler)
    assert site.runs == ["n@00:01:00", *runs]


def test_whether_a_run_has_ended_is_told_by_results_where_the_broker_cannot(site: Site) -> None:
    site.app.broker.capabilities = msgspec.structs.replace(site.app.broker.capabilities, find=False)
    site.entry("n", 60, overlap="skip")
    scheduler = site.scheduler()
    site.passes(120, scheduler)
    assert site.history("n") == ["sent 00:01:00", "skipped 00:02:00"]
    site.work()
    site.passes(60, scheduler)
    assert site.work() == ["n@00:01:00", "n@00:03:00"]


def test_while_it_cannot_be_told_whether_a_run_has_ended_the_tick_waits(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.entry("n", 60, overlap="skip")
    scheduler = site.scheduler()
    site.passes(60, scheduler)
    site.work()

    def away(ids: Any) -> Any:
        raise BrokerUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(site.app.broker, "find", away)
        site.passes(70, scheduler)
    assert site.history("n") == ["sent 00:01:00"]
    site.passes(3, scheduler)
    assert site.work() == ["n@00:01:00", "n@00:02:00"]


# Kinds that plugins bring


class Broken(Schedule, frozen=True):
    """Works once, and then not any more."""

    kind = "broken"
    good: float

    def next(self, after: float, since: float) -> float | None:
        if after < self.good:
            return self.good
        raise ZeroDivisionError


class Plugin:
    dray_api = (1, 0)

    @hookimpl
    def register_schedules(self, register: Callable[[str, Any], None]) -> None:
        register("broken", Broken)


def test_a_schedule_that_cannot_be_worked_out_holds_up_no_other(site: Site) -> None:
    site.app.plugins.register(Plugin())
    site.entry("bad", Broken(START + 10))
    site.entry("good", 10)
    site.passes(20, site.scheduler())
    assert site.work() == ["good@00:00:10", "good@00:00:20"]


# Clocks that jump


def test_a_clock_that_goes_back_a_little_repeats_nothing(site: Site) -> None:
    site.entry("n", 60)
    scheduler = site.scheduler()
    site.passes(180, scheduler)
    site.clock._now -= 150
    site.passes(150, scheduler)
    assert site.work() == ["n@00:01:00", "n@00:02:00", "n@00:03:00"]
    site.passes(60, scheduler)
    assert site.work()[3:] == ["n@00:04:00"]


def test_a_clock_that_was_far_ahead_does_not_silence_a_schedule(site: Site) -> None:
    site.entry("n", 60)
    scheduler = site.scheduler()
    site.clock.advance(86400 * 365)
    settled(scheduler)
    site.clock._now -= 86400 * 365
    site.passes(120, scheduler)
    assert site.work()[1:] == ["n@00:01:00", "n@00:02:00"]


def test_a_restart_heals_what_a_wrong_clock_has_planned(site: Site) -> None:
    site.entry("n", 60)
    site.clock.advance(86400 * 365)
    site.scheduler()
    site.clock._now -= 86400 * 365
    site.passes(60, site.scheduler())
    assert site.work() == ["n@00:01:00"]


# Starting, stopping, costs


def test_it_runs_in_a_thread_and_in_an_event_loop(site: Site) -> None:
    site.entry("n", 10)
    with site.app.scheduler() as scheduler:
        assert scheduler.running
        site.wait_for(lambda: scheduler.sent >= 2)
    assert not scheduler.running
    with pytest.raises(ConfigurationError, match="running already"), scheduler:
        scheduler.start()


async def test_it_is_embedded_with_async_with(site: Site) -> None:
    site.entry("n", 10)
    async with site.app.scheduler() as scheduler:
        assert scheduler.running
    assert not scheduler.running


def test_a_worker_with_beat_sends_and_runs(site: Site) -> None:
    site.entry("n", 10)
    with site.app.worker(beat=True):
        site.wait_for(lambda: len(site.runs) >= 2)
    assert site.runs[0] == "n@00:00:10"


def test_without_a_store_it_says_which_setting_gives_it_one() -> None:
    app = Dray("bare", broker="memory://", set_as_current=False, store_url="disabled")
    with pytest.raises(NotSupported, match=r"the scheduler needs a store.*DRAY_STORE_URL"):
        app.scheduler().start()
    with pytest.raises(NotSupported, match=r"app.schedules needs a store"):
        app.schedules.list()


def test_a_wrong_schedule_keeps_it_from_starting(site: Site) -> None:
    site.entry("n", 10)
    site.app.conf.beat_schedule["n"]["task"] = "nite"
    for start in (site.app.scheduler().start, site.app.worker(beat=True).start):
        with pytest.raises(ConfigurationError, match="did you mean 'note'"):
            start()


def test_it_waits_for_a_store_that_is_away(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.entry("n", 10)
    away = threading.Event()
    found = site.app.connections._records

    def open_records(text: str) -> Any:
        if not away.is_set():
            raise StoreUnavailable("not yet")
        return found

    site.app.connections._records = None
    monkeypatch.setattr(site.app.connections, "_open_records", open_records)
    with site.app.scheduler() as scheduler:
        site.clock.advance(10)
        away.set()
        site.wait_for(lambda: scheduler.sent > 0)
    assert site.work()


def test_idle_it_asks_the_store_less_than_once_a_second(site: Site) -> None:
    for n in range(50):
        site.entry(f"e{n}", 3600)
    scheduler = site.scheduler()
    site.store.calls, passed = 0, 0.0
    while passed < 600:
        wait = scheduler.tick()
        site.clock.advance(wait)
        passed += wait
    assert site.store.calls / passed < 0.5


def test_a_tick_costs_a_handful_of_requests_however_many_are_due(site: Site) -> None:
    for n in range(50):
        site.entry(f"e{n}", 3600)
    scheduler = site.scheduler()
    site.clock.advance(3600)
    site.store.calls = 0
    settled(scheduler)
    assert scheduler.sent == 50
    assert site.store.calls <= 10


def test_signals_tell_a_scheduler_of_its_own_from_one_inside_another_process() -> None:
    site, heard = Site(), []
    signals.beat_init.connect(lambda sender, **_: heard.append(("alone", sender)), dispatch_uid="alone")
    signals.beat_embedded_init.connect(lambda sender, **_: heard.append(("inside", sender)), dispatch_uid="in")
    try:
        with site.app.scheduler() as inside:
            pass
        alone = site.app.scheduler()
        alone.start(embedded=False).stop()
    finally:
        signals.beat_init.disconnect(dispatch_uid="alone")
        signals.beat_embedded_init.disconnect(dispatch_uid="in")
    assert heard == [("inside", inside), ("alone", alone)]
