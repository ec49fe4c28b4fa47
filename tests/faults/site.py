"""One fault on one broker: a queue of its own, a sender, workers, a ledger, and the account at the end."""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import signal
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dray import Dray, Waiting
from dray.clock import SYSTEM_CLOCK
from dray.errors import BrokerError
from dray.testing.faults import wait_until

from ..acceptance.conftest import WorkerProcess
from .ledger import Runs
from .places import Place
from .proxy import Proxy
from .verdicts import Verdict

#: The lease that workers have here (seconds), where a fault's bound is in leases. The default is 30 s.
LEASE = 3.0
#: Seconds for which a worker that was told to stop may take, with nothing left to run.
STOPS_WITHIN = 25.0
#: How much of a worker's log is shown when a test fails.
MOST_LINES = 120


class Worker(WorkerProcess):
    """A worker of the besieged app."""

    app, home = "besieged", Path(__file__).parent

    def children(self) -> list[int]:
        """Return the processes that run its tasks: the last of their line, without what Python keeps for itself."""
        return [pid for pid in descendants(self.pid) if not descendants(pid) and not _is_tracker(pid)]

    def kill_all(self) -> None:
        """Kill it and all below it with -9, in one go, as the end of its container does."""
        # Stopped, it cannot have another child meanwhile.
        os.kill(self.pid, signal.SIGSTOP)
        below = descendants(self.pid)
        self.kill()
        for pid in below:
            kill(pid)
        wait_until(lambda: not any(map(lives, below)), timeout=10)


