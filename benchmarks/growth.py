"""Does a worker grow? One worker process, a million tasks, its memory read on the way.

    python benchmarks/growth.py                     SQLite, a file in a temporary folder
    python benchmarks/growth.py redis://localhost   another broker
    python benchmarks/growth.py --pool processes    the children are added up

A tenth of the tasks fail, with a traceback; a tenth are retried once; the rest return. Results are not stored, for what
is stored grows on purpose. Printed: resident memory (RSS) after each tenth, and the growth from the second to the last.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from watched import memory_of

from dray import Dray

APP = """
from dray import Dray

app = Dray("growth", task_ignore_result=True)


@app.task(max_retries=1, default_retry_delay=0)
def work(n: int, text: str) -> str:
    if n % 10 == 0:
        raise ValueError(f"number {n} fails")
    if n % 10 == 1 and not work.request.retries:
        raise work.retry(countdown=0)
    return text * 2
"""
#: How many tasks are sent at once, and how many may wait.
CHUNK, WAITING = 5000, 10_000


def resident(pid: int) -> int:
    """Return the resident memory of a process and its children, in bytes."""
    return sum(memory_of(one).rss for one in (pid, *children(pid)))


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have started."""
    listed = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    own = [int(word) for word in listed.split()]
    return own + [grandchild for child in own for grandchild in children(child)]


def main() -> None:
    """Send, read, print."""
    options = argparse.ArgumentParser(description="Does a worker grow?")
    options.add_argument("url", nargs="?", help="the broker; an SQLite file when left out")
    options.add_argument("--tasks", type=int, default=1_000_000)
    options.add_argument("--pool", default="threads")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "growing.py").write_text(APP)
        url = chosen.url or f"sqlite:///{folder}/queue.db"
        environment = {**os.environ, "DRAY_BROKER_URL": url, "DRAY_RESULT_BACKEND": "disabled"}
        command = [sys.executable, "-m", "dray", "-A", "growing", "worker", "-l", "critical", "-P", chosen.pool]
        worker = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        try:
            measure(url, chosen.tasks, worker.pid)
        finally:
            worker.terminate()
            worker.wait(30)


def measure(url: str, tasks: int, pid: int) -> None:
    """Keep the worker busy with so many tasks, and print its memory on the way."""
    app = Dray("growth", broker=url, backend="disabled", task_ignore_result=True, set_as_current=False)
    app.task(name="growing.work")(lambda n, text: None)
    read: list[int] = []
    began = time.perf_counter()
    for sent in range(0, tasks, CHUNK):
        app.tasks["growing.work"].delay_many((n, "x" * 100) for n in range(sent, min(sent + CHUNK, tasks)))
        while app.broker.sizes(["default"])["default"]["ready"] > WAITING:
            time.sleep(0.02)
        if (sent + CHUNK) % max(tasks // 10, CHUNK) == 0:
            read.append(resident(pid))
            print(
                f"{sent + CHUNK:>10,} tasks  {time.perf_counter() - began:6.1f} s  {read[-1] / 2**20:7.1f} MiB",
                flush=True,
            )
    while any(app.broker.sizes(["default"])["default"][state] for state in ("ready", "delayed", "leased")):
        time.sleep(0.1)
    read.append(resident(pid))
    print(f"       all done  {time.perf_counter() - began:6.1f} s  {read[-1] / 2**20:7.1f} MiB")
    print(f"growth from the second reading to the last: {(read[-1] - read[1]) / 2**20:+.1f} MiB")
    app.close()


if __name__ == "__main__":
    main()
