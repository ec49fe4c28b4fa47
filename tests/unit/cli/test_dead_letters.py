"""`dray dead` with filters, with a rate, and `dray dead edit`: by options, in an editor, and what stays hidden."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from dray import Dray, Envelope
from dray.codec import unpack

from .conftest import CommandLine


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a task that nobody knows be buried at once."""
    monkeypatch.setenv("DRAY_TASK_UNKNOWN_GRACE", "0")


@pytest.fixture
def editor(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """`editor(code)`: $EDITOR runs this Python with the file's content as `data`; return where it notes what it saw."""

    def make(code: str) -> Path:
        seen = workdir / "seen.json"
        script = workdir / "edit.py"
        script.write_text(
            "import json, pathlib, sys\n"
            "file = pathlib.Path(sys.argv[1])\n"
            "text = file.read_text()\n"
            f"pathlib.Path({str(seen)!r}).write_text(text)\n"
            "data = json.loads(text)\n"
            f"{code}\n"
            "file.write_text(data if isinstance(data, str) else json.dumps(data) + '\\n')\n"
        )
        monkeypatch.setenv("VISUAL", f"{sys.executable} {script}")
        return seen

    return make


def waiting(shop: Dray, queue: str) -> Any:
    """Return the arguments of the one message that waits in a queue."""
    (message,) = shop.broker.peek(queue, 10)
    return shop.payloads.arguments(unpack(message.body))[:2]


# Filters


def test_letters_are_listed_by_task_reason_age_and_deliveries(run: CommandLine, letters: dict[str, str]) -> None:
    def listed(*filters: str) -> set[str]:
        return {one["id"] for one in run("dead", "list", "--json", *filters).data()["dead"]}

    assert listed() == set(letters.values())
    assert listed("--task", "shop.b*") == {letters["boom"]}
    assert listed("--reason", "MAIL is") == {letters["login"]}
    assert listed("--younger-than", "1h") == set(letters.values())
    assert listed("--older-than", "1h") == set()
    assert listed("--max-deliveries", "0") == set()


def test_what_fits_the_filters_is_replayed_or_deleted_without_saying_all(
    run: CommandLine, shop: Dray, letters: dict[str, str]
) -> None:
    assert run("dead", "replay", "--task", "shop.boom", "--rate", "1000/s").output() == "default: 1 replayed\n"
    assert run("dead", "replay", "--task", "shop.boom").output() == "No dead letters.\n"
    refused = run("dead", "purge", "--reason", "closed", input="n\n")
    assert refused.exit_code == 1 and "Delete all dead letters that fit of all queues" in refused.stderr
    assert run("dead", "purge", "--reason", "closed", "-f").output() == "mail: 1 deleted\n"


def test_ids_and_filters_together_are_refused(run: CommandLine, letters: dict[str, str]) -> None:
    assert "filter (--task, --reason ...)" in run("dead", "replay", letters["boom"], "--task", "x").usage_error()


@pytest.mark.parametrize("rate", ["0", "0/s", "fast", "10/d", "-1", "10/"])
def test_what_is_no_rate_is_refused(run: CommandLine, rate: str) -> None:
    assert f"{rate!r} is no rate; write 10/s" in run("dead", "replay", "--all", "--rate", rate).usage_error()


# What is shown


def test_a_letter_is_shown_with_headers_and_the_three_counters(run: CommandLine, shop: Dray) -> None:
    sent = shop.tasks["shop.login"].apply_async(("me", "pw"), headers={"tenant": "acme"})
    shop.worker().run_until_idle()
    (found,) = run("dead", "show", sent.id, "--json").data()["dead"]
    assert found["headers"] == {"tenant": "acme"}
    assert (found["deliveries"], found["retries"], found["releases"], found["traceback"]) == (1, 0, 0, None)
    shown = run("dead", "show", sent.id).output()
    assert 'tenant = "acme"' in shown and "releases    0" in shown


def test_a_failed_task_is_shown_with_its_traceback(run: CommandLine, letters: dict[str, str]) -> None:
    shown = run("dead", "show", letters["boom"]).output()
    assert "failed: ValueError: ('no such size', 3)" in shown
    assert 'raise ValueError("no such size", 3)' in shown
    listed = run("dead", "list", "-Q", "default").output()
    assert "ValueError" in listed and "Traceback" not in listed


# Edit


def test_a_letter_is_edited_by_options(run: CommandLine, shop: Dray, letters: dict[str, str]) -> None:
    id = letters["login"]
    assert run("dead", "edit", id, "--args", '["you"]', "--kwargs", '{"password": "x"}').output() == f"{id}\n"
    assert waiting(shop, "mail") == (["you"], {"password": "x"})
    assert shop.broker.sizes(["mail"])["mail"]["dead"] == 0
    assert shop.AsyncResult(id).state == "PENDING"


def test_a_letter_goes_to_another_queue_and_task_as_it_is(
    run: CommandLine, shop: Dray, letters: dict[str, str]
) -> None:
    edited = run("-A", "shop", "dead", "edit", letters["login"], "--queue", "slow", "--task", "shop.logni")
    assert "no task named 'shop.logni'; did you mean 'shop.login'" in edited.error(code=2)
    run("dead", "edit", letters["login"], "--queue", "slow", "--task", "shop.sign_in", "--priority", "9").output()
    (message,) = shop.broker.peek("slow", 10)
    assert (unpack(message.body).task, message.priority) == ("shop.sign_in", 9)
    assert waiting(shop, "slow") == (["me"], {"password": "hunter2", "pin": "1234"})


def test_a_letter_is_edited_in_an_editor(
    run: CommandLine, shop: Dray, letters: dict[str, str], editor: Callable[[str], Path]
) -> None:
    seen = editor("data['args'] = ['you']; data['queue'] = 'slow'")
    run("dead", "edit", letters["login"]).output()
    assert json.loads(seen.read_text()) == {
        "task": "shop.login", "queue": "mail", "priority": 0, "args": ["me"],
        "kwargs": {"password": "hunter2", "pin": "1234"},
    }  # fmt: skip
    assert waiting(shop, "slow") == (["you"], {"password": "hunter2", "pin": "1234"})


@pytest.mark.parametrize("code", ["pass", "data = text"])
def test_an_editor_that_changes_nothing_sends_nothing(
    run: CommandLine, shop: Dray, letters: dict[str, str], editor: Callable[[str], Path], code: str
) -> None:
    editor(code)
    done = run("dead", "edit", letters["login"])
    assert (done.output(), done.stderr) == ("", "Nothing is changed, and nothing sent.\n")
    assert shop.broker.sizes(["mail"])["mail"] == {"ready": 0, "delayed": 0, "leased": 0, "dead": 1}


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("data = '{'", "that is not JSON any more"),
        ("data = [1]", "the file holds an object with task, queue, priority, args, kwargs"),
        ("data['arg'] = []", "the file holds an object with task"),
        ("data['args'] = {}", "args cannot be {}"),
        ("data['priority'] = 11", "priority cannot be 11"),
        ("data['queue'] = 'two words'", "a queue is named by"),
    ],
)
def test_what_the_editor_leaves_is_checked_before_anything_is_sent(
    run: CommandLine, shop: Dray, letters: dict[str, str], editor: Callable[[str], Path], code: str, complaint: str
) -> None:
    editor(code)
    assert complaint in run("dead", "edit", letters["login"]).error(code=2)
    assert shop.broker.sizes(["mail"])["mail"]["dead"] == 1


