"""What surrounds the worker of a process: limits of its life, the process above it, and how it is started anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Limits:
    """After what a worker ends by itself: messages taken, seconds without any, seconds since it was ready."""

    max_tasks: int | None = None
    max_idle: float | None = None
    max_run_time: float | None = None


@dataclass(kw_only=True)
class Service:
    """What surrounds the worker of a process."""

    limits: Limits = field(default_factory=Limits)
    #: The process that looks after this one; when it is gone the worker stops.
    parent: int | None = None
    #: Says what keeps the command from being started anew; None: nothing does. Not given: it never is.
    wrong_with_new_code: Callable[[], str | None] | None = None
    #: Called once when the worker has started, or waits for its broker.
    on_start: Callable[[], None] | None = None
    #: How the processes of a pool log as this one does: "module:function", and its arguments.
    log_of_children: tuple[str, tuple[Any, ...]] | None = None
    #: True: this process was a worker before, and was started anew.
    again: bool = False
    #: Processes that it had started before, and nobody waits for any more.
    left_behind: list[int] = field(default_factory=list)
