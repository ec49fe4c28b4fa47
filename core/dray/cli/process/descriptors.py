"""Descriptors of a worker that tasks do not find by accident, and whether one is still what it was.

A task may close the descriptors of its process, by mistake or by intent. The next file that anybody opens then gets the
same number: what goes on writing to that number writes into a database, and what reads there takes it for its own.
"""

from __future__ import annotations

import fcntl
import os

#: The lowest number for descriptors that tasks are not to find; below the usual limit of 1024.
PRIVATE = 700


def private_copy(descriptor: int) -> int:
    """Return a copy of a descriptor with a number that tasks do not find by accident; programs do not inherit it."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, PRIVATE)
    except OSError:  # EINVAL: the limit is lower than that
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)


def identity(descriptor: int) -> tuple[int, int] | None:
    """Return what tells the file behind a descriptor from others; None: it is closed."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