class Site:
    """Where one fault happens. What it sends is remembered, and accounted for at the end."""

    def __init__(self, place: Place, folder: Path, seed: int, judge: Callable[[Verdict], None]) -> None:
        self.place = place
        self.folder = folder
        self.seed = seed
        self.random = random.Random(seed)
        self.queue = f"q{secrets.token_hex(4)}"
        self.url = place.url(folder)
        self.runs = Runs(folder / "ledger.txt")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DRAY_", "BESIEGED_"))},
            "DRAY_CONFIG": "",
            "DRAY_BROKER_URL": self.url,
            "DRAY_TASK_DEFAULT_QUEUE": self.queue,
            "DRAY_WORKER_LEASE": f"{LEASE:g}",
            "BESIEGED_LEDGER": self.runs.path,
        }
        #: Runs that have to come to an end: what was sent and confirmed, its retries, and what is linked to it.
        self.expected: list[str] = []
        self.judge = judge
        self._workers: list[Worker] = []
        self._app: Dray | None = None
        self._lock = threading.Lock()

    # Sending

    @property
    def app(self) -> Dray:
        """The sender, connected to the server itself, whatever stands between it and the workers."""
        with self._lock:
            if self._app is None:
                words = ("DRAY_RESULT_BACKEND",)
                settings = {word.removeprefix("DRAY_").lower(): self.environment.get(word) for word in words}
                self._app = Dray(
                    "sender",
                    broker=self.url,
                    set_as_current=False,
                    plugins=[],
                    task_default_queue=self.queue,
                    **{name: value for name, value in settings.items() if value},
                )
            return self._app

    def send(self, task: str, *args: Any, **options: Any) -> str:
        """Send a task; when the broker has confirmed it, it has to come to an end. Return its id."""
        linked = options.pop("linked", False)
        if linked:
            options["link"] = self.app.signature("besieged.work", (0,), immutable=True)
        id = self.app.send_task(f"besieged.{task}", args, **options).id
        self.expected.append(f"{id}/0")
        if task == "twice":
            self.expected.append(f"{id}/1")
        if linked:
            self.expected.append(f"{id}-l0/0")
        return id

    def send_some(self, count: int, seconds: float = 0.001) -> None:
        """Send a mixture: tasks of so many seconds, coroutines, retries, delays, failures, links."""
        for n in range(count):
            match n % 10:
                case 5:
                    self.send("twice", n)
                case 6:
                    self.send("work", n, seconds, countdown=0.5)
                case 7:
                    self.send("fail", n)
                case 8:
                    self.send("work", n, seconds, linked=True)
                case 9:
                    self.send("awork", n, seconds)
                case _:
                    self.send("work", n, seconds)

    # Workers

    def worker(self, *arguments: str, **environment: str) -> Worker:
        """Start a worker; return at once."""
        log = self.folder / f"worker{len(self._workers)}.log"
        made = Worker(["-l", "info", *arguments], {**self.environment, **environment}, log)
        self._workers.append(made)
        return made

    def ready_worker(self, *arguments: str, **environment: str) -> Worker:
        """Start a worker; return when it takes tasks."""
        made = self.worker(*arguments, **environment)
        made.wait_until_ready()
        return made

    def proxy(self) -> Proxy:
        """Return a proxy before the server. Workers that are started from now on go through it, the sender does not."""
        made = Proxy(self.place.server.port, self.place.splitter, self.seed)
        self.environment["DRAY_BROKER_URL"] = self.place.url_through(made.port)
        return made

    # The account

    def until(self, condition: Callable[[], object], timeout: float) -> None:
        """Wait until `condition()`; it may ask the broker things while that is away."""

        def asked() -> bool:
            try:
                return bool(condition())
            except BrokerError:
                return False

        wait_until(asked, timeout, look=0.05)

    def missing(self) -> set[str]:
        """Return the runs that have not come to an end."""
        return set(self.expected) - self.runs.ended().keys()

    def begun(self) -> int:
        """Return how many runs have begun in all."""
        return sum(self.runs.begun().values())

    def wait_for_runs(self, more: int, since: int | None = None, timeout: float = 40.0) -> None:
        """Wait until so many more runs have begun than had at `begun()` since (now, when nothing is said)."""
        wanted = (self.begun() if since is None else since) + more
        wait_until(lambda: self.begun() >= wanted, timeout, look=0.02)

    def sizes(self) -> dict[str, int]:
        return dict(self.app.broker.sizes([self.queue])[self.queue])

    def waiting(self) -> int:
        """Return how many messages the broker still has to hand out, or has lent."""
        sizes = self.sizes()
        return sizes["ready"] + sizes["delayed"] + sizes["leased"]

    def dead(self) -> list[Waiting]:
        """Return the dead letters."""
        return list(self.app.broker.dead(self.queue, 1000))

    def buried(self) -> dict[str, str]:
        """Return the dead letters: id -> reason."""
        with contextlib.suppress(BrokerError):
            return {letter.id: letter.reason for letter in self.dead()}
        return {}

    def settled(self, timeout: float) -> float:
        """Wait until everything has ended or is buried, at most so long; return when the last one ended."""
        moment = SYSTEM_CLOCK.monotonic()
        looked = [moment]

        def done() -> bool:
            missing = self.missing()
            now = SYSTEM_CLOCK.monotonic()
            if missing and now - looked[0] > 1.0:
                # Not more often: to look at dead letters is to borrow them, on some brokers.
                looked[0] = now
                buried = self.buried()
                missing = {run for run in missing if not names(run) & buried.keys()}
            return not missing

        try:
            wait_until(done, timeout, look=0.05)
        except AssertionError:
            # What is missing is counted later. What the workers are at is in their logs then.
            self._have_stacks_written()
        return max((line.at for line in self.runs.lines()), default=moment)

    def _have_stacks_written(self) -> None:
        for worker in self._workers:
            if worker.alive:
                worker.send(signal.SIGUSR1)
        pause(1.0)

    def account(
        self,
        seconds: float,
        *,
        may_repeat: int | Iterable[str] | Mapping[str, int] = 0,
        twins: int = 0,
        within: float | None = None,
        may_be_buried: Iterable[str] = (),
        note: str = "",
    ) -> None:
        """Say what was lost, repeated and left hanging; fail unless it is what the fault's criterion allows.

        `may_repeat`: how many runs may begin again in all, or which, once or so often each. `within`: what `seconds`
        may be at most. `twins`: how many others may begin again, there being two of their message.
        `may_be_buried`: ids that may be dead letters; any other confirmed call must have run.
        """
        unended = self.missing()
        buried = self.buried() if unended else {}
        missing = {run for run in unended if not names(run) & buried.keys()}
        with contextlib.suppress(AssertionError):
            # Ends are acked some moments later.
            self.until(lambda: not self.waiting(), timeout=LEASE + 2)
        stuck = self._stop_workers()
        left = self._left()
        hung = max(stuck, min(len(missing), left) if missing else left)
        repeated = {run: times - 1 for run, times in self.runs.begun().items() if times > 1}
        wrongly = sorted(buried.keys() & {name for run in unended for name in names(run)} - set(may_be_buried))
        verdict = Verdict(
            lost=max(0, len(missing) - left), hung=hung, duplicated=sum(repeated.values()), seconds=seconds, note=note
        )
        self.judge(verdict)
        assert not missing and not hung, f"lost {verdict.lost}, hung {hung} (stuck workers: {stuck}): {sorted(missing)}"
        assert not wrongly, f"buried: {[(id, buried[id]) for id in wrongly]}"
        beyond = _beyond(repeated, may_repeat)
        assert sum(beyond.values()) <= twins, f"began too often: {beyond}, and {twins} would have been allowed"
        assert within is None or seconds <= within, f"took {seconds:.1f} s, allowed are {within:g} s"

    def _stop_workers(self) -> int:
        """Stop the workers in order, so that they give back what they hold; return how many could not."""
        alive = [worker for worker in self._workers if worker.alive]
        for worker in alive:
            worker.send(signal.SIGTERM)
        stuck = 0
        for worker in alive:
            try:
                stuck += worker.ended(STOPS_WITHIN + 10) != 0
            except Exception:
                stuck += 1
        return stuck

    def _left(self) -> int:
        """Return what no worker can get rid of.

        What had ended, but came back because its ack was lost, may still be there: another worker has to take it.
        """
        if not self.waiting():
            return 0
        self.worker("--burst").ended(60)
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.waiting(), timeout=LEASE + 2, look=0.1)
        return self.waiting()

    def story(self) -> str:
        """Return what somebody needs who wants to know why it failed."""
        begun, missing = self.runs.begun(), self.missing()
        odd = {id_of(run) for run in [*missing, *(run for run, times in begun.items() if times > 1)]}
        told = [f"queue {self.queue}, files in {self.folder}", f"missing: {sorted(missing)}"]
        lines = [line for line in self.runs.lines() if id_of(line.run) in odd]
        told += [f"{line.at:.3f} {line.what} {line.run} in {line.pid}" for line in lines[-60:]]
        for worker in self._workers:
            ended = "" if worker.alive else f", ended with {worker.ended()}"
            told += [
                f"--- {worker.log.name}{ended}",
                *worker.log.read_text(errors="replace").splitlines()[-MOST_LINES:],
            ]
        # What a server says when it starts again tells what it has found on its disk.
        folder: Path | None = getattr(self.place.server, "folder", None)
        for log in sorted(folder.glob("*.log")) if folder is not None else ():
            told += [f"--- {log.name} of the server", *log.read_text(errors="replace").splitlines()[-MOST_LINES:]]
        return "\n".join(told)

    def close(self) -> None:
        for worker in self._workers:
            if worker.alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGCONT)
                worker.kill_all()
        if self._app is not None:
            self._app.close()


