"""One application on seven brokers and two pools: the URL changes, and nothing that anybody can see does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dray import AsyncResult, Dray, TaskRevoked, TimeLimitExceeded
from dray.testing.faults import ExecutionLedger, wait_until

HERE = Path(__file__).parent

#: Of each place: the fixture that has the server, and the URL made of that server's.
PLACES = {
    "sqlite": ("tmp_path", lambda folder: f"sqlite:///{folder}/queue.db"),
    "redis": ("redis_server", lambda server: server.url),
    "redis-cluster": ("redis_cluster", lambda server: server.url),
    "rabbitmq": ("rabbitmq_server", lambda server: server.url),
    "sqs": ("ministack_server", lambda server: server.url),
    "postgresql": ("postgres_server", lambda server: server.url),
    "kombu": ("redis_server", lambda server: "kombu+" + server.url),
}
BIG = 200_000


class Shop:
    """The application in a worker process, and a sender that knows its tasks by name."""

    def __init__(self, folder: Path, broker_url: str, pool: str) -> None:
        self.pool = pool
        self.ledger = ExecutionLedger(folder / "ledger.txt")
        self.folder = folder
        self.queue = f"shop-{uuid4().hex[:8]}"
        # All that differs between the places is the first line.
        settings = {
            "broker_url": broker_url,
            "result_backend": f"sqlite:///{folder}/results.db",
            "task_default_queue": self.queue,
            "task_unknown_grace": "5s",
        }
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DRAY_")},
            **{f"DRAY_{name.upper()}": value for name, value in settings.items()},
            "ONE_SHOP_FOLDER": str(folder),
        }
        self.app = Dray("one_shop", set_as_current=False, **settings)
        self._worker: subprocess.Popen[bytes] | None = None

    def send(self, task: str, *args: Any, **options: Any) -> AsyncResult[Any]:
        return self.app.send_task(f"one_shop.{task}", args, **options)

    def start(self) -> None:
        with (self.folder / "worker.log").open("ab") as log:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "dray", "-A", "one_shop", "worker", "-c", "1", "-P", self.pool, "-l", "info"],
                cwd=HERE,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(lambda: "is ready" in self.said() or self._worker.poll() is not None, timeout=30)  # type: ignore[union-attr]
        assert self._worker.poll() is None, self.said()

    def stop(self) -> int:
        assert self._worker is not None
        self._worker.send_signal(signal.SIGTERM)
        return self._worker.wait(30)

    def said(self) -> str:
        return (self.folder / "worker.log").read_text(errors="replace")

    def ran(self, word: str) -> list[str]:
        """Return what tasks have noted about their runs under a word, in order."""
        lines = self.ledger.path.read_text().split() if self.ledger.path.exists() else []
        return [line for line in lines if line.partition(":")[0] == word]

    def close(self) -> None:
        if self._worker is not None and self._worker.poll() is None:
            self._worker.kill()
            self._worker.wait(20)
        self.app.close()


#: Every place with two pools; greenlets share connections in a way of their own, which one place shows.
COMBINATIONS = [*((place, pool) for place in PLACES for pool in ("threads", "processes")), ("redis", "gevent")]


@pytest.fixture(params=COMBINATIONS, ids="-".join)
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    place, pool = request.param
    fixture, url = PLACES[place]
    made = Shop(tmp_path, url(request.getfixturevalue(fixture)), pool)
    yield made
    made.close()


def dead(shop: Shop) -> dict[str, str]:
    """Return what stands in the dead letters: id and reason."""
    return {letter.id: letter.reason for letter in shop.app.broker.dead(shop.queue, 100)}


@pytest.mark.timeout(300)
def test_one_program_does_the_same_wherever_its_messages_wait_and_whatever_runs_it(shop: Shop) -> None:
    # Before there is a worker: three of each priority, something delayed, something revoked, something too late.
    for n in range(3):
        for priority in (0, 9, 4):
            shop.send("urgent", priority, n, priority=priority)
    revoked = shop.send("add", 1, 1)
    revoked.revoke()
    revoked_later = shop.send("add", 2, 2, countdown=1.0)
    revoked_later.revoke()
    due = shop.app.clock.time() + 2.5
    delayed = shop.send("later", due, countdown=2.5)
    expired = shop.send("add", 3, 3, countdown=1.0, expires=0.5)
    assert {delayed.state, expired.state} == {"PENDING"}

    shop.start()

    # Calls, coroutines, bulk, big arguments, bound tasks.
    assert shop.send("add", 2, 3).get(timeout=30) == 5
    assert shop.send("aadd", 20, 22).get(timeout=30) == 42
    assert shop.send("measure", "x" * BIG).get(timeout=30) == BIG
    itself = shop.send("about_itself")
    assert itself.get(timeout=30) == {"name": "one_shop.about_itself", "retries": 0, "delivered": 1, "id": itself.id}
    many = [shop.send("add", 100, n) for n in range(30)]
    assert [result.get(timeout=30) for result in many] == [100 + n for n in range(30)]

    # Priorities: what waited came in the order of its urgency.
    assert shop.ran("urgent") == ["urgent:9"] * 3 + ["urgent:4"] * 3 + ["urgent:0"] * 3

    # Retries, with a delay; and giving up.
    assert shop.send("third_time", 7).get(timeout=30) == 7
    assert shop.ran("third_time") == ["third_time:7/0", "third_time:7/1", "third_time:7/2"]
    with pytest.raises(ValueError, match="as always"):
        shop.send("never").get(timeout=30)
    assert shop.ran("never") == ["never", "never"]

    # Callbacks.
    told = shop.app.signature("one_shop.note", ("linked",))
    shop.send("add", 4, 4, link=told).get(timeout=30)
    wait_until(lambda: shop.ran("note") == ["note:linked+8"], timeout=30)

    # Progress.
    slowly = shop.send("slowly")
    wait_until(lambda: slowly.state == "PROGRESS", timeout=30)
    assert slowly.info == {"done": 1, "of": 2}
    (shop.folder / "go").touch()
    assert slowly.get(timeout=30) == "there"

    # Delays, cancelling and expiry.
    assert delayed.get(timeout=30) >= 0
    wait_until(lambda: {revoked.state, revoked_later.state} == {"REVOKED"}, timeout=30)
    with pytest.raises(TaskRevoked):
        revoked.get(timeout=1)
    wait_until(lambda: expired.state == "EXPIRED", timeout=30)
    assert not {"add:1+1", "add:2+2", "add:3+3"} & set(shop.ran("add"))

    # Limits, and tasks that are ended from far away while they run.
    assert shop.send("careful").get(timeout=30) == "cleaned up"
    for word in ("asleep", "aasleep"):
        with pytest.raises(TimeLimitExceeded, match=r"time_limit of 0\.4 s"):
            shop.send(word, "limited", time_limit=0.4).get(timeout=30)
        running = shop.send(word, "revoked")
        wait_until(lambda word=word: f"{word}:revoked" in shop.ran(word), timeout=30)  # type: ignore[misc]
        running.revoke(terminate=True)
        with pytest.raises(TaskRevoked):
            running.get(timeout=30)
    assert shop.send("add", 5, 5).get(timeout=30) == 10

    # Sent twice with one key, it runs once.
    twice = [shop.send("add", 6, 6, idempotency_key="six"), shop.send("add", 6, 6, idempotency_key="six")]
    assert [result.get(timeout=30) for result in twice] == [12, 12]
    assert shop.send("add", 6, 6, idempotency_key="six").get(timeout=30) == 12

    # Dead letters: kept with their reason, discarded, replayed.
    kept, thrown, unknown = shop.send("refuse", "a"), shop.send("refuse", "b"), shop.send("unheard_of")
    wait_until(lambda: {kept.state, thrown.state, unknown.state} == {"REJECTED"}, timeout=30)
    wait_until(lambda: len(dead(shop)) == 3, timeout=30, look=0.2)
    reasons = dead(shop)
    assert reasons[kept.id] == reasons[thrown.id] == "the gate is shut"
    assert "unheard_of" in reasons[unknown.id]
    assert shop.app.broker.discard(shop.queue, [thrown.id, unknown.id]) == 2
    (shop.folder / "gate").touch()
    assert shop.app.sender.replay(shop.queue, [kept.id]) == 1
    assert shop.app.AsyncResult(kept.id).get(timeout=30) == "a"
    assert dead(shop) == {}

    # Nothing is left, and it stops within its grace.
    wait_until(lambda: not any(shop.app.broker.sizes([shop.queue])[shop.queue].values()), timeout=30, look=0.2)
    assert shop.stop() == 0
    assert shop.ran("add").count("add:6+6") == 1
    assert shop.ran("refuse") == ["refuse:a", "refuse:b", "refuse:a"]
