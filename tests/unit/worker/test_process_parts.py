"""The parts of the pool of processes, without processes: frames, claims, answers, who gets how much, and when."""

from __future__ import annotations

import os
from collections import deque
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dray import Dray, Event, Message
from dray.capabilities import Capabilities
from dray.processes.answers import Answers
from dray.processes.birth import Birth, birth, found, place_of
from dray.processes.feeder import MOST, Feeder
from dray.processes.frames import Broken, Cutter, Progress, Recall, Run, Told, framed, read_order, read_runs, read_word
from dray.processes.nursery import MOST_FAILURES, Nursery
from dray.processes.orders import Claims

# Frames


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
def test_frames_come_out_whole_however_they_are_read(step: int) -> None:
    sent = [framed(Broken("x" * size)) for size in (0, 1, 200, 3)]
    stream, cutter = b"".join(sent), Cutter()
    heard = [read_word(frame) for n in range(0, len(stream), step) for frame in cutter.cut(stream[n : n + step])]
    assert [len(word.reason) for word in heard if isinstance(word, Broken)] == [0, 1, 200, 3]


def test_a_job_travels_with_its_payload() -> None:
    message = Message(id="1", task="t", payload=b"\xff[]", headers={"a": 1})
    frame = framed([Run(7, message, "queue", 2, inf)])
    (frame_read,) = Cutter().cut(frame)
    (run,) = read_runs(frame_read)
    assert (run.number, run.message, run.queue, run.delivery_count, run.begin_by) == (7, message, "queue", 2, inf)


def test_orders_and_words_are_told_apart() -> None:
    (order,) = Cutter().cut(framed(Recall(5)))
    assert read_order(order) == Recall(5)
    (word,) = Cutter().cut(framed(Progress([], [3], 4, 1.5)))
    assert read_word(word) == Progress([], [3], 4, 1.5)


def test_what_an_event_carries_of_all_things_is_shown_as_text() -> None:
    event = Event(type="t", at=1.0, details={"what": object})
    (word,) = Cutter().cut(framed(Told(event)))
    told = read_word(word)
    assert isinstance(told, Told) and told.event.details == {"what": "<class 'object'>"}


# Claims


def test_what_was_called_back_is_not_begun() -> None:
    claims, job = Claims(), job_()
    assert claims.claim(1, job) == ""
    claims.release()
    assert claims.recall(3) == 1
    assert [claims.claim(number, job) for number in (2, 3, 4)] == ["recalled", "recalled", ""]


def test_what_is_not_wanted_any_more_is_returned_when_its_turn_comes() -> None:
    claims = Claims()
    claims.cancel(2)
    assert claims.claim(1, job_()) == ""
    claims.release()
    assert claims.claim(2, job_()) == "returned"
    assert claims.job is None


def test_a_running_job_is_told_and_one_that_has_ended_is_not() -> None:
    claims, told = Claims(), []
    job: Any = SimpleNamespace(cancel=lambda: told.append("cancelled"))
    claims.claim(1, job)
    claims.cancel(1)
    assert told == ["cancelled"]
    claims.release()
    claims.cancel(1)
    assert told == ["cancelled"]


# Answers


def test_what_comes_after_the_answers_were_taken_is_refused() -> None:
    answers = Answers(inf)
    assert answers.give([1, 2])
    answers.complete()
    assert answers.take(0) == [1, 2]
    assert not answers.give([3])
    assert answers.take(0) == [1, 2]


def test_answers_are_complete_when_nobody_is_left_to_answer() -> None:
    answers, one, other = Answers(inf), child(), child()
    answers.asked |= {one, other}
    answers.answered(one)
    assert not answers.is_complete
    answers.answered(other)
    assert answers.is_complete


# Feeding


def test_long_jobs_are_handed_out_one_by_one() -> None:
    feeder, line = feeder_(10)
    feeder.learn(1.0)
    one, other = child(), child()
    assert feeder.feed([one, other], 2, 0.0) == [one, other]
    assert (len(one.sent), len(other.sent), len(line)) == (1, 1, 8)


def test_short_jobs_are_handed_out_many_at_a_time_and_evenly() -> None:
    feeder, line = feeder_(3000)
    feeder.learn(0.000001)
    one, other = child(), child()
    feeder.feed([one, other], 2, 0.0)
    assert (len(one.sent), len(other.sent)) == (MOST, MOST)
    few, line = feeder_(5)
    few.learn(0.000001)
    one, other = child(), child()
    few.feed([one, other], 2, 0.0)
    assert sorted((len(one.sent), len(other.sent))) == [2, 3]
    assert not line


