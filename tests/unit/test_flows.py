"""Chains, groups and chords as they run: who gets what, in which order, and what becomes of them when one fails."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from dray import (
    Chord,
    Dray,
    Ending,
    FailedCall,
    Group,
    GroupResult,
    Ignore,
    NotSupported,
    Reject,
    Results,
    Retry,
    Signature,
    Task,
    TaskExpired,
    TaskOptionError,
    TaskRejected,
    TaskRevoked,
    UnknownResult,
    chain,
    chord,
    group,
)
from dray.codec import pack
from dray.fan_results import PAGE
from dray.testing import Driver, Enqueued


class Shop:
    """The tasks of these tests."""

    def __init__(self, app: Dray) -> None:
        self.app = app
        #: What `note` was called with.
        self.noted: list[Any] = []
        #: How often each call ran.
        self.ran: list[Any] = []

        @app.task(name="add")
        def add(x: int, y: int = 1) -> int:
            return x + y

        @app.task(name="total")
        def total(values: Any) -> Any:
            self.ran.append(values)
            return sum(values)

        @app.task(name="fail", max_retries=0)
        def fail(*args: Any) -> None:
            raise ValueError("no", *args)

        @app.task(name="note")
        def note(*args: Any) -> Any:
            self.noted.append(args)
            return args[0] if args else None

        @app.task(name="twice")
        async def twice(x: Any) -> Any:
            return x * 2

        @app.task(name="odd")
        def odd(x: int) -> int:
            if x % 2 == 0:
                raise ValueError("even", x)
            return x

        self.add, self.total, self.fail, self.note, self.twice, self.odd = add, total, fail, note, twice, odd


@pytest.fixture
def shop(dray_app: Dray) -> Shop:
    return Shop(dray_app)


# Chains


def test_each_call_of_a_chain_gets_the_result_of_the_one_before(shop: Shop, dray_worker: Driver) -> None:
    result = chain(shop.add.s(1, 2), shop.add.s(10), shop.twice.s())()
    assert dray_worker.run_until_idle() == 3
    assert result.get() == 26
    assert (result.parent.get(), result.parent.parent.get()) == (13, 3)
    assert result.parent.parent.parent is None


def test_a_chain_needs_no_store(shop: Shop, dray_worker: Driver) -> None:
    shop.app.conf.update(store_url="disabled")
    result = (shop.add.s(1, 2) | shop.add.s(10)).delay()
    dray_worker.run_until_idle()
    assert result.get() == 13


def test_arguments_and_options_of_the_call_go_to_the_first(shop: Shop, dray_worker: Driver) -> None:
    result = chain(shop.add.s(2), shop.add.s(10)).apply_async((1,), countdown=3)
    assert dray_worker.run_until_idle() == 0
    dray_worker.advance(3)
    dray_worker.run_until_idle()
    assert result.get() == 13


def test_an_immutable_call_gets_nothing_of_the_one_before(shop: Shop, dray_worker: Driver) -> None:
    result = chain(shop.add.s(1, 2), shop.add.si(5, 5))()
    dray_worker.run_until_idle()
    assert result.get() == 10


def test_later_calls_wait_until_the_one_before_has_ended(shop: Shop, dray_worker: Driver) -> None:
    result = chain(shop.add.s(1, 2), shop.add.s(3))()
    assert (result.state, result.ready(), result.exists()) == ("PENDING", False, True)
    dray_worker.run_until_idle()
    assert (result.state, result.ready()) == ("SUCCESS", True)


def test_when_a_call_of_a_chain_fails_those_after_it_have_failed_with_its_error(
    shop: Shop, dray_worker: Driver
) -> None:
    result = chain(shop.add.s(1, 2), shop.fail.s(), shop.add.s(1), shop.note.s())()
    dray_worker.run_until_idle()
    assert shop.noted == []
    for handle in (result, result.parent, result.parent.parent):
        with pytest.raises(ValueError, match="no"):
            handle.get()
    assert result.parent.parent.parent.get() == 3


def test_a_call_of_a_chain_may_be_tried_again(shop: Shop, dray_worker: Driver) -> None:
    @shop.app.task(name="flaky", bind=True)
    def flaky(self: Task[Any, Any], x: int) -> int:
        if self.request.retries < 2:
            raise Retry(countdown=0)
        return x

    result = chain(shop.add.s(1, 2), flaky.s(), shop.add.s(1))()
    dray_worker.run_until_idle()
    assert result.get() == 4


def test_a_call_that_ignores_itself_counts_as_none(shop: Shop, dray_worker: Driver) -> None:
    @shop.app.task(name="ignored")
    def ignored() -> None:
        raise Ignore

    result = chain(ignored.s(), shop.note.s())()
    dray_worker.run_until_idle()
    assert (result.get(), shop.noted) == (None, [(None,)])


def test_results_that_are_not_stored_are_passed_on_all_the_same(shop: Shop, dray_worker: Driver) -> None:
    result = chain(shop.add.s(1, 2).set(ignore_result=True), shop.add.s(1))()
    dray_worker.run_until_idle()
    assert result.get() == 4
    assert result.parent.ignored and result.parent.get() is None


@pytest.mark.parametrize(
    "end, error", [("revoke", TaskRevoked), ("expire", TaskExpired), ("reject", TaskRejected)], ids=str
)
def test_a_call_that_never_succeeds_ends_its_chain(
    shop: Shop, dray_worker: Driver, end: str, error: type[Exception]
) -> None:
    @shop.app.task(name="rejected")
    def rejected() -> None:
        raise Reject("no good")

    first = rejected.s() if end == "reject" else shop.add.s(1, 2).set(expires=-1 if end == "expire" else None)
    result = chain(first, shop.note.s())()
    if end == "revoke":
        result.parent.revoke()
    dray_worker.advance(10)
    dray_worker.run_until_idle()
    with pytest.raises(error):
        result.get()
    assert shop.noted == []


def test_the_whole_chain_can_be_cancelled(shop: Shop, dray_worker: Driver) -> None:
    result = chain(shop.add.s(1, 2), shop.note.s())()
    result.cancel()
    dray_worker.run_until_idle()
    assert (shop.noted, result.state, result.parent.state) == ([], "REVOKED", "REVOKED")


def test_an_error_callback_of_a_chain_is_called_once_wherever_it_fails(shop: Shop, dray_worker: Driver) -> None:
    for place in range(3):
        calls = [shop.add.s(1) if place else shop.add.s(1, 2), shop.add.s(1), shop.add.s(1)]
        calls[0] = shop.add.s(1, 2)
        calls[place] = shop.fail.s()
        result = chain(calls).on_error(shop.note.s(place))()
        dray_worker.run_until_idle()
        failed = [result.parent.parent, result.parent, result][place]
        assert shop.noted == [(failed.id, place)]
        shop.noted.clear()


def test_an_error_callback_with_three_parameters_gets_the_call_the_exception_and_the_traceback(
    shop: Shop, dray_worker: Driver
) -> None:
    seen: list[Any] = []

    @shop.app.task(name="on_error")
    def on_error(request: Any, exc: Any, traceback: Any) -> None:
        seen.append((request, exc, traceback))

    result = shop.fail.apply_async((7,), link_error=on_error.s())
    chain(shop.fail.s(8), shop.note.s()).on_error(on_error.s())()
    chord([shop.fail.s(9)], shop.note.s()).on_error(on_error.s())()
    dray_worker.run_until_idle()
    assert [type(call) for call, _, _ in seen] == [FailedCall] * 3
    assert seen[0][0].id == result.id and seen[0][0].task == "fail"
    assert sorted(repr(error) for _, error, _ in seen) == [f"ValueError('no', {n})" for n in (7, 8, 9)]
    assert all("raise ValueError" in traceback for _, _, traceback in seen)


def test_a_long_chain_is_no_deep_one(shop: Shop, dray_worker: Driver) -> None:
    result = chain(shop.add.s(0, 0), *[shop.add.s(1) for _ in range(500)])()
    dray_worker.run_until_idle()
    assert result.get() == 500


# Groups


def test_all_members_of_a_group_run_and_their_results_come_in_order(shop: Shop, dray_worker: Driver) -> None:
    result = group(shop.add.s(n, n) for n in range(5))()
    assert isinstance(result, GroupResult)
    assert (result.ready(), result.waiting(), result.completed_count()) == (False, True, 0)
    dray_worker.run_until_idle()
    assert result.get() == result.join() == [0, 2, 4, 6, 8]
    assert (result.ready(), result.successful(), result.failed(), result.completed_count()) == (True, True, False, 5)


def test_a_group_alone_needs_no_store(shop: Shop, dray_worker: Driver) -> None:
    shop.app.conf.update(store_url="disabled")
    result = group(shop.add.s(1), chain(shop.add.s(2), shop.add.s(3)))()
    dray_worker.run_until_idle()
    assert result.get() == [2, 6]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_group_is_always_a_list(shop: Shop, dray_worker: Driver, count: int) -> None:
    result = group([shop.add.s(n) for n in range(count)])()
    dray_worker.run_until_idle()
    assert result.get() == [n + 1 for n in range(count)]
    assert len(result) == count and result.ready()


def test_a_failed_member_of_a_group_fails_get_and_nothing_else(shop: Shop, dray_worker: Driver) -> None:
    result = group(shop.add.s(1), shop.fail.s(), shop.add.s(2))()
    dray_worker.run_until_idle()
    with pytest.raises(ValueError, match="no"):
        result.get()
    first, second, third = result.get(propagate=False)
    assert (first, repr(second), third) == (2, "ValueError('no')", 3)
    assert (result.failed(), result.successful(), result.completed_count()) == (True, False, 2)


def test_members_come_as_they_complete(shop: Shop, dray_worker: Driver) -> None:
    result = group(shop.add.s(1).set(countdown=5), shop.add.s(2))()
    dray_worker.run_until_idle()
    coming = result.as_completed(timeout=5)
    assert next(coming).get() == 3
    dray_worker.advance(5)
    dray_worker.run_until_idle()
    assert [each.get() for each in coming] == [2]


async def test_a_group_is_awaited(shop: Shop, dray_worker: Driver) -> None:
    result = await group(shop.add.s(1), shop.add.s(2)).adelay()
    await asyncio.to_thread(dray_worker.run_until_idle)
    assert await result == await result.aget(5) == [2, 3]
    assert sorted([await each async for each in result.acompleted(5)]) == [2, 3]


def test_a_group_is_saved_and_found_again_with_what_is_nested_in_it(shop: Shop, dray_worker: Driver) -> None:
    result = group(shop.add.s(1), chain(shop.add.s(2), group(shop.add.s(3), shop.add.s(4))))()
    result.save()
    dray_worker.run_until_idle()
    assert shop.app.GroupResult(result.id).get() == result.get() == [2, [6, 7]]
    with pytest.raises(UnknownResult, match="no group 'unknown'"):
        shop.app.GroupResult("unknown")


def test_what_a_group_links_to_gets_the_list_once(shop: Shop, dray_worker: Driver) -> None:
    group(shop.add.s(1), shop.add.s(2)).link(shop.note.s("own"))()
    group(shop.add.s(1), shop.add.s(2)).apply_async(link=shop.note.s())
    dray_worker.run_until_idle()
    assert sorted(shop.noted, key=len) == [([2, 3],), ([2, 3], "own")]


# Chords


def test_the_body_gets_the_results_of_the_header_in_order(shop: Shop, dray_worker: Driver) -> None:
    header = [shop.add.s(n, n) for n in range(10)]
    ways = [lambda: chord(header)(shop.total.s()), chord(header, shop.total.s()), group(header) | shop.total.s()]
    for send in ways:
        result = send()  # type: ignore[no-untyped-call]
        assert result.state == "PENDING"
        dray_worker.run_until_idle()
        assert result.get() == 90
        assert result.parent.get() == [2 * n for n in range(10)]
    assert shop.ran == [[2 * n for n in range(10)]] * 3


def test_a_header_of_one_is_a_list_of_one(shop: Shop, dray_worker: Driver) -> None:
    result = chord([shop.add.s(1, 2)], shop.total.s())()
    dray_worker.run_until_idle()
    assert result.get() == 3


def test_the_body_may_go_on_as_a_chain(shop: Shop, dray_worker: Driver) -> None:
    result = (group(shop.add.s(1), shop.add.s(2)) | shop.total.s() | shop.add.s(100) | shop.twice.s())()
    dray_worker.run_until_idle()
    assert result.get() == 210


def test_a_group_in_a_chain_gets_what_comes_before_it(shop: Shop, dray_worker: Driver) -> None:
    result = (shop.add.s(1, 2) | group(shop.add.s(10), shop.twice.s(), shop.add.si(7, 7)) | shop.total.s())()
    dray_worker.run_until_idle()
    assert result.get() == 13 + 6 + 14
    assert (result.parent.get(), result.parent.parent.get()) == ([13, 6, 14], 3)


def test_a_chain_may_end_with_a_group(shop: Shop, dray_worker: Driver) -> None:
    result = chain(shop.add.s(1, 2), group(shop.add.s(10), shop.add.s(20)))()
    assert isinstance(result, GroupResult)
    dray_worker.run_until_idle()
    assert result.get() == [13, 23]
    assert result.parent is not None and result.parent.get() == 3


def test_each_member_of_a_group_after_a_group_gets_the_whole_list(shop: Shop, dray_worker: Driver) -> None:
    result = (group(shop.add.s(1), shop.add.s(2)) | group(shop.total.s(), shop.note.s()) | shop.note.s())()
    dray_worker.run_until_idle()
    assert result.get() == [5, [2, 3]]


def nested(shop: Shop) -> list[tuple[Any, Any]]:
    """Canvases that are nested in all ways, and what they come to."""
    add, total, twice = shop.add, shop.total, shop.twice
    pair = group(add.s(1, 1), add.s(2, 2))
    return [
        (chord([pair, add.s(0, 0)], shop.note.s()), [[2, 4], 0]),
        (chord([chord(pair, total.s()), chord(pair, total.s())], total.s()), 12),
        (chord([chain(add.s(1, 1), add.s(1)), add.s(3, 3)], total.s()), 9),
        (chord([chain(add.s(1, 1), group(add.s(1), add.s(2)), total.s())], total.s()), 7),
        (chain(add.s(1, 1), group(chain(add.s(1), twice.s()), chord([add.s(1), add.s(2)], total.s()))), [6, 7]),
        (group(group(group(add.s(1, 1)))) | shop.note.s(), [[[2]]]),
        (pair | total.s() | group(add.s(1), add.s(2)) | total.s() | add.s(1), 16),
        (chord([pair | total.s() | add.s(1), add.s(1, 1)], group(total.s(), shop.note.s())), [9, [7, 2]]),
        (group(pair | group(total.s(), total.s()), add.s(1, 1)) | shop.note.s(), [[6, 6], 2]),
    ]


@pytest.mark.parametrize("case", range(9))
def test_canvases_nest_in_all_ways(shop: Shop, dray_worker: Driver, case: int) -> None:
    canvas, expected = nested(shop)[case]
    result = canvas.apply_async()
    dray_worker.run_until_idle()
    assert result.get() == expected


@pytest.mark.parametrize("case", range(9))
@pytest.mark.dray(task_always_eager=True)
def test_eager_canvases_come_to_the_same(shop: Shop, case: int) -> None:
    canvas, expected = nested(shop)[case]
    assert canvas.apply_async().get() == expected


def test_messages_of_a_chord_do_not_grow_with_it(shop: Shop, dray_worker: Driver, dray_enqueued: Enqueued) -> None:
    def largest(width: int) -> int:
        body = shop.total.s() | group(shop.add.s(n) for n in range(width)) | shop.total.s()
        inner = chord([chord([shop.add.s(n) for n in range(width)], body)] * 5, shop.note.s())
        inner.apply_async()
        return max(len(pack(message)) for message in dray_enqueued.all())

    small = largest(2)
    assert largest(200) <= small + 10 < 4096


# When members fail


def test_a_failed_member_fails_the_body_with_its_error_and_calls_each_error_callback_once(
    shop: Shop, dray_worker: Driver
) -> None:
    header = [shop.add.s(1), shop.fail.s(1), shop.fail.s(2)]
    result = chord(header, shop.total.s().on_error(shop.note.s("body"))).on_error(shop.note.s("chord"))()
    dray_worker.run_until_idle()
    with pytest.raises(ValueError, match="no"):
        result.get()
    assert shop.ran == []
    # That of the body too, as in Celery, whose way it is to be told of a chord.
    assert sorted(args[1:] for args in shop.noted) == [("body",), ("chord",)]
    assert all(shop.app.AsyncResult(id).failed() for id, _ in shop.noted)


def test_what_comes_after_the_body_has_failed_with_the_header_too(shop: Shop, dray_worker: Driver) -> None:
    result = (group(shop.fail.s()) | shop.total.s() | group(shop.add.s(1), shop.add.s(2)) | shop.note.s())()
    dray_worker.run_until_idle()
    for handle in (result, *result.parent, result.parent.parent):
        assert handle.state == "FAILURE"
    assert shop.noted == []


def test_a_failed_chord_in_a_header_fails_the_outer_one_once(shop: Shop, dray_worker: Driver) -> None:
    inner = chord([shop.fail.s(), shop.add.s(1)], shop.total.s())
    result = chord([inner, shop.add.s(2)], shop.note.s()).on_error(shop.note.s("failed"))()
    dray_worker.run_until_idle()
    with pytest.raises(ValueError, match="no"):
        result.get()
    assert [args[1:] for args in shop.noted] == [("failed",)]


@pytest.mark.parametrize(
    "policy, expected",
    [("ignore", [1, 3]), (0.5, [1, 3]), ("collect", [1, "ValueError", 3]), ("wait", None), (0.9, None)],
    ids=str,
)
def test_a_policy_says_what_becomes_of_the_group(shop: Shop, dray_worker: Driver, policy: Any, expected: Any) -> None:
    result = chord(group([shop.odd.s(1), shop.odd.s(2), shop.odd.s(3)], on_error=policy), shop.note.s())()
    dray_worker.run_until_idle()
    if expected is None:
        with pytest.raises(ValueError, match="even"):
            result.get()
        assert shop.noted == []
        return
    ((got,),) = shop.noted
    if policy == "collect":
        assert all(isinstance(each, Ending) for each in got)
        got = [each.value if each.ok else type(each.error).__name__ for each in got]
    assert got == expected


@pytest.mark.dray(task_always_eager=True)
@pytest.mark.parametrize(
    "policy, expected",
    [("ignore", [1, 3]), (0.5, [1, 3]), ("wait", None), ("fail_fast", None)],
    ids=str,
)
def test_here_and_now_a_policy_says_the_same(shop: Shop, policy: Any, expected: Any) -> None:
    header = group([shop.odd.s(1), shop.odd.s(2), shop.odd.s(3)], on_error=policy)
    result = chord(header, shop.note.s().on_error(shop.note.s("body"))).on_error(shop.note.s("chord"))()
    if expected is None:
        assert result.failed()
        assert [args[1:] for args in shop.noted] == [("chord",), ("body",)]
        assert shop.noted[0][0] == result.results[1].id
        return
    assert shop.noted == [(expected,)]


@pytest.mark.dray(task_always_eager=True)
def test_here_and_now_there_is_no_collecting_of_errors_for_a_body_and_that_is_said(shop: Shop) -> None:
    group([shop.odd.s(1), shop.odd.s(2)], on_error="collect")()
    assert chord(group([shop.odd.s(1)], on_error="collect"), shop.note.s())().successful()
    with pytest.raises(NotSupported, match=r"gets exceptions, and those come from a store only: run it with a worker"):
        chord(group([shop.odd.s(1), shop.odd.s(2)], on_error="collect"), shop.note.s())()


@pytest.mark.dray(task_always_eager=True)
def test_here_and_now_an_error_callback_of_both_parts_of_a_chord_is_called_once(shop: Shop) -> None:
    told: list[Any] = []
    shop.app.task(name="alert")(lambda request, exc, traceback: told.append((request.task, str(exc), traceback)))
    chord([shop.add.s(1), shop.fail.s(2)], shop.total.s()).on_error(shop.app.tasks["alert"].s())()
    ((task, error, traceback),) = told
    assert (task, error) == ("fail", "('no', 2)")
    assert "in fail" in traceback


def test_fail_fast_fails_before_the_others_have_ended(shop: Shop, dray_worker: Driver) -> None:
    result = chord([shop.fail.s(), shop.add.s(1).set(countdown=60)], shop.total.s())()
    dray_worker.run_until_idle()
    assert result.failed()
    late = chord(group(shop.fail.s(), shop.add.s(1).set(countdown=60), on_error="wait"), shop.total.s())()
    dray_worker.run_until_idle()
    assert late.state == "PENDING"
    dray_worker.advance(60)
    dray_worker.run_until_idle()
    assert late.failed()


@pytest.mark.parametrize("end", ["revoke", "expire", "reject", "unknown"])
def test_a_member_that_is_never_run_tells_its_group(shop: Shop, dray_worker: Driver, end: str) -> None:
    @shop.app.task(name="rejected")
    def rejected() -> None:
        raise Reject("no good")

    bad = {
        "reject": rejected.s(),
        "expire": shop.add.s(1).set(expires=-1),
        "unknown": Signature("nobody.knows", app=shop.app),
        "revoke": shop.add.s(1),
    }[end]
    result = chord([shop.add.s(1).set(countdown=5), bad], shop.total.s())()
    if end == "revoke":
        result.parent[1].revoke()
    dray_worker.advance(5)
    dray_worker.run_until_idle()
    assert result.ready() and not result.successful()
    assert shop.ran == []


def test_a_member_that_succeeds_after_a_retry_is_a_success(shop: Shop, dray_worker: Driver) -> None:
    @shop.app.task(name="flaky", bind=True)
    def flaky(self: Task[Any, Any]) -> int:
        if self.request.retries < 2:
            raise Retry(countdown=0)
        return 40

    result = chord([flaky.s(), shop.add.s(1)], shop.total.s())()
    dray_worker.run_until_idle()
    assert result.get() == 42


def test_a_chord_can_be_cancelled_as_a_whole(shop: Shop, dray_worker: Driver) -> None:
    result = chord([shop.note.s(n) for n in range(3)], shop.total.s())()
    result.cancel()
    dray_worker.run_until_idle()
    assert (shop.noted, shop.ran, result.state) == ([], [], "REVOKED")
    assert result.progress().failed == result.progress().total == 4


def test_a_flow_tells_how_far_it_is_and_what_it_is_made_of(shop: Shop, dray_worker: Driver) -> None:
    result = chord([shop.add.s(1), shop.add.s(2).set(countdown=5)], shop.total.s())()
    dray_worker.run_until_idle()
    seen = result.progress()
    assert (seen.total, seen.succeeded, seen.failed, seen.ended) == (3, 1, 0, 1)
    assert seen.share == pytest.approx(1 / 3)
    members, body = result.tree()
    assert [state for _, state in members] == ["SUCCESS", "PENDING"] and body == (result.id, "PENDING")


# Without a store


def test_a_chord_without_a_store_is_refused_where_it_is_sent(shop: Shop, dray_enqueued: Enqueued) -> None:
    shop.app.conf.update(store_url="disabled")
    for canvas in (chord([shop.add.s(1)], shop.total.s()), shop.add.s(1) | group(shop.add.s(1))):
        with pytest.raises(NotSupported, match=r"needs a store.*store_url='sqlite:///"):
            canvas()
    assert dray_enqueued.all() == []


# Large ones


def test_a_streamed_group_is_sent_page_by_page_and_its_body_runs_once(shop: Shop, dray_worker: Driver) -> None:
    made = 0

    def members() -> Any:
        nonlocal made
        for n in range(1234):
            made += 1
            yield shop.add.s(n, 0)

    result = (Group.stream(members()) | shop.total.s())()
    assert made == 1234
    dray_worker.run_until_idle()
    assert result.get() == sum(range(1234))
    assert len(shop.ran) == 1


def test_a_streamed_group_is_at_no_time_in_memory_as_a_whole(shop: Shop) -> None:
    most = 0

    def members() -> Any:
        nonlocal most
        for n in range(5 * PAGE):
            if n % PAGE == PAGE - 1:
                most = max(most, sum(type(each) is Signature for each in gc.get_objects()))
            yield shop.add.s(n, 0)

    before = sum(type(each) is Signature for each in gc.get_objects())
    (Group.stream(members()) | shop.total.s())()
    assert PAGE - 1 <= most - before <= 2 * PAGE + 50


def test_an_empty_stream_calls_its_body_with_nothing(shop: Shop, dray_worker: Driver) -> None:
    result = chord(Group.stream(iter(())), shop.note.s())()
    dray_worker.run_until_idle()
    assert result.get() == [] and shop.noted == [([],)]


def test_a_streamed_group_can_only_begin_a_flow(shop: Shop) -> None:
    with pytest.raises(TaskOptionError, match="only stand at the beginning"):
        (shop.add.s(1) | Group.stream(shop.add.s(n) for n in range(3)) | shop.note.s())()


def test_more_results_than_a_list_should_have_come_page_by_page(
    shop: Shop, dray_worker: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dray.fan_results.LISTED", 10)
    kinds: list[Any] = []

    @shop.app.task(name="weigh")
    def weigh(values: Any) -> list[int]:
        kinds.append(values)
        return [len(values), sum(values), sum(values)]

    result = chord([shop.add.s(n, 0) for n in range(600)], weigh.s())()
    dray_worker.run_until_idle()
    assert result.get() == [600, sum(range(600)), sum(range(600))]
    assert isinstance(kinds[0], Results) and repr(kinds[0]) == "<600 results>"


# map, starmap, chunks


def test_map_starmap_and_chunks(shop: Shop, dray_worker: Driver) -> None:
    mapped, starred = shop.twice.map([1, 2, 3]).delay(), shop.add.starmap(zip(range(3), range(3), strict=True)).delay()
    chunked = shop.add.chunks(zip(range(5), range(5), strict=True), 2)()
    assert dray_worker.run_until_idle() == 5
    assert (mapped.get(), starred.get()) == ([2, 4, 6], [0, 2, 4])
    assert chunked.get() == [[0, 2], [4, 6], [8]]


# From inside a task


def test_a_task_puts_a_call_in_its_place(shop: Shop, dray_worker: Driver) -> None:
    @shop.app.task(name="choose", bind=True)
    def choose(self: Task[Any, Any], x: int) -> Any:
        raise self.replace(shop.add.s(x, 100) if x % 2 else chain(shop.add.s(x, 1), shop.add.s(1000)))

    results = [choose.delay(1), choose.delay(2)]
    dray_worker.run_until_idle()
    assert [result.get() for result in results] == [101, 1003]


def test_what_follows_a_call_follows_what_takes_its_place(shop: Shop, dray_worker: Driver) -> None:
    @shop.app.task(name="split", bind=True)
    def split(self: Task[Any, Any], count: int) -> Any:
        raise self.replace(group(shop.add.s(n, 0) for n in range(count)))

    result = chain(split.s(4), shop.total.s(), shop.add.s(1))()
    outer = chord([split.s(3), shop.add.s(1, 1)], shop.note.s())()
    linked = split.apply_async((2,), link=shop.note.s("linked"))
    dray_worker.run_until_idle()
    assert result.get() == 7
    assert outer.get() == [[0, 1, 2], 2]
    assert linked.get() == [0, 1]
    assert ([0, 1], "linked") in shop.noted


def test_what_takes_the_place_of_a_call_fails_for_it(shop: Shop, dray_worker: Driver) -> None:
    @shop.app.task(name="choose", bind=True)
    def choose(self: Task[Any, Any]) -> Any:
        raise self.replace(chord([shop.fail.s()], shop.total.s()))

    result = chord([choose.s(), shop.add.s(1)], shop.total.s()).on_error(shop.note.s("once"))()
    dray_worker.run_until_idle()
    with pytest.raises(ValueError, match="no"):
        result.get()
    assert [args[1:] for args in shop.noted] == [("once",)]


def test_a_replaced_call_is_waited_for(shop: Shop, dray_worker: Driver) -> None:
    @shop.app.task(name="later", bind=True)
    def later(self: Task[Any, Any]) -> Any:
        raise self.replace(shop.add.si(1, 1).set(countdown=5))

    result = later.delay()
    dray_worker.run_until_idle()
    assert (result.state, result.ready()) == ("REPLACED", False)
    dray_worker.advance(5)
    dray_worker.run_until_idle()
    assert result.get() == 2


def test_only_a_canvas_can_take_the_place_of_a_call(shop: Shop, dray_worker: Driver) -> None:
    @shop.app.task(name="wrong", bind=True)
    def wrong(self: Task[Any, Any]) -> Any:
        raise self.replace("add")  # type: ignore[arg-type]

    result = wrong.delay()
    dray_worker.run_until_idle()
    with pytest.raises(TaskOptionError, match="takes a signature, chain, group or chord"):
        result.get()


def test_a_member_adds_another_to_its_chord(shop: Shop, dray_worker: Driver) -> None:
    @shop.app.task(name="grow", bind=True)
    def grow(self: Task[Any, Any], more: int) -> int:
        if more:
            self.add_to_chord(grow.s(more - 1))
        return 10**more

    result = chord([grow.s(3), shop.add.s(0, 0)], shop.total.s())()
    dray_worker.run_until_idle()
    assert result.get() == 1111
    alone = grow.delay(1)
    dray_worker.run_until_idle()
    with pytest.raises(TaskOptionError, match="members of a group"):
        alone.get()


def test_a_task_sends_a_canvas_of_its_own(shop: Shop, dray_worker: Driver) -> None:
    @shop.app.task(name="start")
    def start(items: list[int]) -> str:
        if not items:
            return "nothing"
        return str(chord([shop.add.s(n) for n in items], shop.total.s())().id)

    empty, full = start.delay([]), start.delay([1, 2])
    dray_worker.run_until_idle()
    assert empty.get() == "nothing"
    assert shop.app.AsyncResult(full.get()).get() == 5


# The same once more


def test_an_id_makes_a_flow_one(shop: Shop, dray_worker: Driver) -> None:
    def send() -> Any:
        return chord([shop.add.s(n) for n in range(3)], shop.total.s()).apply_async(id="import-2026-11-20")

    first, second = send(), send()
    dray_worker.run_until_idle()
    third = send()
    dray_worker.run_until_idle()
    assert first.id == second.id == third.id
    assert first.get() == third.get() == 6
    assert len(shop.ran) == 1


def test_a_chord_with_its_body_called_beside_arguments(shop: Shop, dray_worker: Driver) -> None:
    result = Chord([shop.add.s(1), shop.add.s(2)], shop.total.s()).delay(10)
    dray_worker.run_until_idle()
    assert result.get() == 23


# What has to end first


def test_a_call_begins_when_those_it_depends_on_have_ended(shop: Shop, dray_worker: Driver) -> None:
    first, second = shop.add.delay(1), shop.note.apply_async(("slow",), countdown=5)
    third = shop.note.apply_async(("third",), depends_on=[first, second.id])
    dray_worker.run_until_idle()
    assert (first.state, third.state, shop.noted) == ("SUCCESS", "PENDING", [])
    for _ in range(5):
        dray_worker.advance(2)
        dray_worker.run_until_idle()
    assert shop.noted == [("slow",), ("third",)]
    assert third.get() == "third"


def test_a_call_whose_dependency_fails_does_not_run_unless_that_is_allowed(shop: Shop, dray_worker: Driver) -> None:
    failing = shop.fail.delay()
    refused = shop.note.apply_async(("refused",), depends_on=failing)
    allowed = shop.app.send_task("note", ("allowed",), depends_on=failing, allow_failure=True)
    dray_worker.run_until_idle()
    dray_worker.advance(2)
    dray_worker.run_until_idle()
    with pytest.raises(ValueError, match="no"):
        refused.get()
    assert allowed.get() == "allowed" and shop.noted == [("allowed",)]


def test_a_call_that_depends_on_nothing_that_exists_fails(shop: Shop, dray_worker: Driver) -> None:
    result = shop.note.apply_async(("never",), depends_on="unknown")
    for _ in range(12):
        dray_worker.run_until_idle()
        dray_worker.advance(2)
    with pytest.raises(UnknownResult, match="never sent"):
        result.get()


def test_what_a_call_depends_on_is_checked_where_it_is_sent(shop: Shop) -> None:
    for wrong in ([], [5], 5.0):
        with pytest.raises((TaskOptionError, TypeError)):
            shop.note.apply_async(depends_on=wrong)  # type: ignore[arg-type]
    with pytest.raises(TaskOptionError, match="delay_many sends many"):
        shop.note.delay_many([(1,)], depends_on="x")
    with pytest.raises(TaskOptionError, match="a chain waits anyway"):
        chain(shop.add.s(1, 1), shop.note.s().set(depends_on="x"))()


def test_the_rest_of_a_failed_group_is_cancelled_if_that_is_asked_for(shop: Shop, dray_worker: Driver) -> None:
    header = group([shop.fail.s(), *(shop.note.s(n).set(countdown=5) for n in range(3))], cancel_rest=True)
    result = chord(header, shop.total.s())()
    dray_worker.run_until_idle()
    dray_worker.advance(5)
    dray_worker.run_until_idle()
    assert (shop.noted, result.state) == ([], "FAILURE")
    assert [each.state for each in result.parent] == ["FAILURE", "REVOKED", "REVOKED", "REVOKED"]


def test_a_unique_task_is_no_part_of_a_canvas(shop: Shop, dray_enqueued: Enqueued) -> None:
    unique = shop.app.task(name="unique", unique=True)(lambda x: x)
    for canvas in (chain(shop.add.s(1, 1), unique.s()), chord([unique.s(1)], shop.note.s()), group(unique.s(1))):
        with pytest.raises(TaskOptionError, match="unique is unique.*Send it by itself"):
            canvas()
    assert dray_enqueued.all() == []
