"""Chords by worker processes: large ones, and while workers are killed with -9.

No body is lost, none runs for half a header, none is sent twice. benchmarks/large_group.py does the same for 100,000.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dray import Canvas, Dray, Group, Put, Signature, chain, chord, group
from dray.testing.faults import ExecutionLedger, wait_until

from .conftest import HERE, WorkerProcess

#: Of each place: the fixture that has the server, and the URL made of that server's.
PLACES = {
    "sqlite": ("tmp_path", lambda folder: f"sqlite:///{folder}/queue.db"),
    "redis": ("redis_server", lambda server: server.url),
    "postgresql": ("postgres_server", lambda server: server.url),
}
#: How many different runs there are of each; one seed is one run that can be had again.
SEEDS = range(int(os.environ.get("FAN_IN_SEEDS", "1")))
CHORDS, MEMBERS, KILLS = 30, 8, 6
#: Members of a large group, and most bytes of a message and of a record of the store that may come of it.
LARGE, MESSAGE, RECORD = 5000, 4096, 80_000


class FanWorker(WorkerProcess):
    app, home = "fan_shop", HERE


class Shop:
    """An app and two workers, one of which is killed now and then."""

    def __init__(self, folder: Path, url: str) -> None:
        self.ledger = ExecutionLedger(folder / "ledger.txt")
        self._folder = folder
        settings = {
            "broker_url": url,
            "result_backend": url,
            "task_default_queue": f"fans-{uuid4().hex[:8]}",
            "worker_lease": "2s",
            # Who has a message when it is killed is charged with it; here all are killed again and again.
            "task_max_deliveries": "50",
        }
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DRAY_")},
            **{f"DRAY_{name.upper()}": value for name, value in settings.items()},
            "FAN_SHOP_FOLDER": str(folder),
        }
        self.app = Dray("fan_shop", set_as_current=False, **settings)
        self._workers: list[FanWorker] = []

    def call(self, task: str, *args: Any) -> Signature:
        return self.app.signature(f"fan_shop.{task}", args)

    def start(self) -> FanWorker:
        log = self._folder / f"worker-{len(self._workers)}.log"
        self._workers.append(FanWorker(["-c", "4", "-l", "info"], self._environment, log))
        return self._workers[-1]

    def noted(self, word: str) -> list[list[str]]:
        lines = self.ledger.path.read_text().split() if self.ledger.path.exists() else []
        return [line.split(":")[1:] for line in lines if line.startswith(word + ":")]

    def is_idle(self) -> bool:
        """Tell whether all that was sent has ended."""
        queue = self.app.conf.task_default_queue
        sizes = self.app.broker.sizes([queue])[queue]
        return not any(sizes[state] for state in ("ready", "delayed", "leased"))

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        self.app.close()


@pytest.fixture(params=PLACES)
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    fixture, url = PLACES[request.param]
    made = Shop(tmp_path, url(request.getfixturevalue(fixture)))
    yield made
    made.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_body_runs_for_its_whole_header_whenever_workers_are_killed(shop: Shop, seed: int) -> None:
    chance = random.Random(seed)
    steady, doomed = shop.start(), shop.start()
    for worker in (steady, doomed):
        wait_until(lambda worker=worker: worker.said("is ready"), timeout=30)  # type: ignore[misc]
    good = {
        flow: chord(
            [
                chain(shop.call("member", flow, n), shop.call("more")) if n % 3 == 0 else shop.call("member", flow, n)
                for n in range(MEMBERS)
            ],
            shop.call("body", flow),
        )()
        for flow in range(CHORDS)
    }
    bad = {
        flow: chord(
            [*(shop.call("member", flow, n) for n in range(MEMBERS)), shop.call("bad", flow)], shop.call("body", flow)
        ).on_error(shop.call("failed", flow))()
        for flow in range(CHORDS, CHORDS + 5)
    }
    for _ in range(KILLS):
        # Between two kills some chords come to their end, some members are being run, some bodies are being sent.
        target = len(shop.noted("body")) + chance.randint(1, 4)
        wait_until(lambda target=target: len(shop.noted("body")) >= min(target, CHORDS - 1), timeout=60)  # type: ignore[misc]
        doomed.kill()
        doomed = shop.start()
    expected = sum(range(MEMBERS)) + len(range(0, MEMBERS, 3))
    assert {flow: result.get(timeout=120) for flow, result in good.items()} == dict.fromkeys(good, expected)
    for result in bad.values():
        assert isinstance(result.get(timeout=120, propagate=False), ValueError)
    wait_until(lambda: len({flow for flow, _ in shop.noted("failed")}) == len(bad), timeout=60)
    # A body that was begun when its worker was killed runs again, as every task does; one that was sent twice would
    # have two first deliveries.
    firsts = Counter(int(flow) for flow, delivery in shop.noted("body") if delivery == "1")
    assert all(times == 1 for times in firsts.values())
    assert {int(flow) for flow, _ in shop.noted("body")} == set(good)
    failed = Counter(int(flow) for flow, delivery in shop.noted("failed") if delivery == "1")
    assert all(times == 1 for times in failed.values())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_what_has_failed_runs_again_and_the_body_once_whenever_workers_are_killed(shop: Shop, seed: int) -> None:
    chance = random.Random(seed)
    _, doomed = shop.start(), shop.start()
    flows = {
        flow: chord([shop.call("fragile", flow, n) for n in range(MEMBERS)], shop.call("body", flow))()
        for flow in range(CHORDS)
    }
    runs = {(f"{flow}", f"{n}") for flow in flows for n in range(MEMBERS)}
    wait_until(lambda: {(flow, n) for flow, n in shop.noted("fragile")} == runs, timeout=120)
    for result in flows.values():
        assert isinstance(result.get(timeout=60, propagate=False), ValueError)
    # A member that fails after its chord was told to go on has it fail once more.
    wait_until(shop.is_idle, timeout=60)
    (shop.ledger.path.parent / "mended").touch()
    left = list(flows.values())
    for _ in range(KILLS):
        wait_until(lambda worker=doomed: worker.said("is ready"), timeout=30)  # type: ignore[misc]
        for result in left[-len(flows) // KILLS :]:
            result.retry_failed()
            left.remove(result)
        # Some members are being moved, some run again, some bodies are being sent.
        target = len(shop.noted("body")) + chance.randint(1, 3)
        wait_until(lambda target=target: len(shop.noted("body")) >= min(target, CHORDS - len(left)), timeout=60)  # type: ignore[misc]
        doomed.kill()
        doomed = shop.start()
    assert not left
    assert {flow: result.get(timeout=120) for flow, result in flows.items()} == dict.fromkeys(
        flows, sum(range(MEMBERS))
    )
    firsts = Counter(int(flow) for flow, delivery in shop.noted("body") if delivery == "1")
    assert all(times == 1 for times in firsts.values()) and set(firsts) <= set(flows)
    assert {int(flow) for flow, _ in shop.noted("body")} == set(flows)


def streamed(shop: Shop) -> Canvas:
    return Group.stream(shop.call("same", n) for n in range(LARGE)) | shop.call("looked_over", 1)


def later(shop: Shop) -> Canvas:
    members = group(shop.call("same", n).set(immutable=True) for n in range(LARGE))
    return shop.call("same", 0) | members | shop.call("looked_over", 1)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("made", [streamed, later])
def test_a_large_group_makes_neither_large_messages_nor_large_records(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, made: Callable[[Shop], Canvas]
) -> None:
    broker, store = shop.app.broker, shop.app.store("this test")
    publish, commit = broker.publish, store.commit
    messages, records = [0], [0]

    def weigh_messages(envelopes: Any) -> Any:
        messages.extend(len(each.body) for each in envelopes)
        return publish(envelopes)

    def weigh_records(changes: Any) -> Any:
        records.extend(len(write.value) for each in changes for write in each.writes if isinstance(write, Put))
        return commit(changes)

    monkeypatch.setattr(broker, "publish", weigh_messages)
    monkeypatch.setattr(store, "commit", weigh_records)
    for _ in range(2):
        shop.start()
    result = made(shop).delay()
    assert result.get(timeout=240) == [LARGE, True]
    assert shop.noted("body") == [["1", "1"]]
    assert max(messages) <= MESSAGE and max(records) <= RECORD
