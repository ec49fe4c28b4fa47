"""The dead letter of a failed task says why, with the traceback: for as long as the letter is kept."""

from __future__ import annotations

from typing import Any

import pytest

from dray import Dray, ManualClock
from dray.testing import Driver


def fail(app: Dray, worker: Driver, error: Exception | None = None, **options: Any) -> str:
    """Send a task that fails, and have it run; return its id."""

    @app.task(name="shop.charge", dead_letter=True, **options)
    def charge(order: int) -> None:
        raise error or ValueError(f"no order {order}")

    sent = charge.delay(7)
    worker.run_until_idle()
    return str(sent.id)


@pytest.mark.parametrize("ignore_result", [False, True])
def test_the_letter_of_a_failed_task_has_reason_and_traceback(
    dray_app: Dray, dray_worker: Driver, ignore_result: bool
) -> None:
    fail(dray_app, dray_worker, ignore_result=ignore_result)
    (letter,) = dray_app.dead_letters.find()
    assert letter.reason == "failed: ValueError: no order 7"
    assert letter.traceback.startswith("Traceback (most recent call last):")
    assert 'raise error or ValueError(f"no order {order}")' in letter.traceback
    assert letter.traceback.endswith("ValueError: no order 7")
    assert dray_app.dead_letters.traceback(letter).rstrip() == letter.traceback


def test_the_traceback_is_there_when_the_result_has_expired(
    dray_app: Dray, dray_worker: Driver, dray_clock: ManualClock
) -> None:
    id = fail(dray_app, dray_worker)
    dray_clock.advance(dray_app.conf.result_expires or 0)
    assert dray_app.AsyncResult(id).traceback is None
    (letter,) = dray_app.dead_letters.find()
    assert "no order 7" in dray_app.dead_letters.traceback(letter)


def test_of_a_long_traceback_the_letter_has_the_end_and_the_result_the_whole(
    dray_app: Dray, dray_worker: Driver
) -> None:
    error = ValueError("the end of it")
    for n in range(500):
        error.add_note(f"note {n}")
    fail(dray_app, dray_worker, error)
    (letter,) = dray_app.dead_letters.find()
    assert letter.traceback.startswith("...\nnote ") and letter.traceback.endswith("note 499")
    assert len(letter.letter.reason.encode()) < 3072
    assert "note 0\n" not in letter.traceback and "note 0\n" in dray_app.dead_letters.traceback(letter)


def test_what_was_rejected_has_no_traceback(dray_app: Dray, dray_worker: Driver) -> None:
    dray_app.send_task("nobody.knows")
    dray_worker.run_until_idle()
    (letter,) = dray_app.dead_letters.find()
    assert (letter.traceback, dray_app.dead_letters.traceback(letter)) == ("", "")


def test_the_traceback_of_a_later_call_under_the_same_id_is_not_taken_for_this_one(
    dray_app: Dray, dray_worker: Driver
) -> None:
    orders = iter([7, 8])

    @dray_app.task(name="nightly", dead_letter=True)
    def nightly() -> None:
        raise ValueError(f"no order {next(orders)}")

    for _ in range(2):
        nightly.apply_async(task_id="tonight")
        dray_worker.run_until_idle()
    first, second = dray_app.dead_letters.find()
    assert "no order 7" in dray_app.dead_letters.traceback(first)
    assert "no order 8" in dray_app.dead_letters.traceback(second)
