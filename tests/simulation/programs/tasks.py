"""Single tasks: that succeed, fail, are tried again, wait, expire, are revoked, unknown, or kill their worker."""

from __future__ import annotations

from typing import Any, ClassVar

from dray import BrokerError, Message

from ..site import Site
from . import Program


class Plain(Program):
    """Tasks that return or raise, some for longer than a lease, some without a result, with all priorities."""

    name = "plain"

    def declare(self, site: Site) -> None:
        def work(request: Any, n: int, seconds: float) -> int:
            site.be_in_user_code("plain.work", seconds)
            return n * 2

        def fail(request: Any, n: int) -> None:
            raise ValueError(f"no {n}")

        site.task("plain.work", work)
        site.task("plain.fail", fail)
        site.task("plain.bury", fail, dead_letter=True)
        site.task("plain.ignored", work, ignore_result=True)

    def act(self, client: Site) -> None:
        plan = self.plan
        for n in range(plan.randint(3, 9)):
            kind = plan.choice(["work", "work", "work", "fail", "bury", "ignored"])
            seconds = plan.choice([0.0, 0.0, 0.2, 1.0, 2.5 * self.stage.lease])
            args = (n,) if kind in ("fail", "bury") else (n, seconds)
            options = {"ignored": True} if kind == "ignored" else {}
            client.send("plain", f"plain.{kind}", *args, id=f"plain-{n}", priority=plan.choice([0, 0, 5, 9]), **options)
            client.rest(2.0)

    def check(self) -> None:
        wanted = {"plain.work": ("SUCCESS",), "plain.fail": ("FAILURE",), "plain.bury": ("FAILURE",)}
        for sent in self.accepted():
            end = self.end_of(sent.id)
            if sent.task in wanted and end.state not in (*wanted[sent.task], "REJECTED"):
                self.complain("a task comes to what it does", f"{sent.id}: {end}")
            if end.state == "SUCCESS" and end.value != 2 * int(sent.id.removeprefix("plain-")):
                self.complain("a task comes to what it does", f"{sent.id}: {end}")
            if sent.task == "plain.bury" and not end.reason:
                self.complain("what is to be buried is in the dead letters", sent.id)


class Retries(Program):
    """Tasks that fail a few times and then succeed, or never do."""

    name = "retries"
    MOST = 3

    def declare(self, site: Site) -> None:
        def flaky(request: Any, failures: int) -> int:
            if request.retries < failures:
                raise ConnectionError(f"attempt {request.retries}")
            return request.retries

        options: dict[str, Any] = {"autoretry_for": (ConnectionError,), "max_retries": self.MOST}
        site.task("retries.backoff", flaky, retry_backoff=0.5, retry_backoff_max=2, **options)
        site.task("retries.at_once", flaky, default_retry_delay=0, **options)

    def act(self, client: Site) -> None:
        for n in range(self.plan.randint(2, 5)):
            task = self.plan.choice(["retries.backoff", "retries.at_once"])
            client.send("retries", task, self.plan.randint(0, self.MOST + 1), id=f"retries-{n}")
            client.rest(3.0)

    def check(self) -> None:
        for sent in self.accepted():
            end, runs = self.end_of(sent.id), self.history.runs_of(sent.id)
            attempts = {run.retries for run in runs}
            if attempts != set(range(len(attempts))) or len(attempts) > self.MOST + 1:
                self.complain("attempts follow one another, and are no more than allowed", f"{sent.id}: {attempts}")
            if end.state == "SUCCESS" and end.value != max(attempts):
                self.complain("the last attempt has the say", f"{sent.id}: {end}")
            if end.state == "FAILURE" and max(attempts) != self.MOST:
                self.complain("a task is tried as often as it may be", f"{sent.id}: {end} after {attempts}")


class Families(Program):
    """Tasks that send others while they run, under ids that are the same in every run."""

    name = "families"

    def declare(self, site: Site) -> None:
        def parent(request: Any, children: int) -> int:
            for n in range(children):
                site.app.tasks["families.child"].apply_async((n,), task_id=f"{request.id}.{n}")
            return children

        options: dict[str, Any] = {"autoretry_for": (BrokerError,), "max_retries": None, "default_retry_delay": 0.5}
        site.task("families.parent", parent, **options)
        site.task("families.child", lambda request, n: n)

    def act(self, client: Site) -> None:
        for n in range(self.plan.randint(1, 4)):
            client.send("families", "families.parent", self.plan.randint(1, 4), id=f"families-{n}")
            client.rest(3.0)

    def check(self) -> None:
        for sent in self.accepted():
            end = self.end_of(sent.id)
            for n in range(end.value if end.state == "SUCCESS" else 0):
                if not self.end_of(f"{sent.id}.{n}").state:
                    self.complain("what a task that succeeded has sent ends", f"{sent.id}.{n}")


