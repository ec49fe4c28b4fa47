"""`dray queues`, `dray purge` and `dray dead`: counts, contents without arguments, moving and deleting."""

from __future__ import annotations

import json

import pytest

from dray import Dray, Envelope

from .conftest import CommandLine

# Queues


def test_queues_shows_what_waits_where(run: CommandLine, shop: Dray) -> None:
    assert "holds anything" in run("queues").output()
    shop.tasks["shop.add"].delay(1)
    shop.tasks["shop.login"].apply_async(("me", "pw"), countdown=60)
    assert [line.split() for line in run("queues").output().splitlines()] == [
        ["QUEUE", "READY", "DELAYED", "LEASED", "DEAD"],
        ["default", "1", "0", "0", "0"],
        ["mail", "0", "1", "0", "0"],
    ]
    assert run("queues", "--json").data()["queues"][1] == {
        "queue": "mail", "ready": 0, "delayed": 1, "leased": 0, "dead": 0, "declared": None
    }  # fmt: skip


def test_peek_lists_messages_and_never_their_arguments(run: CommandLine, shop: Dray) -> None:
    sent = shop.tasks["shop.login"].apply_async(("me", "hunter2"), countdown=60)
    for shown in (run("queues", "--peek", "mail").output(), run("queues", "--peek", "mail", "--json").output()):
        assert sent.id in shown and "shop.login" in shown
        assert "due in" in shown or '"state": "delayed"' in shown
        assert "hunter2" not in shown
    assert "did you mean 'mail'?" in run("queues", "--peek", "mial").output()


def test_what_cannot_be_read_is_shown_as_that(run: CommandLine, shop: Dray) -> None:
    shop.broker.publish([Envelope(id="bad\x1b[31m", queue="default", body=b"\x00garbage")])
    shown = run("queues", "--peek", "default").output()
    assert "(unreadable)" in shown
    assert "\x1b" not in shown and r"bad\x1b[31m" in shown


