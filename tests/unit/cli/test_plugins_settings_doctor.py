"""`dray plugins`, `dray settings` and `dray doctor`; and commands that plugins bring."""

from __future__ import annotations

from pathlib import Path

import pytest

from dray import Dray

from .conftest import CommandLine

# Plugins of others


COMMAND = """
import click
from dray import hookimpl
@click.command()
@click.pass_obj
def greet(session):
    click.echo(f"hello from {session.app.name}")
@hookimpl
def register_commands(register):
    register("greet", "greeter:greet")
"""


def test_a_plugin_brings_a_command(run: CommandLine) -> None:
    run.plugin("greeter", COMMAND)
    assert run("-A", "shop", "greet").output() == "hello from shop\n"


def test_a_plugin_is_left_out_by_name(run: CommandLine) -> None:
    run.plugin("greeter", COMMAND)
    assert "there is no command 'greet'" in run("--no-plugin", "greeter", "greet").usage_error()
    found = run("plugins", "--json", "--no-plugin", "acme-greeter").data()["plugins"]
    assert [(one["state"], one["reason"]) for one in found if one["name"] == "greeter"] == [
        ("disabled", "named in disabled_plugins (--no-plugin)")
    ]


def test_leaving_out_what_is_not_there_is_an_error(run: CommandLine) -> None:
    run.plugin("greeter", COMMAND)
    message = run("--no-plugin", "greter", "plugins").error(code=2)
    assert "no such plugin is installed; did you mean 'greeter'? Installed: greeter." in message
    assert "part of dray" in run("--no-plugin", "dray_brokers", "plugins").error(code=2)


def test_plugins_shows_kinds_names_and_why_one_is_left_out(run: CommandLine) -> None:
    run.plugin("broken", "import nowhere_at_all")
    lines = run("plugins").output().splitlines()
    assert lines[0].split() == ["KIND", "NAME", "PLUGIN", "DISTRIBUTION", "VERSION", "STATE", "REASON"]
    assert any(line.split()[:6] == ["broker", "sqlite", "dray_brokers", "dray", "0.1.0", "loaded"] for line in lines)
    (broken,) = [line for line in lines if "broken" in line]
    assert broken.split()[:6] == ["plugin", "broken", "broken", "acme-broken", "1.2", "failed"]
    assert "cannot be imported: ModuleNotFoundError: No module named 'nowhere_at_all'" in broken


def test_plugins_lists_hooks(run: CommandLine) -> None:
    run.plugin("watcher", "from dray import hookimpl\n@hookimpl\ndef event(event): ...")
    (one,) = [one for one in run("plugins", "--json").data()["plugins"] if one["name"] == "watcher"]
    assert one["hooks"] == ["event"]
    assert "hook" in run("plugins").output()


def test_brokers_are_compared(run: CommandLine) -> None:
    found = run("plugins", "brokers", "--json").data()["brokers"]
    assert found["memory"]["shared between processes"] == "refused"
    assert found["sqlite"]["shared between processes"] == "native"
    assert run("plugins", "brokers").output().split()[:3] == ["FEATURE", "MEMORY", "SQLITE"]


def test_a_new_plugin_is_written(run: CommandLine, workdir: Path) -> None:
    said = run("plugins", "new", "broker", "acme", "--dir", "plugins").output()
    assert (workdir / "plugins" / "dray-acme" / "dray_acme.py").exists()
    assert "dray --url acme:// doctor" in said
    assert "is there already" in run("plugins", "new", "broker", "acme", "--dir", "plugins").error(code=2)


# Settings


