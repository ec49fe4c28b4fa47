"""Real `dray scheduler` processes, killed and frozen in the middle of a tick: none is lost, and none runs twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dray import Dray
from dray.testing.faults import ExecutionLedger, wait_until

HERE = Path(__file__).parent
#: Of each place: the fixture that has the server, the URL of broker and results, and that of the store.
PLACES: dict[str, tuple[str, Callable[[Any], str], Callable[[Any], str | None]]] = {
    "sqlite": ("tmp_path", lambda folder: f"sqlite:///{folder}/queue.db", lambda folder: None),
    "redis": ("redis_server", lambda server: server.url, lambda server: server.url),
    "postgresql": ("postgres_server", lambda server: server.url, lambda server: server.url),
}


class Site:
    """Processes of `dray` on one app."""

    def __init__(self, folder: Path, url: str, store: str | None) -> None:
        self.folder = folder
        self.ledger = ExecutionLedger(folder / "ledger.txt")
        settings = {
            "broker_url": url,
            "result_backend": url,
            "task_default_queue": f"planned-{uuid4().hex[:8]}",
            **({"store_url": store} if store else {}),
        }
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DRAY_", "PLANNED_"))},
            **{f"DRAY_{name.upper()}": value for name, value in settings.items()},
            "PLANNED_LEDGER": str(self.ledger.path),
            "DRAY_CONFIG": "",
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str, trouble: str = "") -> subprocess.Popen[bytes]:
        log = self.folder / f"{len(self.processes)}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "dray", "-A", "planned_shop", *words, "-l", "info"],
                cwd=HERE,
                env={**self.environment, "PLANNED_TROUBLE": trouble},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)
        wait_until(lambda: "is ready" in log.read_text() or process.poll() is not None, timeout=40)
        assert "is ready" in log.read_text(), log.read_text()
        return process

    def said(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def ticks(self, name: str) -> list[float]:
        """Return the instants for which `name` has run, in order."""
        due = [id.partition("@")[2] for id in self.ledger.runs() if id.startswith(name)]
        return sorted(datetime.fromisoformat(each).timestamp() for each in due)

    def more_ticks(self, number: int) -> None:
        """Wait until so many more have run."""
        seen = len(self.ticks("tick"))
        wait_until(lambda: len(self.ticks("tick")) >= seen + number, timeout=60, look=0.05)

    def wait_until_all_have_run(self) -> None:
        with Dray("reader", set_as_current=False, broker=self.environment["DRAY_BROKER_URL"]) as app:
            queue = self.environment["DRAY_TASK_DEFAULT_QUEUE"]
            try:
                # Longer than a lease: on a machine that stands still meanwhile, that is what brings a message back.
                wait_until(lambda: not any(app.broker.sizes([queue])[queue].values()), timeout=75, look=0.05)
            except AssertionError:
                left = [*app.broker.peek(queue, 10), *app.broker.dead(queue, 10)]
                ended = [process.poll() for process in self.processes]
                raise AssertionError(f"{app.broker.sizes([queue])} {ended} {left}\n{self.said()}") from None

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait(20)


@pytest.fixture(params=PLACES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    fixture, url, store = PLACES[request.param]
    server = request.getfixturevalue(fixture)
    if not Dray("probe", set_as_current=False, plugins=[]).plugins.knows("stores", url(server).partition(":")[0]):
        pytest.skip(f"there is no store for {request.param} yet")
    site = Site(tmp_path, url(server), store(server))
    yield site
    site.close()


@pytest.mark.timeout(240)
def test_of_schedulers_that_are_killed_and_frozen_in_the_middle_of_a_tick_none_is_lost_or_doubled(site: Site) -> None:
    worker = site.start("worker", "-c", "2")
    killed = site.start("scheduler", trouble="SIGKILL")
    assert killed.wait(30) == -signal.SIGKILL
    frozen = site.start("scheduler", trouble="SIGSTOP")
    wait_until(lambda: stopped(frozen.pid), timeout=30)
    others = [site.start("scheduler"), site.start("beat")]
    # Longer than others wait before they send what the frozen one was sending.
    site.more_ticks(14)
    frozen.send_signal(signal.SIGCONT)
    site.more_ticks(4)
    for one in (frozen, *others):
        one.send_signal(signal.SIGTERM)
        assert one.wait(30) == 0, site.said()
    site.wait_until_all_have_run()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(40) == 0, site.said()
    assert "is perhaps not sent yet" in site.said()
    for name, step in (("tick", 1), ("tock", 2)):
        ran = site.ticks(name)
        assert [round(later - earlier, 3) for earlier, later in zip(ran, ran[1:], strict=False)] == [step] * (
            len(ran) - 1
        ), site.said()
    assert site.ledger.repeated() == {}, site.said()


@pytest.mark.timeout(120)
def test_a_worker_with_beat_sends_and_runs_its_schedules(tmp_path: Path) -> None:
    site = Site(tmp_path, f"sqlite:///{tmp_path}/queue.db", None)
    try:
        worker = site.start("worker", "--beat", "-c", "1")
        site.more_ticks(3)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(40) == 0, site.said()
        assert site.ledger.repeated() == {}
    finally:
        site.close()


def stopped(pid: int) -> bool:
    """Tell whether a process has been stopped by a signal."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
