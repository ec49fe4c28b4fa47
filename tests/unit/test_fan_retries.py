"""Running again what has failed in a group: who gets it, what follows it, and what becomes of it in a crash."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from dray import (
    AsyncResult,
    Change,
    Dray,
    ManualClock,
    NotSupported,
    Put,
    Reject,
    Signature,
    StoreUnavailable,
    UnknownResult,
    chain,
    chord,
    group,
)
from dray.fan_records import GRACE, STALLED, encode
from dray.fan_results import part
from dray.fan_retries import Moved, Retries
from dray.fans import Fans
from dray.testing import Driver, Enqueued, FlakyStore


class Shop:
    """The tasks of these tests."""

    def __init__(self, app: Dray) -> None:
        #: Which numbers fail, as long as they are in here.
        self.bad: set[int] = set()
        #: What `number` and `body` were called with, and for what `alert` was.
        self.ran: list[int] = []
        self.bodies: list[list[int]] = []
        self.alerts: list[str] = []

        @app.task(name="number", max_retries=0)
        def number(n: int) -> int:
            self.ran.append(n)
            if n in self.bad:
                raise ValueError("bad", n)
            return n

        @app.task(name="strict")
        def strict(n: int) -> int:
            if n in self.bad:
                raise Reject("no")
            return n

        @app.task(name="body")
        def body(values: list[int]) -> int:
            self.bodies.append(values)
            return sum(values)

        @app.task(name="alert")
        def alert(id: str) -> None:
            self.alerts.append(id)

        self.app, self.number, self.strict, self.body, self.alert = app, number, strict, body, alert

    def numbers(self, *numbers: int) -> list[Signature]:
        return [self.number.s(n) for n in numbers]


@pytest.fixture
def shop(dray_app: Dray) -> Shop:
    return Shop(dray_app)


def failed(shop: Shop, worker: Driver, *bad: int, on_error: str | float = "fail_fast") -> AsyncResult[int]:
    """Return the handle on a chord of 0, 1, 2, 3 that has failed; what failed would end well now."""
    shop.bad = {*bad}
    result = chord(shop.numbers(0, 1, 2, 3), shop.body.s(), on_error=on_error)()
    worker.run_until_idle()
    assert isinstance(result.get(propagate=False), ValueError)
    shop.bad, shop.ran = set(), []
    return result  # type: ignore[no-any-return]


# What runs again


@pytest.mark.parametrize("on_error", ["fail_fast", "wait", 0.9])
def test_only_what_failed_runs_again_and_the_body_gets_all(
    shop: Shop, dray_worker: Driver, on_error: str | float
) -> None:
    result = failed(shop, dray_worker, 1, 3, on_error=on_error)
    assert result.retry_failed() == 2
    assert (result.state, [member.state for member in result.parent]) == (
        "PENDING",
        ["SUCCESS", "PENDING", "SUCCESS", "PENDING"],
    )
    dray_worker.run_until_idle()
    assert (result.get(), result.parent.get()) == (6, [0, 1, 2, 3])
    assert (shop.ran, shop.bodies) == ([1, 3], [[0, 1, 2, 3]])


def test_handles_that_are_made_anew_see_what_it_came_to(shop: Shop, dray_worker: Driver) -> None:
    result = failed(shop, dray_worker, 2)
    result.parent.save()
    assert shop.app.GroupResult(result.parent.id).retry_failed() == 1
    dray_worker.run_until_idle()
    assert isinstance(result.get(propagate=False), ValueError)
    result.refresh()
    assert (result.get(), shop.app.AsyncResult(result.id).get()) == (6, 6)


def test_coroutines_can_have_it_run_again_too(shop: Shop, dray_worker: Driver) -> None:
    result = failed(shop, dray_worker, 2)
    assert asyncio.run(result.aretry_failed()) == 1
    dray_worker.run_until_idle()
    assert result.get() == 6


def test_what_fails_again_fails_the_group_again_and_is_told_again(shop: Shop, dray_worker: Driver) -> None:
    shop.bad = {1}
    result = chord(shop.numbers(0, 1), shop.body.s()).on_error(shop.alert.s())()
    dray_worker.run_until_idle()
    for _ in range(2):
        told = len(shop.alerts)
        assert told
        assert result.retry_failed() == 1
        dray_worker.run_until_idle()
        assert isinstance(result.get(propagate=False), ValueError)
        assert len(shop.alerts) > told
    shop.bad = set()
    assert result.retry_failed() == 1
    dray_worker.run_until_idle()
    assert (result.get(), shop.bodies) == (1, [[0, 1]])


def test_an_attempt_that_is_told_of_when_the_next_one_was_sent_already_changes_nothing(
    shop: Shop, dray_worker: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    report = Fans.report

    def noting(fans: Fans, reports: Any) -> list[str]:
        told.extend(reports)
        return report(fans, reports)

    monkeypatch.setattr(Fans, "report", noting)
    result = failed(shop, dray_worker, 1)
    for again in range(3):
        assert result.retry_failed() == 1
        # As from a worker that was frozen, or did not hear the store say that it was written.
        late = [each for each in told if not each[2].ok]
        assert report(shop.app.fans, late) == []
        assert len(late) == again + 1
        shop.bad = {1} if again < 2 else set()
        dray_worker.run_until_idle()
        result.refresh()
        assert result.state == ("FAILURE" if again < 2 else "SUCCESS")
    assert (result.get(), shop.bodies, shop.ran) == (6, [[0, 1, 2, 3]], [1, 1, 1])


def test_a_report_counts_where_the_attempt_before_cannot_be_read(shop: Shop, dray_worker: Driver) -> None:
    result = failed(shop, dray_worker, 1)
    id, store = result.parent.id, shop.app.fans.store
    assert result.retry_failed() == 1
    moved = msgspec.msgpack.decode(store.get(part(id), "again/1")["again/1"], type=Moved)
    # As one that is sealed with a key that this worker does not know.
    unknown = msgspec.structs.replace(moved, told=msgspec.structs.replace(moved.told, call=b"unreadable"))
    store.commit([Change(part(id), writes=(Put("again/1", encode(unknown)),))])
    shop.bad = {1}
    dray_worker.run_until_idle()
    result.refresh()
    assert isinstance(result.get(propagate=False), ValueError)


def test_nothing_is_sent_where_nothing_has_failed_or_all_has_gone_on(
    shop: Shop, dray_worker: Driver, dray_enqueued: Enqueued
) -> None:
    shop.bad = {1}
    fine = chord(shop.numbers(0, 2), shop.body.s())()
    gone_on = chord(shop.numbers(0, 1), shop.body.s(), on_error="ignore")()
    waiting = chord([shop.number.s(5).set(countdown=100)], shop.body.s())()
    dray_worker.run_until_idle()
    shop.bad = set()
    assert [result.retry_failed() for result in (fine, gone_on, waiting)] == [0, 0, 0]
    assert len(dray_enqueued.all()) == 1


def test_of_a_group_that_waits_for_all_what_failed_may_run_again_meanwhile(shop: Shop, dray_worker: Driver) -> None:
    shop.bad = {1}
    members = [shop.number.s(1), shop.number.s(5).set(countdown=100)]
    result = chord(members, shop.body.s(), on_error="wait")()
    dray_worker.run_until_idle()
    shop.bad = set()
    assert result.retry_failed() == 1
    dray_worker.advance(100)
    assert (result.get(), shop.bodies) == (6, [[1, 5]])


def test_two_who_ask_at_once_send_it_once(shop: Shop, dray_worker: Driver) -> None:
    result = failed(shop, dray_worker, 1)
    again = AsyncResult(result.id, shop.app)
    again.parent = result.parent
    assert (result.retry_failed(), again.retry_failed()) == (1, 0)
    dray_worker.run_until_idle()
    assert (shop.ran, shop.bodies, result.get()) == ([1], [[0, 1, 2, 3]], 6)


def test_what_expired_or_was_rejected_runs_again_whatever_its_time_was(
    shop: Shop, dray_worker: Driver, dray_clock: ManualClock
) -> None:
    shop.bad = {2}
    members = [shop.number.s(1).set(expires=5), shop.strict.s(2), shop.number.s(3)]
    result = chord(members, shop.body.s(), on_error="wait")()
    dray_clock.advance(10)
    dray_worker.run_until_idle()
    assert [member.state for member in result.parent] == ["EXPIRED", "REJECTED", "SUCCESS"]
    shop.bad = set()
    assert result.retry_failed() == 2
    dray_worker.run_until_idle()
    assert (result.get(), shop.bodies) == (6, [[1, 2, 3]])


def test_what_was_revoked_runs_under_another_id_again_and_again(shop: Shop, dray_worker: Driver) -> None:
    shop.bad = {0}
    members = [shop.number.s(0), shop.number.s(1) | shop.number.s(), shop.number.s(2)]
    result = chord(members, shop.body.s(), on_error="wait")()
    result.parent[1].parent.revoke()
    dray_worker.run_until_idle()
    assert result.parent[1].parent.state == "REVOKED"
    for _ in range(2):
        assert result.retry_failed() == 2
        result.parent[1].parent.revoke()
        dray_worker.run_until_idle()
        assert result.parent[1].parent.state == "REVOKED"
    shop.bad = set()
    assert result.retry_failed() == 2
    dray_worker.run_until_idle()
    assert (result.get(), result.parent.get(), shop.bodies) == (3, [0, 1, 2], [[0, 1, 2]])


def test_the_members_that_a_failed_group_has_cancelled_run_again(shop: Shop, dray_worker: Driver) -> None:
    shop.bad = {0}
    result = (group(shop.numbers(0, 1, 2), cancel_rest=True) | shop.body.s())()
    dray_worker.run_until_idle()
    shop.bad = set()
    assert result.retry_failed() == 3
    dray_worker.run_until_idle()
    assert (result.get(), result.parent.get(), shop.bodies) == (3, [0, 1, 2], [[0, 1, 2]])


# Lines, and groups within groups


def test_a_line_goes_on_where_it_failed_and_what_followed_runs_after_all(shop: Shop, dray_worker: Driver) -> None:
    shop.bad = {10}

    @shop.app.task(name="add")
    def add(x: int, y: int) -> int:
        return shop.number.run(x + y)  # type: ignore[no-any-return]

    line = shop.number.s(1) | add.s(9) | group(add.s(0), add.s(1)) | shop.body.s() | add.s(1)
    result = chord([line, shop.number.s(2)], shop.body.s())()
    dray_worker.run_until_idle()
    assert isinstance(result.get(propagate=False), ValueError)
    shop.bad, shop.ran = set(), []
    assert result.retry_failed() == 1
    dray_worker.run_until_idle()
    assert (result.get(), shop.ran) == (24, [10, 10, 11, 22])
    assert shop.bodies == [[10, 11], [22, 2]]


def test_groups_within_groups_are_begun_with_the_outermost(shop: Shop, dray_worker: Driver) -> None:
    shop.bad = {1}
    inner = chord(shop.numbers(0, 1), shop.body.s())
    handle = chord([inner, shop.number.s(4)], shop.body.s())()
    dray_worker.run_until_idle()
    assert isinstance(handle.get(propagate=False), ValueError)
    shop.bad, shop.ran = set(), []
    within = handle.parent[0].parent
    assert within.retry_failed() == 1
    dray_worker.run_until_idle()
    handle.refresh()
    assert (handle.get(), shop.ran, shop.bodies) == (5, [1], [[0, 1], [1, 4]])


def test_a_group_after_a_group_that_failed_leads_back_to_that(shop: Shop, dray_worker: Driver) -> None:
    @shop.app.task(name="plus")
    def plus(values: list[int], y: int) -> int:
        return sum(values) + y

    shop.bad = {1}
    result = chain(group(shop.numbers(0, 1)), group(plus.s(1), plus.s(2)), shop.body.s())()
    dray_worker.run_until_idle()
    assert isinstance(result.get(propagate=False), ValueError)
    shop.bad = set()
    assert result.parent.retry_failed() == 1
    dray_worker.run_until_idle()
    result.refresh()
    assert (result.get(), result.parent.get()) == (5, [2, 3])


# What cannot run again


def test_of_what_nothing_is_kept_of_nothing_runs_again(shop: Shop, dray_worker: Driver) -> None:
    shop.bad = {1}
    plain = group(shop.numbers(0, 1))()
    line = (shop.number.s(1) | shop.body.s())()
    before = chain(shop.number.s(1), group(shop.body.s(), shop.body.s()), shop.body.s())()
    dray_worker.run_until_idle()
    with pytest.raises(UnknownResult, match="nothing waits for it"):
        plain.retry_failed()
    with pytest.raises(UnknownResult, match="nothing keeps the other calls"):
        line.retry_failed()
    with pytest.raises(NotSupported, match=r"number\[.*comes before the group, has failed"):
        before.retry_failed()


def test_a_call_whose_message_was_gone_cannot_run_again(
    shop: Shop, dray_worker: Driver, dray_clock: ManualClock
) -> None:
    result = chord([shop.number.s(1), shop.number.s(2).set(queue="purged")], shop.body.s())()
    shop.app.broker.purge("purged")
    dray_worker.run_until_idle()
    for _ in range(2):
        dray_clock.advance(STALLED)
        shop.app.fans.sweep()
    with pytest.raises(NotSupported, match="the store does not have it"):
        result.retry_failed()


def test_a_call_that_the_store_does_not_take_fails_like_any_other(shop: Shop, dray_worker: Driver) -> None:
    @shop.app.task(name="large", max_retries=0)
    def large(text: str) -> None:
        raise ValueError("no")

    most = shop.app.store("this test").capabilities.max_value_bytes
    result = chord([large.s("x" * most)], shop.body.s())()
    dray_worker.run_until_idle()
    assert isinstance(result.get(propagate=False), ValueError)
    with pytest.raises(NotSupported, match="too large"):
        result.retry_failed()


def test_a_call_that_runs_again_and_is_gone_is_noticed(
    shop: Shop, dray_worker: Driver, dray_clock: ManualClock
) -> None:
    shop.bad = {0}
    result = chord(shop.numbers(0, 1), shop.body.s(), on_error="wait")()
    result.parent[1].revoke()
    dray_worker.run_until_idle()
    assert result.retry_failed() == 2
    # The revoked one has another id now, under which it is found.
    dray_clock.advance(STALLED)
    shop.app.fans.sweep()
    dray_clock.advance(STALLED)
    shop.app.fans.sweep()
    assert result.state == "PENDING"
    shop.app.broker.purge("default")
    for _ in range(2):
        dray_clock.advance(STALLED)
        shop.app.fans.sweep()
    dray_worker.run_until_idle()
    assert "is gone" in str(result.get(propagate=False))


# Killed in between


STEPS = [
    (Retries, "claim"),
    (Retries, "deliver"),
    (Retries, "_promise"),
    (Retries, "_revive"),
    (Retries, "_move"),
    (Retries, "_forget"),
    (Retries, "_send"),
    (Fans, "publish"),
    (Fans, "recount"),
]


def die_once(monkeypatch: pytest.MonkeyPatch, kind: type, name: str, *, after: bool) -> list[str]:
    """Have a method die the first time it is called, before or after it has done its work; say when it did."""
    died: list[str] = []
    truly = getattr(kind, name)

    def dying(self: Any, *given: Any) -> Any:
        if died:
            return truly(self, *given)
        died.append(name)
        if after:
            truly(self, *given)
        raise RuntimeError(f"killed in {name}")

    monkeypatch.setattr(kind, name, dying)
    return died


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("kind", "step"), STEPS, ids=[step for _, step in STEPS])
def test_whoever_dies_at_any_step_the_rest_is_swept_up_and_the_body_runs_once(
    shop: Shop,
    dray_worker: Driver,
    dray_clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    kind: type,
    step: str,
    after: bool,
) -> None:
    shop.bad = {1, 3}
    line = shop.number.s(3) | group(shop.number.s(), shop.number.s()) | shop.body.s()
    members = [shop.number.s(0), chord(shop.numbers(1, 2), shop.body.s()), line]
    result = chord(members, shop.body.s(), on_error="wait")()
    dray_worker.run_until_idle()
    assert isinstance(result.get(propagate=False), ValueError)
    shop.bad, shop.ran = set(), []
    died = die_once(monkeypatch, kind, step, after=after)
    with pytest.raises(RuntimeError, match="killed"):
        result.retry_failed()
    assert died == [step]
    for _ in range(4):
        dray_worker.run_until_idle()
        dray_clock.advance(70.0)
        shop.app.fans.sweep()
    # Before the claim nothing had happened: whoever asked asks again.
    result.retry_failed()
    dray_worker.run_until_idle()
    result.refresh()
    assert (result.get(), sorted(shop.ran)) == (9, [1, 3, 3, 3])
    assert sorted(shop.bodies) == [[0, 3, 6], [1, 2], [3, 3]]


@pytest.mark.parametrize("which", range(4))
def test_a_reply_of_the_store_that_gets_lost_changes_nothing(dray_app: Dray, which: int) -> None:
    store, shop, worker = FlakyStore.between(dray_app), Shop(dray_app), Driver(dray_app)
    result = failed(shop, worker, 1, 2, on_error="wait")
    commits: list[str] = []

    def lose(verb: str, when: str) -> None:
        if (verb, when) == ("commit", "after"):
            commits.append(verb)
            if len(commits) == 1 + which:
                raise StoreUnavailable("the reply was lost on purpose")

    store.observe(lose)
    with pytest.raises(StoreUnavailable):
        result.retry_failed()
    for _ in range(3):
        worker.run_until_idle()
        dray_app.clock.advance(GRACE)  # type: ignore[attr-defined]
        dray_app.fans.sweep()
    result.refresh()
    assert (result.get(), sorted(shop.ran), shop.bodies) == (6, [1, 2], [[0, 1, 2, 3]])


def test_what_ran_already_when_it_is_sent_once_more_does_not_run_again(
    shop: Shop, dray_worker: Driver, dray_clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = failed(shop, dray_worker, 1, 3)
    with monkeypatch.context() as patched:
        patched.setattr(Fans, "recount", lambda self, id: [])
        died = die_once(patched, Fans, "publish", after=True)
        with pytest.raises(RuntimeError):
            result.retry_failed()
        dray_worker.run_until_idle()
    assert (died, shop.ran, shop.bodies) == (["publish"], [1, 3], [])
    dray_clock.advance(GRACE)
    shop.app.fans.sweep()
    dray_worker.run_until_idle()
    result.refresh()
    assert (result.get(), shop.ran, shop.bodies) == (6, [1, 3], [[0, 1, 2, 3]])
