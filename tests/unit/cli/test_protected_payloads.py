"""The command line and what is not for everybody: sealed messages are opened with the keys, secrets stay hidden."""

from __future__ import annotations

import pytest

from dray import Dray, Envelope

from .conftest import CommandLine

SHOP = """
from typing import Annotated
from dray import Dray, Reject, Sensitive

app = Dray("shop", set_as_current=False)

@app.task
def login(user: str, password: Annotated[str, Sensitive]) -> None:
    raise Reject("closed")
"""
SECRET = "correct horse battery staple, forty of them"


@pytest.fixture
def run(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    run.write("shop.py", SHOP)
    monkeypatch.setenv("SHOP_KEY", SECRET)
    monkeypatch.setenv("DRAY_MESSAGE_SECURITY", "aes-gcm")
    monkeypatch.setenv("DRAY_MESSAGE_KEYS", '{"2026-11": "env:SHOP_KEY"}')
    return run


def test_sealed_messages_are_listed_with_what_is_in_them(run: CommandLine, shop: Dray) -> None:
    sent = shop.tasks["shop.login"].delay("me", "hunter2")
    for shown in (run("queues", "--peek", "default").output(), run("queues", "--peek", "default", "--json").output()):
        assert sent.id in shown and "shop.login" in shown and "hunter2" not in shown
    shop.worker().run_until_idle()
    assert "shop.login" in run("dead", "list").output()
    assert run("result", sent.id, "--json").data(1)["state"] == "REJECTED"


def test_sensitive_arguments_of_dead_letters_are_hidden_with_the_task_at_hand_and_without(
    run: CommandLine, shop: Dray
) -> None:
    sent = shop.tasks["shop.login"].delay("me", "hunter2")
    shop.worker().run_until_idle()
    for place in ((), ("-A", "shop")):
        shown = run(*place, "dead", "show", sent.id).output()
        assert '= "me"' in shown and '= "***"' in shown and "hunter2" not in shown
    (found,) = run("-A", "shop", "dead", "show", sent.id, "--json").data()["dead"]
    assert found["arguments"] == {"user": "me", "password": "***"}


def test_what_is_not_sealed_is_shown_as_unreadable(run: CommandLine, shop: Dray) -> None:
    shop.broker.publish([Envelope(id="forged", queue="default", body=b"\xd7D1\x00")])
    assert "(unreadable)" in run("queues", "--peek", "default").output()


def test_a_missing_key_is_an_error_that_names_it(run: CommandLine, shop: Dray, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.tasks["shop.login"].delay("me", "hunter2")
    monkeypatch.delenv("SHOP_KEY")
    assert "the environment variable SHOP_KEY is not set" in run("queues", "--peek", "default").stderr


def test_keys_are_shown_by_where_they_are_and_never_themselves(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "{'2026-11': 'env:SHOP_KEY'}" in run("settings", "message_keys").output()
    monkeypatch.setenv("DRAY_MESSAGE_KEYS", f'{{"2026-11": "{SECRET}"}}')
    for shown in (run("settings", "message_keys"), run("settings", "message_keys", "--json"), run("settings")):
        assert "***" in shown.output() and "horse" not in shown.output()
