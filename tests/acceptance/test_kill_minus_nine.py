"""Workers killed with -9: at random moments under load, at each of their calls, and for good. Nothing is ever lost."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from dray.testing.faults import wait_until

from .conftest import EMPTY, Crew

HERE = Path(__file__).parent
Report = Callable[..., None]


def sender(run: str) -> str:
    """Return the run that sent this one: the attempt before it, or the task it is linked to."""
    return run[:-3] if run.endswith("-l0") else f"{run[:-2]}/0" if run.endswith("/1") else ""


def test_twenty_kills_under_load_lose_nothing(crew: Crew, report: Report) -> None:
    kills = 20
    in_flight: Counter[str] = Counter()
    # Killed twenty times in half a minute, any message may be unlucky more often than a poisonous one is allowed to be.
    crew.environment["DRAY_TASK_MAX_DELIVERIES"] = "25"
    ids: list[str] = []
    linked: list[str] = []
    retried: list[str] = []

    def load(count: int) -> None:
        for n in range(count):
            match n % 10:
                case 7:
                    retried.append(crew.send("twice", n))
                case 8:
                    ids.append(crew.send("aquick", n))
                case 9:
                    link = crew.app.signature("faulty_shop.quick", (n,), immutable=True)
                    ids.append(crew.send("quick", n, link=link))
                    linked.append(f"{ids[-1]}-l0")
                case _:
                    ids.append(crew.send("quick", n))

    load(300)
    for _ in range(kills):
        load(100)
        done = sum(crew.ledger.runs().values())
        worker = crew.worker("-c", "4")
        after = random.randint(1, 120)
        wait_until(lambda: sum(crew.ledger.runs().values()) >= done + after, timeout=20)  # noqa: B023
        worker.kill()
        in_flight.update(crew.begun_and_not_settled())

    crew.worker("-c", "4")
    crew.wait_until_done(timeout=30)
    lost = crew.ledger.missing([*ids, *linked, *(f"{id}/{n}" for id in retried for n in (0, 1))])
    repeated = crew.ledger.repeated()
    report(
        kills=kills,
        tasks=len(ids) + len(linked) + len(retried),
        lost=len(lost),
        repeated=sum(repeated.values()) - len(repeated),
        in_flight=len(in_flight),
    )
    assert not lost
    assert crew.states([*ids, *linked, *retried]) == {"SUCCESS"}
    # Run again was only what had begun and was not settled when a worker was killed, once for each kill at most; and
    # what that had sent: it may be done and forgotten by the time that its parent comes back and sends it anew.
    assert {run: times for run, times in repeated.items() if times - 1 > in_flight[run] + in_flight[sender(run)]} == {}


def test_what_a_killed_worker_held_is_taken_over_when_its_lease_is_over(crew: Crew, report: Report) -> None:
    lease = 2.0
    crew.environment["FAULTY_SLOW"] = "600"
    crew.environment["DRAY_WORKER_PREFETCH_MULTIPLIER"] = "3"
    ids = [crew.send("slow", n) for n in range(20)]
    victim = crew.worker("-c", "4")
    wait_until(lambda: sum(crew.ledger.runs().values()) == 4 and crew.sizes()["leased"] == 12)
    survivor = crew.worker("-c", "4", FAULTY_SLOW="0")
    wait_until(lambda: crew.sizes() == {**EMPTY, "leased": 12})
    # From now on nobody sends, and the survivor is idle.
    victim.kill()
    clock = crew.app.clock
    began = clock.monotonic()
    crew.wait_until_done(timeout=lease + 5)
    seconds = clock.monotonic() - began
    report(lost=len(crew.ledger.missing(ids)), repeated=len(crew.ledger.repeated()), seconds=round(seconds, 1))
    assert survivor.alive
    assert crew.states(ids) == {"SUCCESS"}
    assert not crew.ledger.missing(ids)
    # What it had begun has run twice; what it had only fetched has not.
    assert sorted(crew.ledger.repeated().values()) == [2] * 4


def test_a_worker_killed_at_any_of_its_calls_loses_nothing(tmp_path: Path, report: Report) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "kill_points.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    report(**found)
    # open, consumer, receive, publish, store, ack, close: each before and after, several times over.
    assert found["points"] >= 30
    assert (found["lost"], found["unfinished"]) == (0, 0), done.stderr


def test_a_poison_message_is_buried_and_its_neighbours_are_done(crew: Crew, report: Report) -> None:
    crew.environment["DRAY_WORKER_LEASE"] = "1"
    poison = crew.app.send_task("faulty_shop.poison").id
    ids = []
    for n in range(20):
        if not crew.sizes()["ready"] and not crew.sizes()["leased"]:
            break
        ids.append(crew.send("quick", n))
        worker = crew.worker("-c", "1")
        wait_until(lambda: not worker.alive or crew.sizes()["dead"] == 1, timeout=30)  # noqa: B023
        if worker.alive:
            break
    ids.append(crew.send("quick", 99))
    wait_until(lambda: crew.sizes() == {**EMPTY, "dead": 1}, timeout=30)
    (letter,) = crew.app.broker.dead("default", 10)
    runs = crew.ledger.runs()
    report(poison_runs=runs[poison], neighbours=len(ids), lost=len(crew.ledger.missing(ids)))
    assert letter.id == poison
    assert "worker died" in letter.reason
    assert runs[poison] == 3
    assert crew.states(ids) == {"SUCCESS"}


def test_a_frozen_worker_that_thaws_neither_overwrites_nor_starts_anything(crew: Crew, report: Report) -> None:
    crew.environment["DRAY_WORKER_LEASE"] = "1"
    crew.environment["DRAY_WORKER_PREFETCH_MULTIPLIER"] = "3"
    ids = [crew.send("slow", n) for n in range(12)]
    frozen = crew.worker("-c", "4", "-n", "frozen", FAULTY_SLOW="4")
    wait_until(lambda: sum(crew.ledger.runs().values()) == 4 and crew.sizes()["leased"] == 12)
    frozen.send(signal.SIGSTOP)
    crew.worker("-c", "4", "-n", "warm")
    # The others finish its work while it is frozen.
    crew.wait_until_done(timeout=20)
    frozen.send(signal.SIGCONT)
    after = [crew.send("slow", n) for n in range(8)]
    crew.wait_until_done(timeout=30)
    frozen.send(signal.SIGTERM)
    assert frozen.ended() == 0
    report(lost=len(crew.ledger.missing(ids)), repeated=len(crew.ledger.repeated()))
    assert {crew.app.AsyncResult(id).worker for id in ids} == {"warm"}
    assert sorted(crew.ledger.repeated().values()) == [2] * 4
    assert not crew.ledger.missing(after)
    assert crew.states([*ids, *after]) == {"SUCCESS"}


def test_delayed_tasks_survive_their_workers_and_none_runs_early(crew: Crew, report: Report) -> None:
    now = crew.app.clock.time()
    due = {crew.send("quick", n, countdown=0.5 + n % 4): 0.5 + n % 4 for n in range(60)}
    for _ in range(2):
        done = len(crew.ledger.runs())
        worker = crew.worker("-c", "4")
        wait_until(lambda: len(crew.ledger.runs()) > done, timeout=20)  # noqa: B023
        worker.kill()
        # Those that are not due wait in the broker, none in the memory of a worker.
        lent = [waiting.id for waiting in crew.app.broker.peek("default", 100) if waiting.state == "leased"]
        assert all(due[id] <= crew.app.clock.time() - now for id in lent)
    crew.worker("-c", "4")
    crew.wait_until_done(timeout=30)
    began = {id: crew.app.AsyncResult(id).date_started for id in due}
    early = [id for id, start in began.items() if start is None or start.timestamp() < now + due[id] - 0.001]
    report(tasks=len(due), lost=len(crew.ledger.missing(due)), early=len(early))
    assert not early
    assert not crew.ledger.missing(due)
