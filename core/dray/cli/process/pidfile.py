"""The pidfile: one process at a time says in it which one it is."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

from ..exits import TAKEN, Stop

BECOMING_ANOTHER_PROGRAM = 1.0  # seconds that a process without a command line is given to get one


class Pidfile:
    """Claims a path for this process. What a dead process has left behind is replaced.

    Two that start at the same moment are told apart by a lock, held while the file is read and written only: a crash
    in between leaves an empty file, or a dead process's, and the next one replaces it.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path).absolute()

    def claim(self, owner: int | None = None) -> None:
        """Write this process's id into it; raise `Stop` when another process that is alive has done so.

        It will belong to the user `owner`, if one is given: who has given up root's rights cannot change root's files.
        """
        while True:
            file = self._open()
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                if not self._is_still(file):
                    continue  # its owner removed it while we waited
                self._refuse_if_taken(os.pread(file, 32, 0))
                text = f"{os.getpid()}\n".encode()
                os.pwrite(file, text, 0)
                os.ftruncate(file, len(text))
                if owner is not None:
                    os.fchown(file, owner, -1)
                return
            finally:
                os.close(file)

    def release(self) -> None:
        """Remove it, if it is this process's; where that is not allowed, what it says is removed."""
        try:
            if _pid(self.path.read_bytes()) != os.getpid():
                return
            try:
                self.path.unlink()
            except PermissionError:
                self.path.write_bytes(b"")
        except OSError:
            # Somebody has removed it, or its directory. What is left names a dead process, which nobody minds.
            pass

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise Stop(f"the pidfile {self.path} cannot be written: {error.strerror}", TAKEN) from None

    def _is_still(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _refuse_if_taken(self, text: bytes) -> None:
        pid = _pid(text)
        if pid is None and text.strip():
            raise Stop(f"{self.path} holds something else than a process id, so it is left alone", TAKEN)
        if pid is not None and pid != os.getpid() and _is_ours(pid):
            raise Stop(f"a worker with the pidfile {self.path} is running already: process {pid}", TAKEN)


def _pid(text: bytes) -> int | None:
    text = text.strip()
    return int(text) if text.isdigit() and int(text) > 0 else None


def _is_ours(pid: int) -> bool:
    """Return whether a process is alive that could have written a pidfile of ours: after a reboot ids come again."""
    try:
        os.kill(pid, 0)
    except OverflowError:
        return False
    except OSError as error:
        if error.errno != errno.EPERM:
            return False
    until = time.monotonic() + BECOMING_ANOTHER_PROGRAM
    try:
        while True:
            state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            ended = state in (b"Z", b"X")  # and nobody has asked for its exit code yet
            # For an instant within exec a process has no command line: a worker that restarts, or anything else that
            # has just been started. Which of them it is, it says when that is over.
            if ended or command or time.monotonic() > until:
                return not ended and (not command or b"dray" in command)
            time.sleep(0.001)
    except (OSError, IndexError):
        # It has just ended; or this system has no such files: it is alive, which is all that can be said.
        return not Path("/proc/self/stat").exists()
