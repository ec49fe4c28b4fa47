"""Calls put together as values: what can be written, what it means, and what is refused where it is written."""

from __future__ import annotations

from typing import Any

import pytest

from dray import Chain, Chord, Dray, Group, Signature, TaskOptionError, chain, chord, group, signature


@pytest.fixture
def add(dray_app: Dray) -> Any:
    @dray_app.task(name="add")
    def add(x: int, y: int = 1) -> int:
        return x + y

    return add


@pytest.fixture
def total(dray_app: Dray) -> Any:
    @dray_app.task(name="total")
    def total(values: list[int]) -> int:
        return sum(values)

    return total


def test_a_bar_makes_a_chain_and_chains_do_not_nest(add: Any) -> None:
    one, two, three = add.s(1, 2), add.s(3), add.s(4)
    assert (one | two | three) == chain(one, two, three) == chain([one, two, three]) == (one | (two | three))
    assert (one | two).items == (one, two)


def test_a_group_in_front_of_something_is_a_chord(add: Any, total: Any) -> None:
    header = [add.s(n, n) for n in range(3)]
    assert chord(header, total.s()) == (group(header) | total.s())
    assert isinstance(chord(header), Chord) and len(chord(header).items) == 1


def test_a_stream_is_sent_by_the_app_of_what_follows_it(dray_app: Dray, total: Any) -> None:
    Dray("a-newer-one")
    assert (Group.stream(iter(())) | total.s()).app is dray_app


def test_groups_are_made_of_arguments_of_lists_and_of_generators(add: Any) -> None:
    calls = [add.s(n) for n in range(3)]
    made = group(*calls)
    assert made == group(calls) == group(call for call in calls)
    assert list(made) == calls and len(made) == 3 and made[1] == calls[1]


def test_callbacks_are_linked_to_the_canvas_itself(add: Any) -> None:
    one, callback = add.s(1), add.s(3)
    one.link(callback)
    assert one.options["link"] == [callback]
    header = group(one)
    assert header.link(callback) is header and header.callbacks == (callback,)
    assert header.on_error(callback).errbacks == (callback,)


def test_what_is_linked_to_the_whole_is_not_linked_to_its_parts(add: Any) -> None:
    one, two, callback = add.s(1), add.s(2), add.s(3)
    both = (one | two).link(callback).on_error(callback)
    assert (one.options, two.options) == ({}, {})
    assert both.items[1].options == {"link": [callback], "link_error": [callback]}
    header = group(one, two)
    whole = chord(header, add.s()).on_error(callback)
    assert header.errbacks == () and whole.items[0] != add.s()
    assert both.copy().link(callback).items[1].options["link"] == [callback] * 2
    assert both.items[1].options["link"] == [callback]


def test_a_call_that_is_linked_to_itself_makes_no_circle(dray_app: Dray, add: Any) -> None:
    one = add.s(1)
    one.link(one).link_error(one)
    assert one.options["link"] == [add.s(1)]
    assert len(one.to_step(dray_app).link) == 1 and one.to_step(dray_app).link[0].link == ()


def test_set_and_clone_return_copies(add: Any) -> None:
    one = add.s(1)
    assert one.set(countdown=3) != one and one.options == {}
    assert one.clone((2,)).args == (2, 1) and one.args == (1,)


def test_more_arguments_go_to_the_first_of_a_chain_and_to_all_of_a_group(add: Any) -> None:
    assert chain(add.s(2), add.s(3)).clone((1,)).items == (add.s(1, 2), add.s(3))
    assert group(add.s(2), add.si(3)).clone((1,)).tasks == (add.s(1, 2), add.si(3))


def test_options_go_to_what_is_sent_first_and_an_id_to_the_end(add: Any) -> None:
    made = chain(add.s(1), add.s(2)).set(countdown=5, task_id="mine")
    assert [item.options for item in made.items] == [{"countdown": 5}, {"task_id": "mine"}]
    assert [member.options for member in group(add.s(1), add.s(2)).set(queue="q").tasks] == [{"queue": "q"}] * 2


def test_an_error_callback_of_a_chain_is_set_on_each_of_its_calls(add: Any) -> None:
    made = chain(add.s(1), group(add.s(2)), add.s(3)).on_error(add.si(0))
    assert made.items[0].options["link_error"] == [add.si(0)] == made.items[2].options["link_error"]
    assert isinstance(made.items[1], Group) and made.items[1].errbacks == (add.si(0),)


def test_they_show_what_they_are(add: Any, total: Any) -> None:
    assert repr(chain(add.s(1), add.s(y=2))) == "add(1) | add(y=2)"
    assert repr(group(add.s(1), add.s(2)) | total.s()) == "group(add(1), add(2)) | total()"
    assert repr(Group.stream(add.s(n) for n in range(3))) == "group(...)"


def test_equal_canvases_have_equal_hashes(add: Any) -> None:
    assert hash(chain(add.s(1), add.s(2))) == hash(add.s(1) | add.s(2))
    assert hash(group(add.s(1))) == hash(group([add.s(1)]))


# Refused where it is written


@pytest.mark.parametrize("members", [(1,), ("add",), ([1, 2],), (lambda: 0,), (None,)])
def test_a_group_or_chain_of_what_is_no_signature_is_refused(members: tuple[Any, ...]) -> None:
    for kind in (group, chain):
        with pytest.raises(TaskOptionError, match=r"made of signatures such as add\.s"):
            kind(*members)


def test_an_empty_chain_is_refused() -> None:
    with pytest.raises(TaskOptionError, match="at least one task"):
        chain()


def test_a_chord_with_an_empty_header_is_refused(total: Any) -> None:
    for made in (lambda: chord([], total.s()), lambda: chord([]), lambda: group([]) | total.s()):
        with pytest.raises(TaskOptionError, match="empty"):
            made()


@pytest.mark.parametrize("policy", ["never", 0, 1.5, -1, True, None])
def test_an_unknown_policy_is_refused(add: Any, policy: Any) -> None:
    with pytest.raises(TaskOptionError, match="on_error is one of 'fail_fast', 'wait', 'collect', 'ignore'"):
        group(add.s(1), on_error=policy)


@pytest.mark.parametrize("option", ["task_id", "idempotency_key"])
def test_one_id_for_all_members_of_a_group_is_refused(add: Any, option: str) -> None:
    with pytest.raises(TaskOptionError, match="stands for one call"):
        group(add.s(1), add.s(2)).set(**{option: "x"})


def test_a_bar_with_something_else_is_a_type_error(add: Any) -> None:
    with pytest.raises(TypeError):
        add.s(1) | 5
    with pytest.raises(TaskOptionError, match="link takes signatures"):
        group(add.s(1)).link("notify")


def test_chunks_of_less_than_one_are_refused(add: Any) -> None:
    with pytest.raises(TaskOptionError, match="at least 1"):
        add.chunks([(1, 2)], 0)


def test_a_signature_is_a_signature_still(add: Any) -> None:
    assert signature("add", (1,), countdown=3) == Signature("add", (1,), None, {"countdown": 3})
    assert isinstance(add.s(1) | add.s(2), Chain)
