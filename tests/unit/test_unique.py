"""Unique tasks: a second call is not sent while the first is there, and nothing keeps it out for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from dray import (
    AlreadySent,
    BrokerUnavailable,
    Change,
    Dray,
    ManualClock,
    SerializationError,
    Store,
    StoreUnavailable,
    TaskOptionError,
    TaskRevoked,
    stable_id,
    states,
)
from dray.testing import memory_app
from dray.testing.faults import wait_until
from dray.unique import LONGEST, SENDING


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def app(clock: ManualClock) -> Iterator[Dray]:
    with memory_app(clock) as made:
        yield made


def store(app: Dray) -> Store:
    found = app.connections.records
    assert found is not None
    return found


def waiting(app: Dray) -> int:
    sizes = app.broker.sizes(["default"])["default"]
    return sizes["ready"] + sizes["delayed"]


def work(app: Dray) -> None:
    app.worker().run_until_idle()


def task_on(app: Dray, **options: Any) -> tuple[Any, list[Any]]:
    ran: list[Any] = []

    def run(user_id: int, message: str = "") -> tuple[int, str]:
        ran.append((user_id, message))
        return user_id, message

    return app.task(name="t", **options)(run), ran


# Which calls are the same


def test_the_guides_three_notifications_are_one(app: Dray) -> None:
    """001: "These will only queue ONE task (same arguments)". Celery queues and runs three."""
    send_notification, ran = task_on(app, unique=True)
    results = [send_notification.delay(123, "Hello") for _ in range(3)]
    assert waiting(app) == 1
    work(app)
    assert ran == [(123, "Hello")]
    assert len({result.id for result in results}) == 1
    assert [result.existing for result in results] == [False, True, True]
    assert [result.get() for result in results] == [(123, "Hello")] * 3


def test_other_arguments_are_another_call_however_they_are_given(app: Dray) -> None:
    task, _ = task_on(app, unique=True)
    assert not task.delay(1).existing
    assert task.delay(1, "").existing
    assert task.delay(user_id=1).existing
    assert task.apply_async((), {"message": "", "user_id": 1}).existing
    assert not task.delay(1, "x").existing
    assert not task.delay(2).existing
    assert app.send_task("t", (2,)).existing


def test_some_arguments_or_a_function_of_them_can_tell(app: Dray) -> None:
    task, _ = task_on(app, unique=["user_id"])
    assert [task.delay(1, "a").existing, task.delay(1, "b").existing, task.delay(2, "a").existing] == [
        False,
        True,
        False,
    ]
    other = app.task(name="u", unique=lambda n: n % 2)(lambda n: n)
    assert [result.existing for result in other.delay_many([(1,), (2,), (3,), (4,)])] == [False, False, True, True]
    text = app.task(name="v", unique="{n}")(lambda n, m: n)
    assert [text.delay(1, 1).existing, text.delay(1, 2).existing] == [False, True]


def test_two_tasks_are_never_the_same_call(app: Dray) -> None:
    first, second = (app.task(name=name, unique=True)(lambda n: n) for name in ("a", "b"))
    assert [first.delay(1).existing, second.delay(1).existing] == [False, False]


def test_a_call_is_the_same_in_every_process() -> None:
    code = (
        "from dray.grouping import partition, stable_id;"
        "print(partition('unique', 't', {'b': {3, 1, 2}, 'a': 'x'}), stable_id('email', 'Hello'))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**_environment(), "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(told) == 1


def _environment() -> dict[str, str]:
    return dict(os.environ)


def test_arguments_that_cannot_be_compared_are_refused_in_words(app: Dray) -> None:
    task = app.task(name="t", unique=True)(lambda thing: None)
    with pytest.raises(SerializationError, match=r"t is unique by values that cannot be compared .* unique="):
        task.delay(object())


# Until when


def test_it_keeps_out_others_until_it_is_done(app: Dray) -> None:
    task, ran = task_on(app, unique=True)
    seen: list[bool] = []
    probe = app.task(name="probe", unique=True)(lambda: seen.append(app.tasks["probe"].delay().existing))
    probe.delay()
    work(app)
    assert seen == [True]
    task.delay(1)
    work(app)
    assert not task.delay(1).existing
    work(app)
    assert len(ran) == 2


def test_it_can_keep_out_others_until_its_start_only(app: Dray) -> None:
    seen: list[bool] = []

    @app.task(name="probe", unique=True, unique_until="start")
    def probe() -> None:
        if len(seen) < 2:
            seen.append(app.tasks["probe"].delay().existing)

    probe.delay()
    assert probe.delay().existing
    work(app)
    assert seen == [False, False]


def test_it_can_keep_out_others_for_a_time_whatever_becomes_of_it(app: Dray, clock: ManualClock) -> None:
    for options in ({"unique": True, "unique_until": "10m"}, {"throttle": 600}):
        task = app.task(name=f"t{len(options)}", **options)(lambda n: n)
        first = task.delay(1)
        work(app)
        clock.advance(599)
        again = task.delay(1)
        assert (again.existing, again.get()) == (True, 1)
        assert first == again
        assert not task.delay(2).existing
        clock.advance(1)
        assert not task.delay(1).existing


def test_a_failure_and_a_revocation_are_ends_and_a_retry_is_none(app: Dray, clock: ManualClock) -> None:
    @app.task(name="t", unique=True, max_retries=1, default_retry_delay=5)
    def fails() -> None:
        raise fails.retry(exc=ValueError("no"))

    fails.delay()
    work(app)
    assert fails.delay().existing
    clock.advance(5)
    work(app)
    second = fails.delay()
    assert not second.existing
    second.revoke()
    work(app)
    assert second.state == states.REVOKED
    assert not fails.delay().existing


def test_a_singleton_is_alone_whatever_its_arguments(app: Dray) -> None:
    task, _ = task_on(app, singleton=True)
    assert [task.delay(1).existing, task.delay(2).existing] == [False, True]
    work(app)
    assert not task.delay(2).existing


def test_of_calls_in_quick_succession_the_last_one_runs(app: Dray, clock: ManualClock) -> None:
    task, ran = task_on(app, unique=["user_id"], debounce=5)
    results = []
    for message in ("a", "b", "c"):
        results.append(task.delay(1, message))
        clock.advance(3)
        work(app)
    task.delay(2, "x")
    assert ran == []
    clock.advance(5)
    work(app)
    assert sorted(ran) == [(1, "c"), (2, "x")]
    assert [result.state for result in results] == [states.REVOKED, states.REVOKED, states.SUCCESS]
    with pytest.raises(TaskRevoked, match=f"replaced by the call {results[1].id}|replaced by the call {results[2].id}"):
        results[0].get()
    task.delay(1, "d")
    clock.advance(5)
    work(app)
    assert ran[-1] == (1, "d")


# On conflict


def test_a_second_call_can_be_skipped(app: Dray) -> None:
    task, ran = task_on(app, unique=True, on_conflict="skip")
    task.delay(1)
    second = task.delay(1)
    assert (second.skipped, second.existing, second.get(timeout=0)) == (True, False, None)
    work(app)
    assert len(ran) == 1


def test_a_second_call_can_raise(app: Dray) -> None:
    task, _ = task_on(app, unique=True, on_conflict="raise")
    first = task.delay(1)
    with pytest.raises(AlreadySent, match="t is unique, and the call") as raised:
        task.delay(1)
    assert raised.value.id == first.id
    with pytest.raises(AlreadySent):
        task.delay_many([(2,), (1,)])
    assert waiting(app) == 1
    # What was claimed beside the one that is there was given up.
    assert not task.delay(2).existing


def test_a_second_call_can_take_the_place_of_the_one_that_waits(app: Dray) -> None:
    task, ran = task_on(app, unique=["user_id"], on_conflict="replace")
    first, second = task.delay(1, "a"), task.delay(1, "b")
    work(app)
    assert ran == [(1, "b")]
    assert (first.state, second.get()) == (states.REVOKED, (1, "b"))
    assert first.id != second.id


def test_many_at_once_are_told_apart_among_themselves(app: Dray) -> None:
    task, ran = task_on(app, unique=["user_id"])
    results = task.delay_many([(1, "a"), (2, "a"), (1, "b"), (3, "a"), (2, "b")])
    assert [result.existing for result in results] == [False, False, True, False, True]
    assert results[2] == results[0]
    work(app)
    assert ran == [(1, "a"), (2, "a"), (3, "a")]


def test_of_eight_threads_that_send_the_same_one_succeeds(app: Dray) -> None:
    task, ran = task_on(app, unique=True)
    found: list[Any] = []
    start = threading.Barrier(8)

    def send() -> None:
        start.wait()
        found.extend(task.delay(n) for n in range(20))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(not result.existing for result in found) == 20
    work(app)
    assert sorted(ran) == [(n, "") for n in range(20)]


# When something dies


def test_a_sender_that_dies_between_claim_and_message_keeps_others_out_for_a_minute(
    app: Dray, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, ran = task_on(app, unique=True)
    with monkeypatch.context() as dying:
        dying.setattr(app.sender, "publish", _dies)
        dying.setattr(app.claims, "unsent", lambda messages: None)
        with pytest.raises(KeyboardInterrupt):
            task.delay(1)
    assert task.delay(1).existing
    clock.advance(SENDING)
    assert not task.delay(1).existing
    work(app)
    assert len(ran) == 1


def _dies(*_: Any) -> Any:
    raise KeyboardInterrupt


def test_what_was_not_sent_keeps_nobody_out(app: Dray, monkeypatch: pytest.MonkeyPatch) -> None:
    task, _ = task_on(app, unique=True)

    def away(*_: Any) -> Any:
        raise BrokerUnavailable("away")

    with monkeypatch.context() as outage:
        outage.setattr(app.broker, "publish", away)
        with pytest.raises(BrokerUnavailable):
            task.apply_async((1,), retry=False)
    assert not task.delay(1).existing


def test_a_claim_that_was_made_although_the_answer_was_lost_is_ones_own(
    app: Dray, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, ran = task_on(app, unique=True)
    commit, lost = store(app).commit, [True]

    def lose_the_answer(changes: Sequence[Change]) -> Any:
        done = commit(changes)
        if lost:
            lost.clear()
            raise StoreUnavailable("the reply got lost")
        return done

    monkeypatch.setattr("dray.unique.PAUSE", 0.0)
    monkeypatch.setattr(store(app), "commit", lose_the_answer)
    assert not task.delay(1).existing
    assert task.delay(1).existing
    work(app)
    assert len(ran) == 1


def test_while_the_store_is_away_a_unique_task_is_not_sent(app: Dray, monkeypatch: pytest.MonkeyPatch) -> None:
    task, _ = task_on(app, unique=True)
    monkeypatch.setattr("dray.unique.PAUSE", 0.0)

    def away(*_: Any) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store(app), "commit", away)
    with pytest.raises(StoreUnavailable):
        task.delay(1)
    assert waiting(app) == 0


def test_the_message_of_a_task_that_ends_while_the_store_is_away_is_kept_until_its_claim_is_given_up(
    app: Dray, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, ran = task_on(app, unique=True)
    monkeypatch.setattr("dray.unique.PAUSE", 0.0)
    task.delay(1)
    tried: list[int] = []

    def away(*_: Any) -> Any:
        tried.append(len(ran))
        raise StoreUnavailable("away")

    with ExitStack() as stack:
        with monkeypatch.context() as patched:
            patched.setattr(store(app), "commit", away)
            stack.enter_context(app.worker())
            wait_until(lambda: 1 in tried)
            # Killed now, the message comes back, and whoever has it then gives the claim up.
            assert app.broker.sizes(["default"])["default"]["leased"] == 1

        def is_settled() -> bool:
            clock.advance(0.1)
            return app.broker.sizes(["default"])["default"]["leased"] == 0

        wait_until(is_settled)
    assert len(ran) == 1 and not task.delay(1).existing


def test_a_call_of_which_the_result_can_never_be_written_is_buried_and_keeps_nobody_out(
    app: Dray, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, _ = task_on(app, unique=True, max_deliveries=1)

    def refuse(*_: Any) -> Any:
        raise ValueError("no record of this kind")

    with monkeypatch.context() as patched:
        patched.setattr(app.backend, "store", refuse)
        task.delay(1)
        work(app)
    (letter,) = app.broker.dead("default", 10)
    assert "what it came to cannot be written: ValueError: no record of this kind" in letter.reason
    assert not task.delay(1).existing


def test_a_call_whose_claim_has_lapsed_claims_anew_when_it_begins(
    app: Dray, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sender was killed after the message was sent, and before the claim was confirmed."""
    seen: list[bool] = []
    probe = app.task(name="probe", unique=True)(lambda: seen.append(app.tasks["probe"].delay().existing))
    with monkeypatch.context() as dying:
        dying.setattr(app.claims, "confirm", lambda rule, messages: None)
        probe.delay()
    clock.advance(SENDING)
    work(app)
    assert seen == [True]
    assert not probe.delay().existing