class Timed(Program):
    """Tasks that must not begin before an instant, or after one."""

    name = "timed"

    def __init__(self, stage: Any) -> None:
        super().__init__(stage)
        #: By id: between which instants (of the right clock) it may begin.
        self.may_begin: dict[str, tuple[float, float]] = {}

    def declare(self, site: Site) -> None:
        site.task("timed.work", lambda request: request.id)

    def act(self, client: Site) -> None:
        for n in range(self.plan.randint(2, 6)):
            id, now = f"timed-{n}", self.stage.world.now
            delay = self.plan.choice([0.0, 0.5, 3.0, 12.0])
            options: dict[str, Any] = {"countdown": delay} if delay else {}
            if expires := self.plan.choice([None, 1.0, 6.0]):
                options |= {"expires": delay + expires, "may_not_run": True}
            if client.send("timed", "timed.work", id=id, **options) is not None:
                # Sending may have taken its time, and the clocks of the processes may be wrong.
                end = self.stage.world.now + delay + expires if expires else float("inf")
                self.may_begin[id] = now + delay, end
            client.rest(2.0)

    def check(self) -> None:
        slack = 2 * self.stage.max_skew + 0.01
        for id, (earliest, latest) in self.may_begin.items():
            for run in self.history.runs_of(id):
                if run.began < earliest - slack:
                    self.complain("nothing begins before its eta", f"{id} at {run.began:.3f} < {earliest:.3f}")
                # Frozen between the look and the run, it may begin late.
                frozen = any(start <= latest + slack and end >= latest for start, end in run.process.freezes)
                if run.began > latest + slack and not frozen:
                    self.complain("nothing begins after its expires", f"{id} at {run.began:.3f}, latest {latest:.3f}")


class AtMostOnce(Program):
    """Tasks that would rather be lost than run twice."""

    name = "once"

    def declare(self, site: Site) -> None:
        def work(request: Any, seconds: float) -> None:
            site.be_in_user_code("once.work", seconds)

        site.task("once.work", work, acks_late=False, ignore_result=True)
        site.task("once.told", work, acks_late=False)

    def act(self, client: Site) -> None:
        for n in range(self.plan.randint(2, 6)):
            task, seconds = self.plan.choice(["once.work", "once.told"]), self.plan.choice([0.0, 1.0, 6.0])
            # Whether a killed one has begun, or its result is stored, nobody promises. Nor does a sender that asks for
            # another try know whether the first one has reached a worker.
            client.send("once", task, seconds, id=f"once-{n}", may_not_run=True, retry=False)
            client.rest(2.0)

    def check(self) -> None:
        for sent in self.accepted():
            runs = self.history.runs_of(sent.id)
            if len(runs) > 1:
                began = ", ".join(f"{run.process.name} at {run.began:.3f}" for run in runs)
                self.complain("an at-most-once task never begins twice", f"{sent.id}: {began}")

    def may_be_doubled(self, message: Message) -> bool:
        return False


class Revoked(Program):
    """Tasks that are revoked before they are due, while they wait, or while they run."""

    name = "revoked"

    def __init__(self, stage: Any) -> None:
        super().__init__(stage)
        #: By id: when the broker had confirmed that it is revoked.
        self.revoked_at: dict[str, float] = {}

    def declare(self, site: Site) -> None:
        def work(request: Any, seconds: float) -> None:
            for _ in range(4):
                site.be_in_user_code("revoked.work", seconds / 4)
                if request.cancelled:
                    break

        site.task("revoked.work", work)

    def act(self, client: Site) -> None:
        for n in range(self.plan.randint(1, 4)):
            id, options = f"revoked-{n}", self.plan.choice([{}, {"countdown": 5.0}])
            client.send("revoked", "revoked.work", self.plan.choice([0.0, 5.0]), id=id, may_not_run=True, **options)
            client.rest(3.0)
            try:
                client.app.revoke(id)
            except BrokerError:
                continue
            self.revoked_at[id] = self.stage.world.now

    def check(self) -> None:
        for id, at in self.revoked_at.items():
            for run in self.history.runs_of(id):
                lent = self.history.lent.get((id, run.retries, run.process.name))
                if lent is not None and lent > at:
                    self.complain("what is revoked does not begin", f"{id}, revoked at {at:.3f}, lent at {lent:.3f}")


