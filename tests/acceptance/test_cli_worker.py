"""`dray worker` as a process: what it prints, how it stops, and with which exit code."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dray import AsyncResult, Dray
from dray.cli.exits import INTERRUPTED

from .commands import LATE, PATIENCE, Commands, Start, commands_in


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Commands]:
    """`start("-A", "shop", "worker")`: that command, in a directory with an app and a queue in a file."""
    (tmp_path / "late.py").write_text(LATE)
    with commands_in(tmp_path) as commands:
        yield commands


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Dray]:
    """Sends by name to the queue that the commands use."""
    with Dray("sender", broker=f"sqlite:///{tmp_path}/tasks.db", set_as_current=False) as app:
        yield app


def test_a_worker_says_who_it_is_and_one_line_when_a_task_begins_and_ends(start: Start, app: Dray) -> None:
    worker = start("-A", "shop", "worker", "-c", "2", "-n", "w1")
    worker.wait_for("w1 is ready")
    assert re.search(r"^ app +shop \(shop\)$", worker.output, re.M)
    assert re.search(r"^ broker +sqlite:////\S+/tasks\.db$", worker.output, re.M)
    assert re.search(r"^ pool +threads: 2 at once", worker.output, re.M)
    assert "shop.aheld  async" in worker.output
    sent = app.send_task("shop.add", (1, 2))
    worker.wait_for(f"shop.add[{sent.id}] began")
    assert re.search(r"succeeded in \d+\.\d{3}s$", worker.wait_for(f"shop.add[{sent.id}] succeeded").strip())
    assert sent.get(timeout=PATIENCE) == 3
    failed = app.send_task("shop.boom")
    assert "ValueError: no such size" in worker.wait_for(f"shop.boom[{failed.id}] failed")


@pytest.mark.parametrize("task", ["shop.held", "shop.aheld"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_running_task_finish_and_gives_back_the_rest(
    start: Start, app: Dray, tmp_path: Path, task: str, number: int
) -> None:
    gate = tmp_path / "gate"
    one: AsyncResult[str] = app.send_task(task, (str(gate),))
    worker = start("-A", "shop", "worker", "-c", "1", "--async-concurrency", "1")
    worker.wait_for(f"{one.id}] began")
    worker.send(number)
    worker.wait_for("stopping: 1 task(s) may run for another 25s; again to stop now")
    late = app.send_task("shop.add", (1, 2))
    gate.touch()
    assert worker.ended() == 0
    assert one.get(timeout=PATIENCE) == "let go"
    assert late.state == "PENDING"
    assert "Traceback" not in worker.output


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, INTERRUPTED)])
@pytest.mark.parametrize("task", ["shop.held", "shop.aheld"])
def test_a_second_signal_stops_at_once_and_the_task_is_given_back(
    start: Start, app: Dray, tmp_path: Path, task: str, number: int, code: int
) -> None:
    one = app.send_task(task, (str(tmp_path / "gate"),))
    worker = start("-A", "shop", "worker", "--shutdown-timeout", "1h")
    worker.wait_for(f"{one.id}] began")
    worker.send(number)
    worker.wait_for("stopping: 1 task(s)")
    worker.send(number)
    assert worker.ended() == code
    assert "Traceback" not in worker.output
    assert one.state == "PENDING"
    assert app.broker.sizes(["default"])["default"] == {"ready": 1, "delayed": 0, "leased": 0, "dead": 0}


def test_a_worker_gives_back_what_does_not_end_in_time(start: Start, app: Dray, tmp_path: Path) -> None:
    one = app.send_task("shop.held", (str(tmp_path / "gate"),))
    worker = start("-A", "shop", "worker", "--shutdown-timeout", "0.1")
    worker.wait_for(f"{one.id}] began")
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0
    assert f"did not end in time and are given back: shop.held[{one.id}]" in worker.output
    assert app.broker.sizes(["default"])["default"]["ready"] == 1


def test_an_idle_worker_stops_when_asked(start: Start) -> None:
    worker = start("-A", "shop", "worker")
    worker.wait_for("is ready")
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0
    assert "stopping: nothing is running" in worker.output


def test_a_burst_drains_what_is_due_and_ends_with_0(start: Start, app: Dray) -> None:
    due = [app.send_task("shop.add", (n, n)) for n in range(20)]
    failing, delayed = app.send_task("shop.boom"), app.send_task("shop.add", (1, 2), countdown=3600)
    assert start("-A", "shop", "worker", "--burst").ended() == 0
    assert [one.get(timeout=0) for one in due] == [2 * n for n in range(20)]
    assert (failing.state, delayed.state) == ("FAILURE", "PENDING")


def test_a_wrong_url_is_one_line_and_exit_code_2(start: Start) -> None:
    worker = start("-A", "shop", "--url", "sqlit:///tasks.db", "worker")
    assert worker.ended() == 2
    assert worker.output.startswith("Error: no broker called 'sqlit' is installed; did you mean 'sqlite'? Installed: ")
    assert len(worker.lines) == 1 and ", sqlite," in worker.output


def test_an_option_that_the_broker_does_not_know_is_one_line_and_exit_code_2(start: Start) -> None:
    worker = start("-A", "shop", "--url", "sqlite:///tasks.db?timeot=3", "worker")
    assert worker.ended() == 2
    assert len(worker.lines) == 1 and "did you mean 'timeout'?" in worker.output


def test_an_import_error_is_one_line_and_exit_code_2(start: Start, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("from dray import Dray\nimport nowhere_at_all\n")
    worker = start("-A", "broken", "worker")
    assert worker.ended() == 2
    assert worker.output == (
        "Error: importing 'broken' fails at broken.py:2: ModuleNotFoundError: No module named 'nowhere_at_all'\n"
    )


def test_a_worker_waits_for_a_broker_that_is_not_there_yet(start: Start, app: Dray, tmp_path: Path) -> None:
    url = f"late:///{tmp_path}/tasks.db"
    worker = start("-A", "late:app", "--url", url, "worker")
    assert "does not answer; waiting for it" in worker.wait_for("broker away")
    (tmp_path / "up").touch()
    worker.wait_for("broker there after")
    worker.wait_for("is ready")
    sent = app.send_task("shop.add", (1, 2))
    assert sent.get(timeout=PATIENCE) == 3


def test_a_worker_that_waits_for_its_broker_stops_when_asked(start: Start, tmp_path: Path) -> None:
    worker = start("-A", "late:app", "--url", f"late:///{tmp_path}/tasks.db", "worker")
    worker.wait_for("broker away")
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0


def test_a_burst_does_not_wait_for_a_broker_and_ends_with_3(start: Start, tmp_path: Path) -> None:
    worker = start("-A", "late:app", "--url", f"late:///{tmp_path}/tasks.db", "worker", "--burst")
    assert worker.ended() == 3
    assert worker.output == f"Error: late:///{tmp_path}/tasks.db does not answer\n"


def test_ctrl_c_ends_a_command_that_waits_with_130(start: Start) -> None:
    waiting = start("call", "shop.add", "--args", "[1, 2]", "--wait")
    waiting.wait_for("waiting for its end")
    waiting.send(signal.SIGINT)
    assert waiting.ended() == INTERRUPTED
    assert "Traceback" not in waiting.output


def test_a_task_that_exits_does_not_end_the_worker(start: Start, app: Dray, tmp_path: Path) -> None:
    (tmp_path / "rude.py").write_text(
        "from shop import app\n@app.task\ndef leave() -> None:\n    raise SystemExit(3)\n"
    )
    sent, after = app.send_task("rude.leave"), app.send_task("shop.add", (1, 2))
    assert start("-A", "shop", "worker", "--burst", "-I", "rude").ended() == 0
    assert (sent.state, after.state) == ("FAILURE", "SUCCESS")
