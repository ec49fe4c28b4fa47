"""The executor that runs tasks in child processes: what a worker asks of it, passed on to its supervisor."""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from ..clock import SYSTEM_CLOCK
from ..errors import ConfigurationError
from ..executors import Executor, Host
from .answers import Answers
from .birth import birth
from .nursery import Nursery
from .supervisor import Supervisor
from .watch import ANSWER, FAREWELL

#: Most seconds that a start waits to hear whether the first child got ready.
FIRST_WORD = 10.0


class ProcessExecutor(Executor):
    """Each task runs in a process that runs no other one at that time, and that can be ended without harm to others."""

    runs: ClassVar[frozenset[str]] = frozenset({"def", "async"})
    eager: ClassVar[bool] = True
    isolates: ClassVar[bool] = True
    elsewhere: ClassVar[bool] = True
    #: What people call it.
    name: ClassVar[str] = "processes"

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self._supervisor: Any = None

    @classmethod
    def default_slots(cls, processors: int) -> int:
        return processors

    def start(self, host: Host) -> None:
        app = host.app
        # Before there is any child: this raises while the broker is away.
        if not app.broker.capabilities.shared:
            raise ConfigurationError(
                f"the pool {self.name!r} needs a broker that other processes see, and {app.broker.url} is none: what "
                "a task sends would be lost with its process"
            )
        self._supervisor = supervisor = self._supervised(host)
        supervisor.thread.start()
        # Multiprocessing waits at the exit for processes that nobody has ended: those of a worker never stopped.
        atexit.register(self.stop)
        supervisor.begun.wait(FIRST_WORD)
        if supervisor.error is not None:
            self.stop()
            raise supervisor.error

    def _supervised(self, host: Host) -> Any:
        """Return who makes the children, and sees to them."""
        app = host.app
        method = app.conf.worker_start_method
        told = birth(app, host.name, host.prepare_child, self.name, forked=method == "fork")
        return Supervisor(
            host,
            self._line,
            Nursery(app, told, method),
            self.slots,
            lease=host.lease if told.capabilities.lease else 0.0,
            most_jobs=app.conf.worker_max_tasks_per_child,
        )

    def submit(self, jobs: Sequence[Any]) -> None:
        self._line.extend(jobs)
        self._at_work.wake()

    def drain(self) -> list[Any]:
        supervisor = self._at_work
        answers = Answers(SYSTEM_CLOCK.monotonic() + ANSWER)
        supervisor.ask(partial(supervisor.drain, answers))
        # If its thread has failed nobody else takes from the line.
        return answers.take(2 * ANSWER) or ([] if supervisor.thread.is_alive() else super().drain())

    def cancel(self, job: Any) -> None:
        self._at_work.ask(partial(self._at_work.cancel, job))

    def interrupt(self, job: Any, error: type[BaseException]) -> None:
        self._at_work.ask(partial(self._at_work.interrupt, job, error))

    def kill(self, job: Any, signal: int) -> bool:
        self._at_work.ask(partial(self._at_work.kill, job, signal))
        return True

    def resize(self, slots: int) -> None:
        super().resize(slots)
        self._at_work.ask(partial(self._at_work.resize, slots))

    def stacks(self) -> list[str]:
        answers = Answers(SYSTEM_CLOCK.monotonic() + ANSWER)
        self._at_work.ask(partial(self._at_work.show, answers))
        shown = [text for text in answers.take(2 * ANSWER) if text]
        for each in answers.asked:
            # It holds the interpreter lock; this needs none.
            os.kill(each.pid, signal.SIGUSR1)
            shown.append(f"process {each.pid} does not answer; where it is, it writes to stderr\n")
        return shown

    def stop(self) -> None:
        atexit.unregister(self.stop)
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.ask(supervisor.end)
            supervisor.thread.join(FAREWELL + 2 * ANSWER)

    @property
    def _at_work(self) -> Any:
        if self._supervisor is None:
            raise RuntimeError(f"the pool {self.name!r} is not running")
        return self._supervisor
