"""Servers killed with -9 and started again under load: workers stay, go on at once, and nothing confirmed is lost."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dray.clock import SYSTEM_CLOCK
from dray.testing.faults import wait_until

from ..servers.redis import RedisSentinel
from .conftest import Crew, WorkerProcess

Report = Callable[..., None]

#: Seconds from the moment that the server's port opens until the worker runs something from it.
SOON = 5.0
#: How many tasks are sent before the worker starts.
BACKLOG = 500
#: How the producer sends: it never gives up.
PATIENTLY = {"max_retries": None, "interval_start": 0.05, "interval_step": 0.05, "interval_max": 0.2}


class Producer:
    """A thread that sends one task after the other, whatever happens to the server, and keeps what was confirmed.

    Some of them are due later. It begins with a backlog: whenever the server dies, it holds tasks that wait.
    """

    def __init__(self, crew: Crew) -> None:
        self.confirmed: list[str] = []
        self._crew = crew
        self._failure: BaseException | None = None
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> Producer:
        self._thread.start()
        self.wait_for(BACKLOG)
        return self

    def __exit__(self, *exc: object) -> None:
        self._enough.set()
        self._thread.join(30)
        assert not self._thread.is_alive(), "the producer is stuck in a send"
        if self._failure is not None:
            raise self._failure

    def wait_for(self, more: int) -> None:
        wanted = len(self.confirmed) + more
        wait_until(lambda: len(self.confirmed) >= wanted or self._failure, timeout=30)

    def _send(self) -> None:
        try:
            while not self._enough.wait(0.002 if len(self.confirmed) > BACKLOG else 0):
                number = len(self.confirmed)
                later = 2.0 if number % 10 == 9 else None
                self.confirmed.append(self._crew.send("slow", number, countdown=later, retry_policy=PATIENTLY))
        except BaseException as error:
            self._failure = error


class Opening:
    """Notes when a port of this machine begins to take connections."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._thread = threading.Thread(target=self._watch)
        self._at = 0.0

    def __enter__(self) -> Opening:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._thread.join(60)

    def _watch(self) -> None:
        def opens() -> bool:
            with socket.socket() as knock:
                return knock.connect_ex(("127.0.0.1", self._port)) == 0

        wait_until(opens, timeout=60)
        self._at = SYSTEM_CLOCK.monotonic()

    @property
    def ago(self) -> float:
        return SYSTEM_CLOCK.monotonic() - self._at


def count(crew: Crew) -> int:
    return sum(crew.ledger.runs().values())


def wait_for_runs(crew: Crew, more: int, timeout: float = 30.0) -> None:
    wanted = count(crew) + more
    wait_until(lambda: count(crew) >= wanted, timeout, look=0.02)


def count_when_quiet(crew: Crew) -> int:
    """Return how many runs there have been, when the worker has run all that it had before the server went."""
    last, since = count(crew), SYSTEM_CLOCK.monotonic()

    def quiet() -> bool:
        nonlocal last, since
        now = count(crew)
        if now != last:
            last, since = now, SYSTEM_CLOCK.monotonic()
        return SYSTEM_CLOCK.monotonic() - since > 0.5

    wait_until(quiet, timeout=20, look=0.02)
    return last


def outage(crew: Crew, worker: WorkerProcess, server: Any, seconds: float) -> float:
    """Kill the server, and start it `seconds` after the worker has noticed; return how soon work went on."""
    noticed = worker.said("broker away")
    server.kill()
    wait_until(lambda: worker.said("broker away") > noticed, timeout=20)
    began = SYSTEM_CLOCK.monotonic()
    before = count_when_quiet(crew)
    wait_until(lambda: SYSTEM_CLOCK.monotonic() - began > seconds, timeout=seconds + 1)
    with Opening(server.port) as opening:
        server.start()
    wait_until(lambda: count(crew) > before or not worker.alive, timeout=30)
    return opening.ago


def outlast(crew: Crew, server: Any, report: Report, *outages: float) -> None:
    """Have a worker and a producer live through outages of so many seconds each, and count what came of it."""
    crew.url = crew.environment["DRAY_BROKER_URL"] = server.url
    with Producer(crew) as producer:
        worker = crew.worker("-c", "4", FAULTY_SLOW="0.01")
        soon = []
        for seconds in outages:
            wait_for_runs(crew, 200)
            soon.append(outage(crew, worker, server, seconds))
        wait_for_runs(crew, 200)
        producer.wait_for(100)
    finish(crew, worker, producer, report, kills=len(outages), soon=soon)


def finish(
    crew: Crew, worker: WorkerProcess, producer: Producer, report: Report, *, kills: int, soon: list[float]
) -> None:
    missing: set[str] = set()

    def all_done() -> bool:
        nonlocal missing
        missing = crew.ledger.missing(producer.confirmed)
        return not missing

    try:
        wait_until(all_done, timeout=40, look=0.1)
    finally:
        repeated = crew.ledger.repeated()
        report(
            kills=kills,
            confirmed=len(producer.confirmed),
            lost=len(missing),
            repeated=sum(repeated.values()) - len(repeated),
            soon=[round(seconds, 1) for seconds in soon],
        )
    wait_until(lambda: crew.states(producer.confirmed) == {"SUCCESS"}, timeout=20, look=0.2)
    assert max(soon) < SOON
    assert worker.alive
    worker.send(signal.SIGTERM)
    assert worker.ended() == 0


@pytest.mark.timeout(240)
def test_valkey_killed_and_restarted_under_load_loses_nothing(
    crew: Crew, report: Report, request: pytest.FixtureRequest
) -> None:
    # The other servers: tests/faults.
    outlast(crew, request.getfixturevalue("durable_valkey"), report, 0.0, 2.0)


def test_after_a_long_outage_work_goes_on_as_soon(crew: Crew, report: Report, request: pytest.FixtureRequest) -> None:
    # Long enough for pauses between two tries to have become as long as they ever get.
    outlast(crew, request.getfixturevalue("durable_redis"), report, 12.0)


def test_a_sentinel_failover_under_load_loses_nothing(
    crew: Crew, report: Report, durable_sentinel: RedisSentinel
) -> None:
    # Confirmed means here: a replica has it. What only a dead master knew is gone, whoever asks for it.
    crew.url = crew.environment["DRAY_BROKER_URL"] = f"{durable_sentinel.url}?wait_replicas=1"
    crew.environment["DRAY_RESULT_BACKEND"] = f"sqlite:///{crew.folder}/results.db"
    with Producer(crew) as producer:
        worker = crew.worker("-c", "4", FAULTY_SLOW="0.01")
        wait_for_runs(crew, 200)
        dead = durable_sentinel.kill_master()
        durable_sentinel.wait_for_new_master(dead)
        # What the worker had fetched from the old master it has long done: whatever it runs now is from the new one.
        began = SYSTEM_CLOCK.monotonic()
        wait_for_runs(crew, 1)
        soon = SYSTEM_CLOCK.monotonic() - began
        wait_for_runs(crew, 200)
        durable_sentinel.start()
        wait_for_runs(crew, 200)
    finish(crew, worker, producer, report, kills=1, soon=[soon])
