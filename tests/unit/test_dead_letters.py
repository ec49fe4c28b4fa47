"""`app.dead_letters`: finding them, replaying some, slowly, sending them again changed, and deleting them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import pytest

from dray import (
    ArgumentsError,
    BrokerUnavailable,
    DecodeError,
    Dray,
    Envelope,
    ManualClock,
    NotSupported,
    Reject,
    Sensitive,
    Task,
    TaskOptionError,
)
from dray.codec import unpack
from dray.sealing import message_in
from dray.testing import Driver
from dray.testing.faults import FlakyBroker


@pytest.fixture
def picky(dray_app: Dray) -> Task[Any, Any]:
    """A task that takes no number above 10, and says so in the dead letters."""

    @dray_app.task(name="shop.picky")
    def picky(x: int, pin: Annotated[str, Sensitive] = "") -> str:
        if x > 10:
            raise Reject(f"{x} is too large")
        return f"{x}{pin}"

    return picky


@pytest.fixture
def bury(picky: Task[Any, Any], dray_worker: Driver) -> Callable[..., str]:
    """`bury(x, **options)`: a dead letter of that task; its id."""

    def make(x: int, pin: str = "", **options: Any) -> str:
        sent = picky.apply_async((x, pin), **options)
        dray_worker.run_until_idle()
        return str(sent.id)

    return make


def ids(found: list[Any]) -> list[str]:
    return [letter.id for letter in found]


# Finding


def test_a_letter_says_what_came_and_what_became_of_it(
    dray_app: Dray, dray_clock: ManualClock, bury: Callable[..., str]
) -> None:
    id = bury(11, headers={"tenant": "acme"})
    (letter,) = dray_app.dead_letters.find()
    assert (letter.id, letter.queue, letter.task, letter.reason) == (id, "default", "shop.picky", "11 is too large")
    assert (letter.deliveries, letter.retries, letter.releases, letter.traceback) == (1, 0, 0, "")
    assert letter.letter.buried == dray_clock.time()
    assert letter.message is not None and letter.message.headers == {"tenant": "acme"}
    assert unpack(letter.letter.body) == letter.message


def test_letters_are_found_by_what_is_said_of_them(
    dray_app: Dray, dray_clock: ManualClock, dray_worker: Driver, bury: Callable[..., str]
) -> None:
    old = bury(11)
    dray_clock.advance(3600)
    mail = bury(12, queue="mail")
    dray_app.send_task("nobody.knows")
    dray_worker.run_until_idle()
    find = dray_app.dead_letters.find
    assert len(find()) == 3
    assert ids(find(task="shop.*")) == [old, mail]
    assert ids(find(task="shop.picky", queues=["mail"])) == [mail]
    assert [letter.task for letter in find(reason="UNKNOWN task")] == ["nobody.knows"]
    assert ids(find(older_than=60)) == [old]
    assert ids(find(task="shop.*", younger_than=60)) == [mail]
    assert ids(find(max_deliveries=0)) == []
    assert ids(find([mail, "not-there"])) == [mail]
    assert ids(find([mail], task="nobody.*")) == []
    assert ids(find([])) == []
    assert ids(find(limit=1)) == [old]


def test_a_letter_that_cannot_be_read_is_found_and_has_no_task(dray_app: Dray, dray_worker: Driver) -> None:
    dray_app.broker.publish([Envelope(id="bad", queue="default", body=b"garbage")])
    dray_worker.run_until_idle()
    (letter,) = dray_app.dead_letters.find()
    assert (letter.task, letter.message, letter.releases) == (None, None, 0)
    assert dray_app.dead_letters.find(task="*") == []
    assert dray_app.dead_letters.shown_arguments(letter) is None
    with pytest.raises(DecodeError, match="not a dray message"):
        dray_app.dead_letters.edit("bad", queue="other")


def test_all_of_many_letters_are_found_and_moved(
    dray_app: Dray, dray_worker: Driver, picky: Task[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dray.dead_letters.BATCH", 3)
    sent = picky.delay_many((n,) for n in range(11, 21))
    dray_worker.run_until_idle()
    assert ids(dray_app.dead_letters.find()) == ids(sent)
    assert dray_app.dead_letters.replay(reason="large") == {"default": 10}
    dray_worker.run_until_idle()
    assert dray_app.dead_letters.purge() == {"default": 10}
    assert dray_app.dead_letters.find() == []


def test_only_those_that_fit_are_replayed_or_deleted(
    dray_app: Dray, dray_worker: Driver, bury: Callable[..., str]
) -> None:
    first, second, third = bury(11), bury(12), bury(13)
    assert dray_app.dead_letters.replay(reason="12 is") == {"default": 1}
    assert dray_app.AsyncResult(second).state == "PENDING"
    assert dray_app.dead_letters.purge([third, "not-there"]) == {"default": 1}
    assert ids(dray_app.dead_letters.find()) == [first]


def test_a_broker_without_dead_letters_says_so(dray_app: Dray, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = msgspec.structs.replace(dray_app.broker.capabilities, dead_letters=False)
    monkeypatch.setattr(dray_app.broker, "capabilities", lacking)
    with pytest.raises(NotSupported, match="keeps no dead letters"):
        dray_app.dead_letters.find()


# With a rate


class Ticking(ManualClock):
    """A clock that moves on by itself when somebody waits, and notes for how long."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if seconds > 0:
            self.waits.append(round(seconds, 6))
            self._now += seconds
        return event.is_set()


