"""How a wait for a commit to an SQLite file ends: heard, where the system tells of writes, or seen."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path

import pytest

from dray import Delivery, Envelope, Url
from dray.testing import wait_until
from dray_brokers import sqlite_ear
from dray_brokers.sqlite import SqliteBroker
from dray_brokers.sqlite_ear import Ear
from dray_brokers.sqlite_watch import Pace

Ears = Callable[[], list[threading.Thread]]

hearing = pytest.mark.skipif(sys.platform != "linux", reason="needs inotify")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "queue.db-wal"
    file.touch()
    return file


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture
def ear(file: Path, heard: list[str]) -> Iterator[Ear]:
    ear = Ear(str(file), lambda: heard.append("a write"))
    yield ear
    ear.close()


@pytest.fixture
def ears() -> Ears:
    """List the ears that were not there before the test."""

    def listed() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "dray-sqlite-ear"]

    others = listed()
    return lambda: [thread for thread in listed() if thread not in others]


@hearing
def test_an_ear_tells_of_one_write_each_time_it_is_asked_to_listen(
    ear: Ear, file: Path, heard: list[str], ears: Ears
) -> None:
    assert ear.listen()
    file.write_bytes(b"1")
    wait_until(lambda: len(heard) == 1)
    file.write_bytes(b"22")
    assert ear.listen()
    file.write_bytes(b"333")
    wait_until(lambda: len(heard) == 2)
    assert len(ears()) == 1


@hearing
def test_an_ear_says_that_it_cannot_hear_a_file_that_is_not_there(ear: Ear, file: Path) -> None:
    file.unlink()
    assert not ear.listen()
    file.touch()
    assert ear.listen()


@hearing
def test_a_closed_ear_hears_nothing_and_leaves_no_thread(ear: Ear, ears: Ears) -> None:
    ear.listen()
    ear.close()
    wait_until(lambda: not ears())
    assert not ear.listen()
    ear.close()


@hearing
def test_an_ear_whose_descriptor_is_somebody_elses_by_now_leaves_it_alone(
    ear: Ear, file: Path, tmp_path: Path, ears: Ears
) -> None:
    """A task may close all descriptors of its process; the next file that is opened gets the number."""
    assert ear.listen()
    number = ear._inotify
    assert number is not None
    taken = tmp_path / "taken"
    with taken.open("wb") as other:
        os.dup2(other.fileno(), number)
    ear.close()
    assert not ear.listen()
    file.write_bytes(b"the end of what still waits there")
    wait_until(lambda: not ears())
    assert os.write(number, b"still open")
    assert taken.read_bytes() == b"still open"
    os.close(number)


def test_an_ear_is_deaf_where_the_system_has_nothing_to_tell(
    ear: Ear, monkeypatch: pytest.MonkeyPatch, ears: Ears
) -> None:
    monkeypatch.setattr(sqlite_ear, "open_inotify", lambda: -1)
    assert not ear.listen()
    assert ears() == []


Open = Callable[[], SqliteBroker]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Open a broker that shares nothing with the others but the file, as those of two processes."""
    brokers: list[SqliteBroker] = []

    def open_one() -> SqliteBroker:
        broker = SqliteBroker(Url.parse(f"sqlite:///{tmp_path}/queue.db"))
        broker.open()
        brokers.append(broker)
        return broker

    yield open_one
    for broker in brokers:
        broker.close()


def received_after_a_publish_elsewhere(opened: Open, monkeypatch: pytest.MonkeyPatch, pauses: Iterator[float]) -> bool:
    """Return whether a receive that waits, with these pauses between its looks, brings what somebody else publishes."""
    waits = threading.Event()

    def pause(pace: Pace, listening: bool) -> float:
        waits.set()
        return next(pauses)

    monkeypatch.setattr(Pace, "pause", pause)
    consumer, got = opened().consumer(["q"], lease=30.0), list[Delivery]()
    receiver = threading.Thread(target=lambda: got.extend(consumer.receive(1, wait=3600.0)))
    receiver.start()
    assert waits.wait(10)
    opened().publish([Envelope(id="a", queue="q", body=b"")])
    receiver.join(10)
    came = bool(got)
    consumer.wake()
    receiver.join(10)
    return came


@hearing
def test_what_another_process_publishes_is_heard_in_the_longest_pause(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert received_after_a_publish_elsewhere(opened, monkeypatch, chain([3600.0], repeat(0.001)))


def test_what_another_process_publishes_is_seen_where_nothing_can_be_heard(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_ear, "open_inotify", lambda: -1)
    assert received_after_a_publish_elsewhere(opened, monkeypatch, repeat(0.001))


def test_looks_grow_rare_and_rarer_still_for_one_who_hears() -> None:
    pace = Pace(longest=0.05)
    assert pace.pause(listening=True) == pace.pause(listening=False) == Pace.FIRST
    for _ in range(100):
        pace.slow_down()
    assert (pace.pause(listening=False), pace.pause(listening=True)) == (0.05, Pace.LISTENING)
    pace.restart()
    assert pace.pause(listening=True) == Pace.FIRST
