"""Celery on Redis or RabbitMQ.

Best is one process without a pool between it and the tasks (`solo`), a large prefetch, no gossip, mingle or heartbeat
and no line of log for each task; for tasks that wait, 100 threads. It acknowledges early, as by default: a task in
hand is lost with its worker. There is no call that sends many: `bulk` is a loop with one producer held for all of it,
instead of one taken from a pool for each.
"""

from __future__ import annotations

from celery import Celery
from protocol import PATIENCE, TASKS, Peer, trial

app = Celery("bench", broker=trial.url, backend=trial.results if trial.keeps else None)
app.conf.task_ignore_result = not trial.keeps
if trial.best:
    app.conf.worker_prefetch_multiplier = 128 if trial.at_once == 1 else 4
tasks = {name: app.task(name=name)(TASKS[name]) for name in ("tick", "nap", "stamp")}
task = tasks[trial.name]


class CeleryPeer(Peer):
    """Celery."""

    packages = ("celery", "kombu", "redis", "amqp")
    default = "`prefork`, a child for each CPU"
    best = "`solo`, prefetch 128, early ack; 100 threads for tasks that wait"

    def worker(self) -> list[str]:
        command = ["-m", "celery", "-A", "celery_app:app", "worker"]
        if trial.best:
            pool = ["solo"] if trial.at_once == 1 else ["threads", "-c", str(trial.at_once)]
            command += ["-l", "warning", "--without-gossip", "--without-mingle", "--without-heartbeat", "-P", *pool]
        else:
            command += ["-l", "info"]
        return command

    def send(self, count: int) -> None:
        for number in range(count):
            task.delay(number)

    def send_many(self, count: int) -> None:
        with app.producer_or_acquire() as producer:
            for number in range(count):
                task.apply_async((number,), producer=producer)

    def ask(self) -> None:
        task.delay(0).get(timeout=PATIENCE)


peer = CeleryPeer()