class Poison(Program):
    """Tasks that kill every worker that runs them, between others that do not."""

    name = "poison"

    def declare(self, site: Site) -> None:
        site.task("poison.kill", lambda request: site.process.die())
        site.task("poison.innocent", lambda request: "alive")

    def act(self, client: Site) -> None:
        for n in range(self.plan.randint(1, 2)):
            client.send("poison", "poison.kill", id=f"poison-{n}")
            client.send("poison", "poison.innocent", id=f"innocent-{n}")
            client.rest(1.0)

    def check(self) -> None:
        for sent in self.accepted():
            end = self.end_of(sent.id)
            if sent.task == "poison.kill" and not end.reason:
                self.complain("poison is buried", f"{sent.id}: {end}")


class Unknown(Program):
    """Tasks that no worker knows."""

    name = "unknown"
    settings: ClassVar[dict[str, Any]] = {"task_unknown_grace": 6.0}

    def declare(self, site: Site) -> None:
        if not site.process.mortal:
            site.app.task(name="unknown.work")(lambda: None)

    def act(self, client: Site) -> None:
        for n in range(self.plan.randint(1, 2)):
            client.send("unknown", "unknown.work", id=f"unknown-{n}")
            client.rest(3.0)

    def check(self) -> None:
        for sent in self.accepted():
            if "unknown task" not in (end := self.end_of(sent.id)).reason:
                self.complain("an unknown task is buried, with the reason", f"{sent.id}: {end}")


class Callbacks(Program):
    """Tasks with callbacks, for success and for failure, and callbacks of callbacks."""

    name = "callbacks"

    def declare(self, site: Site) -> None:
        def work(request: Any, n: int) -> int:
            if n % 3 == 2:
                raise ValueError(f"no {n}")
            return n * 10

        site.task("callbacks.work", work)
        site.task("callbacks.told", lambda request, value, *more: value)

    def act(self, client: Site) -> None:
        told = client.app.tasks["callbacks.told"].s()
        for n in range(self.plan.randint(2, 5)):
            options = {"link": told.link(told), "link_error": told}
            client.send("callbacks", "callbacks.work", n, id=f"callbacks-{n}", **options)
            client.rest(2.0)

    def check(self) -> None:
        for sent in self.accepted():
            end = self.end_of(sent.id)
            if end.state == "SUCCESS":
                self._told(f"{sent.id}-l0", end.value)
                self._told(f"{sent.id}-l0-l0", end.value)
            elif end.state in ("FAILURE", "REJECTED"):
                self._told(f"{sent.id}-e0", sent.id)

    def _told(self, id: str, value: Any) -> None:
        """Complain unless a callback has run with this value, or is a dead letter, or its parent is."""
        parent = id.rpartition("-")[0]
        if self.end_of(id).reason or self.end_of(parent).state == "REJECTED":
            return
        runs = [run for run in self.history.runs_of(id) if run.args and run.args[0] == value]
        if not runs:
            self.complain("a callback is told what is stored", f"{id} was not told {value!r}")


class Keys(Program):
    """The same call for a key, again and again, from a client that does not know whether it has called before."""

    name = "keys"

    def declare(self, site: Site) -> None:
        def charge(request: Any, order: int) -> str:
            site.be_in_user_code("keys.charge", 0.5)
            return f"charged {order}"

        site.task("keys.charge", charge)

    def act(self, client: Site) -> None:
        for _ in range(self.plan.randint(3, 7)):
            order = self.plan.randint(1, 2)
            client.send("keys", "keys.charge", order, idempotency_key=f"order-{order}")
            client.rest(3.0)

    def check(self) -> None:
        for sent in self.accepted():
            if self.end_of(sent.id).state not in ("SUCCESS", "REJECTED"):
                self.complain("a call for a key comes to something", f"{sent.id}: {self.end_of(sent.id)}")
