"""Where a worker's log lines go: stderr or a file, by a file descriptor that tasks do not find by accident.

A task may close the descriptors of its process, by mistake or by intent. The next file that anybody opens then gets the
same number, and log lines written to that number would end up inside a database. So the log has a number that is far
from all others, and looks before each write whether what is behind it is still its own.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import select
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from ..exits import USAGE, Stop
from .descriptors import identity, private_copy
from .gathering import Gathering, pieces

#: Bytes written at once. Several processes may share a pipe, and more than that could be mingled there.
IN_A_FILE, IN_A_PIPE = 1 << 20, select.PIPE_BUF


@contextmanager
def log_output(stream: TextIO, file: str | None, gather: bool = False) -> Iterator[logging.Handler]:
    """Give a handler that writes to `file`, or to `stream`; raise `Stop` for a file that cannot be written.

    A file that is moved away or removed - by logrotate - is opened anew. With `gather`, lines below WARNING that come
    one upon the other are written together (gathering.py), except on a terminal: what tasks print stands between them.
    """
    made: logging.Handler
    if file is not None:
        made = _FileOutput(file, gather)
    else:
        try:
            made = _StreamOutput(stream, gather)
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


class _Output(logging.Handler):
    """Writes whole lines."""

    encoding = "utf-8"

    def __init__(self, descriptor: int, gather: bool) -> None:
        super().__init__()
        self._take(descriptor)
        self._gathering = Gathering(self._write, wait=gather)

    def handle(self, record: logging.LogRecord) -> bool:
        """Emit a record that passes the filters, without the lock of a handler.

        Whoever held that one and waited for a write would wait for ever, if a finalizer logged in the middle of it.
        """
        passed: object = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = (self.format(record) + "\n").encode(self.encoding, "backslashreplace")
            self._gathering.add(line, urgent=record.levelno >= logging.WARNING)
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        self._gathering.flush()

    def close(self) -> None:
        self._gathering.close()
        super().close()
        self._let_go()

    def _write(self, lines: list[bytes]) -> None:
        try:
            self._look()
            for piece in pieces(lines, self._at_once):
                self._put(piece)
        except Exception:
            first = lines[0].decode(self.encoding, "replace")
            lost = f"up to {len(lines)} line(s) of the log are lost, the first: {first.rstrip()}"
            self.handleError(logging.makeLogRecord({"msg": lost}))

    def _put(self, piece: bytes) -> None:
        while piece:
            try:
                piece = piece[os.write(self._descriptor, piece) :]
            except BlockingIOError:
                # Whoever shares this pipe with us has made it so. We wait until it is read, as we would otherwise.
                room = select.poll()
                room.register(self._descriptor, select.POLLOUT)
                room.poll()

    def _look(self) -> None:
        """See to it that the descriptor leads where the log should go."""
        raise NotImplementedError

    def _take(self, descriptor: int) -> None:
        self._descriptor, self._identity = descriptor, identity(descriptor)
        self._at_once = IN_A_FILE if stat.S_ISREG(os.fstat(descriptor).st_mode) else IN_A_PIPE

    def _let_go(self) -> None:
        # If it is something else now, somebody needs it.
        if self._identity is not None and identity(self._descriptor) == self._identity:
            os.close(self._descriptor)
        self._identity = None


class _StreamOutput(_Output):
    def __init__(self, stream: TextIO, gather: bool) -> None:
        self._original = stream.fileno()
        self.encoding = stream.encoding or "utf-8"
        super().__init__(private_copy(self._original), gather and not os.isatty(self._original))

    def _look(self) -> None:
        if identity(self._descriptor) != self._identity and identity(self._original) == self._identity:
            self._take(private_copy(self._original))


class _FileOutput(_Output):
    def __init__(self, path: str, gather: bool) -> None:
        self._path = os.path.abspath(path)
        try:
            super().__init__(self._opened(), gather)
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
