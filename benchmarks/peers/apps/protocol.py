"""What every app of the comparison is asked to do. Standard library only: it runs in the environment of each peer.

One trial is a few processes of `start.py`, told by the environment variable `BENCH_TRIAL` what to do. A task counts
itself by one byte appended to a file, which the harness watches from outside: nobody is asked whether he is ready.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Callable, Coroutine
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
VARIABLE = "BENCH_TRIAL"
#: Seconds after which an unanswered call ends the trial.
PATIENCE = 30.0


class Trial(NamedTuple):
    """One trial, the same for all of its processes."""

    #: The broker, and where results go: the same, or Redis where the broker cannot keep them; "" where it can.
    url: str
    results: str
    #: For the ledger and files of the broker.
    folder: str
    #: "default": as the library comes. "best": the fastest configuration known for what is measured.
    config: str
    #: Which task: `tick` does nothing, `nap` waits 50 ms, `stamp` says when it began.
    task: str
    #: "def" or "async def".
    kind: str
    #: Whether results of `tick` are kept; those of `stamp` always are.
    stored: bool
    #: How many tasks should run at once.
    at_once: int

    @property
    def best(self) -> bool:
        """Whether this is the fastest configuration known."""
        return self.config == "best"

    @property
    def keeps(self) -> bool:
        """Whether results of the task are kept."""
        return self.stored or self.task == "stamp"

    @property
    def name(self) -> str:
        """The function that is sent."""
        return self.task if self.kind == "def" else f"a{self.task}"

    @classmethod
    def here(cls) -> Trial:
        """Return the trial that this process is part of."""
        return cls(**json.loads(os.environ[VARIABLE]))


trial = Trial.here()
_ledger = os.open(Path(trial.folder, "ledger"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
_stamps = os.open(Path(trial.folder, "stamps"), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
NAP = 0.05


# What the tasks do. The number is their only argument.


def tick(number: int) -> None:
    """Do next to nothing."""
    os.write(_ledger, b".")


async def atick(number: int) -> None:
    """Do next to nothing, as a coroutine."""
    os.write(_ledger, b".")


def nap(number: int) -> None:
    """Wait, and count the beginning and the end."""
    os.write(_ledger, b".")
    time.sleep(NAP)
    os.write(_ledger, b".")


async def anap(number: int) -> None:
    """Wait, and count the beginning and the end, as a coroutine."""
    os.write(_ledger, b".")
    await asyncio.sleep(NAP)
    os.write(_ledger, b".")


def stamp(number: int) -> float:
    """Return and write down when this began, on a clock that all processes of the machine share."""
    now = time.monotonic()
    os.write(_stamps, f"{now!r}\n".encode())
    return now


async def astamp(number: int) -> float:
    """Do the same as a coroutine."""
    return stamp(number)


TASKS: dict[str, Callable[[int], Any]] = {
    function.__name__: function for function in (tick, atick, nap, anap, stamp, astamp)
}


def last_stamp(after: int) -> float | None:
    """Return when the call began that is number `after` among those that have; None before it has."""
    lines = Path(trial.folder, "stamps").read_bytes().splitlines()
    return float(lines[after]) if len(lines) > after else None


class Used(NamedTuple):
    """How long a number of calls took, and the processor time of this process for it, in seconds."""

    seconds: float
    cpu: float


class Answer(NamedTuple):
    """How long one call took, in seconds from before it was sent; without results nothing is returned."""

    started: float
    returned: float | None


class Peer:
    """A library as one side of the comparison. Its app, worker and settings are at the top of its module."""

    #: Whose versions are told.
    packages: tuple[str, ...] = ()
    #: What the two configurations are, in a few words.
    default: str = ""
    best: str = ""
    kinds: tuple[str, ...] = ("def",)
    #: Whether it can keep results, and has a call that sends many at once.
    stores: bool = True
    bulk: bool = True
    #: Whether 100 tasks can wait at the same time in one process.
    naps: bool = True

    def about(self) -> dict[str, Any]:
        """Return what the harness has to know."""
        return {
            "versions": {name: metadata.version(name) for name in self.packages},
            "configs": {"default": self.default, "best": self.best},
            "kinds": self.kinds,
            "stores": self.stores,
            "bulk": self.bulk,
            "naps": self.naps,
        }

    def prepare(self) -> None:
        """Make tables, where they are needed: once for each trial, before anything is measured."""

    def worker(self) -> list[str]:
        """Return the arguments of Python that run the library's own worker command."""
        raise NotImplementedError

    def send(self, count: int) -> None:
        """Send the task `count` times one by one, each safe in the queue before the next."""
        raise NotImplementedError

    def send_many(self, count: int) -> None:
        """Send the task `count` times by what the library has for that."""
        raise NotImplementedError

    def ask(self) -> None:
        """Send the task once and wait for its result by the library's own means; without results, only send it."""
        raise NotImplementedError

    def sent(self, count: int, *, bulk: bool) -> Used:
        """Return what sending took. The first call opens connections and is not counted, but runs like the others."""
        self.send(1)
        began, used = time.perf_counter(), time.process_time()
        self.send_many(count) if bulk else self.send(count)
        return Used(time.perf_counter() - began, time.process_time() - used)

    def asked(self, count: int, seconds: float) -> list[Answer]:
        """Return how fast an idle worker answered `count` calls, or as many as could be made in `seconds`."""
        answers = []
        end = time.monotonic() + seconds
        # The first one is not counted.
        for number in range(count + 1):
            time.sleep(_gap())
            began = time.monotonic()
            self.ask()
            answers.append(self._answer(began, number))
            if time.monotonic() > end and number > 1:
                break
        return answers[1:]

    def _answer(self, began: float, number: int) -> Answer:
        returned = time.monotonic()
        while (started := last_stamp(number)) is None:
            if time.monotonic() > began + PATIENCE:
                raise TimeoutError(f"call {number} has not begun after {PATIENCE:g} s")
            time.sleep(0.0005)
        return Answer(started - began, returned - began if self.stores else None)


