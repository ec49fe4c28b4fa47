"""`dray plugins`, `dray settings` and `dray doctor`; and commands that plugins bring."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dray import Dray, Envelope

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
    assert {"FEATURE", "MEMORY", "SQLITE"} <= set(run("plugins", "brokers").output().splitlines()[0].split())


def test_brokers_that_cannot_be_used_or_compared_are_named_below_the_table(run: CommandLine) -> None:
    run.plugin(
        "family",
        "from dray import hookimpl\n@hookimpl\ndef register_brokers(register):\n"
        "    register('many+', 'dray_brokers.memory:MemoryBroker')\n"
        "    for scheme in ('odd', 'odds'):\n        register(scheme, 'nowhere:Broker')",
    )
    page = run("plugins", "brokers")
    assert "many+...: that depends on what follows; connect to one with --url" in page.output().splitlines()
    assert "MANY+" not in page.stdout
    (broken,) = page.stderr.splitlines()
    assert broken.startswith("odd: broker 'odd' of plugin family") and "no module 'nowhere'" in broken


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
        "plugins", "broker", "queue", "results", "record", "store", "change"
    ]  # fmt: skip
    assert "emulated" not in {row["how"] for row in found["support"]}
    assert list(shop.broker.queues()) == []
    page = run("doctor").output()
    assert "a message went in and came out again" in page and "a record was put, read and deleted" in page
    assert "power cut" in page and "All checks pass." in page
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


PICKY = """
from dray import hookimpl
from dray_brokers.memory import MemoryBroker
from dray_backends.memory import MemoryBackend
from dray_backends.memory_store import MemoryStore
class Picky(MemoryBroker):
    def setup(self, queues): return [f"queue {name} created" for name in queues]
    def advice(self, queues): return [f"{len(queues)} queues: a thought about me:s3cret@host", "another"]
class Kept(MemoryBackend):
    def setup(self): return ["table records created"]
    def advice(self): return ["a thought about results"]
class Changed(MemoryStore):
    def setup(self): return ["table changes created"]
    def advice(self): return ["a thought about workflows", "a thought about results"]
@hookimpl
def register_brokers(register):
    register("picky", Picky)
@hookimpl
def register_backends(register):
    register("picky", Kept)
@hookimpl
def register_stores(register):
    register("picky", Changed)
"""


def test_setup_tells_what_it_has_created(run: CommandLine) -> None:
    run.plugin("picky", PICKY)
    assert run("-A", "shop", "--url", "picky://", "setup").output().splitlines() == [
        "queue default created", "queue mail created", "queue dray.doctor created", "table records created",
        "table changes created",
    ]  # fmt: skip
    assert run("--url", "picky://", "setup", "-Q", "a,b", "--json").data() == {
        "made": {
            "broker": ["queue a created", "queue b created", "queue dray.doctor created"],
            "results": ["table records created"],
            "store": ["table changes created"],
        }
    }


def test_setup_says_when_there_was_nothing_to_do(run: CommandLine) -> None:
    run("setup").output()
    assert run("setup").output() == "Everything was there already.\n"


def test_doctor_passes_on_what_broker_backend_and_store_advise_and_says_it_once(run: CommandLine) -> None:
    run.plugin("picky", PICKY)
    advice = run("--url", "picky://", "doctor", "--json").data()["advice"]
    assert [line for line in advice if "thought" in line or "another" in line] == [
        "1 queues: a thought about me:s3cret@host", "another", "a thought about results", "a thought about workflows"
    ]  # fmt: skip
    assert "- another\n" in run("--url", "picky://", "doctor").output()


def test_doctor_takes_its_own_message_and_leaves_those_of_other_doctors(run: CommandLine, shop: Dray) -> None:
    now = f"{time.time():.0f}"
    others = [f"doctor-{now}-other", "doctor-1000-forgotten", "stray"]
    shop.broker.publish([Envelope(id=id, queue="dray.doctor", body=b"") for id in others])
    assert run("doctor", "--json").data()["ok"]
    assert [one.id for one in shop.broker.peek("dray.doctor", 9)] == [others[0]]


def test_doctor_finds_a_declared_queue_that_the_broker_cannot_have(
    run: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRAY_TASK_QUEUES", '[{"name": "news", "broadcast": true}]')
    found = run("doctor", "--json").data(code=1)
    (broken,) = [check for check in found["checks"] if not check["ok"]]
    assert broken["name"] == "broker" and "'news' is a broadcast queue" in broken["detail"]
    assert "'news' is a broadcast queue" in run("-A", "shop", "worker", "--burst").error(code=1)


def test_one_broker_is_shown_as_it_is_once_connected(run: CommandLine) -> None:
    assert run("--url", "memory://", "plugins", "brokers").output().splitlines()[0].split() == [
        "FEATURE", "HOW", "WHAT", "THAT", "MEANS"
    ]  # fmt: skip
    found = run("--url", "memory://", "plugins", "brokers", "--json").data()
    assert found["url"] == "memory://"
    assert {"feature", "how", "note"} == set(found["support"][0])


def test_several_schemes_of_one_broker_share_a_column(run: CommandLine) -> None:
    run.plugin(
        "twice",
        "from dray import hookimpl\nfrom dray_brokers.memory import MemoryBroker\nclass Two(MemoryBroker): ...\n"
        "@hookimpl\ndef register_brokers(register):\n    register('twos', Two)\n    register('two', Two)",
    )
    page = run("plugins", "brokers").output()
    assert "TWO" in page.splitlines()[0].split() and "TWOS" not in page
    assert "two: also twos" in page
    assert set(run("plugins", "brokers", "--json").data()["brokers"]) >= {"two", "twos"}


def test_what_cannot_be_reached_is_exit_code_3(run: CommandLine) -> None:
    run.plugin("away", AWAY)
    url = "away://me:s3cret@host"
    assert run("--url", url, "queues").error(code=3) == "away://me:***@host does not answer"
    assert "away://me:***@host does not answer" in run("--url", url, "doctor").output(code=3)
    assert run("-A", "shop", "--url", url, "worker", "--burst").error(code=3)
