"""The executor port: what runs jobs. `threads`, `loop`, `processes`, `gevent`, `solo` are built in.

An executor knows nothing of brokers, leases or results. It is given jobs and a `Host`, and sees to it that each job is
run once: on a thread or loop of its own with `host.run` or `host.arun`, or elsewhere between `host.admit` and
`host.done`. A job is handed over with its limits; watching them is not the executor's business, ending a job is.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from ..app import Dray
    from ..hookspecs import Event
    from ..job import Ended, Job
    from ..report import Kept


class Host(Protocol):
    """What a worker is to its executors. Everything here may be called from any thread, and raises nothing."""

    @property
    def app(self) -> Dray:
        """The app whose tasks are run."""

    @property
    def name(self) -> str:
        """The worker's name."""

    @property
    def lease(self) -> float:
        """How long the loan of a job lasts unless it is renewed (seconds). See `Job.lease_until`."""

    @property
    def prepare_child(self) -> tuple[str, tuple[Any, ...]] | None:
        """What to call in each child once the app is loaded there: "module:function", and plain arguments."""

    def run(self, job: Job) -> Ended:
        """Run a job of a `def` task to its end, here and now; return what it came to."""

    async def arun(self, job: Job) -> Ended:
        """Run a job of an `async def` task to its end, on the running loop; return what it came to."""

    def admit(self, job: Job) -> Ended | None:
        """Return None when a job may be sent off to be run elsewhere now, otherwise what it comes to without a run."""

    def began(self, job: Job, at: float) -> None:
        """Take note that a job that was sent off began at `at` (monotonic): from then on its limits count."""

    def done(self, job: Job, ended: Ended) -> None:
        """Take what a job came to. Quick. Each job ends here, or in `lost`, or is given back by `drain`."""

    def lost(self, job: Job, how: str) -> None:
        """Take note that what ran this job died under it, and `how`, in words for people: "killed by signal 11".

        To be called for jobs that had begun, and for no other: they are charged with it.
        """

    def note(self, state: Kept) -> None:
        """Take a state that a job reports while it runs elsewhere, to be stored in order with its result."""

    def happened(self, event: Event) -> None:
        """Tell the plugins of an event that happened where a job runs elsewhere."""

    def failed(self, error: BaseException) -> None:
        """Take note that this executor cannot run anything any more: the worker stops, and `Worker.run` raises it."""


class Executor(ABC):
    """Runs up to `slots` jobs at a time; more wait inside it until `drain` takes them back."""

    #: Which tasks it runs: "def", "async" or both. What it does not run goes to the `loop` executor.
    runs: ClassVar[frozenset[str]] = frozenset({"def"})
    #: True: started with the worker; False: when its first job comes.
    eager: ClassVar[bool] = False
    #: True: a task that ends its process takes no other job along.
    isolates: ClassVar[bool] = False
    #: True: it runs tasks in processes of its own, and none in that of the worker.
    elsewhere: ClassVar[bool] = False
    #: Most jobs that it can run at a time; None: as many as are asked for.
    most_slots: ClassVar[int | None] = None
    #: True: it needs the thread that called `Worker.run`, which then calls `serve`.
    needs_main_thread: ClassVar[bool] = False

    def __init__(self, slots: int) -> None:
        self.slots = slots
        #: Jobs that have not begun. The operations of a deque are atomic: any thread may take from it.
        self._line: deque[Any] = deque()

    @classmethod
    def default_slots(cls, processors: int) -> int:
        """Return how many jobs to run at a time when nobody says, on this many processors."""
        return max(4, processors)

    @abstractmethod
    def start(self, host: Host) -> None:
        """Get ready. Raises `ConfigurationError` for what can never work here."""

    @abstractmethod
    def submit(self, jobs: Sequence[Any]) -> None:
        """Take jobs and return at once. Called from one thread."""

    def drain(self) -> list[Any]:
        """Take back and return the jobs that have not begun. Any thread."""
        taken = []
        while self._line:
            try:
                taken.append(self._line.popleft())
            except IndexError:  # another thread took the last one
                break
        return taken

    @abstractmethod
    def cancel(self, job: Any) -> None:
        """Tell a running job that it is not wanted any more, in a way it can heed or not: a coroutine is cancelled.

        `Job.context.cancelled` is set already; an executor in another process passes that on. Any thread.
        """

    @abstractmethod
    def interrupt(self, job: Any, error: type[BaseException]) -> None:
        """Raise `error` in a running job, as soon as it can be done; nothing, if the job has just ended. Any thread."""

    def kill(self, job: Any, signal: int) -> bool:
        """End a running job by force and for certain, `host.lost` being called for it; return False where nobody can.

        `signal` is what a process is sent for it. Any thread.
        """
        return False

    def abandon(self, job: Any) -> None:
        """Give up a job that could not be ended: what it comes to has been said. Let other jobs have its slot.

        Any thread.
        """

    def resize(self, slots: int) -> None:
        """Run up to `slots` jobs at a time from now on; what runs already goes on. Any thread."""
        self.slots = slots

    def stacks(self) -> list[str]:
        """Return what it runs outside the threads of this process, as text: of each the task, and where it is."""
        return []

    def serve(self, until: threading.Event) -> None:
        """Run jobs on this thread, the main one, until the event is set (executors that `needs_main_thread`)."""
        until.wait()

    @abstractmethod
    def stop(self) -> None:
        """Let go of threads, loops and processes. What still runs is abandoned. Called once, after `drain`."""
