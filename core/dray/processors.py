"""How many processors this process may use: what its affinity and its control group leave of the machine's."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path


def processors(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of processors, at least 1: containers are limited by quota, and see all of the host's."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        allowed = os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _quota(proc, root))))


def _quota(proc: Path, root: Path) -> float:
    """Return how many processors' worth of time the control groups above this process grant; infinity for no limit."""
    granted = math.inf
    for line in _lines(proc):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:  # version 2: one tree
            for folder in _upward(root, path):
                granted = min(granted, _share(*_words(folder / "cpu.max")))
        elif "cpu" in controllers.split(","):
            for folder in _upward(root / "cpu", path):
                quota, period = (_words(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
                if quota and period:
                    granted = min(granted, _share(quota[0], period[0]))
    return granted


def _upward(root: Path, path: str) -> Iterator[Path]:
    """Yield the folder of a control group and all above it: each of them may limit.

    In a container the path may be the host's: then nothing is found below the root, which is the container's own.
    """
    here = root / path.strip("/")
    yield here
    while here != root:
        here = here.parent
        yield here


def _share(quota: str = "max", period: str = "100000", *_: str) -> float:
    try:
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (ValueError, ZeroDivisionError):
        return math.inf


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except (OSError, ValueError):  # not there, or a path that can be none
        return []
