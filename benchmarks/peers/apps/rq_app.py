"""RQ on Redis.

Best is `SimpleWorker`, which runs the tasks in its own process instead of a fork for each, and says little. Results are
ignored by `result_ttl=0`. `enqueue_many` is the bulk. It runs one task at a time, so tasks that wait are not measured.
"""

from __future__ import annotations

from protocol import PATIENCE, TASKS, Peer, in_chunks, trial
from redis import Redis
from rq import Queue

connection = Redis.from_url(trial.url)
queue = Queue("default", connection=connection)
function = TASKS[trial.name]
keep = None if trial.keeps else 0


class RqPeer(Peer):
    """RQ."""

    packages = ("rq", "redis")
    default = "a fork for each task"
    best = "`SimpleWorker`"
    naps = False

    def worker(self) -> list[str]:
        simple = ["-w", "rq.SimpleWorker", "--quiet"] if trial.best else []
        return ["-m", "rq.cli", "worker", "-u", trial.url, *simple, "default"]

    def send(self, count: int) -> None:
        for number in range(count):
            queue.enqueue(function, number, result_ttl=keep)

    def send_many(self, count: int) -> None:
        for numbers in in_chunks(count):
            queue.enqueue_many([Queue.prepare_data(function, (number,), result_ttl=keep) for number in numbers])

    def ask(self) -> None:
        if not queue.enqueue(function, 0).latest_result(timeout=int(PATIENCE)):
            raise TimeoutError


peer = RqPeer()