def test_a_replay_with_a_rate_takes_its_time(
    dray_app: Dray, dray_worker: Driver, picky: Task[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    picky.delay_many((n,) for n in range(11, 21))
    dray_worker.run_until_idle()
    clock = Ticking()
    monkeypatch.setattr(dray_app, "clock", clock)
    assert dray_app.dead_letters.replay(rate=2) == {"default": 10}
    assert clock.waits == [0.5] * 9
    dray_worker.app.dead_letters.purge()


def test_a_fast_rate_moves_some_at_a_time(
    dray_app: Dray, dray_worker: Driver, picky: Task[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    picky.delay_many((n,) for n in range(11, 31))
    dray_worker.run_until_idle()
    clock = Ticking()
    monkeypatch.setattr(dray_app, "clock", clock)
    assert dray_app.dead_letters.replay(rate=40) == {"default": 20}
    assert clock.waits == [0.25]


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_rate_that_is_none_is_refused(dray_app: Dray, rate: float) -> None:
    with pytest.raises(ValueError, match="rate is a number of letters a second, above 0"):
        dray_app.dead_letters.replay(rate=rate)


# Edited


def test_an_edited_letter_runs_with_its_new_arguments_under_its_id(
    dray_app: Dray, dray_worker: Driver, bury: Callable[..., str]
) -> None:
    id = bury(11, "-secret")
    result = dray_app.dead_letters.edit(id, args=[5, "***"])
    assert (result.id, result.state) == (id, "PENDING")
    dray_worker.run_until_idle()
    assert result.get() == "5-secret"
    assert dray_app.dead_letters.find() == []


def test_what_is_not_said_stays_as_it_was(dray_app: Dray, dray_worker: Driver, bury: Callable[..., str]) -> None:
    id = bury(11, headers={"tenant": "acme"}, priority=3)
    (before,) = dray_app.dead_letters.find()
    dray_app.dead_letters.edit(id, queue="slow", priority=9)
    (waiting,) = dray_app.broker.peek("slow", 10)
    after = unpack(waiting.body)
    assert (waiting.priority, waiting.attempt, after.handed_back) == (9, 1, 1)
    assert before.message is not None
    assert after == before.message.but(queue="slow", priority=9, handed_back=1)


def test_a_letter_can_go_to_a_task_that_was_given_another_name(
    dray_app: Dray, dray_worker: Driver, picky: Task[Any, Any]
) -> None:
    sent = dray_app.send_task("shop.old_name", (3,))
    dray_worker.run_until_idle()
    dray_app.dead_letters.edit(sent.id, task="shop.picky")
    dray_worker.run_until_idle()
    assert dray_app.AsyncResult(sent.id).get() == "3"


def test_arguments_are_shown_without_those_that_are_hidden(dray_app: Dray, bury: Callable[..., str]) -> None:
    bury(11, "1234")
    (letter,) = dray_app.dead_letters.find()
    assert dray_app.dead_letters.shown_arguments(letter) == ([11, "***"], {})


def test_stars_where_nothing_was_hidden_are_refused(dray_app: Dray, bury: Callable[..., str]) -> None:
    id = bury(11, "1234")
    for wrong in ({"args": ["***", 5]}, {"args": [5], "kwargs": {"pin": "***"}}):
        with pytest.raises(ArgumentsError, match=r"\*\*\* stands for an argument that is not shown"):
            dray_app.dead_letters.edit(id, **wrong)
    assert ids(dray_app.dead_letters.find()) == [id]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"args": []}, "got no value for 'x'"),
        ({"args": "ab"}, "the arguments are given as a tuple"),
        ({"kwargs": {"y": 1}}, "has no parameter 'y'|no parameter"),
    ],
)
def test_arguments_that_do_not_fit_leave_the_letter_where_it_is(
    dray_app: Dray, bury: Callable[..., str], changes: dict[str, Any], complaint: str
) -> None:
    id = bury(11)
    with pytest.raises(ArgumentsError, match=complaint):
        dray_app.dead_letters.edit(id, **changes)
    assert ids(dray_app.dead_letters.find()) == [id]
    assert dray_app.AsyncResult(id).state == "REJECTED"


