"""Where the child of a pool of greenlets comes from: an interpreter that is patched before it imports anything else.

Multiprocessing would import the user's module first, unpatched, and what that has taken out of `socket` or `threading`
by then stays as it was. So the child is a program of one line, and is told all the rest through its pipe of jobs.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
from contextlib import suppress
from multiprocessing import spawn
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from ..processes.birth import MEANT_FOR_THE_WORKER, Birth
from ..processes.frames import HEAD
from ..processes.nursery import Nursery

if TYPE_CHECKING:
    from ..app import Dray

#: What the child is: `import dray` itself imports nothing that matters, and child.py is the first that does.
PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from gevent.monkey import patch_all; patch_all(); "
    "from dray.greenlets.child import main; main{ends!r}"
)


class Program:
    """A process as multiprocessing has them, that is another program."""

    def __init__(self, program: subprocess.Popen[bytes], sentinel: int) -> None:
        self._program = program
        self.pid = program.pid
        #: Can be read when it has ended, and whatever it has started that has copies of its files.
        self.sentinel = sentinel

    @property
    def exitcode(self) -> int | None:
        return self._program.poll()

    def kill(self) -> None:
        self._program.kill()

    def join(self, timeout: float | None = None) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._program.wait(timeout)

    def close(self) -> None:
        os.close(self.sentinel)


class GreenletNursery(Nursery):
    """Makes children that are patched by gevent. What `Nursery` says holds."""

    def __init__(self, app: Dray, told: Birth) -> None:
        super().__init__(app, told, "spawn")

    def open(self) -> None:
        # Held back in what is made here, until it knows what to do about them.
        signal.pthread_sigmask(signal.SIG_BLOCK, MEANT_FOR_THE_WORKER)

    def letter(self) -> bytes:
        """Return what a child reads first. There are passwords in it."""
        # The same that multiprocessing tells those it spawns: paths, arguments, the main module.
        prepared = spawn.get_preparation_data(f"dray-{self._births}")
        # As bytes: a key of its kind refuses to be pickled by anybody else.
        letter = pickle.dumps(({**prepared, "authkey": bytes(prepared["authkey"])}, self._told))
        return len(letter).to_bytes(HEAD, "little") + letter

    def _start(self, ends: tuple[Connection, Connection, Connection]) -> Any:
        numbers = tuple(end.fileno() for end in ends)
        program = PROGRAM.format(path=spawn.get_preparation_data("")["sys_path"], ends=numbers)
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        sentinel, alive = os.pipe()
        try:
            return Program(
                subprocess.Popen(
                    [spawn.get_executable(), *flags, "-c", program],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(*numbers, alive),
                ),
                sentinel,
            )
        except BaseException:
            os.close(sentinel)
            raise
        finally:
            os.close(alive)
