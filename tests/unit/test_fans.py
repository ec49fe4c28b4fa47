"""Groups that something waits for, when workers die, replies get lost and messages are gone: at each step once."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from dray import Change, Dray, Group, ManualClock, Put, StoreUnavailable, chord, group
from dray.fan_records import GRACE, PAGE_BYTES, STALLED, pages
from dray.fan_results import part
from dray.fans import STREAM_PATIENCE, Fans
from dray.message import Step
from dray.settle import Settler
from dray.testing import Driver, Enqueued, FlakyStore


class Shop:
    """The tasks of these tests."""

    def __init__(self, app: Dray) -> None:
        #: What bodies were called with.
        self.bodies: list[list[int]] = []

        @app.task(name="number")
        def number(n: int) -> int:
            return n

        @app.task(name="body")
        def body(values: list[int]) -> int:
            self.bodies.append(values)
            return sum(values)

        self.app, self.number, self.body = app, number, body

    def send(self, count: int = 3) -> Any:
        return chord([self.number.s(n) for n in range(count)], self.body.s())()


@pytest.fixture
def shop(dray_app: Dray) -> Shop:
    return Shop(dray_app)


@pytest.fixture
def store(dray_app: Dray) -> FlakyStore:
    return FlakyStore.between(dray_app)


def die_once(monkeypatch: pytest.MonkeyPatch, kind: type, name: str, *, after: bool) -> list[str]:
    """Have a method die the first time it has something to do, before or after it has done it; say when it did."""
    died: list[str] = []
    truly = getattr(kind, name)

    def dying(self: Any, given: Any, *rest: Any) -> Any:
        if died or not given:
            return truly(self, given, *rest)
        if after:
            # What it gives back, whoever called it does not hear.
            truly(self, given, *rest)
        died.append(name)
        raise RuntimeError(f"killed in {name}")

    monkeypatch.setattr(kind, name, dying)
    return died


# Killed in between


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", ["settle", "report", "_decide", "_deliver", "publish"])
def test_whatever_fails_at_any_step_the_body_runs_once_for_the_whole_header(
    shop: Shop, dray_clock: ManualClock, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    result = shop.send()
    died = die_once(monkeypatch, Fans, step, after=after)
    worker = Driver(shop.app, lease=30.0)
    worker.run_until_idle()
    # What was not settled comes again when its loan is over; what was not delivered is swept up.
    for _ in range(3):
        dray_clock.advance(40.0)
        shop.app.fans.sweep()
        worker.run_until_idle()
    assert died == [step]
    assert shop.bodies == [[0, 1, 2]]
    assert result.get() == 3


def test_what_is_to_be_delivered_is_swept_up_after_a_while_and_not_before(
    shop: Shop, dray_worker: Driver, dray_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = shop.send()
    with monkeypatch.context() as patched:
        patched.setattr(Settler, "_deliver", lambda self: self._ready.clear())
        dray_worker.run_until_idle()
    shop.app.fans.sweep()
    dray_worker.run_until_idle()
    assert shop.bodies == []
    dray_clock.advance(GRACE)
    shop.app.fans.sweep()
    dray_worker.run_until_idle()
    assert result.get() == 3
    shop.app.fans.sweep()
    assert dray_worker.run_until_idle() == 0


def test_a_sweep_where_there_is_nothing_at_all_is_one_request(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    for verb in ("now", "commit", "get"):
        monkeypatch.setattr(shop.app.fans.store, verb, lambda *_: pytest.fail("asked once more"))
    shop.app.fans.sweep()
    monkeypatch.undo()
    shop.send()
    monkeypatch.setattr(shop.app.fans.store, "now", lambda: pytest.fail("it is looked what is due"))
    with pytest.raises(pytest.fail.Exception, match="what is due"):
        shop.app.fans.sweep()


def test_what_was_delivered_already_and_is_delivered_once_more_does_not_run_again(
    shop: Shop, dray_worker: Driver
) -> None:
    result = shop.send()
    dray_worker.run_until_idle()
    # As if whoever delivered had died before it could take the note away.
    fan = result.parent.id
    shop.app.store("this test").commit([Change(part(fan), (), (Put("out", b"end"),))])
    shop.app.fans.deliver([fan])
    assert dray_worker.run_until_idle() == 1
    assert shop.bodies == [[0, 1, 2]]


def test_a_body_that_takes_nothing_of_the_header_does_not_run_again_either(shop: Shop, dray_worker: Driver) -> None:
    result = chord([shop.number.s(1)], shop.body.si([5]))()
    dray_worker.run_until_idle()
    fan = result.parent.id
    shop.app.store("this test").commit([Change(part(fan), (), (Put("out", b"end"),))])
    shop.app.fans.deliver([fan])
    assert dray_worker.run_until_idle() == 1
    assert shop.bodies == [[5]]


def test_a_member_that_is_delivered_twice_counts_once(shop: Shop, dray_worker: Driver, dray_enqueued: Enqueued) -> None:
    result = shop.send()
    first, *_ = dray_enqueued.all(shop.number)
    again = first.but(handed_back=1)
    shop.app.broker.publish([shop.app.sender.enclose(again)])
    assert dray_worker.run_until_idle() == 5
    assert (shop.bodies, result.get()) == ([[0, 1, 2]], 3)


# The store is away, or its replies get lost


def test_while_the_store_is_away_nothing_is_lost_and_other_tasks_go_on(
    store: FlakyStore, shop: Shop, dray_worker: Driver, dray_clock: ManualClock
) -> None:
    result = shop.send()
    other = shop.number.delay(7)
    store.fail("commit", times=3)
    moving = threading.Event()

    def move() -> None:
        while not moving.wait(0.01):
            dray_clock.advance(0.5)

    mover = threading.Thread(target=move)
    mover.start()
    dray_worker.run_until_idle()
    moving.set()
    mover.join()
    assert (other.get(), result.get(), shop.bodies) == (7, 3, [[0, 1, 2]])


@pytest.mark.parametrize("lost", range(6))
def test_a_reply_that_gets_lost_changes_nothing(
    store: FlakyStore, shop: Shop, dray_worker: Driver, dray_clock: ManualClock, lost: int
) -> None:
    result = shop.send()
    store.lose_reply_of("commit", times=lost + 1)
    moving = threading.Event()

    def move() -> None:
        while not moving.wait(0.01):
            dray_clock.advance(0.5)

    mover = threading.Thread(target=move)
    mover.start()
    dray_worker.run_until_idle()
    moving.set()
    mover.join()
    dray_clock.advance(GRACE)
    shop.app.fans.sweep()
    dray_worker.run_until_idle()
    assert (shop.bodies, result.get()) == ([[0, 1, 2]], 3)


def test_a_chord_is_not_sent_while_the_store_is_away(store: FlakyStore, shop: Shop, dray_enqueued: Enqueued) -> None:
    shop.app.store("this test")
    store.fail("commit", times=100)
    with pytest.raises(StoreUnavailable):
        shop.send()
    assert dray_enqueued.all() == []


# What is gone


def test_a_member_whose_message_is_gone_is_noticed_at_the_second_look(
    shop: Shop, dray_worker: Driver, dray_clock: ManualClock
) -> None:
    result = chord([shop.number.s(1), shop.number.s(2).set(queue="purged")], shop.body.s())()
    shop.app.broker.purge("purged")
    dray_worker.run_until_idle()
    dray_clock.advance(STALLED)
    shop.app.fans.sweep()
    dray_worker.run_until_idle()
    assert result.state == "PENDING"
    dray_clock.advance(STALLED)
    shop.app.fans.sweep()
    assert "is gone" in str(result.get(propagate=False)) and shop.bodies == []


def test_members_that_wait_for_their_time_are_not_gone(
    shop: Shop, dray_worker: Driver, dray_clock: ManualClock
) -> None:
    later = chord([shop.number.s(1), shop.number.s(2).set(countdown=500)], shop.body.s())
    inner = chord([shop.number.s(3).set(countdown=500), shop.number.s(4)], shop.body.s())
    results = [later(), chord([inner, shop.number.s(5)], shop.body.s())()]
    for _ in range(5):
        dray_worker.run_until_idle()
        dray_clock.advance(STALLED)
        shop.app.fans.sweep()
    assert [result.state for result in results] == ["PENDING", "PENDING"]
    dray_worker.advance(500)
    assert [result.get() for result in results] == [3, 12]


def test_a_stream_whose_sender_died_fails(shop: Shop, dray_worker: Driver, dray_clock: ManualClock) -> None:
    def members() -> Any:
        for n in range(700):
            yield shop.number.s(n)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        (Group.stream(members()) | shop.body.s()).apply_async(task_id="the-body")
    dray_worker.run_until_idle()
    result = shop.app.AsyncResult("the-body")
    dray_clock.advance(STALLED)
    shop.app.fans.sweep()
    assert result.state == "PENDING"
    dray_clock.advance(STREAM_PATIENCE)
    shop.app.fans.sweep()
    assert "ended before all of it was sent" in str(result.get(propagate=False)) and shop.bodies == []


def test_a_member_of_a_stream_whose_message_is_gone_is_noticed_too(
    shop: Shop, dray_worker: Driver, dray_clock: ManualClock
) -> None:
    calls = [shop.number.s(1), shop.number.s(2).set(queue="purged")]
    result = (Group.stream(calls) | shop.body.s())()
    shop.app.broker.purge("purged")
    dray_worker.run_until_idle()
    for _ in range(2):
        dray_clock.advance(STALLED)
        shop.app.fans.sweep()
    assert "is gone" in str(result.get(propagate=False)) and shop.bodies == []


# Members that are sent later


def sent_by(monkeypatch: pytest.MonkeyPatch, meanwhile: Any) -> list[str]:
    """List the ids that fans send from here on; after each page `meanwhile` is called with their number."""
    sent: list[str] = []
    truly = Fans.publish

    def publish(self: Fans, messages: Any) -> None:
        page = list(messages)
        truly(self, page)
        sent.extend(message.id for message in page)
        meanwhile(len(sent))

    monkeypatch.setattr(Fans, "publish", publish)
    return sent


def test_what_was_sent_before_a_worker_died_is_not_sent_once_more(
    shop: Shop, dray_worker: Driver, dray_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(count: int) -> None:
        if count == 8:
            raise RuntimeError("killed after the second page was sent, and before that was kept")

    monkeypatch.setattr("dray.fan_records.PAGE", 4)
    sent = sent_by(monkeypatch, dies)
    result = (shop.number.s(0) | group(shop.number.si(n) for n in range(12)) | shop.body.s())()
    dray_worker.run_until_idle()
    dray_clock.advance(GRACE)
    shop.app.fans.sweep()
    dray_worker.run_until_idle()
    assert result.get() == sum(range(12)) and shop.bodies == [list(range(12))]
    # The second page twice, under the same ids; the first is known to have been sent.
    members = [int(id.rpartition(".")[2]) for id in sent if "." in id]
    assert members == [*range(8), *range(4, 12)]


def test_whoever_sends_many_members_is_left_to_it(
    shop: Shop, dray_worker: Driver, dray_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def takes_long(count: int) -> None:
        dray_clock.advance(GRACE * 0.9)
        shop.app.fans.sweep()

    monkeypatch.setattr("dray.fan_records.PAGE", 4)
    sent = sent_by(monkeypatch, takes_long)
    result = (shop.number.s(0) | group(shop.number.si(n) for n in range(12)) | shop.body.s())()
    dray_worker.run_until_idle()
    assert result.get() == sum(range(12))
    assert [int(id.rpartition(".")[2]) for id in sent if "." in id] == list(range(12))


def test_of_two_that_send_the_same_members_one_leaves_the_rest_to_the_other(
    shop: Shop, dray_worker: Driver, dray_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_slow_at_first(count: int) -> None:
        if count == 4:
            dray_clock.advance(GRACE)
            shop.app.fans.sweep()

    monkeypatch.setattr("dray.fan_records.PAGE", 4)
    sent = sent_by(monkeypatch, is_slow_at_first)
    result = (shop.number.s(0) | group(shop.number.si(n) for n in range(12)) | shop.body.s())()
    dray_worker.run_until_idle()
    assert result.get() == sum(range(12)) and shop.bodies == [list(range(12))]
    members = [int(id.rpartition(".")[2]) for id in sent if "." in id]
    assert members == [*range(4), *range(12)]


@pytest.mark.parametrize(("count", "size"), [(3, 10), (2000, 10), (200, 5000), (3, 100_000)])
def test_members_that_are_sent_later_are_kept_in_records_of_bounded_size(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, count: int, size: int
) -> None:
    lines = [(Step(task="number", payload=b"%d" % n + b"x" * size),) for n in range(count)]
    changes = pages("the-fan", lines, 60.0)
    shop.app.fans.store.commit(changes)
    found = [shop.app.fans._page("the-fan", page) for page in range(len(changes))]
    assert [line for _, page in found for line in page] == lines
    assert [first for first, _ in found] == [sum(len(page) for _, page in found[:n]) for n in range(len(found))]
    longest = max(len(write.value) for change in changes for write in change.writes if isinstance(write, Put))
    assert longest <= max(PAGE_BYTES, size) + 200


def test_a_member_that_ends_after_its_group_was_forgotten_is_done(
    shop: Shop, dray_worker: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    result = chord([shop.number.s(1).set(countdown=50 * 86400.0)], shop.body.s())()
    dray_worker.advance(50 * 86400.0)
    assert "belonged to a group that is not in the store any more" in caplog.text
    assert shop.bodies == [] and result.parent[0].get() == 1


def test_a_body_whose_results_were_forgotten_is_buried(
    shop: Shop, dray_worker: Driver, dray_clock: ManualClock
) -> None:
    result = chord([shop.number.s(1)], shop.body.s().set(countdown=50 * 86400.0))()
    dray_worker.advance(50 * 86400.0)
    assert "not in the store any more (flow_expires)" in str(result.get(propagate=False))


def test_two_chords_that_end_together_are_settled_together(shop: Shop, dray_worker: Driver) -> None:
    results = group(chord([shop.number.s(n) for n in range(20)], shop.body.s()) for _ in range(20))()
    dray_worker.run_until_idle()
    assert results.get() == [190] * 20
    assert len(shop.bodies) == 20
