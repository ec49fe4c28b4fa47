"""Sensitive arguments: the task gets them, and nobody else gets to see them, wherever arguments are shown."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType

import pytest

from dray import ArgumentsError, DecodeError, Dray, Event, Message, Sensitive, Signature, TaskOptionError, hookimpl
from dray.arguments import EVERY, Parameters
from dray.message import Delivery, Envelope, Step, Waiting
from dray.redaction import HIDDEN, hide, redacted, visible_arguments
from dray.report import Report
from dray.testing import Driver, Enqueued
from dray_serializers.json import JsonSerializer

if TYPE_CHECKING:
    from collections.abc import Callable

    from shop.secrets import Unknown  # type: ignore[import-not-found]

SECRET = "hunter2"
Password = NewType("Password", str)


class Ears:
    """Hears all events."""

    def __init__(self) -> None:
        self.heard: list[Event] = []

    @hookimpl
    def event(self, event: Event) -> None:
        self.heard.append(event)


@pytest.fixture
def ears(dray_app: Dray) -> Ears:
    found = Ears()
    dray_app.plugins.register(found)
    return found


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG):
        yield caplog


def login(user: str, password: Annotated[str, Sensitive], *, pin: Annotated[int, Sensitive()] | None = None) -> str:
    return f"{user} is in with {len(password)} characters"


# Which arguments


def anything(*values: Any, **named: Any) -> None: ...


def pinned(pin: Annotated[int, Sensitive], /, note: str = "") -> None: ...


def listed(user: str, keys: list[Annotated[str, Sensitive]]) -> None: ...


def gathered(user: str, *keys: Annotated[str, Sensitive]) -> None: ...


def unresolved(user: str, key: Annotated[Unknown, Sensitive]) -> None: ...


@pytest.mark.parametrize(
    ("function", "named", "marks"),
    [
        (login, (), (1, "password", "pin")),
        (login, ("user",), (0, "user", 1, "password", "pin")),
        (pinned, (), (0,)),
        (listed, (), (1, "keys")),
        (gathered, (), (EVERY,)),
        (unresolved, (), (1, "key")),
        (anything, (), ()),
        (anything, ("password",), (EVERY,)),
        (lambda user, **more: None, ("password",), ("password",)),
        (print, (), ()),
    ],
)
def test_parameters_are_marked_by_annotation_and_by_name(
    function: Callable[..., Any], named: tuple[str, ...], marks: tuple[int | str, ...]
) -> None:
    assert Parameters.of(function, sensitive=named).marks == marks


def test_a_bound_task_does_not_count_itself(dray_app: Dray) -> None:
    @dray_app.task(bind=True)
    def bound(self: Any, password: Annotated[str, Sensitive]) -> None: ...

    assert bound.parameters.marks == (0, "password")


def test_the_mark_changes_nothing_in_what_the_task_gets(dray_app: Dray, dray_worker: Driver) -> None:
    assert dray_app.task(login).parameters._plan is None

    @dray_app.task
    def typed(keys: Annotated[frozenset[int], Sensitive], kind: Annotated[Literal["a"], Sensitive] = "a") -> str:
        return type(keys).__name__

    sent = typed.delay([1, 2], kind="a")  # type: ignore[arg-type]
    dray_worker.run_until_idle()
    assert sent.get() == "frozenset"


def test_options_name_parameters_that_the_task_has(dray_app: Dray) -> None:
    with pytest.raises(TaskOptionError, match="names a parameter 'pasword' that it does not have; did you mean"):
        dray_app.task(sensitive=("pasword",))(login)
    for wrong in ("password", 5, [5]):
        with pytest.raises(TaskOptionError, match=r"sensitive is a list of parameter names, \('password',\)"):
            dray_app.task(name="other", sensitive=wrong)(login)  # type: ignore[arg-type]


@pytest.mark.dray(task_annotations={"*": {"sensitive": ["user", "no_such_parameter"]}})
def test_settings_name_parameters_of_whatever_task_has_them(dray_app: Dray) -> None:
    assert dray_app.task(login).resolved.sensitive == ("no_such_parameter", 0, "user", 1, "password", "pin")


def test_hiding_is_by_position_and_by_name() -> None:
    assert hide([1, 2, 3], {"a": 1, "b": 2}, (1, "b")) == ([1, HIDDEN, 3], {"a": 1, "b": HIDDEN})
    assert hide([1, 2], {"a": 1}, (EVERY,)) == ([HIDDEN, HIDDEN], {"a": HIDDEN})
    assert hide([1], {"a": 1}, ()) == ([1], {"a": 1})


# repr


def test_repr_of_a_signature_hides_sensitive_arguments(dray_app: Dray) -> None:
    task = dray_app.task(name="login")(login)
    assert repr(task.si("me", SECRET, pin=1234)) == "login('me', '***', pin='***')"
    assert repr(task.s("me", password=SECRET)) == "login('***', password='***')"
    assert SECRET not in repr(task.s(SECRET)), "as a callback it gets an argument in front, and this is the password"
    assert SECRET not in repr(dray_app.signature("login", ("me", SECRET)))
    assert SECRET not in repr(task.s("me").set(link=task.s(SECRET)))


def test_repr_of_a_signature_asks_the_current_app(dray_app: Dray) -> None:
    dray_app.task(name="login")(login)
    assert repr(Signature("login", ("me", SECRET), immutable=True)) == "login('me', '***')"
    assert repr(Signature("no.such.task", ("me", 1))) == "no.such.task('me', 1)"


def test_repr_of_a_signature_hides_everything_where_no_app_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dray.shared._default_app", lambda: None)
    assert repr(Signature("login", ("me",), {"password": SECRET})) == "login('***', password='***')"


def test_what_travels_shows_how_much_it_carries_and_not_what() -> None:
    step = Step(task="login", payload=SECRET.encode())
    message = Message(
        id="1", task="login", args=(SECRET,), kwargs={"pin": SECRET}, payload=SECRET.encode(), link=(step,), queue="q"
    )
    assert repr(message) == (
        "Message(id='1', task='login', queue='q', link=(Step(task='login', payload=<7 not shown>),), "
        "args=<1 not shown>, kwargs=<1 not shown>, payload=<7 not shown>)"
    )
    body = SECRET.encode()
    for carrier in (
        Envelope(id="1", queue="q", body=body),
        Delivery(id="1", queue="q", body=body, receipt=7),
        Waiting(id="1", queue="q", body=body),
        Report(state="SUCCESS", call=body),
    ):
        assert "<7 not shown>" in repr(carrier) and SECRET not in repr(carrier) + repr(carrier.__rich_repr__())


def test_rich_shows_no_more_than_repr() -> None:
    rich = pytest.importorskip("rich.console")
    console = rich.Console(file=io.StringIO(), width=200)
    console.print(Message(id="1", task="login", args=(SECRET,), payload=SECRET.encode()))
    assert SECRET not in console.file.getvalue() and "login" in console.file.getvalue()


# Errors


@pytest.mark.parametrize("value", [5, ["a"], {"a": 1}, None])
def test_errors_about_a_sensitive_argument_do_not_show_it(value: Any) -> None:
    def pay(card: Annotated[Literal["hunter2"], Sensitive], amount: Literal["one"] = "one") -> None: ...

    parameters = Parameters.of(pay, name="pay")
    with pytest.raises(DecodeError) as caught:
        parameters.decode([value], {}, JsonSerializer())
    assert str(caught.value).endswith(
        "the value of 'card' does not fit: it is sensitive, and so is what is wrong with it"
    )
    with pytest.raises(DecodeError) as caught:
        parameters.decode([], {"card": "stolen"}, JsonSerializer())
    assert "stolen" not in str(caught.value)
    with pytest.raises(DecodeError, match="Invalid enum value 'two'"):
        parameters.decode(["hunter2", "two"], {}, JsonSerializer())


def test_errors_about_one_of_many_sensitive_arguments_do_not_show_it() -> None:
    def pay(*cards: Annotated[Literal["a"], Sensitive], **more: Literal["a"]) -> None: ...

    for args, kwargs in ((["a", "stolen"], {}), ([], {"x": "stolen"})):
        with pytest.raises(DecodeError) as caught:
            Parameters.of(pay).decode(args, kwargs, JsonSerializer())
        assert "stolen" not in str(caught.value)


def test_errors_about_arguments_given_wrongly_do_not_show_them(dray_app: Dray) -> None:
    task = dray_app.task(name="login")(login)
    for call in (
        lambda: task.apply_async(SECRET),
        lambda: task.apply_async(("me",), [SECRET]),  # type: ignore[arg-type]
        lambda: task.apply_async(("me", SECRET, SECRET)),
        lambda: task.apply_async(("me", SECRET), {"user": SECRET}),
        lambda: task.delay_many([SECRET]),  # type: ignore[list-item]
        lambda: dray_app.send_task("login", SECRET),
    ):
        with pytest.raises(ArgumentsError) as caught:
            call()  # type: ignore[no-untyped-call]
        assert SECRET not in str(caught.value)


# Logs, events and stored calls


def test_logs_never_show_a_sensitive_argument(
    dray_app: Dray, dray_worker: Driver, log: pytest.LogCaptureFixture
) -> None:
    @dray_app.task(name="login", autoretry_for=(KeyError,), max_retries=1, dead_letter=True)
    def refuse(user: str, password: Annotated[frozenset[int], Sensitive]) -> None:
        raise KeyError(user)

    refuse.delay("me", [4711])  # type: ignore[arg-type]
    refuse.delay("me", SECRET)  # type: ignore[arg-type]
    dray_worker.advance(600)
    said = "\n".join(record.getMessage() + (record.exc_text or "") for record in log.records)
    assert "retried" in said and "failed" in said and "rejected" in said
    assert SECRET not in said and "4711" not in said
    assert SECRET not in repr(dray_app.broker.dead("default", 10))
    assert not any(SECRET in letter.reason for letter in dray_app.broker.dead("default", 10))


def test_events_carry_messages_without_sensitive_arguments(dray_app: Dray, dray_worker: Driver, ears: Ears) -> None:
    task = dray_app.task(name="login")(login)
    sent = task.apply_async(("me", SECRET), {"pin": 1234}, link=dray_app.task(name="echo")(lambda word: word).s())
    dray_worker.run_until_idle()
    assert sent.get() == "me is in with 7 characters"
    messages = [event.message for event in ears.heard if event.message is not None]
    assert [event.type for event in ears.heard if event.message and event.message.id == sent.id] == [
        "task-sent", "task-received", "task-started", "task-succeeded"
    ]  # fmt: skip
    assert messages[0].args == ("me", HIDDEN) and messages[0].kwargs == {"pin": HIDDEN}
    for message in messages:
        assert SECRET.encode() not in message.payload and b"1234" not in message.payload
    args, kwargs, _ = dray_app.payloads.arguments(messages[0])
    assert (args, kwargs) == (["me", HIDDEN], {"pin": HIDDEN})


@pytest.mark.dray(result_extended=True)
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_stored_calls_are_without_sensitive_arguments(
    dray_app: Dray, dray_worker: Driver, compression: str | None
) -> None:
    task = dray_app.task(name="login", serializer="msgpack", compression=compression)(login)
    sent = task.delay("me", SECRET, pin=1234)
    dray_worker.run_until_idle()
    assert (sent.args, sent.kwargs) == (("me", HIDDEN), {"pin": HIDDEN})
    assert sent.get() == "me is in with 7 characters"


@pytest.mark.dray(result_extended=True)
def test_calls_without_sensitive_arguments_are_stored_as_they_were_sent(dray_app: Dray, dray_worker: Driver) -> None:
    sent = dray_app.task(name="add")(lambda x, y: x + y).delay(1, y=2)
    dray_worker.run_until_idle()
    assert (sent.args, sent.kwargs) == ((1,), {"y": 2})


def test_the_test_fixtures_do_not_show_them_either(dray_app: Dray, dray_enqueued: Enqueued) -> None:
    task = dray_app.task(name="login")(login)
    task.delay("me", SECRET)
    with pytest.raises(AssertionError) as caught:
        dray_enqueued.assert_enqueued("other")
    assert "login('me', '***')" in str(caught.value) and SECRET not in str(caught.value)


# Where the task is not known


def test_what_is_sensitive_travels_with_the_message(dray_app: Dray, dray_worker: Driver, ears: Ears) -> None:
    task = dray_app.task(name="login")(login)
    other = dray_app.task(name="other")(lambda: "me")
    other.apply_async(link=task.s(SECRET, pin=1234))
    task.delay("me", SECRET)
    del dray_app.tasks["login"]
    dray_worker.run_until_idle()
    messages = [event.message for event in ears.heard if event.message is not None and event.message.task == "login"]
    assert {message.sensitive for message in messages} == {(1, "password", "pin")}
    assert len({message.id for message in messages}) == 2
    for message in messages:
        assert SECRET.encode() not in message.payload and b"1234" not in message.payload
        assert visible_arguments(dray_app, message) in (
            {"argument 1": "me", "argument 2": HIDDEN},
            {"argument 1": "me", "argument 2": HIDDEN, "pin": HIDDEN},
        )


def test_a_task_that_knows_more_than_the_message_has_its_say(dray_app: Dray) -> None:
    sent = dray_app.payloads.encode(Message(id="1", task="login", args=("me", SECRET)), "json", None)
    assert redacted(dray_app, sent) is sent
    dray_app.task(name="login")(login)
    assert redacted(dray_app, sent).args == ("me", HIDDEN)
    assert visible_arguments(dray_app, sent) == {"user": "me", "password": HIDDEN}


def test_what_cannot_be_decoded_is_left_out(dray_app: Dray) -> None:
    dray_app.task(name="login")(login)
    seen = redacted(dray_app, Message(id="1", task="login", args=(SECRET,), payload=b"not json, hunter2"))
    assert (seen.args, seen.kwargs, seen.payload, seen.id) == ((), {}, b"", "1")
    found = visible_arguments(dray_app, Message(id="1", task="login", payload=b"not json, hunter2"))
    assert isinstance(found, str) and found.startswith("not decoded") and SECRET not in found


# Together with plugins


class Hush:
    """Redacts by name, and chokes on trouble."""

    @hookimpl
    def redact(self, arguments: dict[str, Any]) -> None:
        if arguments.get("user") == "trouble":
            raise RuntimeError
        for name in arguments.keys() & {"card", "rest", "code"}:
            arguments[name] = f"...{arguments[name][-1]}" if name == "card" else HIDDEN
        arguments.pop("gone", None)


@pytest.mark.dray(result_extended=True)
def test_what_plugins_redact_is_redacted_in_events_and_stored_calls_too(
    dray_app: Dray, dray_worker: Driver, ears: Ears
) -> None:
    dray_app.plugins.register(Hush())

    @dray_app.task(name="pay", sensitive=("pin",))
    def pay(user: str, card: str = "", gone: str = "", *rest: str, pin: str = "", **more: str) -> None: ...

    calls = [
        pay.delay("me", "4321"),
        pay.delay("me", "4321", "x", "a", "b", pin="7", code="8", other="9"),
        pay.delay("me", card="4321", gone="x"),
        pay.delay("trouble", "4321"),
    ]
    dray_worker.run_until_idle()
    assert [(sent.args, sent.kwargs) for sent in calls] == [
        (("me", "...1"), {}),
        (("me", "...1", HIDDEN, HIDDEN, HIDDEN), {"pin": HIDDEN, "code": HIDDEN, "other": "9"}),
        (("me",), {"card": "...1", "gone": HIDDEN}),
        (None, None),
    ]
    assert not any(b"4321" in event.message.payload for event in ears.heard if event.message is not None)


def test_plugins_and_marks_are_heard_where_arguments_have_no_names(dray_app: Dray) -> None:
    dray_app.plugins.register(Hush())
    sent = dray_app.payloads.encode(
        Message(id="1", task="unknown", args=("4321",), kwargs={"code": "4321", "y": 1}), "json", None
    )
    assert (redacted(dray_app, sent).args, redacted(dray_app, sent).kwargs) == ((HIDDEN,), {"code": HIDDEN, "y": 1})
    assert "unknown is not known here; say -A" in str(visible_arguments(dray_app, sent))
