"""dray: its default settings in both configurations.

Best is default but for the level of the log: `warning` instead of `info`, which writes two lines for each task.
"""

from __future__ import annotations

from protocol import PATIENCE, TASKS, Peer, trial

from dray import Dray

app = Dray("bench", broker=trial.url, backend=trial.results or None, set_as_current=False)
tasks = {
    name: app.task(name=name, ignore_result=not (trial.stored or function.__name__.endswith("stamp")))(function)
    for name, function in TASKS.items()
}
task = tasks[trial.name]


class DrayPeer(Peer):
    """dray."""

    packages = ("dray",)
    default = "as it comes"
    best = "as it comes, `-l warning`"
    kinds = ("def", "async def")

    def worker(self) -> list[str]:
        # 100 coroutines at once are the default; of threads there are four.
        at_once = ["-c", str(trial.at_once)] if trial.kind == "def" and trial.at_once > 1 else []
        quiet = ["-l", "warning"] if trial.best else []
        return ["-m", "dray", "-A", "dray_app:app", "worker", *quiet, *at_once]

    def send(self, count: int) -> None:
        for number in range(count):
            task.delay(number)

    def send_many(self, count: int) -> None:
        task.delay_many((number,) for number in range(count))

    def ask(self) -> None:
        task.delay(0).get(timeout=PATIENCE)


peer = DrayPeer()