class AsyncPeer(Peer):
    """A library whose callers are coroutines, on uvloop where that is installed and the configuration is the best."""

    async def asend(self, count: int) -> None:
        """Do as `send`."""
        raise NotImplementedError

    async def asend_many(self, count: int) -> None:
        """Do as `send_many`."""
        raise NotImplementedError

    async def aask(self) -> None:
        """Do as `ask`."""
        raise NotImplementedError

    async def aopen(self) -> None:
        """Open connections."""

    async def aclose(self) -> None:
        """Close them."""

    def sent(self, count: int, *, bulk: bool) -> Used:
        return self._run(self._sent(count, bulk))

    def asked(self, count: int, seconds: float) -> list[Answer]:
        return self._run(self._asked(count, seconds))

    async def _sent(self, count: int, bulk: bool) -> Used:
        await self.asend(1)
        began, used = time.perf_counter(), time.process_time()
        await (self.asend_many(count) if bulk else self.asend(count))
        return Used(time.perf_counter() - began, time.process_time() - used)

    async def _asked(self, count: int, seconds: float) -> list[Answer]:
        answers = []
        end = time.monotonic() + seconds
        for number in range(count + 1):
            await asyncio.sleep(_gap())
            began = time.monotonic()
            await self.aask()
            answers.append(self._answer(began, number))
            if time.monotonic() > end and number > 1:
                break
        return answers[1:]

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        async def whole() -> T:
            await self.aopen()
            try:
                return await work
            finally:
                await self.aclose()

        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(whole())


def in_chunks(count: int, size: int = 1000) -> list[range]:
    """Return the numbers below `count` in ranges of `size`: what one bulk call takes."""
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if not trial.best:
        return None
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _gap() -> float:
    """Return how long to wait before a call, in seconds: not in step with anybody who polls."""
    return random.uniform(0.002, 0.02)
