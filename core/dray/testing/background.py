"""A call made on a thread of its own, whose end is waited for, but not for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import pytest

from ..clock import SYSTEM_CLOCK

T = TypeVar("T")

#: Real seconds after which a call that should have returned is taken to hang.
HANGS = 20.0


class Background(Generic[T]):
    """`Background(lambda: consumer.receive(1, 30)).result()`: begins at once."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._value: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value.append(self._call())
        except BaseException as error:
            self._error = error

    def result(self, meanwhile: Callable[[], object] = lambda: None) -> T:
        """Return what the call returned or raise what it raised; fail the test if it hangs.

        `meanwhile` is called again and again until then: to move a clock on, for one.
        """
        end = SYSTEM_CLOCK.monotonic() + HANGS
        while self._thread.is_alive() and SYSTEM_CLOCK.monotonic() < end:
            meanwhile()
            self._thread.join(0.01)
        if self._thread.is_alive():
            pytest.fail(f"the call had not returned after {HANGS:g} s")
        if self._error is not None:
            raise self._error
        return self._value[0]
