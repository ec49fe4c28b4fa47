"""How a worker's process is found to be, and what the heartbeat file and `dray healthcheck` make of that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dray import Dray
from dray.cli.process import heartbeat
from dray.cli.process.heartbeat import Heartbeat, HeartbeatFile, examine, judge
from dray.cli.process.vitals import HUNG_AFTER, HUNG_AWAY_AFTER, Vitals
from dray.clock import ManualClock
from dray.testing.memory import memory_app
from dray.worker import Pulse, Worker

from .conftest import CommandLine


class Patient(Worker):
    """A worker whose threads are what the test says."""

    def __init__(self, app: Dray) -> None:
        super().__init__(app, name="w1")
        now = app.clock.monotonic()
        self.now = Pulse(source=now, keeper=now, away_since=None)

    def pulse(self) -> Pulse:
        return self.now

    def set(self, **changes: Any) -> None:
        self.now = self.now._replace(**changes)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def patient(clock: ManualClock) -> Patient:
    return Patient(memory_app(clock))


@pytest.fixture
def vitals(patient: Patient, tmp_path: Path) -> Vitals:
    made = Vitals(patient, HeartbeatFile(str(tmp_path / "beat")))
    made.become(heartbeat.RUNNING)
    return made


def test_a_worker_that_comes_round_runs(vitals: Vitals) -> None:
    assert vitals.state() == (heartbeat.RUNNING, "")


@pytest.mark.parametrize("thread", ["source", "keeper"])
def test_a_thread_that_does_not_come_round_hangs(
    vitals: Vitals, patient: Patient, clock: ManualClock, thread: str
) -> None:
    clock.advance(HUNG_AFTER + 1)
    patient.set(**{name: clock.monotonic() for name in ("source", "keeper") if name != thread})
    assert vitals.state() == (heartbeat.HUNG, f"its {thread} thread has not come round for 1m 1s")


def test_a_broker_that_is_away_is_no_hanging_until_connecting_takes_very_long(
    vitals: Vitals, patient: Patient, clock: ManualClock
) -> None:
    patient.set(away_since=clock.monotonic())
    clock.advance(HUNG_AFTER + 1)
    assert vitals.state() == (heartbeat.BROKER_AWAY, "the broker has been away for 1m 1s")
    clock.advance(HUNG_AWAY_AFTER)
    assert vitals.state()[0] == heartbeat.HUNG


def test_a_source_that_has_ended_while_the_worker_stops_hangs_no_more(
    vitals: Vitals, patient: Patient, clock: ManualClock
) -> None:
    vitals.become(heartbeat.STOPPING)
    clock.advance(HUNG_AFTER + 1)
    patient.set(keeper=clock.monotonic())
    assert vitals.state() == (heartbeat.STOPPING, "")


def test_the_watchdog_is_fed_while_the_worker_is_well_and_no_longer(
    vitals: Vitals, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[str] = []
    monkeypatch.setattr(vitals.systemd, "alive", lambda: fed.append("fed"))
    vitals.look()
    assert fed == ["fed"]
    clock.advance(HUNG_AFTER + 1)
    vitals.look()
    assert fed == ["fed"]


def test_systemd_is_asked_for_patience_while_the_broker_is_waited_for(
    vitals: Vitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(vitals.systemd, "starting", asked.append)
    vitals.become(heartbeat.STARTING, "waits for its broker")
    vitals.look()
    assert len(asked) == 1


def test_the_file_says_how_the_worker_is(vitals: Vitals, tmp_path: Path) -> None:
    vitals.look()
    said = json.loads((tmp_path / "beat").read_text())
    assert (said["pid"], said["name"], said["state"], said["running"]) == (os.getpid(), "w1", "running", 0)
    assert abs(said["time"] - time.time()) < 60
    assert os.listdir(tmp_path) == ["beat"]


def test_a_change_is_written_at_once_and_nothing_else_is(vitals: Vitals, tmp_path: Path) -> None:
    vitals.look()
    (tmp_path / "beat").unlink()
    vitals.look()
    assert not (tmp_path / "beat").exists()
    vitals.become(heartbeat.STOPPED)
    vitals.look()
    assert json.loads((tmp_path / "beat").read_text())["state"] == "stopped"


def test_a_file_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = HeartbeatFile(str(tmp_path / "nowhere" / "beat"))
    for _ in range(3):
        file.write(beat())
    assert [record.getMessage() for record in caplog.records] == [
        f"the heartbeat file {tmp_path}/nowhere/beat cannot be written: No such file or directory"
    ]


# What a heartbeat means


def beat(state: str = heartbeat.RUNNING, time: float = 1000.0, reason: str = "") -> Heartbeat:
    return Heartbeat(7, "w1", state, since=900.0, time=time, running=3, taken=9, reason=reason)


@pytest.mark.parametrize(
    ("state", "alive", "ready"),
    [
        (heartbeat.STARTING, True, False),
        (heartbeat.RUNNING, True, True),
        (heartbeat.PAUSED, True, False),
        (heartbeat.BROKER_AWAY, True, False),
        (heartbeat.STOPPING, True, False),
        (heartbeat.RESTARTING, True, False),
        (heartbeat.HUNG, False, False),
        (heartbeat.STOPPED, False, False),
    ],
)
def test_who_is_alive_and_who_takes_in_work(state: str, alive: bool, ready: bool) -> None:
    health = judge(beat(state), 30, now=1001.0)
    assert (health.alive, health.ready) == (alive, ready)


def test_a_worker_says_for_how_long_it_has_been_what_it_is() -> None:
    assert judge(beat(), 30, 1001.0).reason == "w1 (process 7): running for 101s, 3 task(s) running"
    away = judge(beat(heartbeat.BROKER_AWAY, reason="the broker has been away for 2m"), 30, 1001.0)
    assert away.reason == "w1 (process 7): broker-away for 101s, the broker has been away for 2m"


@pytest.mark.parametrize(("now", "said"), [(1031.0, "is 31s old"), (960.0, "is from the future (40s)")])
def test_a_heartbeat_of_another_time_is_none(now: float, said: str) -> None:
    health = judge(beat(), 30, now)
    assert not health.alive and said in health.reason and "at most 30s" in health.reason


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": 1}', "\x00", '{"time": "x"}'])
def test_another_file_is_no_heartbeat(tmp_path: Path, text: str) -> None:
    path = tmp_path / "beat"
    path.write_text(text)
    assert examine(str(path)).reason == f"{path} is not a heartbeat file"


# dray healthcheck


def test_a_healthy_worker_ends_the_check_with_0(run: CommandLine, workdir: Path) -> None:
    HeartbeatFile("beat").write(beat(time=time.time()))
    assert "w1 (process 7): running" in run("healthcheck", "--heartbeat-file", "beat").output()
    facts = run("healthcheck", "--heartbeat-file", "beat", "--ready", "--json").data()
    assert (facts["ok"], facts["alive"], facts["ready"], facts["heartbeat"]["pid"]) == (True, True, True, 7)


def test_readiness_is_asked_for(run: CommandLine, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAY_WORKER_HEARTBEAT_FILE", "beat")
    HeartbeatFile("beat").write(beat(heartbeat.PAUSED, time=time.time()))
    run("healthcheck").output()
    refused = run("healthcheck", "--ready")
    assert refused.exit_code == 1
    assert refused.stderr.startswith("not ready: w1 (process 7): paused")


def test_a_dead_worker_ends_the_check_with_1(run: CommandLine, workdir: Path) -> None:
    gone = run("healthcheck", "--heartbeat-file", "%h.beat")
    assert gone.exit_code == 1
    assert "no worker has been started with that heartbeat file" in gone.stderr
    HeartbeatFile("beat").write(beat(time=time.time() - 20))
    assert run("healthcheck", "--heartbeat-file", "beat").exit_code == 0
    assert run("healthcheck", "--heartbeat-file", "beat", "--max-age", "10").exit_code == 1
    assert run("healthcheck", "--heartbeat-file", "beat", "--max-age", "10", "--json").data(code=1)["ok"] is False


def test_a_check_of_no_worker_says_how_to_name_one(run: CommandLine) -> None:
    assert run("healthcheck").usage_error().startswith("which worker? Name the file that it writes: --heartbeat-file")


def test_the_settings_name_the_file_too(run: CommandLine, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workdir / "dray.toml").write_text('worker_heartbeat_file = "beat"\n')
    monkeypatch.delenv("DRAY_CONFIG")
    HeartbeatFile("beat").write(beat(time=time.time()))
    assert "w1" in run("healthcheck").output()


def test_a_check_imports_neither_the_engine_nor_an_adapter(workdir: Path) -> None:
    HeartbeatFile("beat").write(beat(time=time.time()))
    code = (
        "import sys\nfrom dray.cli import cli\n"
        "try: cli(['healthcheck', '--heartbeat-file', 'beat'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print([name for name in ('msgspec', 'pluggy', 'dray.app', 'dray.worker', 'sqlite3') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
