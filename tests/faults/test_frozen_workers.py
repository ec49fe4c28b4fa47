"""Workers that stand still: held by a task that never lets go of the interpreter, or stopped and thawed. F14, F15."""

from __future__ import annotations

import os
import signal

import pytest

from dray.clock import SYSTEM_CLOCK
from dray.testing.faults import wait_until

from .site import LEASE, Site, Worker, descendants, pause

#: RabbitMQ has no leases: a silent client is dead after two of its heartbeats. The default is 60 s.
HEARTBEAT = "?heartbeat=3"
#: How many may have been let through when the worker was stopped, and not have written that they have begun.
SLIPPED = 1


@pytest.mark.timeout(180)
@pytest.mark.fault("F14", "a task of ten leases that holds the interpreter lock", quick=())
def test_a_task_that_holds_the_lock_for_ten_leases_runs_once(site: Site) -> None:
    held(site, "processes")
    site.account(0.0)


@pytest.mark.timeout(180)
@pytest.mark.fault("F14", "the same on threads, which cannot help it: use processes", quick=())
def test_a_task_that_holds_the_lock_on_threads_is_never_lost(site: Site) -> None:
    id = held(site, "threads")
    # Nobody can renew the loans of that process meanwhile: it runs elsewhere too, until its deliveries are used up, and
    # so does what runs beside it.
    site.account(0.0, may_repeat=8, may_be_buried={id}, note="not prevented on threads")


def held(site: Site, pool: str) -> str:
    """Have two workers meet such a task and others; return its id when all is over."""
    for _ in range(2):
        site.ready_worker("--pool", pool, "-c", "2")
    id = site.send("hold", 0, int(10 * LEASE))
    for n in range(40):
        site.send("work", n, 0.05)
    site.settled(10 * LEASE * 3 + 20)
    # It may still be running once more than it has ended.
    site.until(lambda: not site.waiting() and not site.runs.running(), timeout=10 * LEASE * 3)
    return id


@pytest.mark.timeout(180)
@pytest.mark.fault("F15", "SIGSTOP for three leases, then SIGCONT", quick=("redis",))
@pytest.mark.parametrize("pool", ["threads", "processes", "gevent"])
def test_a_thawed_worker_neither_writes_nor_starts_what_others_have_done(site: Site, seed: int, pool: str) -> None:
    if site.place.name == "rabbitmq":
        site.environment["DRAY_BROKER_URL"] += HEARTBEAT
    ids = [site.send("work", n, 0.1) for n in range(150)]
    frozen = site.worker("--pool", pool, "-c", "4", "-n", "frozen")
    site.wait_for_runs(site.random.randint(20, 60), 0)
    freeze(frozen, signal.SIGSTOP)
    stopped = SYSTEM_CLOCK.monotonic()
    interrupted, before = site.runs.running(), site.runs.begun()
    site.worker("--pool", pool, "-c", "4", "-n", "warm")
    # The other one does all of it while the first is frozen.
    wait_until(lambda: not site.missing(), timeout=40, look=0.05)
    seconds = site.runs.lines()[-1].at - stopped
    pause(max(0.0, stopped + 3 * LEASE - SYSTEM_CLOCK.monotonic()))
    freeze(frozen, signal.SIGCONT)
    thawed = SYSTEM_CLOCK.monotonic()
    after = [site.send("work", n, 0.05) for n in range(40)]
    site.settled(30)
    old = {f"{id}/0" for id in ids}
    again = [line for line in site.runs.lines() if line.what == "begin" and line.run in old and line.at > thawed]
    assert len(again) <= SLIPPED, again
    assert {f"{id}/0" for id in after} <= site.runs.ended().keys()
    # What had ended and was not acked when it froze runs again as well.
    doubtful = {line.run for line in site.runs.lines() if stopped - 0.5 <= line.at <= stopped} & before.keys()
    site.account(seconds, may_repeat=interrupted | doubtful | {line.run for line in again})


def freeze(worker: Worker, number: signal.Signals) -> None:
    """Stop or thaw a worker with all its children."""
    for pid in (worker.pid, *descendants(worker.pid)):
        os.kill(pid, number)
