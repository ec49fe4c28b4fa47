"""Alerts: told once when something has happened too often within some time, here or in all processes together."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dray import Alert, ConfigurationError, Dray, Event, ManualClock, Message, StoreUnavailable
from dray.alerts import Alerts, Rule, Tally, read_rule
from dray.testing import Driver, Enqueued, memory_app
from dray.testing.faults import wait_until


def failed(task: str, at: float, reason: str = "ValueError: no") -> Event:
    return Event(type="task-failed", at=at, message=Message(id="m", task=task), details={"reason": reason})


def rule(**given: Any) -> Rule:
    wanted = {"when": "task-failed", "more_than": 2, "within": 60.0, "pattern": "*", "quiet": None, **given}
    return read_rule(wanted.pop("tell", print), **wanted)


# Counting


def test_more_than_so_many_within_the_time_are_told_and_then_it_is_quiet() -> None:
    tally, told = Tally(), []
    for now in [0, 10, 50, 55, 100, 130, 131, 132, 133]:
        tally, total = tally.counting(rule(), 1, float(now))
        told.append(total)
    # Three within a minute at 50; quiet until 110; four since 100 at 131.
    assert told == [0, 0, 3, 0, 0, 3, 0, 0, 0] or told == [0, 0, 3, 0, 0, 0, 3, 0, 0]


def test_what_is_older_than_the_time_does_not_count() -> None:
    tally = Tally()
    for now in range(0, 10_000, 40):
        tally, total = tally.counting(rule(), 1, float(now))
        assert total == 0
        assert len(tally.parts) <= 2


def test_many_at_once_count_as_many() -> None:
    assert Tally().counting(rule(), 3, 0.0)[1] == 3
    assert Tally().counting(rule(more_than=0), 1, 0.0)[1] == 1


# Telling


@pytest.fixture
def apart(dray_clock: ManualClock) -> Iterator[Dray]:
    """An app without a store."""
    with memory_app(dray_clock, store_url="disabled") as app:
        yield app


@pytest.mark.parametrize("kept", ["in the store", "in the process"])
def test_a_function_is_told_when_tasks_of_a_pattern_fail_too_often(dray_app: Dray, apart: Dray, kept: str) -> None:
    app = dray_app if kept == "in the store" else apart
    told: list[Alert] = []

    @app.alert(when="task-failed", more_than=2, within=60.0, pattern="emails.*")
    def page(alert: Alert) -> None:
        told.append(alert)

    @app.task(name="emails.send")
    def send() -> None:
        raise ValueError("no such address")

    app.task(name="other")(lambda: 1 / 0).delay_many([() for _ in range(5)])
    for _ in range(5):
        send.delay()
    Driver(app).run_until_idle()
    wait_until(lambda: told)
    (alert,) = told
    assert (alert.when, alert.pattern, alert.within) == (("task-failed",), "emails.*", 60.0)
    assert alert.count >= 3
    assert alert.event.message is not None
    assert alert.event.message.task == "emails.send"
    assert str(alert).startswith(f"{alert.count} times task-failed of emails.* within 60 s, the last one emails.send")
    assert str(alert).endswith(": ValueError: no such address")


def test_processes_of_an_app_count_together_and_one_of_them_tells(dray_app: Dray) -> None:
    told: list[tuple[int, int]] = []
    seen = []
    for process in range(2):
        alerts = Alerts(dray_app)
        alerts.add(rule(tell=lambda alert, process=process: told.append((process, alert.count)), more_than=3))
        seen.append(alerts)
    for n in range(2):
        for alerts in seen:
            alerts._look(alerts.rules[0], 1, failed("x", float(n)))
    assert told == [(1, 4)]


def test_while_the_store_is_away_each_process_counts_for_itself(
    dray_app: Dray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: Any) -> None:
        raise StoreUnavailable("gone")

    told: list[Alert] = []
    alerts = Alerts(dray_app)
    alerts.add(rule(tell=told.append, more_than=1))
    monkeypatch.setattr(dray_app.store("test"), "get", away)
    for n in range(2):
        alerts._look(alerts.rules[0], 1, failed("x", float(n)))
    assert [alert.count for alert in told] == [2]
    assert "alerts are counted in this process alone: gone" in caplog.text


def test_dead_letters_and_lost_workers_are_reasons_too(dray_app: Dray, dray_worker: Driver) -> None:
    told: list[str] = []
    both = threading.Event()

    async def page(alert: Alert) -> None:
        told.append(alert.when[0])
        if len(told) == 2:
            both.set()

    dray_app.alert(page, when="task-buried")
    dray_app.alert(page, when=["worker-lost", "task-worker-lost"])
    assert dray_app.wants_presence
    dray_app.send_task("nobody.knows")
    dray_worker.run_until_idle()
    dray_app.notify("worker-lost", worker="w1@there")
    assert both.wait(10)
    assert sorted(told) == ["task-buried", "worker-lost"]


def test_a_url_is_told_by_the_task_that_calls_webhooks(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    dray_app.alert("https://example.com/alerts", when="task-failed")
    dray_app.load_tasks()
    assert "dray.webhook" in dray_app.tasks
    alerts = Alerts(dray_app)
    alerts.add(rule(tell="https://example.com/alerts", more_than=0))
    alerts._look(alerts.rules[0], 1, failed("work", 5.0))
    (call,) = dray_enqueued.all("dray.webhook")
    url, body = call.args
    assert url == "https://example.com/alerts"
    told = json.loads(body)
    assert (told["type"], told["count"], told["task_id"]) == ("alert", 1, "m")
    assert told["text"] == "1 times task-failed within 60 s, the last one work: ValueError: no"


def test_a_function_that_raises_is_logged_and_the_next_alert_told(
    dray_app: Dray, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Alert] = []

    def broken(alert: Alert) -> None:
        raise ValueError("no")

    dray_app.alert(broken, when="worker-lost")
    dray_app.alert(told.append, when="worker-lost")
    dray_app.notify("worker-lost", worker="w1@there")
    wait_until(lambda: told)
    assert "raised, called for an alert" in caplog.text


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"when": "task-faild"}, "no event 'task-faild'; did you mean 'task-failed'"),
        ({"when": []}, "say when"),
        ({"more_than": -1}, "more_than is a whole number >= 0"),
        ({"within": 0}, "within and quiet are seconds"),
        ({"tell": "ftp://x/"}, "alert: a webhook is an http:// or https:// URL"),
        ({"tell": 5}, "it tells a function or a URL; got 5"),
    ],
)
def test_an_alert_that_could_never_be_told_is_refused(dray_app: Dray, given: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=wrong):
        dray_app.alert(given.pop("tell", print), **{"when": "task-failed", **given})
