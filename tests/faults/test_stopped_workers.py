"""SIGTERM: short tasks end, long ones are given back at once and uncharged. F5, F6."""

from __future__ import annotations

import signal
from collections import Counter

import pytest

from dray.clock import SYSTEM_CLOCK
from dray.testing.faults import wait_until

from .site import Site, pause

#: Seconds from the last end of a task to the end of the worker.
SOON = 2.0
#: The default grace, and what a worker may take beyond it: it cancels, gives back, and closes its connections.
GRACE, BEYOND = 25.0, 5.0


@pytest.mark.fault("F5", "SIGTERM while short tasks run", quick=("redis",))
@pytest.mark.parametrize("pool", ["threads", "processes", "gevent"])
def test_short_tasks_end_and_none_runs_twice(site: Site, seed: int, pool: str) -> None:
    site.environment.pop("DRAY_WORKER_LEASE")
    for n in range(300):
        site.send(("work", "awork")[n % 2], n, 0.03)
    longest = 0.0
    for _ in range(2):
        worker = site.worker("--pool", pool)
        site.wait_for_runs(site.random.randint(1, 80))
        worker.send(signal.SIGTERM)
        assert worker.ended() == 0
        longest = max(longest, SYSTEM_CLOCK.monotonic() - site.runs.lines()[-1].at)
        assert not site.runs.running()
    # Not one that is told to stop before it has begun to listen: there may be nothing left for it.
    site.ready_worker("--pool", pool)
    # Well under a lease: nothing was left to wait for.
    site.settled(20)
    site.account(longest, within=SOON)


@pytest.mark.fault("F6", "SIGTERM twice while tasks run that do not end, four times over", quick=("redis",))
def test_the_second_signal_ends_the_worker_and_charges_nothing(site: Site, seed: int) -> None:
    site.environment.pop("DRAY_WORKER_LEASE")
    for n in range(12):
        site.send("stay", n)
    held: Counter[str] = Counter()
    # Were it charged, three would be enough to be buried.
    for _ in range(4):
        before = sum(site.runs.begun().values())
        worker = site.worker("-c", "4", BESIEGED_STAY="600")
        wait_until(lambda: sum(site.runs.begun().values()) == before + 4, timeout=30)  # noqa: B023
        held.update(line.run for line in site.runs.lines() if line.pid == worker.pid)
        worker.send(signal.SIGTERM)
        pause(site.random.uniform(0.1, 1))
        worker.send(signal.SIGTERM)
        assert worker.ended(10) == 128 + signal.SIGTERM
    began = SYSTEM_CLOCK.monotonic()
    site.worker("-c", "4")
    seconds = site.settled(20) - began
    site.account(seconds, may_repeat=held, within=10)


@pytest.mark.fault("F6", "SIGTERM while tasks run that outlast the grace of 25 s", quick=())
@pytest.mark.parametrize("pool", ["threads", "processes", "gevent"])
def test_what_outlasts_the_grace_is_there_for_others_at_once(site: Site, pool: str) -> None:
    site.environment.pop("DRAY_WORKER_LEASE")
    for n in range(10):
        site.send("stay", n)
    worker = site.worker("--pool", pool, "-c", "4", BESIEGED_STAY="600")
    wait_until(lambda: len(site.runs.running()) == 4, timeout=30)
    held = site.runs.running()
    worker.send(signal.SIGTERM)
    told = SYSTEM_CLOCK.monotonic()
    assert worker.ended(GRACE + BEYOND + 10) == 0
    ended = SYSTEM_CLOCK.monotonic()
    assert ended - told <= GRACE + BEYOND
    site.worker("--pool", pool, "-c", "4")
    seconds = site.settled(20) - ended
    site.account(seconds, may_repeat=held, within=10)
