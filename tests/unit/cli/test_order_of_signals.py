"""Signals that come while a process is busy are heeded in the order in which they came."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

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


#: Closes descriptors as a rude task does, opens a file for each of their numbers, and gets a signal then.
CLOSED = """
import os, signal, sys
from dray.cli.process.signals import Signals

signals = Signals()
with signals.heeded():
    os.closerange(3, 65)
    others = [os.open(sys.argv[1], os.O_RDWR) for _ in range(10)]
    signal.raise_signal(signal.SIGUSR1)
    assert [os.lseek(other, 0, os.SEEK_CUR) for other in others] == [0] * len(others)
while not signals.arrived.empty():
    print(signals.arrived.get())
"""


def test_where_a_task_closes_descriptors_no_signal_is_read_from_or_written_into_what_has_their_numbers_next(
    tmp_path: Path,
) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(bytes([signal.SIGINT, signal.SIGTERM]))
    command = [sys.executable, "-c", CLOSED, str(precious)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [str(int(signal.SIGUSR1))] and done.stderr == ""
    assert precious.read_bytes() == bytes([signal.SIGINT, signal.SIGTERM])
