"""Tasks that end the process they run in: bounded, then dead letters; those beside them are unharmed. F10."""

from __future__ import annotations

import pytest

from dray.clock import SYSTEM_CLOCK
from dray.testing.faults import wait_until

from .site import Site, Worker, id_of

POOLS = pytest.mark.parametrize("pool", ["threads", "processes", "gevent"])
#: How often a task may be started without ending: the default of `task_max_deliveries`.
MOST = 3
NEIGHBOURS = 100
#: How many others may be buried with it where messages are lent to the polls of the dead.
UNLUCKY = 2


@pytest.mark.timeout(180)
@pytest.mark.fault("F10", "a task that ends its process, among 100 others", quick=("redis",))
@POOLS
def test_poison_runs_three_times_and_takes_nobody_along(site: Site, seed: int, pool: str) -> None:
    swallow(site, pool, "exit")


@pytest.mark.timeout(180)
@pytest.mark.fault("F10", "a task that crashes its process, among 100 others", quick=())
@POOLS
@pytest.mark.parametrize("how", ["segv", "oom"])
def test_a_crash_is_poison_too(site: Site, pool: str, how: str) -> None:
    swallow(site, pool, how)


def swallow(site: Site, pool: str, how: str) -> None:
    before = site.random.randint(0, NEIGHBOURS)
    for n in range(before):
        site.send("work", n, 0.02)
    poison = site.send("poison", how)
    for n in range(before, NEIGHBOURS):
        site.send("work", n, 0.02)
    workers: list[Worker] = []
    # What a poll of a worker that has died still gets is charged to it (docs/decisions/0012).
    unlucky = UNLUCKY if site.place.pushes and pool == "threads" else 0
    began = SYSTEM_CLOCK.monotonic()

    def supervise() -> bool:
        """Start a worker when there is none; return whether all has come to its end."""
        if not workers or not workers[-1].alive:
            workers.append(site.worker("--pool", pool))
        left = {id_of(run) for run in site.missing()} - {poison}
        if site.runs.begun().get(f"{poison}/0", 0) < MOST or len(left) > unlucky:
            return False
        return not left or left <= site.buried().keys()

    wait_until(supervise, timeout=100, look=0.1)
    if not workers[-1].alive:
        workers.append(site.worker("--pool", pool))
    wait_until(lambda: poison in site.buried(), timeout=30, look=1.0)
    seconds = SYSTEM_CLOCK.monotonic() - began
    deaths = len(workers) - 1
    assert deaths == (MOST if pool == "threads" else 0)
    assert "worker died" in site.buried()[poison]
    # Those that were running beside it when it ended their process begin again; nobody was more than that.
    beside = {run: MOST for run, times in site.runs.begun().items() if times > 1}
    allowed = {f"{poison}/0": MOST - 1} if pool == "processes" else {**beside, f"{poison}/0": MOST - 1}
    beside_it = {id_of(run) for run in site.missing()} - {poison}
    note = f"ran {MOST} times" + (f", {len(beside_it)} other(s) buried" if beside_it else "")
    site.account(seconds, may_repeat=allowed, may_be_buried={poison, *beside_it}, note=note)
