"""How a child hears its worker, on a thread that runs no task, and gets the main thread out of what it does."""

from __future__ import annotations

import os
import signal
from abc import ABC, abstractmethod
from types import FrameType

from .frames import READ, Cutter, Order, read_order

#: Gets the main thread out of whatever it waits for, to raise something there.
POKE: int = signal.SIGRTMIN + 9 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2


class Hearing(ABC):
    """Reads orders from a pipe. How they are obeyed depends on what runs the jobs."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._handler = self._poked

    def arm(self) -> None:
        """See to it that the main thread can be poked: a task may have changed what signals do. For the main thread."""
        if signal.getsignal(POKE) is not self._handler:
            signal.signal(POKE, self._handler)

    def _read(self, cutter: Cutter) -> None:
        """Obey what has come; wait until something has."""
        try:
            data = os.read(self._descriptor, READ)
        except OSError:
            data = b""  # a task has closed it
        if not data:
            # The worker has died. Its loans will run out, and what runs here runs elsewhere then.
            end_with_all()
        for frame in cutter.cut(data):
            try:
                self._obey(read_order(frame))
            except Exception as error:
                self._failed(error)

    @abstractmethod
    def _obey(self, order: Order) -> None:
        """Do what the worker says."""

    @abstractmethod
    def _failed(self, error: Exception) -> None:
        """Say that an order could not be obeyed."""

    @abstractmethod
    def _poked(self, number: int, frame: FrameType | None) -> None:
        """Raise in the main thread, which is at this frame, what is to be raised there, if this is the place."""


def end_with_all() -> None:
    """Kill this process, and with it what its task has started."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
