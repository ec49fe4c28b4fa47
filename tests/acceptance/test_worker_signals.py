"""What signals make of a `dray worker`: cold stop, restart with new code, stacks, pause, resize."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dray import Dray
from dray.testing.faults import wait_until

from .commands import PATIENCE, SHOP, Commands, Process, commands_in

ONE_READY = {"ready": 1, "delayed": 0, "leased": 0, "dead": 0}


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    with commands_in(tmp_path) as made:
        yield made


@pytest.fixture
def app(commands: Commands) -> Iterator[Dray]:
    """Sends by name to the queue that the commands use."""
    with Dray("sender", broker=commands.url, result_backend=commands.url, set_as_current=False) as app:
        yield app


@pytest.fixture
def worker(commands: Commands) -> Process:
    made = commands("-A", "shop", "worker", "-n", "w1", "-c", "2")
    made.wait_for("w1 is ready")
    return made


@pytest.mark.parametrize("task", ["shop.held", "shop.aheld"])
def test_sigquit_gives_everything_back_at_once(worker: Process, app: Dray, tmp_path: Path, task: str) -> None:
    one = app.send_task(task, (str(tmp_path / "gate"),))
    worker.wait_for(f"{one.id}] began")
    worker.send(signal.SIGQUIT)
    assert worker.ended() == 128 + signal.SIGQUIT
    assert "stopping: 1 task(s) are given back" in worker.output
    assert app.broker.sizes(["default"])["default"] == ONE_READY
    assert app.broker.peek("default", 1)[0].delivery_count == 0
    assert "Traceback" not in worker.output


def test_sighup_restarts_with_new_code_in_the_same_process_and_loses_nothing(
    worker: Process, app: Dray, commands: Commands, tmp_path: Path
) -> None:
    one = app.send_task("shop.held", (str(tmp_path / "gate"),))
    worker.wait_for(f"{one.id}] began")
    (tmp_path / "shop.py").write_text(SHOP.replace("return x + y", "return x * y"))
    worker.send(signal.SIGHUP)
    worker.wait_for("restarting: 1 task(s) may run for another 25s")
    late = app.send_task("shop.add", (4, 5))
    (tmp_path / "gate").touch()
    worker.wait_for("w1 is ready", times=2)
    assert one.get(timeout=PATIENCE) == "let go"
    assert late.get(timeout=PATIENCE) == 20
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0


def test_sighup_keeps_the_old_worker_when_the_new_code_is_broken(worker: Process, app: Dray, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP + "\nimport nowhere_at_all\n")
    worker.send(signal.SIGHUP)
    said = worker.wait_for("NOT restarted")
    assert "importing 'shop' fails at shop.py" in said and "No module named 'nowhere_at_all'" in said
    assert app.send_task("shop.add", (4, 5)).get(timeout=PATIENCE) == 9
    # Mended, it is restarted by the next one.
    (tmp_path / "shop.py").write_text(SHOP)
    worker.send(signal.SIGHUP)
    worker.wait_for("w1 is ready", times=2)


def test_a_stop_that_comes_during_a_restart_is_a_stop(worker: Process, app: Dray, tmp_path: Path) -> None:
    one = app.send_task("shop.held", (str(tmp_path / "gate"),))
    worker.wait_for(f"{one.id}] began")
    worker.send(signal.SIGHUP)
    worker.wait_for("restarting: 1 task(s)")
    worker.send(signal.SIGTERM)
    (tmp_path / "gate").touch()
    assert worker.ended() == 0
    assert one.get(timeout=PATIENCE) == "let go"
    assert worker.output.count("w1 is ready") == 1


def test_children_of_the_time_before_a_restart_are_waited_for(worker: Process, app: Dray, commands: Commands) -> None:
    (commands.folder / "shop.py").write_text(
        SHOP + "\nimport subprocess\nkept = []\n"
        "@app.task\ndef leave():\n    kept.append(subprocess.Popen(['sleep', '0.5']))\n    return kept[-1].pid\n"
    )
    worker.send(signal.SIGHUP)
    worker.wait_for("w1 is ready", times=2)
    pid = app.send_task("shop.leave").get(timeout=PATIENCE)
    worker.send(signal.SIGHUP)
    worker.wait_for("w1 is ready", times=3)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), PATIENCE)
    assert worker.alive


def test_a_restart_keeps_the_directory_in_which_the_command_was_given(commands: Commands, app: Dray) -> None:
    (commands.folder / "inner").mkdir()
    (commands.folder / "shop.py").rename(commands.folder / "inner" / "shop.py")
    worker = commands("worker", "-A", "shop", "--workdir", "inner")
    worker.wait_for("is ready")
    worker.send(signal.SIGHUP)
    worker.wait_for("is ready", times=2)
    assert app.send_task("shop.add", (1, 2)).get(timeout=PATIENCE) == 3


def test_sigusr1_logs_what_every_thread_and_coroutine_is_doing(worker: Process, app: Dray, tmp_path: Path) -> None:
    gate = (str(tmp_path / "gate"),)
    one, two = app.send_task("shop.held", gate), app.send_task("shop.aheld", gate)
    for sent in (one, two):
        worker.wait_for(f"{sent.id}] began")

    def shown() -> bool:
        # A task begins a moment before its code does; the next look finds it there.
        worker.send(signal.SIGUSR1)
        text = worker.output
        thread = rf"shop\.held\[{one.id}\] in thread dray-thread-\d\n( .*\n)*.*shop\.py.*in held"
        coroutine = rf"shop\.aheld\[{two.id}\]\n( .*\n)*.*shop\.py.*in aheld"
        return bool(re.search(thread, text) and re.search(coroutine, text) and "thread dray-keeper" in text)

    wait_until(shown, PATIENCE, look=0.3)
    assert "stacks, 2 task(s) running" in worker.output
    # Nothing was stopped by that.
    (tmp_path / "gate").touch()
    assert (one.get(timeout=PATIENCE), two.get(timeout=PATIENCE)) == ("let go", "let go")


def test_sigtstp_pauses_and_sigcont_goes_on(worker: Process, app: Dray) -> None:
    assert app.send_task("shop.add", (1, 1)).get(timeout=PATIENCE) == 2
    worker.send(signal.SIGTSTP)
    worker.wait_for(f"paused: nothing new is taken in; SIGCONT (kill -CONT {worker.pid}) ends that")
    quiet = threading.Event()
    for _ in range(5):
        waits = app.send_task("shop.add", (2, 2))
        quiet.wait(1.0)
        if app.broker.sizes(["default"])["default"] == ONE_READY:
            break
        # A look that had begun before brought it; that it does once.
        assert waits.get(timeout=PATIENCE) == 4
    else:
        pytest.fail("it goes on taking in tasks")
    worker.send(signal.SIGTSTP)
    worker.wait_for("paused", times=2)
    worker.send(signal.SIGCONT)
    worker.wait_for("resumed")
    assert waits.get(timeout=PATIENCE) == 4
    # A paused worker stops like any other.
    worker.send(signal.SIGTSTP)
    worker.wait_for("paused", times=3)
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0


def test_sigttin_and_sigttou_change_how_many_run_at_once(worker: Process, app: Dray, tmp_path: Path) -> None:
    worker.send(signal.SIGTTIN)
    worker.wait_for("resized: 3 `def` task(s) at once from now on")
    held = [app.send_task("shop.held", (str(tmp_path / "gate"),)) for _ in range(3)]
    for sent in held:
        worker.wait_for(f"{sent.id}] began")
    for left in (2, 1):
        worker.send(signal.SIGTTOU)
        worker.wait_for(f"resized: {left} `def` task(s) at once from now on")
    worker.send(signal.SIGTTOU)
    worker.wait_for("runs at least 1 task at a time; asked for 0")
    (tmp_path / "gate").touch()
    assert [sent.get(timeout=PATIENCE) for sent in held] == ["let go"] * 3


def test_under_nohup_a_hangup_is_ignored(commands: Commands) -> None:
    worker = commands("-A", "shop", "worker", before=["nohup"])
    worker.wait_for("is ready")
    worker.send(signal.SIGHUP)
    worker.send(signal.SIGUSR1)
    worker.wait_for("thread MainThread")
    assert "SIGHUP" not in worker.output
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0


def test_a_worker_whose_terminal_is_closed_stops(commands: Commands) -> None:
    log = commands.folder / "w.log"
    ours, theirs = os.openpty()
    on_a_terminal = "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])"
    worker = subprocess.Popen(
        [sys.executable, "-c", on_a_terminal, sys.executable, "-m", "dray", "-A", "shop", "worker", "-f", str(log)],
        cwd=commands.folder,
        env=commands.env,
        stdin=theirs,
    )
    os.close(theirs)
    commands.ended_with_this(worker.pid)
    wait_until(lambda: log.exists() and "is ready" in log.read_text(), timeout=PATIENCE)
    os.close(ours)
    assert worker.wait(PATIENCE) == 0
    assert "stopping: nothing is running" in log.read_text() and "restarting" not in log.read_text()
