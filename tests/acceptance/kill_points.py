"""Kill a worker at its first call to broker or backend, then at its second, and so on to its last; tell what was lost.

    python kill_points.py FOLDER         # prints one JSON object

dray is imported once; every sender, victim and rescuer is a fork of this process, which itself opens nothing.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import faulty_shop

from dray.clock import SYSTEM_CLOCK
from dray.testing.faults import ExecutionLedger, wait_until

LEASE = 0.5
#: Points tried side by side: most of the time is spent waiting for leases to run out.
AT_ONCE = 6


def use(folder: Path) -> None:
    faulty_shop.app.conf.update(broker_url=f"sqlite:///{folder}/queue.db", worker_lease=LEASE)
    faulty_shop.ledger = ExecutionLedger(folder / "ledger.txt")


def send(folder: Path) -> None:
    use(folder)
    shop = faulty_shop
    results = [shop.quick.delay(n) for n in range(3)]
    results += [shop.aquick.delay(3), shop.twice.delay(4)]
    results += [shop.quick.apply_async((5,), link=shop.aquick.si(6))]
    results += [shop.twice.apply_async((7,), link=shop.twice.si(8))]
    ids = [result.id for result in results]
    (folder / "ids.json").write_text(json.dumps([*ids, f"{ids[-2]}-l0", f"{ids[-1]}-l0"]))


def fall(folder: Path, number: int) -> None:
    use(folder)
    faulty_shop.die_at(number)
    faulty_shop.app.worker(concurrency=2).run_until_idle()


def rescue(folder: Path) -> None:
    use(folder)
    app = faulty_shop.app
    ids = json.loads((folder / "ids.json").read_text())
    with app.worker(concurrency=2):
        wait_until(lambda: all(app.AsyncResult(id).state == "SUCCESS" for id in ids), timeout=20)
        wait_until(lambda: set(app.broker.sizes(["default"])["default"].values()) == {0}, timeout=20)
    runs = faulty_shop.ledger.runs()
    app.close()
    wanted = {id for id in ids if id in runs} | {id for id in ids if {f"{id}/0", f"{id}/1"} <= runs.keys()}
    lost = sorted(set(ids) - wanted)
    (folder / "report.json").write_text(json.dumps({"lost": lost, "repeated": sum(runs.values()) - len(runs)}))


def fork(job: Callable[[], None]) -> int:
    """Run `job` in a fork; return its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        job()
        code = 0
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait_for(child: int) -> int:
    """Return the exit code of a fork; minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(root: Path) -> None:
    began = SYSTEM_CLOCK.monotonic()
    # Loaded here once, not in every fork; a worker that is not started opens nothing.
    app = faulty_shop.app
    app.conf.update(plugins=[])
    for kind in ("brokers", "backends"):
        app.plugins.find(kind, "sqlite")
    assert app.payloads.reader("application/json")
    app.worker()
    points, lost, repeated, unfinished, number, ended = 0, 0, 0, 0, 0, False
    while not ended:
        folders = [root / f"point{number + n + 1}" for n in range(AT_ONCE)]
        rescuers: list[tuple[int, Path]] = []
        for folder in folders:
            number += 1
            folder.mkdir(parents=True)
            assert wait_for(fork(lambda folder=folder: send(folder))) == 0  # type: ignore[misc]
            code = wait_for(fork(lambda folder=folder, n=number: fall(folder, n)))  # type: ignore[misc]
            if code == 0:  # it came to its end before its turn to die
                ended = True
                break
            assert code == -signal.SIGKILL, f"the victim of point {number} ended with {code}"
            points += 1
            rescuers.append((fork(lambda folder=folder: rescue(folder)), folder))  # type: ignore[misc]
        for child, folder in rescuers:
            if wait_for(child) != 0:
                unfinished += 1
                continue
            found = json.loads((folder / "report.json").read_text())
            lost += len(found["lost"])
            repeated += found["repeated"]
    seconds = round(SYSTEM_CLOCK.monotonic() - began, 1)
    facts = {"points": points, "lost": lost, "repeated": repeated, "unfinished": unfinished, "seconds": seconds}
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
