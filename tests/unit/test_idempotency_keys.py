"""Idempotency keys: the id they come to, what they may be said with, and what travels."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest

from dray import Dray, Queue, TaskOptionError
from dray.idempotency import call_id
from dray.testing import Enqueued


def test_the_id_follows_from_the_name_and_the_key_as_documented() -> None:
    told = b"shop.charge" + b"\0" + "order-7 ä".encode()
    assert call_id("shop.charge", "order-7 ä") == "key-" + sha256(told).hexdigest()[:32]
    # Written out, so that it never changes: ids made by an older dray are recognised by a newer one.
    assert call_id("shop.charge", "order-7") == "key-5f1b5568074068eae8860016d974895e"


def test_another_task_or_another_key_is_another_id() -> None:
    assert (
        len({call_id("a", "b"), call_id("a", "bb"), call_id("ab", "b"), call_id("b", "a"), call_id("a", "\ud800")}) == 5
    )


def test_the_same_key_gives_the_handle_on_the_same_call(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    task = dray_app.task(name="charge")(lambda order: order)
    first = task.apply_async((7,), idempotency_key="order-7")
    second = dray_app.tasks["charge"].apply_async((7,), idempotency_key="order-7")
    assert first.id == second.id == call_id("charge", "order-7")
    assert len(dray_enqueued.all()) == 1


def test_a_task_sent_by_name_gets_the_same_id(dray_app: Dray) -> None:
    sent = dray_app.send_task("elsewhere.charge", (7,), idempotency_key="order-7")
    assert sent.id == call_id("elsewhere.charge", "order-7")


def test_a_signature_can_carry_a_key(dray_app: Dray) -> None:
    task = dray_app.task(name="charge")(lambda order: order)
    assert task.s(7).apply_async(idempotency_key="order-7").id == call_id("charge", "order-7")


def test_what_carries_a_key_keeps_its_result_though_results_are_ignored(
    dray_app: Dray, dray_enqueued: Enqueued
) -> None:
    task = dray_app.task(name="charge", ignore_result=True)(lambda: None)
    task.apply_async(idempotency_key="order-7")
    task.delay()
    kept, plain = sorted(dray_enqueued.all(), key=lambda message: not message.idempotent)
    assert (kept.idempotent, kept.ignore_result) == (True, False)
    assert (plain.idempotent, plain.ignore_result) == (False, True)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"idempotency_key": ""}, "idempotency_key is a text that is not empty; got ''"),
        ({"idempotency_key": 7}, "idempotency_key is a text that is not empty; got 7"),
        ({"idempotency_key": "k", "task_id": "i"}, "task_id is another one: say one of them"),
        ({"idempotency_key": "k", "ignore_result": True}, "known by its result; leave out ignore_result=True"),
    ],
)
def test_a_key_that_cannot_do_its_work_is_refused_when_it_is_sent(
    dray_app: Dray, options: dict[str, Any], complaint: str
) -> None:
    task = dray_app.task(name="charge")(lambda: None)
    for send in (task.apply_async, lambda **given: dray_app.send_task("elsewhere", **given)):
        with pytest.raises(TaskOptionError, match=complaint):
            send(**options)
    assert dray_app.broker.queues() == []


def test_one_key_for_many_calls_is_refused(dray_app: Dray) -> None:
    task = dray_app.task(name="charge")(lambda order: order)
    with pytest.raises(TaskOptionError, match="stands for one call; delay_many sends many"):
        task.delay_many([(1,), (2,)], idempotency_key="k")


QUEUES = [Queue(name=name, exchange="all", type="fanout") for name in ("first", "second")]


@pytest.mark.dray(task_queues=QUEUES)
def test_a_key_for_several_queues_is_refused(dray_app: Dray) -> None:
    task = dray_app.task(name="charge")(lambda: None)
    with pytest.raises(TaskOptionError, match="leads to several queues: say queue="):
        task.apply_async(exchange="all", idempotency_key="k")
    with pytest.raises(TaskOptionError, match="leads to several queues"):
        dray_app.send_task("elsewhere", exchange="all", idempotency_key="k")


@pytest.mark.dray(task_queues=QUEUES[:1])
def test_a_key_for_the_one_queue_that_an_exchange_leads_to_is_taken(dray_app: Dray) -> None:
    task = dray_app.task(name="charge")(lambda: None)
    assert task.apply_async(exchange="all", idempotency_key="k").id == call_id("charge", "k")