def test_a_queue_that_cannot_be_one_is_refused(dray_app: Dray, bury: Callable[..., str]) -> None:
    id = bury(11)
    with pytest.raises(TaskOptionError, match="a queue is named by"):
        dray_app.dead_letters.edit(id, queue="two words")
    assert ids(dray_app.dead_letters.find()) == [id]


def test_a_letter_that_is_not_there_cannot_be_edited(dray_app: Dray, bury: Callable[..., str]) -> None:
    bury(11)
    with pytest.raises(LookupError, match="no dead letter nope"):
        dray_app.dead_letters.edit("nope", queue="slow")


def test_of_two_letters_with_one_id_neither_is_edited(dray_app: Dray, bury: Callable[..., str]) -> None:
    bury(11, task_id="nightly")
    bury(12, task_id="nightly")
    with pytest.raises(LookupError, match=r"2 dead letters have the id nightly \(in default, default\)"):
        dray_app.dead_letters.edit("nightly", args=[1])
    assert len(dray_app.dead_letters.find()) == 2


def test_an_expiry_that_is_over_is_dropped_when_a_letter_is_edited(
    dray_app: Dray, dray_clock: ManualClock, dray_worker: Driver, bury: Callable[..., str]
) -> None:
    id = bury(11, expires=60)
    dray_clock.advance(3600)
    dray_app.dead_letters.edit(id, args=[1])
    dray_worker.run_until_idle()
    assert dray_app.AsyncResult(id).get() == "1"


def test_killed_before_it_is_sent_the_letter_is_still_there_and_after_it_there_are_two_of_it(
    dray_app: Dray, dray_worker: Driver, bury: Callable[..., str]
) -> None:
    broker = FlakyBroker.between(dray_app)
    id = bury(11)
    broker.fail("publish")
    with pytest.raises(BrokerUnavailable):
        dray_app.dead_letters.edit(id, args=[1])
    assert ids(dray_app.dead_letters.find()) == [id]
    broker.fail("discard")
    with pytest.raises(BrokerUnavailable):
        dray_app.dead_letters.edit(id, args=[1])
    sizes = dray_app.broker.sizes(["default"])["default"]
    assert (sizes["ready"], sizes["dead"]) == (1, 1)
    # Said once more, nothing more is sent, and the letter goes.
    dray_app.dead_letters.edit(id, args=[1])
    sizes = dray_app.broker.sizes(["default"])["default"]
    assert (sizes["ready"], sizes["dead"]) == (1, 0)
    dray_worker.run_until_idle()
    assert dray_app.AsyncResult(id).get() == "1"


SECRET = "correct horse battery staple, forty of them"


@pytest.mark.dray(message_security="aes-gcm", message_keys={"k1": SECRET})
def test_an_edited_letter_is_sealed_anew(dray_app: Dray, dray_worker: Driver, bury: Callable[..., str]) -> None:
    id = bury(11, "1234")
    (before,) = dray_app.dead_letters.find()
    dray_app.dead_letters.edit(id, args=[7, "***"])
    (waiting,) = dray_app.broker.peek("default", 10)
    assert waiting.body != before.letter.body and b"shop.picky" not in waiting.body
    assert message_in(dray_app.sealing, waiting.body, id).task == "shop.picky"
    dray_worker.run_until_idle()
    assert dray_app.AsyncResult(id).get() == "71234"
