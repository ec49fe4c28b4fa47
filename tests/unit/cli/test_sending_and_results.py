"""`dray call`, `dray result` and `dray revoke`."""

from __future__ import annotations

import time

import pytest

from dray import Dray, Record

from .conftest import CommandLine

# Sending


def test_call_prints_the_id_and_the_message_is_there(run: CommandLine, shop: Dray) -> None:
    id = run("-A", "shop", "call", "shop.add", "--args", "[1, 2]", "--priority", "7").output().strip()
    (waiting,) = shop.broker.peek("default", 10)
    assert (waiting.id, waiting.priority) == (id, 7)


def test_call_takes_an_id_a_queue_and_a_time(run: CommandLine, shop: Dray) -> None:
    options = ["-Q", "slow", "--task-id", "mine", "--countdown", "1h", "--expires", "2h"]
    assert run("call", "shop.add", "-a", "[1]", *options).output() == "mine\n"
    assert run("call", "shop.add", "-a", "[1]", "-Q", "slow", "--eta", "2050-01-01T00:00:00+00:00").output()
    first, second = sorted(shop.broker.peek("slow", 10), key=lambda one: one.delay)
    assert first.id == "mine" and 3500 < first.delay <= 3600
    assert second.delay > 1e8


def test_call_sends_by_name_what_it_cannot_import(run: CommandLine, shop: Dray) -> None:
    assert run("call", "elsewhere.tasks.paint", "--kwargs", '{"colour": "red"}').output()
    assert shop.broker.sizes(["default"])["default"]["ready"] == 1


def test_call_of_a_task_that_the_app_does_not_have_sends_nothing(run: CommandLine, shop: Dray) -> None:
    message = run("-A", "shop", "call", "shop.ad").error(code=2)
    assert "no task named 'shop.ad'; did you mean 'shop.add'?" in message and "Without -A" in message
    assert list(shop.broker.queues()) == []


def test_call_checks_the_arguments(run: CommandLine) -> None:
    assert "takes" in run("-A", "shop", "call", "shop.add", "--args", "[1, 2, 3]").error(code=2)


def test_arguments_come_from_a_file_or_from_stdin(run: CommandLine, shop: Dray) -> None:
    run.write("args.json", "[1, 2]")
    run("-A", "shop", "call", "shop.add", "--args", "@args.json").output()
    run("-A", "shop", "call", "shop.add", "--args", "-", input="[3, 4]").output()
    sent = [one["id"] for one in run("queues", "--peek", "default", "--json").data()["messages"]]
    shop.worker().run_until_idle()
    assert [shop.AsyncResult(id).get(timeout=0) for id in sent] == [3, 7]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--args", "[1, 2", "that is not JSON: "),
        ("--args", '{"x": 1}', "that is JSON, but of another kind; write a list in quotes"),
        ("--kwargs", "[1]", "that is JSON, but of another kind; write an object in quotes"),
        ("--args", "@nowhere.json", "'nowhere.json' cannot be read: No such file"),
        ("--countdown", "soon", "'soon' is not a duration; write seconds, or 30s, 5m, 1h30m"),
        ("--countdown", "-5", "'-5' is below zero"),
        ("--eta", "tomorrow", "'tomorrow' is not a time; write 2030-01-31T09:00:00+02:00"),
        ("--expires", "tomorrow", "neither a duration (30s, 5m) nor a time"),
        ("--priority", "10", "10 is not in the range 0<=x<=9"),
    ],
)
def test_what_an_option_does_not_take_is_explained(run: CommandLine, option: str, value: str, said: str) -> None:
    assert said in run("call", "shop.add", option, value).usage_error()


def test_call_waits_and_prints_the_result_as_json(run: CommandLine, shop: Dray) -> None:
    with shop.worker():
        assert run("call", "shop.add", "--args", "[1, 2]", "--wait", "--timeout", "20").data() == 3
        assert run("call", "shop.fetch", "--args", '["x"]', "--wait", "--timeout", "20").data() == "<x>"


