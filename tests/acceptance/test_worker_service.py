"""`dray worker` as a service: in the background, with a pidfile, as another user, as PID 1, under systemd, watched."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dray import Dray
from dray.testing.faults import wait_until

from .commands import LATE, PATIENCE, SHOP, Commands, commands_in

#: Tasks that leave processes behind, and look for those that nobody has waited for.
ORPHANS = """
import contextlib, os, subprocess
from shop import app

@app.task
def leave() -> int:
    # The shell ends at once; whatever it has started is nobody's child then.
    return subprocess.run(["sh", "-c", "sleep 0.1 & sleep 0.1 & exit 7"]).returncode

@app.task
def zombies() -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.append(open(f"/proc/{pid}/stat").read())
    return [stat for stat in found if ") Z " in stat]

@app.task
def family() -> list[int]:
    return [os.getpid(), os.getppid()]
"""


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    with commands_in(tmp_path) as made:
        yield made


@pytest.fixture
def app(commands: Commands) -> Iterator[Dray]:
    """Sends by name to the queue that the commands use."""
    with Dray("sender", broker=commands.url, result_backend=commands.url, set_as_current=False) as app:
        yield app


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


# In the background


def test_a_detached_worker_lets_its_caller_go_when_it_is_ready(commands: Commands, app: Dray) -> None:
    folder = commands.folder
    caller = commands(
        "-A",
        "shop",
        "worker",
        "-n",
        "w1@%h",
        "--detach",
        "--pidfile",
        "%n.pid",
        "--logfile",
        "%n.log",
        "--umask",
        "027",
    )
    assert caller.ended() == 0
    pid = commands.ended_with_this(int((folder / "w1.pid").read_text()))
    assert pid != caller.pid and alive(pid)
    log = folder / "w1.log"
    assert "is ready" in log.read_text() and log.stat().st_mode & 0o777 == 0o640
    assert "dray.worker" not in caller.output
    assert app.send_task("shop.add", (1, 2)).get(timeout=PATIENCE) == 3
    # It has a session of its own, and nothing of the caller's terminal.
    assert os.getsid(pid) != os.getsid(0) and os.readlink(f"/proc/{pid}/fd/2") == str(log)
    second = commands("-A", "shop", "worker", "-n", "w1", "--pidfile", "%n.pid")
    assert second.ended() == 4
    assert second.output == f"Error: a worker with the pidfile {folder}/w1.pid is running already: process {pid}\n"
    # Restarted, it is the same process, still in the background.
    os.kill(pid, signal.SIGHUP)
    wait_until(lambda: log.read_text().count("is ready") == 2, PATIENCE)
    assert (folder / "w1.pid").read_text() == f"{pid}\n" and os.readlink(f"/proc/{pid}/fd/2") == str(log)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not alive(pid), PATIENCE)
    assert not (folder / "w1.pid").exists()


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["-A", "nowhere", "worker"], 2, "Error: no module 'nowhere'"),
        (["-A", "shop", "--url", "sqlit:///x", "worker"], 2, "Error: no broker called 'sqlit'"),
        (["-A", "shop", "worker", "--autoscale", "3,10"], 2, "Error: worker_autoscale is MAX,MIN"),
        (["-A", "late:app", "worker", "--burst", "--url", "late:///tasks.db"], 3, "does not answer"),
        (["-A", "nowhere", "scheduler"], 2, "Error: no module 'nowhere'"),
        (["-A", "shop", "scheduler", "--uid", "nobody-of-that-name"], 2, "there is no such user"),
    ],
)
def test_a_detached_process_that_cannot_start_tells_its_caller(
    commands: Commands, args: list[str], code: int, said: str
) -> None:
    (commands.folder / "late.py").write_text(LATE)
    caller = commands(*args, "--detach", "--logfile", "w.log", "--pidfile", "w.pid")
    assert caller.ended() == code
    assert said in caller.output and "Traceback" not in caller.output
    wait_until(lambda: not (commands.folder / "w.pid").exists())


def test_a_detached_worker_whose_broker_is_away_has_started(commands: Commands, app: Dray) -> None:
    (commands.folder / "late.py").write_text(LATE)
    url = f"late:///{commands.folder}/tasks.db"
    caller = commands("-A", "late:app", "--url", url, "worker", "--detach", "--logfile", "w.log", "--pidfile", "w.pid")
    assert caller.ended() == 0
    commands.ended_with_this(int((commands.folder / "w.pid").read_text()))
    assert "does not answer; waiting for it" in (commands.folder / "w.log").read_text()
    (commands.folder / "up").touch()
    assert app.send_task("shop.add", (1, 2)).get(timeout=PATIENCE) == 3


def test_a_detached_worker_that_dies_while_it_starts_is_no_success(commands: Commands) -> None:
    (commands.folder / "deadly.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    caller = commands("-A", "deadly", "worker", "--detach", "--logfile", "w.log", "--pidfile", "w.pid")
    assert caller.ended() == 1
    # What it left behind keeps nobody from starting.
    assert commands("-A", "shop", "worker", "--burst", "--pidfile", "w.pid").ended() == 0


def test_a_detached_worker_does_not_hold_what_its_caller_prints_to(commands: Commands) -> None:
    caller = commands("-A", "shop", "worker", "--detach", "--pidfile", "w.pid", "-l", "info")
    assert caller.ended() == 0
    commands.ended_with_this(int((commands.folder / "w.pid").read_text()))
    # `ended` has read the caller's stderr to its end: nobody else has it open any more.
    assert "it logs nowhere: --logfile PATH" in caller.output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can join another group")
def test_root_joins_the_group_asked_for_before_the_app_is_imported(commands: Commands, app: Dray) -> None:
    (commands.folder / "who.py").write_text(
        "import os\nfrom shop import app\nimported_by = os.getgid(), os.getgroups()\n"
        "@app.task\ndef who():\n    return [*imported_by, os.getegid()]\n"
    )
    worker = commands("-A", "who", "worker", "--gid", "daemon", "--pidfile", "w.pid")
    for times in (1, 2):
        worker.wait_for("is ready", times)
        assert app.send_task("who.who").get(timeout=PATIENCE) == [1, [1], 1]
        worker.send(signal.SIGHUP)
    worker.wait_for("is ready", times=3)
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0


# As PID 1


def test_as_pid_1_nothing_stays_a_zombie_and_exit_codes_reach_who_waits_for_them(commands: Commands, app: Dray) -> None:
    (commands.folder / "orphans.py").write_text(ORPHANS)
    container = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    worker = commands("-A", "orphans", "worker", before=container)
    worker.wait_for("is ready")
    assert app.send_task("orphans.family").get(timeout=PATIENCE)[1] == 1
    codes = [app.send_task("orphans.leave") for _ in range(5)]
    assert [sent.get(timeout=PATIENCE) for sent in codes] == [7] * 5
    wait_until(lambda: app.send_task("orphans.zombies").get(timeout=PATIENCE) == [], PATIENCE, look=0.2)
    # Signals have no default action there; these reach the worker.
    (one,) = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    os.kill(int(one), signal.SIGHUP)
    worker.wait_for("is ready", times=2)
    os.kill(int(one), signal.SIGTERM)
    assert worker.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_pid_1_ends_at_once_when_it_is_told_so_while_the_app_is_imported(commands: Commands, number: int) -> None:
    (commands.folder / "sluggish.py").write_text(
        "import sys, time\nprint('importing', file=sys.stderr)\ntime.sleep(600)\n"
    )
    worker = commands("-A", "sluggish", "worker", before=["unshare", "--pid", "--fork", "--kill-child"])
    worker.wait_for("importing")
    (one,) = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    os.kill(int(one), number)
    assert worker.ended() == 128 + number


# Under systemd


class Systemd:
    """A socket that stands for systemd's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.heard: list[str] = []

    def wait_for(self, word: str, times: int = 1) -> None:
        deadline = time.monotonic() + PATIENCE
        while sum(1 for heard in self.heard if heard.startswith(word)) < times:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            self.heard.append(self._socket.recv(4096).decode())

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(tmp_path / "notify")
    yield made
    made.close()


