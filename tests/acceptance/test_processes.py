"""`dray worker --pool processes`, killed in parts and as a whole: who is gone, who goes on, what is said."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from dray.testing.faults import wait_until

from .conftest import LONG_LEASE, Crew, WorkerProcess

METHODS = ["forkserver", "spawn", "fork"]
#: Seconds in which a child has to be replaced, and in which none may be left when its worker was killed.
SOON = 2.0


class PooledWorker(WorkerProcess):
    app = "pooled_shop"


def pool(crew: Crew, *arguments: str, method: str = "forkserver") -> WorkerProcess:
    environment = {**crew.environment, "DRAY_WORKER_START_METHOD": method, "DRAY_WORKER_LEASE": LONG_LEASE}
    log = crew.folder / f"pool{len(crew._workers)}.log"
    made = PooledWorker(["-l", "info", "--pool", "processes", "-c", "2", *arguments], environment, log)
    crew._workers.append(made)
    made.wait_until_ready()
    return made


def send(crew: Crew, task: str, *args: object) -> str:
    return crew.app.send_task(f"pooled_shop.{task}", args).id


def process_of(crew: Crew, id: str, but: int = 0) -> int:
    """Wait for a task to begin - in another process than `but` - and return the process that runs it."""

    def processes() -> list[int]:
        runs = [name.partition("@") for name in crew.ledger.runs()]
        return [int(pid) for whose, _, pid in runs if whose == id and pid and int(pid) != but]

    wait_until(processes)
    return processes()[0]


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def below(pid: int) -> set[int]:
    """Return all processes that a process has made, and those that these have made."""
    makers = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            makers[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, last = {pid}, set[int]()
    while found != last:
        last = found
        found = last | {child for child, maker in makers.items() if maker in last}
    return found - {pid}


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_child_is_replaced_at_once_and_its_sibling_untouched(crew: Crew, method: str) -> None:
    worker = pool(crew, method=method)
    hit, other = send(crew, "hold_on", 3.0), send(crew, "hold_on", 3.0)
    victim, sibling = process_of(crew, hit), process_of(crew, other)
    os.kill(victim, signal.SIGKILL)
    again = process_of(crew, hit, but=victim)
    assert again != sibling and is_there(sibling)
    crew.wait_until_done(20)
    runs = crew.ledger.runs()
    assert (runs[hit], runs[other], runs[f"{other}/end"]) == (2, 1, 1)
    assert worker.said("killed by signal 9 (SIGKILL)") == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", ["hold_on", "keep_the_interpreter"])
def test_when_the_worker_is_killed_nothing_of_it_runs_on(crew: Crew, task: str, method: str) -> None:
    worker = pool(crew, method=method)
    orphan = process_of(crew, send(crew, task, 20))
    children = below(worker.pid)
    assert orphan in children
    worker.kill()
    wait_until(lambda: not any(is_there(child) for child in children), SOON)


def test_a_signal_to_all_processes_lets_tasks_end(crew: Crew) -> None:
    """As systemd and container runtimes stop a service."""
    worker = pool(crew)
    id = send(crew, "hold_on", 2.0)
    process_of(crew, id)
    for pid in [worker.pid, *below(worker.pid)]:
        os.kill(pid, signal.SIGTERM)
    assert worker.ended() == 0
    assert crew.ledger.runs()[f"{id}/end"] == 1
    assert crew.states([id]) == {"SUCCESS"}


def test_a_worker_that_is_told_twice_gives_back_what_runs(crew: Crew) -> None:
    worker = pool(crew)
    id = send(crew, "hold_on", 20.0)
    child = process_of(crew, id)
    worker.send(signal.SIGINT)
    wait_until(lambda: worker.said("again to stop now"))
    worker.send(signal.SIGINT)
    assert worker.ended(10) == 130
    assert not is_there(child)
    assert crew.sizes()["ready"] == 1
    (waiting,) = crew.app.broker.peek("default", 10)
    assert waiting.delivery_count == 0


def test_children_close_what_they_have_opened_when_the_worker_stops(crew: Crew) -> None:
    worker = pool(crew)
    wait_until(lambda: len(ready(worker)) == 2)
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0
    assert sum(name.startswith("closed@") for name in crew.ledger.runs()) == 2


def test_what_tasks_print_and_log_comes_out_of_the_worker(crew: Crew) -> None:
    worker = pool(crew)
    send(crew, "speak")
    crew.wait_until_done(20)
    assert worker.said("printed by a task") == 1
    assert worker.said("WARNING shop: logged by a task") == 1
    assert worker.said("dray.task: pooled_shop.speak[") == 2


def test_a_worker_whose_app_breaks_in_its_processes_says_so_and_ends(crew: Crew) -> None:
    home = crew.folder / "home"
    home.mkdir()
    (home / "broken_shop.py").write_text(
        "import multiprocessing\n"
        "from dray import Dray\n"
        "app = Dray('broken_shop')\n"
        "if multiprocessing.parent_process() is not None:\n"
        "    raise RuntimeError('no licence for a second process')\n"
    )

    class Broken(WorkerProcess):
        app = "broken_shop"

    Broken.home = home
    worker = Broken(["--pool", "processes"], crew.environment, crew.folder / "broken.log")
    crew._workers.append(worker)
    assert worker.ended() != 0
    assert worker.said("no licence for a second process") >= 1
    assert worker.said("is ready") == 0


def ready(worker: WorkerProcess) -> set[int]:
    """Return the processes below a worker that lead a group of their own, as those do that run tasks."""
    leaders = set()
    for pid in below(worker.pid):
        try:
            if os.getpgid(pid) == pid:
                leaders.add(pid)
        except ProcessLookupError:
            continue
    return leaders
