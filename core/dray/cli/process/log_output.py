"""Where a worker's log lines go: stderr or a file, by a file descriptor that tasks do not find by accident.

A task may close the descriptors of its process, by mistake or by intent. The next file that anybody opens then gets the
same number, and log lines written to that number would end up inside a database. So the log has a number that is far
from all others, and looks before each line whether what is behind it is still its own.
"""

from __future__ import annotations

import faulthandler
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from ..exits import USAGE, Stop

#: The lowest number for descriptors that tasks are not to find; below the usual limit of 1024.
PRIVATE = 700


@contextmanager
def log_output(stream: TextIO, file: str | None) -> Iterator[logging.Handler]:
    """Give a handler that writes to `file`, or to `stream`; raise `Stop` for a file that cannot be written.

    A file that is moved away or removed - by logrotate - is opened anew.
    """
    made: logging.Handler
    if file is not None:
        made = _FileOutput(file)
    else:
        try:
            made = _StreamOutput(stream)
        except OSError:  # no real file, as in tests; or closed already
            made = logging.StreamHandler(stream)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def crashes_reported() -> Iterator[None]:
    """Have Python say on stderr, within the block, where every thread is when the process dies of a signal like 11."""
    if faulthandler.is_enabled():
        yield
        return
    try:
        descriptor = private_copy(2)
    except OSError:  # no stderr at all
        yield
        return
    faulthandler.enable(descriptor)
    try:
        yield
    finally:
        faulthandler.disable()
        os.close(descriptor)


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


class _Output(logging.Handler):
    """Writes each record in one go."""

    encoding = "utf-8"

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._take(descriptor)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._look()
            left = (self.format(record) + "\n").encode(self.encoding, "backslashreplace")
            while left:
                left = left[os.write(self._descriptor, left) :]
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        super().close()
        self._let_go()

    def _look(self) -> None:
        """See to it that the descriptor leads where the log should go."""
        raise NotImplementedError

    def _take(self, descriptor: int) -> None:
        self._descriptor, self._identity = descriptor, identity(descriptor)

    def _let_go(self) -> None:
        # If it is something else now, somebody needs it.
        if self._identity is not None and identity(self._descriptor) == self._identity:
            os.close(self._descriptor)
        self._identity = None


class _StreamOutput(_Output):
    def __init__(self, stream: TextIO) -> None:
        self._original = stream.fileno()
        self.encoding = stream.encoding or "utf-8"
        super().__init__(private_copy(self._original))

    def _look(self) -> None:
        if identity(self._descriptor) != self._identity and identity(self._original) == self._identity:
            self._take(private_copy(self._original))


class _FileOutput(_Output):
    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        try:
            super().__init__(self._opened())
        except OSError as error:
            raise Stop(f"the logfile {self._path} cannot be written: {error.strerror}", USAGE) from None

    def _look(self) -> None:
        try:
            there = os.stat(self._path)
            gone = (there.st_dev, there.st_ino) != self._identity
        except FileNotFoundError:
            gone = True
        if gone or identity(self._descriptor) != self._identity:
            new = self._opened()
            self._let_go()
            self._take(new)

    def _opened(self) -> int:
        opened = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            return private_copy(opened)
        finally:
            os.close(opened)
