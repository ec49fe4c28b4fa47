"""What is stored about a run: whatever it came to, where and when it was, and what it has sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dray import Delivery, ManualClock
from dray.execution import Execution
from dray.job import Ended, Job
from dray.message import Message
from dray.outcome import Again, Done, Expired, Failed, Ignored, Outcome, Rejected, Released, Requeued, Revoked

from .conftest import Shop

Make = Callable[..., Shop]

BEGAN, OVER = 1_000_000.0, 1_000_007.5

#: What a run can come to, and the state of it that is stored.
STORED = [
    (Done(3), "SUCCESS"),
    (Again(1.0, ValueError("later")), "RETRY"),
    (Failed(ValueError("no")), "FAILURE"),
    (Failed(ValueError("no"), bury=True), "FAILURE"),
    (Done(object()), "FAILURE"),
    (Rejected("not mine"), "REJECTED"),
    (Revoked("terminated while it ran"), "REVOKED"),
]


def message(**fields: Any) -> Message:
    facts = {"id": "1", "task": "shop.add", "queue": "quick", "created": BEGAN - 5, "retries": 2}
    return Message(**{**facts, "payload": b"[[], {}]", "root_id": "r", "parent_id": "p", **fields})


def came_to(shop: Shop, outcome: Outcome, **fields: Any) -> Ended:
    """Return what is to be written for a run that has sent two tasks and came to `outcome`."""
    task = shop.app.task(name="shop.add")(lambda: 3)
    job = Job(Delivery(id="1", queue="quick", body=b"", receipt=1, delivery_count=3), message(**fields), task, 1e12)
    execution = Execution(shop.app, "worker-1")
    context, began, _ = execution._begin(job)
    context.children += ["a", "b"]
    return execution.judged(job, outcome, began - (OVER - BEGAN))


@pytest.mark.parametrize(("outcome", "state"), STORED, ids=[f"{n} {state}" for n, (_, state) in enumerate(STORED)])
def test_a_report_says_where_and_when_it_ran_and_what_it_sent(shop_with: Make, outcome: Outcome, state: str) -> None:
    report = came_to(shop_with(ManualClock(OVER)), outcome).report
    assert report is not None
    assert (report.state, report.task, report.queue, report.worker) == (state, "shop.add", "quick", "worker-1")
    assert (report.sent, report.started) == (BEGAN - 5, BEGAN)
    assert report.ended == (None if state == "RETRY" else OVER)
    assert (report.retries, report.root_id, report.parent_id) == (2, "r", "p")
    assert report.children == ("a", "b")
    assert report.call == b""
    assert (report.value == b"3") == (state == "SUCCESS")
    assert (report.failure is not None) == (state in ("RETRY", "FAILURE"))
    assert bool(report.reason) == (state in ("REJECTED", "REVOKED"))


@pytest.mark.parametrize(("outcome", "state"), STORED, ids=[f"{n} {state}" for n, (_, state) in enumerate(STORED)])
def test_an_extended_report_of_what_has_run_to_its_end_holds_the_arguments(
    shop_with: Make, outcome: Outcome, state: str
) -> None:
    report = came_to(shop_with(ManualClock(OVER), result_extended=True), outcome).report
    assert report is not None
    kept = (b"[[], {}]", "application/json") if state in ("SUCCESS", "FAILURE") else (b"", "")
    assert (report.call, report.call_type) == kept


@pytest.mark.parametrize("outcome", [Ignored(), Requeued(1.0), Released()], ids=["ignored", "requeued", "released"])
def test_nothing_is_stored_of_what_has_no_end(shop: Shop, outcome: Outcome) -> None:
    assert came_to(shop, outcome).report is None


@pytest.mark.parametrize(("outcome", "state"), STORED, ids=[f"{n} {state}" for n, (_, state) in enumerate(STORED)])
def test_nothing_is_stored_of_what_is_to_be_ignored(shop: Shop, outcome: Outcome, state: str) -> None:
    assert came_to(shop, outcome, ignore_result=True).report is None


def test_a_report_of_what_never_ran_says_no_beginning(shop_with: Make) -> None:
    execution = Execution(shop_with(ManualClock(OVER)).app, "worker-1")
    for outcome, state in [(Expired(), "EXPIRED"), (Revoked("by hand"), "REVOKED"), (Rejected("torn"), "REJECTED")]:
        report = execution.unrun(message(), outcome).report
        assert report is not None
        assert (report.state, report.started, report.ended, report.worker) == (state, None, OVER, "worker-1")
        assert report.children == ()
        assert report.reason
