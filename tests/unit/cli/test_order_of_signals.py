"""Signals that come while a process is busy are heeded in the order in which they came."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from dray.cli.process.signals import Signals

#: Sends itself signals within one call, in which Python calls no handler, and says in which order it heard of them.
BUSY = """
import os, sys
from dray.cli.process.signals import Signals

numbers = list(map(int, sys.argv[1:]))
signals = Signals()
with signals.heeded():
    any(map(os.killpg, [os.getpgrp()] * len(numbers), numbers))
while not signals.arrived.empty():
    print(signals.arrived.get())
"""


@pytest.mark.parametrize("order", [("SIGTSTP", "SIGCONT"), ("SIGUSR1", "SIGHUP"), ("SIGCONT", "SIGHUP", "SIGUSR1")])
def test_signals_that_wait_together_come_in_their_order(order: tuple[str, ...]) -> None:
    numbers = [str(int(getattr(signal, name))) for name in order]
    # In a group of its own: they are sent to all of it.
    command = [sys.executable, "-c", BUSY, *numbers]
    done = subprocess.run(command, start_new_session=True, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == numbers


def test_where_somebody_else_has_the_pipe_all_signals_come_all_the_same() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write)
    try:
        signals = Signals()
        with signals.heeded():
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGHUP)
        assert [signals.arrived.get(), signals.arrived.get()] == [signal.SIGUSR1, signal.SIGHUP]
        assert signal.set_wakeup_fd(write) == write
    finally:
        signal.set_wakeup_fd(before)
        os.close(read)
        os.close(write)


def test_whoever_takes_the_pipe_away_loses_no_signal() -> None:
    signals = Signals()
    with signals.heeded():
        signal.raise_signal(signal.SIGUSR1)
        signal.set_wakeup_fd(-1)
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
    came = []
    while not signals.arrived.empty():
        came.append(signals.arrived.get())
    assert came == [signal.SIGUSR1, signal.SIGHUP, signal.SIGHUP]
