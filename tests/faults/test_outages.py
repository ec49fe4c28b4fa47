"""Servers killed with -9 and started again, under load and right after a send. F7 to F9."""

from __future__ import annotations

import socket
import threading

import pytest

from dray.clock import SYSTEM_CLOCK
from dray.testing.faults import wait_until

from .places import DURABLE
from .producer import Producer
from .site import Site, Worker, pause

#: Seconds from the moment that the server's port opens until the worker runs something from it.
SOON = 5.0
#: Runs that began so long (seconds) before the server died may not be acked yet, as far as its disk knows. RabbitMQ
#: does not confirm acks and writes them down later.
UNCONFIRMED = {"redis": 1.0, "postgresql": 1.0, "rabbitmq": 10.0}
#: Where what comes a second time is put back as a copy that carries its count: publish, then ack. That ack may be
#: undone as well, and then there are two of what has not even begun.
COUNTED_BY_COPY = ("rabbitmq",)


class Opening:
    """Notes when a port of this machine begins to take connections."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.at = 0.0

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
        self.at = SYSTEM_CLOCK.monotonic()


def kill_and_restart(site: Site, worker: Worker, seconds: float) -> tuple[float, set[str]]:
    """Kill the server, and start it so long after the worker has noticed.

    Return how soon work went on, and the runs whose acks may be gone with it.
    """
    noticed = worker.said("broker away")
    since = SYSTEM_CLOCK.monotonic() - UNCONFIRMED[site.place.name]
    site.place.server.kill()
    sent = list(site.expected)
    wait_until(lambda: worker.said("broker away") > noticed, timeout=20)
    pause(seconds)
    with Opening(site.place.server.port) as opening:
        site.place.server.start()
    wait_until(lambda: site.runs.first_begin_since(opening.at) or not worker.alive, timeout=40)
    again = site.runs.first_begin_since(opening.at)
    assert again is not None, "the worker has ended"
    unsure = {line.run for line in site.runs.lines() if since <= line.at < again}
    # What was being sent when it died was sent once more. If the first try had taken effect, and what it sent has ended
    # before the second one came, it runs again.
    wait_until(lambda: len(site.expected) > len(sent) + 1, timeout=40)
    sent = site.expected[: len(sent) + 2]
    unsure |= set(sent[-2:])
    if site.place.name in COUNTED_BY_COPY:
        unsure |= set(sent) - {line.run for line in site.runs.lines() if line.what == "end" and line.at < since}
    return again - opening.at, unsure


@pytest.mark.timeout(240)
@pytest.mark.fault(
    "F7-F9", "kill -9 of the server and restart, under load, twice", on=DURABLE, quick=("redis", "rabbitmq")
)
def test_a_server_killed_and_restarted_under_load_loses_nothing(site: Site, seed: int) -> None:
    unsure: dict[str, int] = {}
    soonest = 0.0
    with Producer(site) as producer:
        worker = site.worker()
        for outage in (0.0, site.random.uniform(0.5, 3.0)):
            site.wait_for_runs(site.random.randint(50, 200))
            soon, runs = kill_and_restart(site, worker, outage)
            soonest = max(soonest, soon)
            for run in runs:
                unsure[run] = unsure.get(run, 0) + 1
        site.wait_for_runs(100)
        producer.wait_for(50)
    site.settled(60)
    assert worker.alive
    site.account(soonest, may_repeat=unsure, within=SOON)


@pytest.mark.fault("F7-F9", "300 sent, then kill -9 of the server at once", on=DURABLE, quick=("rabbitmq",))
def test_what_was_confirmed_survives_the_server_killed_at_once(site: Site, seed: int) -> None:
    kill_after_sending(site)


@pytest.mark.fault(
    "F7-F9", "300 sent to a quorum queue, then kill -9 of the server at once", on=("rabbitmq",), quick=("rabbitmq",)
)
def test_what_was_confirmed_in_a_quorum_queue_survives_that_too(site: Site, seed: int) -> None:
    site.url += "?queue_type=quorum"
    site.environment["DRAY_BROKER_URL"] = site.url
    kill_after_sending(site)


def kill_after_sending(site: Site) -> None:
    """Send to a queue that is new, and with delays, which are kept elsewhere; then kill the server."""
    for n in range(280):
        site.send("work", n)
    delayed = {f"{site.send('work', n, countdown=0.5)}/0" for n in range(20)}
    site.place.server.kill()
    pause(site.random.uniform(0, 1))
    site.place.server.start()
    began = SYSTEM_CLOCK.monotonic()
    site.worker()
    seconds = site.settled(40) - began
    # What was on its way from one place of waiting to the next may be in both.
    site.account(seconds, may_repeat=delayed if site.place.name in COUNTED_BY_COPY else 0)
