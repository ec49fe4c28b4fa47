"""Starting up: imports, the command line, and a worker from its command to its first task; and what it holds then."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

from commanded import Commanded
from ground import LIMIT, OURS, REST, STARTING, Figure, Ground, Measure, Samples, Size, Trial, middle_of, samples

IMPORT_CAVEAT = (
    "Inside a fresh interpreter, with compiled bytecode and a warm disk cache. The limit is `import asyncio, msgspec`, "
    "which a queue with coroutines and a compiled serializer needs sooner or later."
)
HELP_CAVEAT = (
    "The whole process, from start to exit. The limit is a Python process that imports click and nothing else."
)
WORKER_CAVEAT = (
    "`dray worker` with a small app: `ready` from the start of its process until a task that waits has run, then its "
    "memory, idle. PSS counts pages shared with other processes in parts: here with the benchmark itself, which has "
    "the same interpreter and drivers loaded. RSS counts them in full."
)
FIGURES = (Figure("ready", "ms", STARTING), Figure("PSS", "MB", REST), Figure("RSS", "MB", REST))
#: Seconds that a worker gets to settle down before its memory is read.
SETTLES = 1.0


def start_up(size: Size) -> Iterator[Measure]:
    """Yield what has no place: imports and the command line."""
    needed, times = "import asyncio, msgspec", min(max(size.tasks // 1000, 1), 5)
    for statement in ("import dray", "from dray import Dray"):
        sides = {OURS: _importing(statement, times), LIMIT: _importing(needed, times)}
        yield Measure(statement, "", (Figure("time", "ms", STARTING),), sides, IMPORT_CAVEAT)
    sides = {OURS: _running(("-m", "dray", "--help"), times), LIMIT: _running(("-c", "import click"), times)}
    yield Measure("dray --help", "", (Figure("time", "ms", STARTING),), sides, HELP_CAVEAT)


def worker_starts(ground: Ground) -> Measure:
    """Return how fast `dray worker` is there, and what it holds."""

    def trial() -> Samples:
        with ground.spot() as spot, Commanded(ground.name, spot) as commanded:
            commanded.tasks["tick"].delay(0)
            began = time.perf_counter()
            with commanded.worker() as worker:
                worker.reach(1)
                ready = time.perf_counter() - began
                time.sleep(min(SETTLES, ground.size.idle))
                memory = worker.memory()
        return samples({"ready": 1000 * ready, "PSS": memory.pss / 1e6, "RSS": memory.rss / 1e6})

    return Measure("dray worker", ground.name, FIGURES, {OURS: trial}, WORKER_CAVEAT)


def _importing(statement: str, times: int) -> Trial:
    code = f"import time; began = time.perf_counter(); {statement}; print(time.perf_counter() - began)"
    return lambda: samples({"time": 1000 * middle_of(lambda: float(_python("-c", code)), times)})


def _running(arguments: tuple[str, ...], times: int) -> Trial:
    def once() -> float:
        began = time.perf_counter()
        _python(*arguments)
        return time.perf_counter() - began

    # The first one leaves compiled bytecode and a warm disk cache, as after an installation.
    return lambda: samples({"time": 1000 * middle_of(once, times)})


def _python(*arguments: str) -> str:
    settings = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, env=settings).stdout
