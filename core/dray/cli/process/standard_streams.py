"""Look after stdin, stdout and stderr of a worker: a task that closes them does so for all others, too."""

from __future__ import annotations

import fcntl
import logging
import os
import sys

from .descriptors import identity, private_copy

logger = logging.getLogger("dray.worker")

_NAMES = ("stdin", "stdout", "stderr")


def _is_a_stopgap(number: int) -> bool:
    """Return whether a descriptor is /dev/null, to be read.

    SQLite puts that there when it opens a file and would get one of the three: nobody uses it.
    """
    null = os.stat(os.devnull)
    reads = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    return reads and identity(number) == (null.st_dev, null.st_ino)


class StandardStreams:
    """Remembers what the three were, and puts them back while it is open. Used from one thread."""

    def __init__(self) -> None:
        self._were = {number: identity(number) for number in range(3)}
        self._copies = {number: private_copy(number) for number, was in self._were.items() if was is not None}
        self._objects = {name: getattr(sys, name) for name in _NAMES[1:]}
        #: Those that are something else now. That is said once: they cannot be taken from whoever has them.
        self._given_up: set[int] = set()

    def look(self) -> None:
        """Open again what has been closed, and say so."""
        for number, copy in self._copies.items():
            if (now := identity(number)) == self._were[number] or number in self._given_up:
                continue
            if identity(copy) != self._were[number]:
                self._given_up.add(number)  # the copy is gone as well: nothing is left to put back
            elif now is None or _is_a_stopgap(number):
                os.dup2(copy, number)
                logger.warning("a task has closed file descriptor %d (%s); it is open again", number, _NAMES[number])
            else:
                self._given_up.add(number)
                logger.error(
                    "a task has closed file descriptor %d (%s), and it is another file now: whatever tasks print or "
                    "read there goes wrong; restart this worker",
                    number,
                    _NAMES[number],
                )
        for name, was in self._objects.items():
            stream = getattr(sys, name)
            if stream is was and stream is not None and stream.closed:
                number = _NAMES.index(name)
                again = open(number, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
                setattr(sys, name, again)
                self._objects[name] = again
                logger.warning("a task has closed sys.%s; it is open again", name)

    def __enter__(self) -> StandardStreams:
        return self

    def __exit__(self, *exc: object) -> None:
        for number, copy in self._copies.items():
            if identity(copy) == self._were[number]:
                os.close(copy)
        self._copies.clear()
