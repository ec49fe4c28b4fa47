"""What has succeeded already is recognised, and nothing else; asking costs one request, and only where it may help."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dray import Delivery, Event, ManualClock, Queue, Record, hookimpl
from dray.job import Job
from dray.message import Message
from dray.outcome import Expired, HandedBack, Outcome, Rejected, Revoked
from dray.recognition import LEFT_ALONE, Recognition
from dray.report import Report, about, rank, read, record

from .conftest import Shop

Make = Callable[..., Shop]


class Desk:
    """An app with one task, and what a worker of it recognises."""

    def __init__(self, shop: Shop, **options: Any) -> None:
        self.shop, self.app = shop, shop.app
        self.task = self.app.task(name="shop.charge", **options)(lambda: None)
        self.recognition = Recognition(self.app, "worker-1")

    def message(self, id: str = "1", **fields: Any) -> Message:
        return Message(id=id, task="shop.charge", created=self.app.clock.time(), **fields)

    def store(self, message: Message, state: str = "SUCCESS", deliveries: int = 1, **facts: Any) -> None:
        report: Report = about(message, state, **facts)
        self.app.connections.store([record(self.app, message.id, report, rank(message, deliveries))], 3600)

    def job(self, message: Message, deliveries: int = 1, queue: str = "default") -> Job:
        delivery = Delivery(id=message.id, queue=queue, body=b"", receipt=f"r-{message.id}", delivery_count=deliveries)
        return Job(delivery, message, self.task, 1e12)

    def knows(self, message: Message, deliveries: int = 1, outcome: Outcome | None = None, **more: Any) -> bool:
        return bool(self.recognition.look([(self.job(message, deliveries, **more), outcome)]))

    def stored(self, id: str = "1") -> Record | None:
        assert self.app.backend is not None
        return self.app.backend.fetch([id]).get(id)


@pytest.fixture
def desk_with(shop_with: Make) -> Callable[..., Desk]:
    def make(options: Any = None, **settings: Any) -> Desk:
        return Desk(shop_with(ManualClock(), **settings), **options or {})

    return make


@pytest.fixture
def desk(desk_with: Callable[..., Desk]) -> Desk:
    return desk_with()


# What is done


def test_a_redelivery_of_what_has_succeeded_is_recognised(desk: Desk) -> None:
    message = desk.message()
    desk.store(message)
    assert desk.knows(message, deliveries=2)


def test_a_call_with_a_key_that_has_succeeded_is_recognised_on_its_first_delivery_and_years_later(desk: Desk) -> None:
    first = desk.message(idempotent=True)
    desk.store(first)
    assert desk.knows(first.but(created=first.created + 1e8, queue="another"))


def test_of_a_batch_only_what_is_done_is_recognised_and_nobody_is_asked_about_the_rest(desk: Desk) -> None:
    done, new = desk.message("1"), desk.message("2")
    desk.store(done)
    desk.store(new)
    before = desk.shop.backend.calls["fetch"]
    jobs = [desk.job(done, 2), desk.job(desk.message("3"), 2), desk.job(new, 1)]
    assert desk.recognition.look([(job, None) for job in jobs]) == {"r-1"}
    assert desk.shop.backend.calls["fetch"] == before + 1
    assert desk.shop.backend.history[-1].ids == ("1", "3")


def test_first_deliveries_without_a_key_cost_nothing(desk: Desk) -> None:
    desk.shop.backend.sleep()
    message = desk.message()
    assert not desk.knows(message)
    assert not desk.knows(message, outcome=Expired())
    assert not desk.knows(message, deliveries=2, outcome=HandedBack(1.0))
    assert not desk.knows(message.but(ignore_result=True), deliveries=2)
    assert desk.shop.backend.calls["fetch"] == 0


@pytest.mark.parametrize("outcome", [Expired(), Revoked(), Rejected("delivered 4 times without an end")])
def test_what_has_succeeded_is_recognised_also_where_it_would_be_refused_now(desk: Desk, outcome: Outcome) -> None:
    message = desk.message()
    assert not desk.knows(message, deliveries=2, outcome=outcome)
    desk.store(message)
    assert desk.knows(message, deliveries=2, outcome=outcome)
    assert desk.knows(message.but(idempotent=True), outcome=outcome)


def test_the_failure_of_an_earlier_call_is_not_forgotten_for_one_that_is_refused(desk: Desk) -> None:
    failed = desk.message(idempotent=True)
    desk.store(failed, "FAILURE", deliveries=3)
    assert not desk.knows(failed, outcome=Expired())
    assert desk.stored() is not None


def test_it_is_told_in_a_line_and_an_event(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []

    class Ears:
        @hookimpl
        def event(self, event: Event) -> None:
            heard.append(event)

    desk.app.plugins.register(Ears(), "ears")
    message = desk.message()
    desk.store(message)
    with caplog.at_level(logging.INFO, "dray.worker"):
        assert desk.knows(message, deliveries=2)
    assert [(event.type, event.worker) for event in heard] == [("task-recognised", "worker-1")]
    assert "shop.charge[1] recognised: it has succeeded already" in caplog.text


# What is not


@pytest.mark.parametrize("state", ["FAILURE", "RETRY", "STARTED", "PENDING", "REVOKED", "REJECTED", "PROGRESS"])
@pytest.mark.parametrize("idempotent", [False, True])
def test_only_a_success_is_an_end(desk: Desk, state: str, idempotent: bool) -> None:
    message = desk.message(idempotent=idempotent)
    desk.store(message, state)
    assert not desk.knows(message, deliveries=2)


def test_what_calls_itself_success_and_is_not_final_is_no_end(desk: Desk) -> None:
    message = desk.message()
    note = record(desk.app, "1", about(message, "SUCCESS"), rank(message, 1), final=False)
    desk.app.connections.store([note], 3600)
    assert not desk.knows(message, deliveries=2)


def test_a_retry_is_not_taken_for_done_by_what_an_earlier_attempt_came_to(desk: Desk) -> None:
    message = desk.message(idempotent=True)
    desk.store(message, deliveries=9)
    assert not desk.knows(message.but(retries=1), deliveries=2)


def test_an_attempt_delivered_again_is_done_when_a_later_one_has_succeeded(desk: Desk) -> None:
    message = desk.message()
    desk.store(message.but(retries=2))
    assert desk.knows(message, deliveries=2)


def test_another_call_under_the_same_id_is_not_taken_for_this_one(desk: Desk) -> None:
    message = desk.message()
    desk.store(message.but(created=message.created - 60))
    assert not desk.knows(message, deliveries=2)


def test_a_copy_in_another_queue_is_not_taken_for_this_one(desk: Desk) -> None:
    message = desk.message(queue="first")
    desk.store(message)
    assert not desk.knows(message.but(queue="second"), deliveries=2, queue="second")


def test_a_copy_of_a_broadcast_is_never_taken_for_done(desk_with: Callable[..., Desk]) -> None:
    desk = desk_with(task_queues=["default", Queue(name="news", broadcast=True)])
    message = desk.message(queue="news", idempotent=True)
    desk.store(message)
    assert not desk.knows(message, deliveries=2, queue="news")


def test_a_success_whose_sequel_could_not_be_sent_belongs_to_the_dead_letters(desk: Desk) -> None:
    message = desk.message()
    desk.store(message, reason="what should follow it cannot be sent: too large")
    assert not desk.knows(message, deliveries=2)


SECRET = "correct horse battery staple, forty of them"


def test_a_success_that_somebody_planted_is_not_believed(desk_with: Callable[..., Desk]) -> None:
    desk = desk_with(message_security="hmac", message_keys={"k1": SECRET})
    message = desk.message(idempotent=True)
    desk.store(message)
    assert desk.knows(message)
    real = desk.stored()
    assert real is not None and desk.app.backend is not None
    desk.app.backend.store([Record(id="2", state="SUCCESS", final=True, body=real.body, rank=real.rank)], 3600)
    assert not desk.knows(message.but(id="2"))


# Where the store is not at hand


def test_while_the_store_is_away_everything_runs_and_it_is_not_asked_again_at_once(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    clock = desk.app.clock
    assert isinstance(clock, ManualClock)
    message = desk.message()
    desk.store(message)
    desk.shop.backend.sleep()
    assert not desk.knows(message, deliveries=2)
    assert "1 task(s) that may have run before are run, for the result backend cannot tell" in caplog.text
    asked = desk.shop.backend.calls["fetch"]
    desk.shop.backend.wake()
    assert not desk.knows(message, deliveries=2)
    assert desk.shop.backend.calls["fetch"] == asked
    clock.advance(LEFT_ALONE)
    assert desk.knows(message, deliveries=2)


def test_not_even_a_bug_in_a_backend_stops_the_source(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.shop.backend.fail("fetch", ZeroDivisionError("a bug"))
    assert not desk.knows(desk.message(), deliveries=2)
    assert "ZeroDivisionError" in caplog.text


def test_without_results_nothing_is_recognised(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    message = desk.message(idempotent=True)
    desk.store(message)
    monkeypatch.setattr(desk.app.connections, "backend_url", None)
    assert not desk.knows(message, deliveries=2)


def test_a_task_with_a_backend_of_its_own_is_looked_up_there(desk_with: Callable[..., Desk], tmp_path: Path) -> None:
    desk = desk_with({"backend": f"sqlite:///{tmp_path}/own.db"})
    message = desk.message()
    desk.store(message)
    desk.shop.backend.sleep()
    assert desk.knows(message, deliveries=2)


def test_a_backend_that_sends_results_instead_of_keeping_them_is_not_asked(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = desk.message()
    desk.store(message)
    monkeypatch.setattr(desk.app.backend, "address", "reply-queue")
    assert not desk.knows(message, deliveries=2)


# A key whose last call has failed


def test_the_failure_of_an_earlier_call_is_forgotten_when_its_key_runs_again(desk: Desk) -> None:
    earlier = desk.message(idempotent=True, retries=3)
    desk.store(earlier, "FAILURE")
    new = desk.message(idempotent=True)
    assert not desk.knows(new)
    assert desk.stored() is None
    desk.store(new)  # and so the new result is kept, for all that it has a lower rank
    found = desk.stored()
    assert found is not None and read(desk.app, found).state == "SUCCESS"


def test_a_failure_that_the_new_one_replaces_anyway_is_left_until_then(desk: Desk) -> None:
    message = desk.message(idempotent=True)
    desk.store(message, "FAILURE")
    assert not desk.knows(message, deliveries=2)
    assert desk.stored() is not None


def test_without_a_key_nothing_is_forgotten(desk: Desk) -> None:
    message = desk.message()
    desk.store(message.but(retries=3), "FAILURE")
    assert not desk.knows(message, deliveries=2)
    assert desk.stored() is not None
