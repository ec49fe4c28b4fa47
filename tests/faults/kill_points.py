"""Kill a worker at its first call to broker or backend, then at its second, and so on to its last; tell what was lost.

    python kill_points.py FOLDER [URL [FIRST EVERY]]       # prints one JSON object

Without a URL, or with an empty one, each point has an SQLite file of its own. With FIRST and EVERY only each EVERYth
point is tried. dray is imported once; every sender, victim and rescuer is a fork of this process, which itself opens
nothing.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import besieged
from ledger import Runs

from dray.clock import SYSTEM_CLOCK
from dray.testing.faults import FlakyBackend, FlakyBroker, wait_until

LEASE = 1.0
#: Points tried side by side: most of the time is spent waiting for leases to run out.
AT_ONCE = 6


class Point(NamedTuple):
    """One place to die at: its number, its folder, its queue, and the broker."""

    number: int
    folder: Path
    queue: str
    url: str

    def use(self) -> None:
        """Have this process work there."""
        besieged.app.conf.update(broker_url=self.url, task_default_queue=self.queue, worker_lease=LEASE)
        besieged.runs = Runs(self.folder / "ledger.txt")


def send(point: Point) -> None:
    point.use()
    shop = besieged
    results = [shop.work.delay(n) for n in range(3)]
    results += [shop.awork.delay(3), shop.twice.delay(4), shop.fail.delay(5)]
    results += [shop.work.apply_async((6,), countdown=0.1)]
    results += [shop.work.apply_async((7,), link=shop.awork.si(8))]
    results += [shop.twice.apply_async((9,), link=shop.twice.si(10))]
    ids = [result.id for result in results]
    runs = [f"{id}/0" for id in ids] + [f"{ids[4]}/1", f"{ids[7]}-l0/0"]
    runs += [f"{ids[8]}/1", f"{ids[8]}-l0/0", f"{ids[8]}-l0/1"]
    (point.folder / "runs.json").write_text(json.dumps(runs))


def fall(point: Point) -> None:
    point.use()
    count, lock = 0, threading.Lock()

    def observe(verb: str, moment: str) -> None:
        nonlocal count
        with lock:
            count += 1
            if count == point.number:
                os.kill(os.getpid(), signal.SIGKILL)
                threading.Event().wait()

    FlakyBroker.between(besieged.app).observe(observe)
    if besieged.app.connections.backend_url is not None:
        FlakyBackend.between(besieged.app).observe(observe)
    besieged.app.worker(concurrency=2).run_until_idle()


def rescue(point: Point) -> None:
    point.use()
    app = besieged.app
    wanted = set(json.loads((point.folder / "runs.json").read_text()))
    with app.worker(concurrency=2):
        wait_until(lambda: wanted <= besieged.runs.ended().keys(), timeout=30)
        wait_until(lambda: not any(app.broker.sizes([point.queue])[point.queue].values()), timeout=20)
    begun = besieged.runs.begun()
    app.close()
    (point.folder / "report.json").write_text(json.dumps(sum(begun.values()) - len(begun)))


def fork(job: Callable[[Point], None], point: Point) -> int:
    """Run `job` in a fork; return its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        job(point)
        code = 0
    except BaseException as error:
        sys.stderr.write(f"point {point.number}: {type(error).__name__}: {error}\n")
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait_for(child: int) -> int:
    """Return the exit code of a fork; minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def missing(point: Point) -> int:
    """Return how many runs never came to an end."""
    wanted = set(json.loads((point.folder / "runs.json").read_text()))
    return len(wanted - Runs(point.folder / "ledger.txt").ended().keys())


def load(url: str) -> None:
    """Load all that the forks need here, once; a worker that is not started opens nothing."""
    app = besieged.app
    app.conf.update(plugins=[], broker_url=url)
    for kind, place in (("brokers", app.connections.broker_url), ("backends", app.connections.backend_url)):
        if place is not None:
            app.plugins.find(kind, place.partition(":")[0])
    assert app.payloads.reader("application/json")
    app.worker()


def main(root: Path, url: str = "", first: int = 1, every: int = 1) -> None:
    began = SYSTEM_CLOCK.monotonic()
    load(url or f"sqlite:///{root}/none.db")
    facts = {"points": 0, "lost": 0, "hung": 0, "repeated": 0}
    number, ended = first, False
    while not ended:
        rescuers: list[tuple[int, Point]] = []
        for _ in range(AT_ONCE):
            folder = root / f"point{number}"
            folder.mkdir(parents=True)
            point = Point(number, folder, f"q{secrets.token_hex(4)}", url or f"sqlite:///{folder}/queue.db")
            number += every
            assert wait_for(fork(send, point)) == 0
            code = wait_for(fork(fall, point))
            if code == 0:  # it came to its end before its turn to die
                ended = True
                break
            assert code == -signal.SIGKILL, f"the victim of point {point.number} ended with {code}"
            facts["points"] += 1
            rescuers.append((fork(rescue, point), point))
        for child, point in rescuers:
            if wait_for(child) == 0:
                facts["repeated"] += json.loads((point.folder / "report.json").read_text())
            else:
                facts["lost"] += missing(point)
                facts["hung"] += 1
    facts["seconds"] = round(SYSTEM_CLOCK.monotonic() - began)
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3], *map(int, sys.argv[3:5]))
