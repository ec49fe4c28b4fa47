"""Delayed tasks whose worker dies, and hosts whose clocks are wrong: nothing early, nothing stolen. F16, F18."""

from __future__ import annotations

from collections import Counter

import pytest

from dray.clock import SYSTEM_CLOCK

from .site import LEASE, Site, id_of, pause

#: Seconds by which a delayed task may be late while a worker is there.
LATE = 1.0
#: Seconds by which clocks of the same host may differ: the broker's and ours are read at different moments.
SAME = 0.02


class Due:
    """When (monotonic) each delayed task is due."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._due: dict[str, float] = {}

    def send(self, countdown: float, task: str = "work") -> None:
        # Before the call: it is due from then on, so that a slow send makes it late and not early.
        now = SYSTEM_CLOCK.monotonic()
        self._due[self._site.send(task, 0, countdown=countdown)] = now + countdown

    def lateness(self, since: float = 0.0) -> list[float]:
        """Return by how much each first run of those due after `since` was late, the earliest first."""
        first: dict[str, float] = {}
        for line in self._site.runs.lines():
            if line.what == "begin":
                first.setdefault(id_of(line.run), line.at)
        return sorted(at - self._due[id] for id, at in first.items() if self._due.get(id, 0.0) > since)


@pytest.mark.fault("F16", "delayed tasks, their worker killed twice", quick=("rabbitmq",))
def test_delayed_tasks_survive_their_worker_and_none_is_early(site: Site, seed: int) -> None:
    due = Due(site)
    for n in range(60):
        due.send(0.5 + n % 8)
    #: How many of the killed had begun a run so shortly before that it may not have been acked.
    held: Counter[str] = Counter()
    for _ in range(2):
        began = SYSTEM_CLOCK.monotonic()
        victim = site.worker()
        site.wait_for_runs(site.random.randint(1, 5), site.begun())
        victim.kill_all()
        killed = SYSTEM_CLOCK.monotonic()
        held.update({line.run for line in site.runs.lines() if line.at > max(began, killed - LEASE)})
    site.ready_worker()
    there = SYSTEM_CLOCK.monotonic()
    seconds = site.settled(40) - killed
    late = due.lateness(since=there)
    note = f"latest {max(late, default=0.0):.2f} s late"
    assert due.lateness()[0] >= -SAME
    assert max(late, default=0.0) <= LATE
    # What a dying worker was just about to give back may be there twice where that takes a copy.
    site.account(seconds, may_repeat=held, twins=2 * site.place.twins, note=note)


@pytest.mark.parametrize("wrong", ["ahead", "behind"])
@pytest.mark.fault(
    "F18",
    "the clock of one worker is wrong by an hour",
    # SQLite is for one host, which has one clock.
    on=("redis", "rabbitmq", "postgresql", "sqs"),
    quick=(),
)
def test_a_wrong_clock_starts_nothing_early_and_steals_nothing(site: Site, wrong: str) -> None:
    due = Due(site)
    site.ready_worker("-c", "4")
    site.ready_worker("-c", "4", BESIEGED_CLOCK="3600" if wrong == "ahead" else "-3600")
    for n in range(8):
        # Longer than two leases: whoever looked at the wrong clock would take them away.
        site.send("work", n, 2.5 * LEASE)
    pause(0.5)
    for n in range(20):
        due.send(3 * LEASE + n % 3)
        site.send("work", n, 0.05)
        site.send("twice", n)
    began = SYSTEM_CLOCK.monotonic()
    ended = site.settled(4 * LEASE + 30)
    assert len({line.pid for line in site.runs.lines()}) == 2, "one of the workers had nothing to do"
    late = due.lateness()
    assert late[0] >= -SAME
    assert late[-1] <= LATE
    site.account(ended - began, note=f"latest {late[-1]:.2f} s late")
