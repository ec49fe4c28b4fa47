"""Workers killed with -9: all at once, one child, the parent only, twenty times under load. F1, F3, F4."""

from __future__ import annotations

from collections import Counter

import pytest

from dray.clock import SYSTEM_CLOCK
from dray.testing.faults import wait_until

from .site import LEASE, Site, descendants, id_of, kill, lives, pause

POOLS = pytest.mark.parametrize("pool", ["threads", "processes", "gevent"])
#: Seconds in which a parent replaces a child, and in which children notice that their parent is gone.
SOON = 2.0
#: Kills in a quick run.
FEW = 6
#: How many messages may be buried without having begun, for each kill: what had just come. And where they are on their
#: way for a while.
UNBEGUN, UNBEGUN_ON_THE_WAY = 0.25, 0.5


@pytest.mark.fault("F1", "kill -9 of a whole worker, nobody sends any more", quick=("redis",))
@POOLS
def test_what_a_killed_worker_held_is_taken_over(site: Site, seed: int, pool: str) -> None:
    victim = site.worker("--pool", pool, "-c", "4", BESIEGED_STAY="600")
    for n in range(20):
        site.send("stay", n)
    wait_until(lambda: len(site.runs.running()) == 4, timeout=30)
    survivor = site.ready_worker("--pool", pool, "-c", "4")
    # What the victim has borrowed and not begun, the survivor may get before the kill or after it.
    pause(site.random.uniform(0, 2))
    held = site.runs.running()
    victim.kill_all()
    killed = SYSTEM_CLOCK.monotonic()
    seconds = site.settled(LEASE + 10) - killed
    assert survivor.alive
    site.account(seconds, may_repeat=held, within=LEASE + 5)


@pytest.mark.timeout(240)
@pytest.mark.fault("F1", "20 workers killed with -9 one after the other, under load", quick=("sqlite",))
def test_twenty_kills_under_load_lose_nothing(site: Site, seed: int, request: pytest.FixtureRequest) -> None:
    held: Counter[str] = Counter()
    site.send_some(200)
    kills = 20 if request.config.getoption("--all-faults", False) else FEW
    for _ in range(kills):
        before = site.begun()
        site.send_some(60)
        victim = site.worker()
        site.wait_for_runs(site.random.randint(1, 60), before)
        # What ended and was not acked runs again, too; the ledger cannot tell, but it was the last thing to happen. Not
        # counted back from the end of the killing, which takes its time on a busy machine.
        last = SYSTEM_CLOCK.monotonic() - 1.0
        victim.kill_all()
        held.update({line.run for line in site.runs.lines() if line.at >= last} | site.runs.running())
    survivor = site.worker()
    began = SYSTEM_CLOCK.monotonic()
    seconds = site.settled(60) - began
    assert survivor.alive
    # What a run sends before its own ack is sent again when it runs again.
    held.update({sequel: times for run, times in list(held.items()) for sequel in sequels(run)})
    buried, unbegun = unlucky(site)
    note = f"{len(buried)} buried, {len(unbegun)} of them never began" if buried else ""
    # What was only borrowed, and never began, has no business among the dead letters. Except what had just come, or was
    # on its way, when workers were killed: what was pushed, or lent to a poll, is charged (docs/decisions/0012).
    most = kills * (UNBEGUN_ON_THE_WAY if site.place.pushes else UNBEGUN)
    assert len(unbegun) <= most, f"buried, and never began: {sorted(unbegun)}"
    # What a dying worker was just about to give back, or to count, may be there twice where that takes a copy.
    site.account(seconds, may_repeat=held, twins=kills * site.place.twins, may_be_buried=buried, note=note)


def sequels(run: str) -> list[str]:
    """Return the runs that one leads to: its retry, and what is linked to it."""
    id, _, retries = run.rpartition("/")
    return [f"{id}/{int(retries) + 1}", f"{id}-l0/0"]


def unlucky(site: Site) -> tuple[set[str], set[str]]:
    """Return the ids of those whose workers died under them too often, and which of these never began anywhere.

    Nobody can tell the former from poison: they stand in the dead letters with that reason, and can be replayed.
    """
    begun = {id_of(run) for run in site.runs.begun()}
    buried = {id for id, reason in site.buried().items() if "worker died" in reason}
    return buried, buried - begun


@pytest.mark.fault("F3", "kill -9 of one child of the pool", quick=("redis",))
def test_a_killed_child_is_replaced_and_its_task_begins_again(site: Site, seed: int) -> None:
    worker = site.ready_worker("--pool", "processes", "-c", "2")
    site.send("work", 0, 5.0)
    site.send("work", 1, 5.0)
    wait_until(lambda: len(site.runs.running()) == 2, timeout=30)
    pause(site.random.uniform(0, 1))
    victim = site.random.choice([line for line in site.runs.lines() if line.what == "begin"])
    before = set(worker.children())
    assert victim.pid in before
    kill(victim.pid)
    killed = SYSTEM_CLOCK.monotonic()
    wait_until(lambda: set(worker.children()) - before and len(worker.children()) == len(before), timeout=SOON)
    wait_until(lambda: site.runs.begun()[victim.run] == 2, timeout=killed + SOON - SYSTEM_CLOCK.monotonic())
    seconds = site.runs.lines()[-1].at - killed
    for n in range(20):
        site.send("work", n)
    site.settled(20)
    assert worker.alive
    site.account(seconds, may_repeat={victim.run}, within=SOON)


@pytest.mark.fault("F4", "kill -9 of the parent only, its children are orphans", quick=("sqlite",))
def test_children_do_not_outlive_their_parent(site: Site, seed: int) -> None:
    victim = site.worker("--pool", "processes", "-c", "2", BESIEGED_STAY="600")
    for n in range(10):
        site.send("stay", n)
    wait_until(lambda: len(site.runs.running()) == 2, timeout=30)
    site.ready_worker("--pool", "processes", "-c", "2")
    pause(site.random.uniform(0, 1))
    orphans, held = descendants(victim.pid), site.runs.running()
    assert orphans
    victim.kill()
    killed = SYSTEM_CLOCK.monotonic()
    wait_until(lambda: not any(map(lives, orphans)), timeout=SOON)
    seconds = site.settled(LEASE + 10) - killed
    site.account(seconds, may_repeat=held, within=LEASE + 5)