def test_nothing_is_handed_to_a_child_that_is_busy_for_long_or_leaves_or_is_not_ready() -> None:
    feeder, line = feeder_(10)
    feeder.learn(0.000001)
    stuck, leaving, young, called = child(current=1, began_at=-1.0), child(leaving=True), child(ready=False), child()
    called.recalled = 4
    stuck.sent[1] = job_()
    assert feeder.feed([stuck, leaving, young, called], 4, 0.0) == []
    assert len(line) == 10


def test_no_more_children_are_busy_than_there_are_slots() -> None:
    feeder, _ = feeder_(10)
    feeder.learn(1.0)
    last, heir = child(current=1), child()
    last.sent[1] = job_()
    assert feeder.feed([last, heir], 1, 0.0) == []
    last.sent.clear()
    assert feeder.feed([last, heir], 1, 0.0) == [last]


def test_a_child_is_handed_no_more_than_it_may_run_in_its_life() -> None:
    feeder, line = feeder_(100, most_jobs=7)
    feeder.learn(0.000001)
    one = child(ended=3)
    feeder.feed([one], 1, 0.0)
    assert len(one.sent) == 4


def test_what_may_not_begin_is_settled_and_takes_nobodys_place() -> None:
    refused = {0, 1}
    feeder, _ = feeder_(5, refuse=refused)
    feeder.learn(1.0)
    one = child()
    feeder.feed([one], 1, 0.0)
    assert [job.number for job in one.sent.values()] == [2]
    assert feeder._host.settled == [0, 1]  # type: ignore[attr-defined]


# Births


def test_until_one_child_has_got_ready_no_other_is_made() -> None:
    nursery = nursery_()
    assert (nursery.allows(4, 0), nursery.allows(3, 1)) == (1, 0)
    nursery.grown()
    assert nursery.allows(3, 1) == 3


def test_children_that_cannot_begin_come_ever_more_seldom_until_there_is_no_hope() -> None:
    nursery, pauses = nursery_(), []
    for _ in range(MOST_FAILURES):
        assert not nursery.hopeless
        error = nursery.died(child(ready=False, broken="no database"), "exited with code 4", 0.0)
        assert "no database" in str(error)
        pauses.append(nursery.opens)
    assert nursery.hopeless
    assert 0.05 <= pauses[0] <= 0.1 and 0.8 <= pauses[-1] <= 1.6
    nursery.grown()
    assert not nursery.hopeless


def test_a_child_that_died_in_its_work_is_replaced_at_once() -> None:
    nursery = nursery_()
    assert nursery.died(child(begun=3), "killed by signal 9 (SIGKILL)", 100.0) is None
    assert nursery.opens == 0.0


# What a child is told


def test_a_child_is_told_the_settings_that_differ_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "told_shop.py").write_text(
        "from dray import Dray\napp = Dray('told', task_max_deliveries=7, set_as_current=False)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import told_shop  # type: ignore[import-not-found]

    app: Dray = told_shop.app
    app.conf.update(broker_url=f"sqlite:///{tmp_path}/q.db", task_default_queue="told")
    with app:
        told = birth(app, "worker", None)
    assert told.place == "told_shop:app" == place_of(app)
    assert {"broker_url", "task_default_queue", "task_max_deliveries"} <= told.settings.keys()
    monkeypatch.delitem(__import__("sys").modules, "told_shop")
    again = found(told)
    assert again is not app
    assert (again.conf.task_default_queue, again.conf.task_max_deliveries) == ("told", 7)
    assert again.conf.origin("task_max_deliveries") == "code"


def job_(number: int = 0) -> Any:
    return SimpleNamespace(number=number)


def child(**facts: Any) -> Any:
    """Return what stands in for a child: it keeps what it is sent."""
    known = {"sent": {}, "ready": True, "leaving": False, "recalled": 0, "current": 0, "began_at": 0.0, "ended": 0}
    made = SimpleNamespace(**{**known, "begun": 0, "broken": "", "pid": 1, **facts})

    def send(jobs: list[Any], lease: float, now: float) -> None:
        made.sent |= {len(made.sent) + n: job for n, job in enumerate(jobs)}

    made.send = send
    return _Hashable(made)


class _Hashable:
    """A namespace that can be in a set."""

    def __init__(self, inner: SimpleNamespace) -> None:
        self.__dict__ = inner.__dict__


def feeder_(count: int, most_jobs: int | None = None, refuse: Any = ()) -> tuple[Feeder, deque[Any]]:
    settled: list[int] = []
    host: Any = SimpleNamespace(
        settled=settled,
        admit=lambda job: "refused" if job.number in refuse else None,
        done=lambda job, _: settled.append(job.number),
    )
    line = deque(job_(number) for number in range(count))
    return Feeder(host, line, 30.0, most_jobs), line


def nursery_() -> Nursery:
    told = Birth("", {}, "worker", os.getpid(), None, Capabilities(), False, None, frozenset())
    app: Any = None
    return Nursery(app, told, "spawn")
