"""What all children are asked at once, and what they answer, while somebody waits for it for a while."""

from __future__ import annotations

import threading
from typing import Any

from .handle import Handle


class Answers:
    """Collected by the supervisor, waited for by any other thread."""

    def __init__(self, until: float) -> None:
        #: When (monotonic) to go without those that have not answered.
        self.until = until
        #: Who has not answered yet.
        self.asked: set[Handle] = set()
        self._got: list[Any] = []
        self._lock = threading.Lock()
        self._taken = False
        self._complete = threading.Event()

    def give(self, got: list[Any]) -> bool:
        """Add to what there is; return False if that has been taken already: nobody will ever look here again."""
        with self._lock:
            if not self._taken:
                self._got += got
            return not self._taken

    def answered(self, each: Handle) -> None:
        """Take note that a child has answered, or never will."""
        self.asked.discard(each)
        if not self.asked:
            self.complete()

    def complete(self) -> None:
        """Let it be known that nothing more is waited for."""
        self._complete.set()

    @property
    def is_complete(self) -> bool:
        """Whether nothing more is waited for."""
        return self._complete.is_set()

    def take(self, patience: float) -> list[Any]:
        """Wait for all answers, or for `patience` seconds; return what there is. Once."""
        self._complete.wait(patience)
        with self._lock:
            self._taken = True
            return self._got
