"""Dead letters are bounded: the oldest go when there are too many, or when they are too old, and that is told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from dray import Dray, Envelope, Event, ManualClock, Url, hookimpl
from dray.assisted import Assisted
from dray.broker import Broker
from dray.labels import Label, put_on
from dray.sub_queues import DEAD
from dray.testing.faults import FlakyBroker, wait_until
from dray.trimming import EVERY, EVERY_BORROWED, FIRST, Trimmer
from dray_brokers.memory import MemoryBroker

HOUR, DAY = 3600.0, 86_400.0


def bury(broker: Broker, *ids: str, queue: str = "default") -> None:
    """Put letters with these ids into the dead letters."""
    broker.publish([Envelope(id=id, queue=queue, body=b"x") for id in ids])
    consumer = broker.consumer([queue], 30)
    consumer.bury(consumer.receive(len(ids), 0), "for the test")
    consumer.close()


def left(broker: Broker, queue: str = "default") -> list[str]:
    return [letter.id for letter in broker.dead(queue, 1000)]


@pytest.fixture
def told(dray_app: Dray) -> list[Event]:
    """What is told of trimmed letters."""
    heard: list[Event] = []

    class Ears:
        @hookimpl
        def event(self, event: Event) -> None:
            heard.append(event)

    dray_app.plugins.register(Ears(), "ears")
    return heard


# What goes


@pytest.mark.dray(dead_letter_max=3)
def test_the_oldest_that_are_too_many_are_deleted(
    dray_app: Dray, told: list[Event], caplog: pytest.LogCaptureFixture
) -> None:
    for id in "abcde":
        bury(dray_app.broker, id)
    with caplog.at_level(logging.WARNING):
        Trimmer(dray_app, ["default", "never-used"]).trim()
    assert left(dray_app.broker) == ["c", "d", "e"]
    (event,) = told
    assert event.type == "dead-letters-trimmed"
    assert event.details == {"queue": "default", "count": 2, "why": "more than 3 (dead_letter_max)"}
    assert "2 dead letter(s) of the queue 'default' deleted: more than 3 (dead_letter_max)" in caplog.text


@pytest.mark.dray(dead_letter_expires="1d")
def test_those_that_are_too_old_are_deleted(dray_app: Dray, dray_clock: ManualClock, told: list[Event]) -> None:
    bury(dray_app.broker, "a", "b")
    dray_clock.advance(DAY - 60)
    bury(dray_app.broker, "c")
    dray_clock.advance(61)
    Trimmer(dray_app, ["default"]).trim()
    assert left(dray_app.broker) == ["c"]
    assert [event.details["why"] for event in told] == ["older than 86400 s (dead_letter_expires)"]
    assert told[0].details["count"] == 2


@pytest.mark.dray(dead_letter_max=4, dead_letter_expires="1d")
def test_all_batches_of_them_are_deleted(
    dray_app: Dray, dray_clock: ManualClock, told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dray.trimming.BATCH", 3)
    bury(dray_app.broker, *(f"old{n}" for n in range(10)))
    dray_clock.advance(2 * DAY)
    bury(dray_app.broker, *(f"new{n}" for n in range(12)))
    Trimmer(dray_app, ["default"]).trim()
    assert left(dray_app.broker) == ["new8", "new9", "new10", "new11"]
    assert [event.details["count"] for event in told] == [10, 8]


@pytest.mark.dray(dead_letter_max=None, dead_letter_expires=None)
def test_without_bounds_nothing_is_deleted(dray_app: Dray, dray_clock: ManualClock) -> None:
    bury(dray_app.broker, "a", "b")
    dray_clock.advance(1000 * DAY)
    trimmer = Trimmer(dray_app, ["default"])
    trimmer.trim()
    trimmer.tick()
    trimmer.stop()
    assert left(dray_app.broker) == ["a", "b"]


def test_by_default_they_are_kept_for_ninety_days(dray_app: Dray, dray_clock: ManualClock) -> None:
    bury(dray_app.broker, "a")
    dray_clock.advance(90 * DAY)
    Trimmer(dray_app, ["default"]).trim()
    assert left(dray_app.broker) == ["a"]
    dray_clock.advance(1)
    Trimmer(dray_app, ["default"]).trim()
    assert left(dray_app.broker) == []


@pytest.mark.dray(dead_letter_expires="1d")
def test_letters_of_one_id_go_together_when_the_youngest_is_too_old(dray_app: Dray, dray_clock: ManualClock) -> None:
    bury(dray_app.broker, "nightly")
    bury(dray_app.broker, "a")
    dray_clock.advance(2 * DAY)
    bury(dray_app.broker, "nightly")
    Trimmer(dray_app, ["default"]).trim()
    assert left(dray_app.broker) == ["nightly", "nightly"]
    dray_clock.advance(2 * DAY)
    Trimmer(dray_app, ["default"]).trim()
    assert left(dray_app.broker) == []


@pytest.mark.dray(dead_letter_max=1)
def test_only_the_queues_of_the_worker_are_trimmed(dray_app: Dray) -> None:
    bury(dray_app.broker, "a", "b", queue="mine")
    bury(dray_app.broker, "c", "d", queue="another's")
    Trimmer(dray_app, ["mine"]).trim()
    assert (left(dray_app.broker, "mine"), left(dray_app.broker, "another's")) == (["b"], ["c", "d"])


# When


@pytest.mark.dray(dead_letter_max=1)
def test_it_is_done_on_a_thread_of_its_own_after_a_while_and_then_about_once_an_hour(
    dray_app: Dray, dray_clock: ManualClock
) -> None:
    trimmer = Trimmer(dray_app, ["default"])
    bury(dray_app.broker, "a", "b")
    dray_clock.advance(FIRST[0] - 1)
    trimmer.tick()
    assert left(dray_app.broker) == ["a", "b"]
    dray_clock.advance(FIRST[1])
    trimmer.tick()
    wait_until(lambda: left(dray_app.broker) == ["b"])
    trimmer.stop()
    bury(dray_app.broker, "c")
    dray_clock.advance(EVERY * 0.79)
    trimmer.tick()
    assert left(dray_app.broker) == ["b", "c"]


@pytest.mark.dray(dead_letter_max=1)
def test_a_tick_does_not_wait_for_the_broker_and_a_stop_ends_it_between_two_batches(
    dray_app: Dray, dray_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dray.trimming.BATCH", 2)
    broker = FlakyBroker.between(dray_app)
    bury(dray_app.broker, *(f"{n}" for n in range(9)))
    reached, go_on = threading.Event(), threading.Event()

    def hold(verb: str, when: str) -> None:
        if (verb, when) == ("discard", "before"):
            reached.set()
            go_on.wait(10)

    broker.observe(hold)
    trimmer = Trimmer(dray_app, ["default"])
    dray_clock.advance(FIRST[1])
    trimmer.tick()
    assert reached.wait(10)
    dray_clock.advance(EVERY * 2)
    trimmer.tick()  # still at it: no second thread
    stopping = threading.Thread(target=trimmer.stop, args=(10,))
    stopping.start()
    wait_until(trimmer._stopping.is_set)
    go_on.set()
    stopping.join()
    assert len(left(dray_app.broker)) == 7
    assert broker.calls["discard"] == 1


@pytest.mark.dray(dead_letter_max=1)
def test_what_fails_is_said_and_done_the_next_time(dray_app: Dray, caplog: pytest.LogCaptureFixture) -> None:
    broker = FlakyBroker.between(dray_app)
    bury(dray_app.broker, "a", "b")
    trimmer = Trimmer(dray_app, ["default"])
    broker.fail("discard")
    trimmer.trim()
    broker.fail("sizes", ZeroDivisionError("a bug"))
    trimmer.trim()
    assert caplog.text.count("dead letters not trimmed, tried again in about an hour") == 2
    assert "ZeroDivisionError" in caplog.text
    trimmer.trim()
    assert left(dray_app.broker) == ["b"]


# Dead letters that are borrowed to be looked at


class Poor(MemoryBroker):
    """A broker that keeps no dead letters itself, and counts what is asked of it."""

    looks = 0

    def open(self) -> None:
        super().open()
        self.capabilities = msgspec.structs.replace(self.capabilities, dead_letters=False, find=False)

    def consumer(self, queues: Any, lease: float) -> Any:
        self.looks += any(queue.endswith("__dead") for queue in queues)
        return super().consumer(queues, lease)


@pytest.fixture
def poor(dray_app: Dray, dray_clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Poor]:
    monkeypatch.setattr("dray.assisted.LETTERS_WAIT", 0.0)
    broker = Poor(Url.parse("memory://"))
    broker.clock = dray_clock
    assisted = Assisted(broker)
    assisted.clock = dray_clock
    assisted.open()
    dray_app.connections._broker = assisted
    yield broker
    assisted.close()


@pytest.fixture
def lay(poor: Poor, dray_clock: ManualClock) -> Callable[..., None]:
    """`lay("a", "b")`: letters with these ids, buried now."""

    def lay(*ids: str) -> None:
        label = Label(reason="for the test", buried=dray_clock.time(), count=1)
        poor.publish([Envelope(id=id, queue="default" + DEAD, body=put_on(label, b"x")) for id in ids])

    return lay


@pytest.mark.dray(dead_letter_max=3)
def test_borrowed_letters_are_bounded_too_and_only_counted_while_they_are_few(
    dray_app: Dray, poor: Poor, lay: Callable[..., None]
) -> None:
    trimmer = Trimmer(dray_app, ["default", "never-used"])
    trimmer._next_age = float("inf")
    lay("a", "b", "c")
    trimmer.trim()
    assert poor.looks == 0
    lay("d", "e")
    trimmer.trim()
    assert left(dray_app.broker) == ["c", "d", "e"]


@pytest.mark.dray(dead_letter_expires="1d")
def test_the_age_of_borrowed_letters_is_looked_at_once_a_day(
    dray_app: Dray, dray_clock: ManualClock, poor: Poor, lay: Callable[..., None]
) -> None:
    trimmer = Trimmer(dray_app, ["default"])
    lay("a", "b")
    dray_clock.advance(DAY - 60)
    lay("c")
    dray_clock.advance(120)
    trimmer.trim()
    assert left(dray_app.broker) == ["c"]
    looks = poor.looks
    dray_clock.advance(EVERY)
    trimmer.trim()
    assert poor.looks == looks
    dray_clock.advance(EVERY_BORROWED)
    trimmer.trim()
    assert left(dray_app.broker) == []