def test_no_claim_lasts_for_ever(app: Dray, clock: ManualClock) -> None:
    """A zombie: the queue was purged, and nobody will ever release the call that waited there."""
    task, _ = task_on(app, unique=True)
    task.delay(1)
    app.broker.purge("default")
    clock.advance(LONGEST - 1)
    assert task.delay(1).existing
    clock.advance(1)
    assert not task.delay(1).existing
    short = app.task(name="short", unique=True, unique_for="1h")(lambda: None)
    short.delay()
    clock.advance(3600)
    assert not short.delay().existing


def test_a_claim_outlasts_the_delay_of_its_call(app: Dray, clock: ManualClock) -> None:
    task, _ = task_on(app, unique=True, unique_for="1h")
    task.apply_async((1,), countdown=7200)
    clock.advance(7300)
    assert task.delay(1).existing


# What is refused


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"unique": "all"}, "is the same for every call"),
        ({"unique": []}, "unique is True"),
        ({"unique": ["usr_id"]}, "names a parameter 'usr_id' that it does not have; did you mean 'user_id'"),
        ({"unique": True, "on_conflict": "explode"}, "on_conflict is one of"),
        ({"unique": True, "unique_until": "finish"}, "unique_until ('start', 'done' or a time)"),
        ({"unique": True, "unique_for": 0.0001 - 1}, "unique_for is a number of seconds > 0"),
        ({"on_conflict": "skip"}, "on_conflict says more about unique=, which is not given"),
        ({"singleton": True, "unique": True}, "contradict each other"),
        ({"debounce": 5, "throttle": 5}, "contradict each other"),
        ({"throttle": 5, "unique_until": "start"}, "contradict each other"),
        ({"debounce": 5, "on_conflict": "raise"}, "a later call takes the place of the one before"),
        ({"debounce": "soon"}, "debounce is a number of seconds > 0"),
    ],
)
def test_nonsense_is_refused_where_the_task_is_declared(app: Dray, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TaskOptionError) as refused:
        app.task(name="t", **options)(lambda user_id: None)
    assert complaint in str(refused.value)


def test_an_id_of_ones_own_from_stable_id_is_one_call(app: Dray) -> None:
    """003: `task_id = f"email:{to}:{hash(subject)}"`, which is another one in each process."""
    task, _ = task_on(app)
    first, second = (task.apply_async((1,), task_id=stable_id("email", "a@b.c", "Hello")) for _ in range(2))
    assert first.id == second.id
    assert waiting(app) == 1
