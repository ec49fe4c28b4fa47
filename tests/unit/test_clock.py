"""The machine's clock: what counts as time that has passed."""

from __future__ import annotations

import threading
import time

import pytest

from dray.clock import SystemClock


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no clock that counts suspension")
def test_time_goes_on_while_the_machine_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    now = SystemClock().monotonic()
    assert before <= now <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_a_system_without_such_a_clock_has_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(clock: int) -> float:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(time, "clock_gettime", unknown)
    assert SystemClock().monotonic is time.monotonic
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    assert SystemClock().monotonic is time.monotonic


def test_waiting_ends_with_the_event_or_with_the_time() -> None:
    clock, event = SystemClock(), threading.Event()
    began = clock.monotonic()
    assert clock.wait(event, 0.02) is False
    assert clock.monotonic() - began >= 0.019
    event.set()
    assert clock.wait(event, 3600) is True