def test_systemd_hears_of_start_reload_life_and_end(commands: Commands, systemd: Systemd) -> None:
    worker = commands("-A", "shop", "worker", NOTIFY_SOCKET=str(systemd.path), WATCHDOG_USEC="900000")
    systemd.wait_for("READY=1")
    systemd.wait_for("WATCHDOG=1", times=3)
    systemd.wait_for("STATUS=running; 0 running")
    worker.send(signal.SIGHUP)
    systemd.wait_for("RELOADING=1\nMONOTONIC_USEC=")
    systemd.wait_for("READY=1", times=2)
    systemd.wait_for("WATCHDOG=1", times=len(systemd.heard))
    worker.send(signal.SIGTERM)
    systemd.wait_for("STOPPING=1")
    assert worker.ended() == 0
    words = [heard.partition("=")[0] for heard in systemd.heard]
    assert words.index("READY") < words.index("RELOADING") < words.index("STOPPING")


def test_systemd_is_not_told_of_a_reload_that_does_not_happen(commands: Commands, systemd: Systemd) -> None:
    worker = commands("-A", "shop", "worker", NOTIFY_SOCKET=str(systemd.path))
    systemd.wait_for("READY=1")
    (commands.folder / "shop.py").write_text("def x(:\n")
    worker.send(signal.SIGHUP)
    worker.wait_for("NOT restarted")
    worker.send(signal.SIGTERM)
    systemd.wait_for("STOPPING=1")
    assert not [heard for heard in systemd.heard if heard.startswith("RELOADING")]


# The heartbeat


