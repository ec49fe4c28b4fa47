"""The fault tools themselves: they fail when told to, and only then."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dray import (
    Absent,
    BackendUnavailable,
    BrokerError,
    BrokerUnavailable,
    Change,
    Dray,
    Envelope,
    Hold,
    ManualClock,
    Put,
    StoreUnavailable,
)
from dray.testing import memory_app
from dray.testing.faults import ExecutionLedger, FlakyBackend, FlakyBroker, FlakyStore, wait_until


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


def test_it_stands_between_an_app_and_its_store(app: Dray) -> None:
    store = FlakyStore.between(app)
    assert app.store("a test") is store
    assert store.inner.clock is app.clock
    assert store.capabilities == store.inner.capabilities
    store.commit([Change("p", writes=(Put("a", b"1"),))])
    assert store.get("p", "a") == {"a": b"1"}
    assert store.calls == {"open": 1, "commit": 1, "get": 1}
    assert store.history[1:] == [("commit", ("p",)), ("get", ("p",))]
    store.sleep()
    with pytest.raises(StoreUnavailable, match="asleep"):
        store.now()


def test_an_app_without_a_store_has_none_to_stand_before() -> None:
    with memory_app(ManualClock(), store_url="disabled") as app, pytest.raises(ValueError, match="has no store"):
        FlakyStore.between(app)


def test_a_commit_whose_reply_is_lost_was_made_and_one_that_fails_was_not(app: Dray) -> None:
    store = FlakyStore.between(app)
    app.store("a test")
    claim = Change("p", (Absent("a"),), (Put("a", b"me"),), ("a",))
    store.fail("commit")
    store.lose_reply_of("commit")
    for kept in ({}, {"a": b"me"}):
        with pytest.raises(StoreUnavailable):
            store.commit([claim])
        assert store.get("p", "a") == kept
    (done,) = store.commit([claim])
    assert (done.applied, done.values) == (False, {"a": b"me"})


def test_a_commit_that_is_broken_off_has_made_its_first_changes_only(app: Dray) -> None:
    store = FlakyStore.between(app)
    app.store("a test")
    changes = [Change(part, writes=(Put("a", b"1"),)) for part in "pqr"]
    store.break_off(made=2)
    with pytest.raises(StoreUnavailable, match="after 2 of 3 changes"):
        store.commit(changes)
    assert [store.get(part, "a") for part in "pqr"] == [{"a": b"1"}, {"a": b"1"}, {}]
    assert len(store.commit(changes)) == 3


def test_a_place_whose_grant_is_lost_on_the_way_is_granted_again(app: Dray) -> None:
    store = FlakyStore.between(app)
    app.store("a test")
    store.lose_reply_of("hold")
    with pytest.raises(StoreUnavailable):
        store.hold([Hold("l", "me", 60.0)])
    assert store.hold([Hold("l", "you", 60.0), Hold("l", "me", 60.0)]) == [0, 1]


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
