"""The fault tools themselves: they fail when told to, and only then."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dray import BackendUnavailable, BrokerError, BrokerUnavailable, Dray, Envelope, ManualClock
from dray.testing import memory_app
from dray.testing.faults import ExecutionLedger, FlakyBackend, FlakyBroker, wait_until


@pytest.fixture
def app() -> Iterator[Dray]:
    with memory_app(ManualClock()) as made:
        yield made


def envelope(id: str) -> Envelope:
    return Envelope(id=id, queue="q", body=b"")


def test_it_stands_between_an_app_and_the_broker_that_its_url_names(app: Dray) -> None:
    broker = FlakyBroker.between(app)
    assert app.broker is broker
    assert broker.inner.clock is app.clock
    assert broker.capabilities == broker.inner.capabilities
    app.broker.publish([envelope("a")])
    assert broker.calls == {"open": 1, "publish": 1}
    assert broker.history[-1] == ("publish", ("a",))
    assert app.broker.sizes(["q"])["q"]["ready"] == 1


def test_it_stands_between_an_app_and_its_result_backend(app: Dray) -> None:
    backend = FlakyBackend.between(app)
    assert app.backend is backend
    backend.sleep()
    with pytest.raises(BackendUnavailable, match="asleep"):
        backend.fetch(["a"])
    backend.wake()
    assert backend.fetch(["a"]) == {}


def test_an_app_without_results_has_no_backend_to_stand_before() -> None:
    with (
        memory_app(ManualClock(), result_backend="disabled") as app,
        pytest.raises(ValueError, match="keeps no results"),
    ):
        FlakyBackend.between(app)


def test_a_sleeping_broker_takes_nothing_and_a_woken_one_does(app: Dray) -> None:
    broker = FlakyBroker.between(app)
    consumer = app.broker.consumer(["q"], 30)
    broker.sleep()
    with pytest.raises(BrokerUnavailable):
        app.broker.publish([envelope("a")])
    with pytest.raises(BrokerUnavailable):
        consumer.receive(1, 0)
    broker.wake()
    assert consumer.receive(1, 0) == []


def test_a_planned_failure_comes_as_often_as_planned_and_takes_no_effect(app: Dray) -> None:
    broker = FlakyBroker.between(app)
    app.broker.queues()
    broker.fail("publish", BrokerError("full"), times=2)
    for _ in range(2):
        with pytest.raises(BrokerError, match="full"):
            app.broker.publish([envelope("a")])
    assert app.broker.queues() == []
    app.broker.publish([envelope("a")])
    assert app.broker.queues() == ["q"]


def test_a_lost_reply_comes_after_the_call_took_effect(app: Dray) -> None:
    broker = FlakyBroker.between(app)
    app.broker.publish([envelope("a")])
    consumer = app.broker.consumer(["q"], 30)
    lent = consumer.receive(1, 0)
    broker.lose_reply_of("ack")
    with pytest.raises(BrokerUnavailable, match="reply"):
        consumer.ack(lent)
    assert app.broker.queues() == []


def test_observers_hear_of_each_call_before_and_after_it(app: Dray) -> None:
    broker, heard = FlakyBroker.between(app), []
    broker.observe(lambda verb, moment: heard.append((verb, moment, len(broker.inner.queues()))))
    app.broker.publish([envelope("a")])
    assert heard[-2:] == [("publish", "before", 0), ("publish", "after", 1)]


def test_a_ledger_counts_runs_across_threads_and_objects(tmp_path: Path) -> None:
    path = tmp_path / "runs.txt"
    assert ExecutionLedger(path).runs() == {}
    threads = [
        threading.Thread(target=lambda n=n: [ExecutionLedger(path).record(f"{n}-{i}") for i in range(100)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger = ExecutionLedger(os.fspath(path))
    ledger.record("0-0")
    assert len(ledger.runs()) == 400
    assert ledger.repeated() == {"0-0": 2}
    assert ledger.missing(["0-0", "3-99", "9-9"]) == {"9-9"}


def test_waiting_ends_when_it_comes_true_or_when_the_time_is_up() -> None:
    looks: list[int] = []
    wait_until(lambda: looks.append(1) or len(looks) > 2)
    assert len(looks) == 3
    with pytest.raises(AssertionError, match="within 0 s"):
        wait_until(lambda: False, timeout=0)
