"""Calls put together: chords, nested and failing ones, groups within chains, calls that put others in their place."""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import Any, NamedTuple

from dray import BackendError, BrokerError, Message, Put, StoreError, chain, chord, group
from dray.canvas import Canvas
from dray.fans import INDEX, OPEN

from ..history import Sent
from ..site import Site
from . import Program

#: Seconds after which a client sends what it could not send.
AGAIN = 0.5


class Expected(NamedTuple):
    """A flow that a client has sent: the id of its end, and what that comes to if no member fails."""

    id: str
    value: Any
    #: Whether one of its members fails whenever it runs.
    fails: bool


class Chords(Program):
    """Flows of all shapes: their ends run once, for all that they wait for; or have failed, and somebody was told."""

    name = "chords"

    def __init__(self, stage: Any) -> None:
        super().__init__(stage)
        self.flows: list[Expected] = []
        #: What each end was given, in all its runs, by the number of its flow; and of which flows errors were told.
        self.given: dict[int, list[Any]] = {}
        self.told: dict[int, set[str]] = {}

    def declare(self, site: Site) -> None:
        app = site.app

        def body(request: Any, values: Any, flow: int) -> Any:
            self.given.setdefault(flow, []).append(values)
            return values

        def failed(request: Any, id: str, flow: int) -> None:
            self.told.setdefault(flow, set()).add(request.id)

        def bad(request: Any) -> None:
            raise ValueError("bad")

        def split(task: Any, count: int) -> None:
            self.history.handed_over.add(task.request.id)
            task.replace(group(app.tasks["chords.one"].si(n) for n in range(count)) | app.tasks["chords.total"].s())

        site.task("chords.one", lambda request, n: n)
        site.task("chords.more", lambda request, n: n + 10)
        site.task("chords.total", lambda request, values: sum(values))
        site.task("chords.bad", bad, max_retries=0)
        site.task("chords.body", body)
        site.task("chords.failed", failed)
        app.task(name="chords.split", bind=True)(split)

    def act(self, client: Site) -> None:
        for flow in range(self.plan.randint(1, 3)):
            canvas, value, fails = self._drawn(client, flow)
            while (result := self._sent(client, canvas, f"chords-{flow}")) is None:
                client.rest(AGAIN)
            self.flows.append(Expected(result.id, value, fails))
            self.history.sent[result.id] = Sent(result.id, self.name, "chords.body", accepted=True)
            client.rest(3.0)

    def _sent(self, client: Site, canvas: Canvas, id: str) -> Any:
        """Send a flow, once for all times that this is called; return None if it may not be there."""
        try:
            return canvas.apply_async(id=id)
        except (BrokerError, StoreError, BackendError) as error:
            self.stage.world.say(client.process.name, f"{id} perhaps not sent: {type(error).__name__}")
            return None

    def _drawn(self, client: Site, flow: int) -> tuple[Canvas, Any, bool]:
        """Return a flow drawn by chance, what its end is given, and whether it fails."""
        tasks = client.app.tasks
        one, more, total = tasks["chords.one"], tasks["chords.more"], tasks["chords.total"]
        size = self.plan.randint(1, 4)
        simple = [one.s(n) for n in range(size)]
        shapes: dict[str, tuple[Any, Any]] = {
            "plain": (group(simple), [*range(size)]),
            "lines": (group(chain(each, more.s()) for each in simple), [n + 10 for n in range(size)]),
            "nested": (group([chord(simple, total.s()), one.s(7)]), [sum(range(size)), 7]),
            "later": (one.s(3) | group(more.s() for _ in range(size)), [13] * size),
            "twice": (group(simple) | group(total.s(), one.si(5)), [sum(range(size)), 5]),
            "replaced": (group([tasks["chords.split"].si(size), one.s(1)]), [sum(range(size)), 1]),
        }
        header, value = shapes[self.plan.choice(sorted(shapes))]
        fails = self.plan.random() < 0.25
        if fails:
            header, value = group([header, tasks["chords.bad"].si()]), None
        body = tasks["chords.body"].s(flow).set(ignore_result=False)
        return (header | body).on_error(tasks["chords.failed"].s(flow)), value, fails

    def unsettled(self) -> int:
        # What is to be delivered of a group is delivered, or swept up; and an open one is looked at now and then.
        return len(self.stage.store._indexes.get(INDEX, ()))

    def may_be_doubled(self, message: Message) -> bool:
        return not message.task.startswith(("chords.body", "chords.failed"))

    def check(self) -> None:
        decided = Counter(
            change.part
            for _, _, change in self.history.commits
            if any(isinstance(write, Put) and write.key == "state" and write.value != OPEN for write in change.writes)
        )
        for part, times in decided.items():
            if times > 1:
                self.complain("a group is decided once", f"{part}: {times} times")
        for number, flow in enumerate(self.flows):
            end, given = self.end_of(flow.id), self.given.get(number, [])
            # What was buried, or was to be, has told so, perhaps while it was about to succeed elsewhere.
            lost = self.stage.ends or any(task.startswith("chords.") for task in self.history.refused.values())
            if any(values != flow.value for values in given) or (given and flow.fails):
                self.complain("a body gets the results of its whole header", f"{flow}: {given}")
            if end.state == "SUCCESS" and end.value != flow.value:
                self.complain("a flow comes to what it should", f"{flow}: {end}")
            if end.state != "SUCCESS" and not flow.fails and not lost:
                self.complain("a flow fails only when a call of it does", f"{flow}: {end}")
            # The end itself may be refused, and say so, while it succeeds elsewhere, as every task may.
            told = {id for id in self.told.get(number, ()) if not id.startswith(f"{flow.id}-")}
            if len(told) > 1:
                self.complain("an error is told once", f"{flow}: {sorted(told)}")
            if given and told and not lost:
                self.complain("a flow succeeds or fails", f"{flow}: {given}, and told {sorted(told)}")
            if flow.fails and not told and not lost:
                self.complain("an error is told", str(flow))
            self._ran_once(flow)

    def _ran_once(self, flow: Expected) -> None:
        """Complain if the end of a flow ran though it was known what it had come to."""
        history = self.history
        ended = [change.at for change in history.results.get(flow.id, ()) if change.after.final]
        for run in history.runs_of(flow.id):
            name = run.process.name
            loans = [at for (id, _, who), at in history.lent.items() if (id, who) == (run.id, name)]
            lent = max((at for at in loans if at <= run.began), default=inf)
            if run.count == 1 and ended and ended[0] < lent and history.blind.get(name, 0.0) <= lent:
                self.complain("what follows a group runs once", f"{flow}: again at {run.began:.3f}")
