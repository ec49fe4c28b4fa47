"""Clients that wait for results, and look again later: what has ended well stays as it was."""

from __future__ import annotations

from typing import Any, ClassVar

from dray import BackendError, BrokerError, ResultTimeout, UnknownResult

from ..history import Read
from ..site import Site
from . import Program


class Reading(Program):
    """Calls whose results are read, read again, and read once more after they were revoked or have expired."""

    name = "reading"
    settings: ClassVar[dict[str, Any]] = {"task_track_started": True}

    def declare(self, site: Site) -> None:
        def work(request: Any, n: int) -> int:
            site.app.tasks[request.message.task].update_state(state="HALFWAY", meta={"n": n})
            site.be_in_user_code("reading.work", 0.3)
            return n + 100

        site.task("reading.work", work)
        site.task("reading.flaky", work, autoretry_for=(ValueError,), max_retries=2, default_retry_delay=1)

    def act(self, client: Site) -> None:
        results = []
        for n in range(self.plan.randint(2, 5)):
            options: dict[str, Any] = self.plan.choice([{}, {}, {"expires": 8.0, "may_not_run": True}])
            task = self.plan.choice(["reading.work", "reading.flaky"])
            if (result := client.send("reading", task, n, id=f"reading-{n}", **options)) is not None:
                results.append(result)
                self._read(client, result.id, self.plan.choice([0.0, 1.0, 30.0]))
            client.rest(1.0)
        for result in results:
            self._read(client, result.id, 120.0)
        for result in results:
            try:
                client.app.revoke(result.id)
            except BrokerError:
                pass
        client.world.wait(3 * self.stage.lease)
        for result in results:
            self._read(client, result.id, 120.0)

    def _read(self, client: Site, id: str, patience: float) -> None:
        """Wait for a result, from a handle of its own that has seen nothing."""
        result = client.app.AsyncResult(id)
        try:
            value = result.get(patience, propagate=False)
        except (ResultTimeout, BackendError, BrokerError):
            return
        except UnknownResult:
            if self.stage.shelf is None:
                raise
            return  # this broker cannot tell, and the backend was away when it was sent
        report = result._final
        state = report.state if report is not None else "?"
        client.world.say(client.process.name, f"reads {id}: {state} {value!r}")
        self.history.reads.append(Read(client.world.now, id, state, value))

    def check(self) -> None:
        seen: dict[str, Read] = {}
        for read in self.history.reads:
            first = seen.setdefault(read.id, read)
            if first.state == "SUCCESS" and (read.state, read.value) != (first.state, first.value):
                self.complain("what was read as a success stays one", f"{first} and then {read}")
            if read.state == "SUCCESS" and read.value != 100 + int(read.id.removeprefix("reading-")):
                self.complain("a client reads what the task returned", f"{read}")