def test_a_letter_that_is_not_there_or_cannot_be_read_is_not_edited(run: CommandLine, shop: Dray) -> None:
    assert "no dead letter nope in" in run("dead", "edit", "nope", "--queue", "slow").error(code=1)
    shop.broker.publish([Envelope(id="bad", queue="default", body=b"garbage")])
    shop.worker().run_until_idle()
    assert "not a dray message" in run("dead", "edit", "bad", "--queue", "slow").error(code=1)


SECRETS = """
from typing import Annotated, Any
from datetime import date
from dray import Dray, Reject, Sensitive

app = Dray("vault", set_as_current=False)

@app.task(serializer="msgpack")
def pay(amount: int, card: Annotated[str, Sensitive], on: date = date(2030, 1, 1), raw: bytes = b"") -> None:
    raise Reject("too much")
"""


@pytest.fixture
def vault(run: CommandLine, workdir: Path) -> Any:
    run.write("vault.py", SECRETS)
    sys.path.insert(0, str(workdir))
    app = import_module("vault").app
    yield app
    app.close()


def test_what_is_hidden_and_what_json_cannot_write_stays_as_it_was(
    run: CommandLine, vault: Dray, editor: Callable[[str], Path]
) -> None:
    sent = vault.tasks["vault.pay"].delay(900, "4111-1111", raw=b"\xff\x00")
    vault.worker().run_until_idle()
    before = vault.dead_letters.find()[0].message
    assert before is not None
    args, kwargs, _ = vault.payloads.arguments(before)
    seen = editor("data['args'][0] = 9")
    for place in ((), ("-A", "vault")):
        run(*place, "dead", "edit", sent.id).output()
        assert "4111" not in seen.read_text() and '"***"' in seen.read_text()
        assert waiting(vault, "default") == ([9, *args[1:]], kwargs)
        vault.worker().run_until_idle()
        editor("data['args'][0] = 9; data['priority'] = 5")


def test_hidden_arguments_need_not_be_known_to_give_the_others(run: CommandLine, vault: Dray) -> None:
    sent = vault.tasks["vault.pay"].delay(900, "4111-1111")
    vault.worker().run_until_idle()
    edited = run("-A", "vault", "dead", "edit", sent.id, "--args", '["***", "***"]')
    assert "*** stands for an argument that is not shown" in edited.error(code=2)
    run("-A", "vault", "dead", "edit", sent.id, "--args", '[9, "***"]').output()
    assert waiting(vault, "default") == ([9, "4111-1111"], {})