def test_settings_say_where_they_come_from(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAY_WORKER_LEASE", "1m")
    found = {one["name"]: one for one in run("settings", "--json").data()["settings"]}
    assert found["worker_lease"]["value"] == "60.0"
    assert found["worker_lease"]["origin"] == "DRAY_WORKER_LEASE (environment)"
    assert found["worker_pool"]["origin"] == "default"
    changed = run("settings", "--changed").output()
    assert "worker_lease" in changed and "worker_pool" not in changed


def test_settings_are_found_by_a_part_of_their_name(run: CommandLine) -> None:
    names = [one["name"] for one in run("settings", "serializer", "--json").data()["settings"]]
    assert names == ["task_serializer", "result_serializer"]
    assert run("settings", "WORKER-LEASE").output().startswith("setting       worker_lease\n")
    assert "did you mean 'worker_pool'" in run("settings", "worker_pol_").error(code=1)


def test_passwords_are_masked_in_settings(run: CommandLine) -> None:
    url = "redis://me:s3cret@host/0?token=abc"
    for args in (("settings",), ("settings", "broker_url"), ("settings", "--json"), ("settings", "--changed")):
        assert "s3cret" not in run("--url", url, *args).output() and "abc" not in run("--url", url, *args).output()


# Doctor


def test_doctor_checks_broker_and_results_and_leaves_nothing_behind(run: CommandLine, shop: Dray) -> None:
    found = run("doctor", "--json").data()
    assert found["ok"] and [check["name"] for check in found["checks"]] == [
        "plugins", "broker", "queue", "results", "record"
    ]  # fmt: skip
    assert {row["how"] for row in found["support"]} == {"native"}
    assert list(shop.broker.queues()) == []
    page = run("doctor").output()
    assert "a message went in and came out again" in page and "All is well." in page
    assert "dead letters" in page


def test_doctor_advises(run: CommandLine, monkeypatch: pytest.MonkeyPatch, letters: dict[str, str]) -> None:
    assert any(
        "There are dead letters, 1 in default, 1 in mail" in line for line in run("doctor", "--json").data()["advice"]
    )
    monkeypatch.setenv("DRAY_RESULT_BACKEND", "disabled")
    monkeypatch.setenv("DRAY_ACCEPT_CONTENT", "json,pickle")
    advice = run("--url", "memory://", "doctor", "--json").data()["advice"]
    assert [line.split(":")[0].split(" is ")[0] for line in advice] == [
        "memory", "Results are not kept, so nobody learns how a task ended. To keep them, set DRAY_RESULT_BACKEND.",
        "accept_content names 'pickle'",
    ]  # fmt: skip


def test_doctor_hears_plugins_and_ends_with_1_when_one_is_not_well(run: CommandLine) -> None:
    run.plugin(
        "nurse",
        "from dray import hookimpl\n@hookimpl\ndef health(report):\n"
        "    report['disk'] = {'ok': False, 'detail': 'full'}\n    report['sun'] = True\n    report['moon'] = 'waxing'",
    )
    page = run("doctor").output(code=1)
    assert "FAIL  disk" in page and "ok    sun" in page and "waxing" in page
    assert "Not well: disk" in page


def test_doctor_ends_with_1_when_a_plugin_is_broken(run: CommandLine) -> None:
    run.plugin("broken", "import nowhere_at_all")
    assert "FAIL  plugins  broken (acme-broken) cannot be imported" in run("doctor").output(code=1)


AWAY = """
from dray import Broker, BrokerUnavailable, hookimpl
class Away(Broker):
    def open(self): raise BrokerUnavailable(f"{self.url} does not answer")
    def close(self): ...
    def publish(self, envelopes): ...
    def consumer(self, queues, lease): ...
@hookimpl
def register_brokers(register):
    register("away", Away)
"""


def test_what_cannot_be_reached_is_exit_code_3(run: CommandLine) -> None:
    run.plugin("away", AWAY)
    url = "away://me:s3cret@host"
    assert run("--url", url, "queues").error(code=3) == "away://me:***@host does not answer"
    assert "away://me:***@host does not answer" in run("--url", url, "doctor").output(code=3)
    assert run("-A", "shop", "--url", url, "worker", "--burst").error(code=3)
