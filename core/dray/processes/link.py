"""The way from a child to its worker: whole frames, from any thread, whatever a task does in the meantime."""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue
from select import PIPE_BUF
from typing import Any

from .frames import Word, framed

#: The exit code of a child that cannot reach its worker any more.
CUT_OFF = 3


class Link:
    """Writes frames into the pipe to the worker. Thread-safe; waits while the pipe is full.

    A signal handler of a task may raise in the middle of anything that the main thread does. A short frame is written
    in one step, which cannot be done by half; a long one is left to another thread, which has no handlers.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._long: SimpleQueue[tuple[bytes, threading.Event]] | None = None

    def say(self, word: Word) -> None:
        """Write a frame. Raises what msgspec raises for what cannot be written."""
        self.write(framed(word))

    def write(self, frame: bytes) -> None:
        """Write a frame; end the process if nobody is there to read it."""
        if len(frame) <= PIPE_BUF or threading.current_thread() is not threading.main_thread():
            self._write(frame)
            return
        written = threading.Event()
        if self._long is None:
            self._long = SimpleQueue()
            threading.Thread(target=self._write_long, args=(self._long,), name="dray-reports", daemon=True).start()
        self._long.put((frame, written))
        written.wait()

    def _write_long(self, line: SimpleQueue[tuple[bytes, threading.Event]]) -> None:
        while True:
            frame, written = line.get()
            self._write(frame)
            del frame
            written.set()

    def _write(self, frame: bytes) -> None:
        rest: Any = frame
        try:
            with self._lock:
                while rest:
                    count = os.write(self._descriptor, rest)
                    if count == len(rest):
                        return
                    rest = memoryview(rest)[count:]
        except OSError:
            # The worker is gone, or a task has closed this pipe. Whatever is done from here on, nobody would know.
            os._exit(CUT_OFF)