def test_declared_queues_are_shown_with_what_they_get(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = [
        "default",
        {"name": "video", "exchange": "media", "type": "topic", "routing_key": "media.#"},
        {"name": "copies", "exchange": "all", "type": "fanout"},
    ]
    monkeypatch.setenv("DRAY_TASK_QUEUES", json.dumps(declared))
    run("call", "shop.add", "-a", "[1]", "--routing-key", "media.hd", "--exchange", "media", "--key", "me").output()
    assert [line.split() for line in run("queues").output().splitlines()] == [
        ["QUEUE", "READY", "DELAYED", "LEASED", "DEAD", "GETS"],
        ["copies", "0", "0", "0", "0", "fanout", "all"],
        ["default", "0", "0", "0", "0"],
        ["video", "1", "0", "0", "0", "topic", "media", "media.#"],
    ]
    copies, default, video = (one["declared"] for one in run("queues", "--json").data()["queues"])
    assert (default["exchange"], copies["type"]) == ("", "fanout")
    assert video == {
        "exchange": "media", "type": "topic", "routing_key": "media.#", "broadcast": False, "arguments": {}
    }  # fmt: skip
    message = run("call", "shop.add", "-a", "[1]", "--exchange", "media").error(code=2)
    assert "no queue is bound to the exchange 'media' with the routing key ''" in message


def test_purge_asks_with_the_counts(run: CommandLine, shop: Dray) -> None:
    shop.tasks["shop.add"].delay_many((n,) for n in range(3))
    refused = run("purge", "-Q", "default", input="n\n")
    assert refused.exit_code == 1 and "3 in default" in refused.stderr
    assert shop.broker.sizes(["default"])["default"]["ready"] == 3
    assert run("purge", "-Q", "default", input="y\n").output() == "default: 3 message(s) deleted\n"
    assert shop.broker.sizes(["default"])["default"]["ready"] == 0


def test_purge_by_force_does_not_ask(run: CommandLine, shop: Dray) -> None:
    shop.tasks["shop.add"].delay(1)
    assert run("purge", "-Q", "default,mail", "-f", "--json").data() == {"purged": {"default": 1, "mail": 0}}


def test_purge_of_nothing_does_not_ask_either(run: CommandLine) -> None:
    assert "Nothing waits in default." in run("purge", "-Q", "default").stderr


# Dead letters


def test_dead_letters_are_listed_with_their_reasons(run: CommandLine, letters: dict[str, str]) -> None:
    lines = run("dead", "list").output().splitlines()
    assert lines[0].split() == ["ID", "QUEUE", "TASK", "AGE", "REASON"]
    assert any(letters["login"] in line and "mail is closed" in line for line in lines)
    only = run("dead", "list", "-Q", "default", "--json").data()["dead"]
    assert [(one["id"], one["task"], one["deliveries"]) for one in only] == [(letters["boom"], "shop.boom", 1)]


def test_no_dead_letters_are_said_to_be_none(run: CommandLine) -> None:
    assert run("dead", "list").output() == "No dead letters.\n"


def test_a_dead_letter_is_shown_with_its_arguments_by_name(run: CommandLine, letters: dict[str, str]) -> None:
    shown = run("-A", "shop", "dead", "show", letters["login"]).output()
    assert "mail is closed" in shown and 'user = "me"' in shown and 'pin = "1234"' in shown
    assert "deliveries  1" in shown and "of them arguments (application/json)" in shown
    (found,) = run("dead", "show", letters["login"], "--json").data()["dead"]
    assert found["arguments"] == {"argument 1": "me", "password": "hunter2", "pin": "1234"}


REDACT = """
from dray import hookimpl
@hookimpl
def redact(arguments):
    if arguments.get("user") == "trouble":
        raise RuntimeError
    for name in arguments.keys() & {"user", "password", "pin"}:
        arguments[name] = "***"
"""


@pytest.fixture
def hushed(run: CommandLine) -> None:
    """The plugin above, installed before any app has looked for plugins."""
    run.plugin("hush", REDACT)


def test_what_a_plugin_redacts_is_not_shown(run: CommandLine, hushed: None, letters: dict[str, str]) -> None:
    (found,) = run("-A", "shop", "dead", "show", letters["login"], "--json").data()["dead"]
    assert found["arguments"] == {"user": "***", "password": "***", "pin": "***"}
    assert "hunter2" not in run("-A", "shop", "dead", "show", letters["login"]).output()


def test_where_redacting_fails_no_arguments_are_shown(run: CommandLine, hushed: None, shop: Dray) -> None:
    sent = shop.tasks["shop.login"].delay("trouble", password="hunter2")
    shop.worker().run_until_idle()
    shown = run("-A", "shop", "dead", "show", sent.id).output()
    assert "hunter2" not in shown and "not shown: a plugin that redacts arguments has failed" in shown


def test_where_arguments_have_no_names_nothing_is_shown_that_might_be_redacted(
    run: CommandLine, hushed: None, letters: dict[str, str]
) -> None:
    shown = run("dead", "show", letters["login"]).output()
    assert "hunter2" not in shown and "say -A" in shown


def test_replaying_makes_a_dead_letter_pending_again(run: CommandLine, shop: Dray, letters: dict[str, str]) -> None:
    boom = letters["boom"]
    assert shop.AsyncResult(boom).state == "FAILURE"
    assert run("dead", "replay", boom).output() == "default: 1 replayed\n"
    assert shop.AsyncResult(boom).state == "PENDING"
    shop.worker().run_until_idle()
    assert shop.AsyncResult(boom).state == "FAILURE"


def test_all_dead_letters_are_replayed_each_once(run: CommandLine, shop: Dray, letters: dict[str, str]) -> None:
    assert run("dead", "replay", "--all", "--json").data() == {"replayed": {"default": 1, "mail": 1}}
    assert shop.broker.sizes(["default", "mail"])["mail"] == {"ready": 1, "delayed": 0, "leased": 0, "dead": 0}


def test_replay_wants_to_know_which(run: CommandLine, letters: dict[str, str]) -> None:
    assert "or say --all" in run("dead", "replay").usage_error()
    assert "or say --all" in run("dead", "replay", "--all", letters["boom"]).usage_error()


def test_a_dead_letter_that_is_not_there_is_an_error_and_nothing_is_moved(
    run: CommandLine, shop: Dray, letters: dict[str, str]
) -> None:
    assert "no dead letter nope in default, mail" in run("dead", "replay", letters["boom"], "nope").error(code=1)
    assert shop.broker.sizes(["default"])["default"]["dead"] == 1


def test_dead_letters_are_deleted_after_asking(run: CommandLine, shop: Dray, letters: dict[str, str]) -> None:
    assert run("dead", "purge", "--all", input="n\n").exit_code == 1
    assert run("dead", "purge", "--all", "-Q", "mail", input="y\n").output() == "mail: 1 deleted\n"
    assert run("dead", "purge", letters["boom"], "--force").output() == "default: 1 deleted\n"
    assert shop.broker.sizes(["default", "mail"])["mail"]["dead"] == 0