def id_of(run: str) -> str:
    return run.rpartition("/")[0]


def names(run: str) -> set[str]:
    """Return the ids of the messages that have to be run for it: its own, and what it is linked to."""
    return {id_of(run), id_of(run).removesuffix("-l0")}


def _beyond(repeated: Mapping[str, int], allowed: int | Iterable[str] | Mapping[str, int]) -> dict[str, int]:
    """Return what was repeated more often than is allowed."""
    if isinstance(allowed, int):
        return dict(repeated) if sum(repeated.values()) > allowed else {}
    most = allowed if isinstance(allowed, Mapping) else dict.fromkeys(allowed, 1)
    return {run: times for run, times in repeated.items() if times > most.get(run, 0)}


def descendants(root: int) -> list[int]:
    """Return all processes below `root`."""
    found: list[int] = []
    ahead = [root]
    while ahead:
        for children in Path(f"/proc/{ahead.pop()}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                below = [int(pid) for pid in children.read_text().split()]
                found += below
                ahead += below
    return found


def _is_tracker(pid: int) -> bool:
    try:
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True


def lives(pid: int) -> bool:
    """Return whether a process is there and runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill(pid: int) -> None:
    """Kill a process with -9, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def to_json(verdict: Verdict) -> str:
    return json.dumps(list(verdict))


def pause(seconds: float) -> None:
    """Let so many seconds go by: the moment of a fault, or its length. Never used to hope that something is done."""
    threading.Event().wait(seconds)
