"""huey on Redis or in an SQLite file.

Best is one thread that looks for tasks without pausing long, no periodic tasks and no log of each task; on SQLite it
does not wait for the disk either way. Callers ask for a result every half millisecond instead of less and less often.
There is no call that sends many, and a task in hand is lost with its worker. For tasks that wait: 100 threads.
"""

from __future__ import annotations

from huey import RedisHuey, SqliteHuey
from protocol import PATIENCE, TASKS, Peer, trial

if trial.url.startswith("sqlite"):
    huey = SqliteHuey("bench", filename=f"{trial.folder}/tasks.db", results=trial.keeps)
else:
    huey = RedisHuey("bench", url=trial.url, results=trial.keeps)
tasks = {name: huey.task(name=name)(TASKS[name]) for name in ("tick", "nap", "stamp")}
task = tasks[trial.name]


class HueyPeer(Peer):
    """huey."""

    packages = ("huey",)
    default = "1 thread"
    best = "1 thread, waits 1 ms at most when empty, quiet; 100 threads for tasks that wait"
    bulk = False

    def worker(self) -> list[str]:
        command = ["-m", "huey.bin.huey_consumer", "huey_app.huey"]
        if trial.best:
            command += ["--quiet", "--no-periodic", "--workers", str(trial.at_once)]
            command += ["--delay", "0.001", "--max-delay", "0.001", "--backoff", "1.0"]
        return command

    def send(self, count: int) -> None:
        for number in range(count):
            task(number)

    def ask(self) -> None:
        pace = {"backoff": 1.0, "max_delay": 0.0005} if trial.best else {}
        task(0).get(blocking=True, timeout=PATIENCE, **pace)


peer = HueyPeer()
