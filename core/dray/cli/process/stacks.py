"""What every thread and coroutine of the worker is doing at this moment, as text: for SIGUSR1."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Mapping
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...worker import Worker


def stacks(worker: Worker) -> str:
    """Return the stacks of all threads, each with the task that it runs, and of what runs outside of them.

    What runs a task comes first.
    """
    running = {
        job.thread: f"{job.message.task}[{job.message.id}]"
        for job in worker.running_jobs()
        if job.thread and not job.task.is_async
    }
    busy, idle = _threads(running)
    parts = [*busy, *worker.stacks(), *idle]
    return f"{len(parts)} stacks, {worker.running} task(s) running\n" + "\n".join(part.rstrip() for part in parts)


def _threads(running: Mapping[int, str]) -> tuple[list[str], list[str]]:
    """Return the stacks of the threads that run a task, and of all others but this one."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    busy, idle = [], []
    for ident, frame in sys._current_frames().items():
        name = names.get(ident, f"{ident} (not started by Python)")
        if ident in running:
            busy.append(f"{running[ident]} in thread {name}\n{_stack(frame)}")
        elif ident != threading.get_ident():
            idle.append(f"thread {name}\n{_stack(frame)}")
    return busy, idle


def _stack(frame: FrameType) -> str:
    """Return a stack without what every thread begins with."""
    found = traceback.extract_stack(frame)
    while len(found) > 1 and found[0].filename == threading.__file__:
        del found[0]
    return "".join(traceback.format_list(found))
