"""Networks that delay, reset, fall silent and dribble, and a cut at every single command. F2, F19."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dray.clock import SYSTEM_CLOCK
from dray.testing.faults import wait_until

from .places import SERVERS
from .proxy import Proxy, When
from .site import Site, Worker, pause

REMOTE = tuple(SERVERS)
#: The default lease, and with it the bound of recovery: two of them.
DEFAULT_LEASE = 30.0
#: Lease (seconds) while commands are cut one by one: what was handed out and never arrived is waited for.
SHORT = 1.0
#: Threads and connections that a pool may have more of at one time than at another.
SOME = 8
#: How many messages may come with answers that were lost three times: they come ten at a time.
UNLUCKY = 10
#: Seconds for which resets go on.
BAD_TIMES = 15.0
#: Most commands of one life that are cut, one life each; and how many of them in a quick run.
POINTS, FEW = 60, 6
#: Most commands of a start that are cut.
STARTS = 15


@pytest.fixture
def proxy(site: Site) -> Iterator[Proxy]:
    """A proxy between the workers and the server. The sender has none."""
    with site.proxy() as made:
        yield made


def threads_of(worker: Worker) -> int:
    return len(list(Path(f"/proc/{worker.pid}/task").iterdir()))


def life(site: Site) -> None:
    """Send what makes a short life: tasks, a coroutine, a retry, a delay, a failure, a link."""
    for n in range(4):
        site.send("work", n)
    site.send("awork", 4)
    site.send("twice", 5)
    site.send("work", 6, countdown=0.2)
    site.send("fail", 7)
    site.send("work", 8, linked=True)


def cut_and_recover(site: Site, proxy: Proxy, worker: Worker, number: int, when: When) -> float | None:
    """Cut at one command of one life; return the seconds until all of it was done, None if it was over before."""
    proxy.cut_at(number, when)
    life(site)
    began = SYSTEM_CLOCK.monotonic()
    wait_until(lambda: not site.missing() or not worker.alive, timeout=40, look=0.02)
    seconds = SYSTEM_CLOCK.monotonic() - began
    assert worker.alive
    # What comes after the last end - acks, the next look - is worth a cut too.
    cut = proxy.cut_done.wait(0.5)
    proxy.forget()
    return seconds if cut else None


@pytest.mark.timeout(600)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.fault("F2", "the connection is cut at every single command", on=REMOTE, quick=("redis", "rabbitmq"))
def test_a_cut_at_any_command_loses_nothing(
    site: Site, proxy: Proxy, when: When, request: pytest.FixtureRequest
) -> None:
    site.environment["DRAY_WORKER_LEASE"] = f"{SHORT:g}"
    worker = site.ready_worker("-c", "2")
    proxy.forget()
    life(site)
    wait_until(lambda: not site.missing(), timeout=30)
    usual = len(proxy.forget())
    whole = request.config.getoption("--all-faults", False)
    numbers = range(1, POINTS + 1) if whole else sorted(site.random.sample(range(1, max(usual, FEW) + 1), FEW))
    cuts: list[str] = []
    longest = 0.0
    for number in numbers:
        seconds = cut_and_recover(site, proxy, worker, number, when)
        if seconds is None:
            break
        cuts.append(proxy.cut_name)
        longest = max(longest, seconds)
    assert len(cuts) >= min(FEW, 3), f"the life has too few commands: {cuts}, usually {usual}"
    site.account(
        longest,
        # Each cut may repeat what ran while its ack was on the way; on RabbitMQ all that the connection held.
        may_repeat=10 * len(cuts),
        within=2 * SHORT + 10,
        note=f"{len(cuts)} cuts: {', '.join(sorted(set(cuts)))}",
    )


@pytest.mark.timeout(400)
@pytest.mark.fault("F2", "the connection is cut at every command of a start", on=REMOTE, quick=())
def test_a_cut_while_a_worker_connects_is_survived(site: Site, proxy: Proxy) -> None:
    site.environment["DRAY_WORKER_LEASE"] = f"{SHORT:g}"
    cuts: list[str] = []
    longest = 0.0
    for number in range(1, STARTS + 1):
        life(site)
        proxy.cut_at(number, "after")
        began = SYSTEM_CLOCK.monotonic()
        worker = site.worker("-c", "2")
        wait_until(lambda: not site.missing() or not worker.alive, timeout=40, look=0.02)  # noqa: B023
        assert worker.alive
        longest = max(longest, SYSTEM_CLOCK.monotonic() - began)
        cut = proxy.cut_done.is_set()
        proxy.forget()
        worker.send(signal.SIGTERM)
        assert worker.ended() == 0
        if not cut:
            break
        cuts.append(proxy.cut_name)
    site.account(longest, may_repeat=10 * len(cuts), note=f"{len(cuts)} cuts: {', '.join(sorted(set(cuts)))}")


def no_leak(proxy: Proxy, worker: Worker, before: tuple[int, int]) -> None:
    """Wait until the worker has about as many threads and connections as it had; fail when it keeps more."""
    now = before

    def few() -> bool:
        nonlocal now
        now = threads_of(worker), proxy.open
        return all(have <= had + SOME for have, had in zip(now, before, strict=True))

    try:
        wait_until(few, timeout=30)
    except AssertionError:
        raise AssertionError(f"threads and connections: {before} before, {now} after") from None


def settled_in(site: Site, proxy: Proxy) -> tuple[Worker, tuple[int, int]]:
    """Return a worker that has run a bit of everything, with its threads and connections."""
    site.environment.pop("DRAY_WORKER_LEASE")
    worker = site.ready_worker()
    site.send_some(100, 0.01)
    site.settled(30)
    return worker, (threads_of(worker), proxy.open)


@pytest.mark.timeout(240)
@pytest.mark.fault("F19", "200 ms of latency in both directions", on=REMOTE, quick=())
def test_latency_delays_and_loses_nothing(site: Site, seed: int, proxy: Proxy) -> None:
    worker, before = settled_in(site, proxy)
    proxy.latency = 0.2
    began = SYSTEM_CLOCK.monotonic()
    site.send_some(60)
    seconds = site.settled(2 * DEFAULT_LEASE) - began
    proxy.latency = 0.0
    no_leak(proxy, worker, before)
    site.account(seconds, within=2 * DEFAULT_LEASE)


@pytest.mark.timeout(300)
@pytest.mark.fault("F19", "5 % of all that is sent meets a reset", on=REMOTE, quick=())
def test_resets_lose_nothing(site: Site, seed: int, proxy: Proxy) -> None:
    worker, before = settled_in(site, proxy)
    proxy.resets = 0.05
    site.send_some(300, 0.1)
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not site.missing(), BAD_TIMES, look=0.1)
    proxy.resets = 0.0
    over = SYSTEM_CLOCK.monotonic()
    seconds = max(0.0, site.settled(2 * DEFAULT_LEASE + 20) - over)
    assert proxy.reset
    no_leak(proxy, worker, before)
    assert worker.alive
    note, buried = f"{proxy.reset} resets", set[str]()
    if site.place.name == "sqs":
        # What SQS says it has lent is charged, whether the answer comes or not. Three times is once in some thousands.
        buried = {id for id, reason in site.buried().items() if "delivered 4 times without an end" in reason}
        assert len(buried) <= UNLUCKY, f"buried: {sorted(buried)}"
        note += f", {len(buried)} buried" if buried else ""
    # Each may bring back what ran at that moment, and what had ended and was not acked.
    site.account(seconds, may_repeat=20 * proxy.reset, within=2 * DEFAULT_LEASE, may_be_buried=buried, note=note)


@pytest.mark.timeout(300)
@pytest.mark.fault("F19", "half-open for 8 s: connections are taken, nothing goes through", on=REMOTE, quick=())
def test_a_silent_network_is_survived(site: Site, seed: int, proxy: Proxy) -> None:
    worker, before = settled_in(site, proxy)
    before_it = site.begun()
    site.send_some(100, 0.05)
    site.wait_for_runs(site.random.randint(1, 40), before_it)
    proxy.fall_silent()
    pause(8.0)
    proxy.speak()
    spoke = SYSTEM_CLOCK.monotonic()
    held = sum(site.runs.begun().values())
    site.send_some(40)
    seconds = site.settled(2 * DEFAULT_LEASE + 20) - spoke
    no_leak(proxy, worker, before)
    assert worker.alive
    site.account(seconds, may_repeat=held, within=2 * DEFAULT_LEASE)


@pytest.mark.timeout(300)
@pytest.mark.fault("F19", "answers dribble in at 4 kB a second", on=REMOTE, quick=())
def test_a_slow_loris_is_survived(site: Site, seed: int, proxy: Proxy) -> None:
    worker, before = settled_in(site, proxy)
    proxy.dribble = 4000
    began = SYSTEM_CLOCK.monotonic()
    site.send_some(60)
    seconds = site.settled(2 * DEFAULT_LEASE + 20) - began
    proxy.dribble = 0
    no_leak(proxy, worker, before)
    assert worker.alive
    site.account(seconds, within=2 * DEFAULT_LEASE)


@pytest.mark.timeout(300)
@pytest.mark.fault("F19", "out of reach for 5 s: connections are reset and refused", on=REMOTE, quick=("sqs",))
def test_a_server_out_of_reach_is_waited_for(site: Site, seed: int, proxy: Proxy) -> None:
    worker, before = settled_in(site, proxy)
    before_it = site.begun()
    site.send_some(100, 0.05)
    site.wait_for_runs(site.random.randint(1, 40), before_it)
    proxy.be_away()
    held = sum(site.runs.begun().values())
    pause(5.0)
    proxy.be_back()
    back = SYSTEM_CLOCK.monotonic()
    site.send_some(40)
    seconds = site.settled(2 * DEFAULT_LEASE + 20) - back
    no_leak(proxy, worker, before)
    assert worker.alive
    site.account(seconds, may_repeat=held, within=2 * DEFAULT_LEASE)