def test_call_that_waits_for_a_task_that_fails_ends_with_1(run: CommandLine, shop: Dray) -> None:
    with shop.worker():
        result = run("call", "shop.boom", "--wait", "--timeout", "20")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "Error: FAILURE: ValueError: ('no such size', 3)"


def test_waiting_ends_in_time(run: CommandLine) -> None:
    result = run("call", "shop.add", "--args", "[1]", "--wait", "--timeout", "0.05")
    assert result.exit_code == 1
    assert "has not ended within 0.05 s; its state is PENDING" in result.stderr


def test_call_refuses_a_broker_that_ends_with_the_command(run: CommandLine) -> None:
    message = run("--url", "memory://", "call", "shop.add").error(code=2)
    assert "nothing sent" in message and "DRAY_BROKER_URL" in message


# Results


def test_results_purge_deletes_what_has_expired(run: CommandLine, shop: Dray) -> None:
    backend = shop.backend_for_reading()
    backend.store([Record(id=id, state="SUCCESS", final=True, body=b"") for id in ("old", "older")], 0.001)
    backend.store([Record(id="young", state="SUCCESS", final=True, body=b"")], 60)
    time.sleep(0.01)  # past what cannot be waited for: nobody tells when a record expires
    assert run("results", "purge").output() == "2 expired result(s) deleted\n"
    assert run("results", "purge", "--json").data() == {"purged": 0}
    assert run("results", "purge").output() == "No expired results to delete.\n"
    assert set(backend.fetch(["old", "young"])) == {"young"}


def test_results_purge_says_where_there_are_none(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAY_RESULT_BACKEND", "disabled")
    assert "keeps no results: set result_backend" in run("results", "purge").error(code=1)


def test_result_shows_state_value_and_times(run: CommandLine, shop: Dray) -> None:
    sent = shop.tasks["shop.add"].delay(2, 3)
    assert run("result", sent.id).output().split() == ["state", "PENDING"]
    shop.worker().run_until_idle()
    lines = dict(line.split(maxsplit=1) for line in run("result", sent.id).output().splitlines())
    assert (lines["state"], lines["task"], lines["result"], lines["queue"]) == ("SUCCESS", "shop.add", "5", "default")
    assert "ran for" in lines["ended"]


def test_result_of_a_failure_has_its_error_and_on_request_its_traceback(run: CommandLine, shop: Dray) -> None:
    sent = shop.tasks["shop.boom"].delay()
    shop.worker().run_until_idle()
    assert "Traceback" not in run("result", sent.id).output(code=1)
    said = run("result", sent.id, "--traceback").output(code=1)
    assert "ValueError: ('no such size', 3)" in said and "Traceback (most recent call last)" in said
    found = run("result", sent.id, "--json").data(code=1)
    assert (found["state"], found["error"], found["result"]) == ("FAILURE", "ValueError: ('no such size', 3)", None)
    assert found["traceback"].startswith("Traceback")


def test_result_waits(run: CommandLine, shop: Dray) -> None:
    sent = shop.tasks["shop.add"].delay(2, 3)
    with shop.worker():
        assert run("result", sent.id, "--wait", "--timeout", "20", "--json").data()["result"] == 5


def test_an_unknown_id_is_an_error(run: CommandLine) -> None:
    assert "neither the result backend nor the broker knows it" in run("result", "nope").error(code=1)


def test_results_that_are_not_kept_are_explained(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAY_RESULT_BACKEND", "disabled")
    assert "keeps no results" in run("result", "nope").error(code=1)


def test_revoke_cancels_what_waits_and_says_what_it_found(run: CommandLine, shop: Dray) -> None:
    sent = shop.tasks["shop.add"].delay(2, 3)
    lines = run("revoke", sent.id, "nope").output().splitlines()
    assert lines[0].startswith(f"revoked {sent.id}  (REVOKED")
    assert lines[1].startswith("revoked nope  (UNKNOWN")
    shop.worker().run_until_idle()
    assert sent.state == "REVOKED"
