"""Queues within a queue: how the engine names those that stand for a priority, or for the dead letters.

The names use letters, digits and underscores only, which every broker takes.
"""

from __future__ import annotations

from .capabilities import STEPS

#: Ends the name of the queue that keeps the dead letters of another.
DEAD = "__dead"
_SUFFIXES = (DEAD, *(f"__p{step}" for step in STEPS if step))


def of_step(queue: str, step: int) -> str:
    """Return the queue that stands for one step of priority in `queue`; the lowest is the queue itself."""
    return f"{queue}__p{step}" if step else queue


def step_for(priority: int) -> int:
    """Return the step that a priority belongs to."""
    return next(step for step in STEPS if priority >= step)


def plain(name: str) -> str:
    """Return the queue that a queue stands for: itself, if it is none of ours."""
    for suffix in _SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name