def test_the_heartbeat_follows_the_worker_through_its_life(commands: Commands, app: Dray, tmp_path: Path) -> None:
    file = commands.folder / "beat"

    def state() -> str:
        return str(json.loads(file.read_text())["state"]) if file.exists() else ""

    worker = commands("-A", "shop", "worker", "-n", "w1", "--heartbeat-file", "beat")
    wait_until(lambda: state() == "running", PATIENCE)
    assert commands("healthcheck", "--heartbeat-file", "beat", "--ready").ended() == 0
    worker.send(signal.SIGTSTP)
    wait_until(lambda: state() == "paused", PATIENCE)
    assert commands("healthcheck", "--heartbeat-file", "beat").ended() == 0
    assert commands("healthcheck", "--heartbeat-file", "beat", "--ready").ended() == 1
    worker.send(signal.SIGCONT)
    one = app.send_task("shop.held", (str(tmp_path / "gate"),))
    worker.wait_for(f"{one.id}] began")
    worker.send(signal.SIGTERM)
    wait_until(lambda: state() == "stopping", PATIENCE)
    (tmp_path / "gate").touch()
    assert worker.ended() == 0
    assert state() == "stopped"
    assert commands("healthcheck", "--heartbeat-file", "beat").ended() == 1


def test_a_worker_that_was_killed_is_found_dead(commands: Commands) -> None:
    worker = commands("-A", "shop", "worker", DRAY_WORKER_HEARTBEAT_FILE="%n.beat", DRAY_WORKER_NAME="w1@%h")
    wait_until(lambda: (commands.folder / "w1.beat").exists(), PATIENCE)
    worker.send(signal.SIGKILL)
    worker.ended()
    check = ("healthcheck", "--heartbeat-file", "w1.beat", "--max-age", "0.01")
    wait_until(lambda: commands(*check).ended() == 1, PATIENCE, look=0.2)


# Ends by itself


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--max-tasks", "3", "messages were taken (--max-tasks)"),
        ("--max-idle", "0.5", "nothing to do for 500 ms (--max-idle)"),
        ("--max-run-time", "0.5", "500 ms are over (--max-run-time)"),
    ],
)
def test_a_worker_ends_by_itself_at_a_limit(commands: Commands, app: Dray, option: str, value: str, said: str) -> None:
    sent = [app.send_task("shop.add", (n, n)) for n in range(3)]
    worker = commands("-A", "shop", "worker", option, value)
    assert worker.ended() == 0
    assert said in worker.output
    assert [one.get(timeout=PATIENCE) for one in sent] == [0, 2, 4]


# Watched


def test_a_watched_worker_starts_anew_when_its_code_changes(commands: Commands, app: Dray) -> None:
    shop = commands.folder / "shop.py"
    worker = commands("-A", "shop", "worker", "--watch")
    worker.wait_for("is ready")
    shop.write_text(SHOP.replace("return x + y", "return x * y"))
    assert worker.wait_for("watch:") == "watch: shop.py changed: restarting\n"
    worker.wait_for("is ready", times=2)
    assert app.send_task("shop.add", (4, 5)).get(timeout=PATIENCE) == 20
    # A mistake is said, and the worker goes on.
    shop.write_text(SHOP + "\ndef x(:\n")
    assert "with a mistake: shop.py:" in worker.wait_for("waiting for the next change")
    assert app.send_task("shop.add", (4, 5)).get(timeout=PATIENCE) == 20
    # What only importing finds ends the worker; the next change starts one.
    shop.write_text(SHOP + "\n1 / 0\n")
    worker.wait_for("ZeroDivisionError")
    worker.wait_for("the worker cannot start; waiting for a change")
    shop.write_text(SHOP)
    worker.wait_for("is ready", times=3)
    assert app.send_task("shop.add", (4, 5)).get(timeout=PATIENCE) == 9
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0


def test_a_watched_worker_that_crashes_is_started_again_with_growing_pauses(commands: Commands) -> None:
    (commands.folder / "crash.py").write_text("import os\nos._exit(7)\n")
    worker = commands("-A", "crash", "worker", "--watch")
    worker.wait_for("the worker has ended with 7; the next one starts in 1s, or at a change")
    worker.wait_for("the worker has ended with 7; the next one starts in 2s, or at a change")
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0


def test_a_watched_worker_does_not_survive_who_watches_it(commands: Commands, app: Dray) -> None:
    (commands.folder / "orphans.py").write_text(ORPHANS)
    watching = commands("-A", "orphans", "worker", "--watch")
    watching.wait_for("is ready")
    pid, parent = app.send_task("orphans.family").get(timeout=PATIENCE)
    assert parent == watching.pid
    commands.ended_with_this(pid)
    watching.send(signal.SIGKILL)
    wait_until(lambda: not alive(pid), PATIENCE)
    watching.ended()
    assert f"process {parent}, which looked after this worker, is gone: stopping" in watching.output


def test_signals_pass_through_to_a_watched_worker(commands: Commands, app: Dray, tmp_path: Path) -> None:
    worker = commands("-A", "shop", "worker", "--watch", "shop.py", "--shutdown-timeout", "1h")
    worker.wait_for("is ready")
    one = app.send_task("shop.held", (str(tmp_path / "gate"),))
    worker.wait_for(f"{one.id}] began")
    worker.send(signal.SIGUSR1)
    worker.wait_for("thread MainThread")
    worker.send(signal.SIGTERM)
    worker.wait_for("stopping: 1 task(s) may run for another 1h; again to stop now")
    worker.send(signal.SIGTERM)
    assert worker.ended() == 128 + signal.SIGTERM
