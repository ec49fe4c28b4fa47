"""Which jobs of a child may begin: what the thread that hears the worker shares with whoever runs them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Beginnings(ABC, Generic[T]):
    """Jobs begin in the order of their numbers. Under one lock a job begins, or it is said that it must not."""

    def __init__(self, lock: Any) -> None:
        #: Held while a job begins or ends, and while one is chosen to be ended: it hits that one or none.
        self.lock = lock
        #: The last number that was claimed, and the last one that must not be.
        self._begun, self._recalled = 0, 0.0
        self._unwanted: set[int] = set()

    def claim(self, number: int, what: T) -> str:
        """Begin a job; return "" or why not: it was "recalled", or is to be "returned"."""
        with self.lock:
            if number <= self._recalled:
                return "recalled"
            self._begun = number
            if self._unwanted and number in self._unwanted:
                self._unwanted.discard(number)
                return "returned"
            self._begin(number, what)
            return ""

    @abstractmethod
    def _begin(self, number: int, what: T) -> None:
        """Take note of what runs from now on. The lock is held."""

    def recall(self, upto: float = math.inf) -> int:
        """Let none up to this number begin any more; return the last one that has."""
        with self.lock:
            self._recalled = max(self._recalled, upto)
            return self._begun

    def refuse(self, number: int) -> bool:
        """Have a job not begin; return False if it has begun already."""
        with self.lock:
            if number > self._begun:
                self._unwanted.add(number)
            return number > self._begun
