"""Lines of a log that are written together: in order, all of them, and at once where that matters."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from dray.cli.process import gathering
from dray.cli.process.gathering import LONG, MOST, PAUSE, Gathering, pieces

#: Longest time (seconds) that anything here may take on a slow machine.
PATIENCE = 30.0


class Hours:
    """Stands in for the module `time`: the thread sleeps until it is let go, and the clock stands still."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asleep, self.over = threading.Event(), threading.Event()

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.asleep.set()
        assert self.over.wait(PATIENCE)


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hours]:
    hours = Hours()
    monkeypatch.setattr(gathering, "time", hours)
    yield hours
    hours.over.set()


class Log:
    """What was written, and in which portions."""

    def __init__(self) -> None:
        self.portions: list[list[bytes]] = []
        self.more = threading.Semaphore(0)

    def write(self, lines: list[bytes]) -> None:
        self.portions.append(lines)
        self.more.release()


def test_a_line_after_a_silence_is_written_at_once_and_those_behind_it_together(hours: Hours) -> None:
    log = Log()
    waiting = Gathering(log.write, wait=True)
    waiting.add(b"first", urgent=False)
    assert log.portions == [[b"first"]] and log.more.acquire(timeout=PATIENCE)
    for line in (b"a", b"b", b"c"):
        waiting.add(line, urgent=False)
    assert hours.asleep.wait(PATIENCE) and log.portions == [[b"first"]]
    hours.over.set()
    assert log.more.acquire(timeout=PATIENCE)
    waiting.close()
    assert log.portions == [[b"first"], [b"a", b"b", b"c"]]
    assert [thread.name for thread in threading.enumerate() if thread.name == "dray-log"] == []


def test_a_silence_begins_anew_with_every_write(hours: Hours) -> None:
    log = Log()
    waiting = Gathering(log.write, wait=True)
    waiting.add(b"a", urgent=False)
    hours.now += PAUSE * 2
    waiting.add(b"b", urgent=False)
    assert log.portions == [[b"a"], [b"b"]]
    waiting.add(b"c", urgent=False)
    assert log.portions == [[b"a"], [b"b"]]
    hours.over.set()
    waiting.close()


def test_what_is_urgent_is_written_before_it_is_returned_and_behind_all_that_waits(hours: Hours) -> None:
    log = Log()
    waiting = Gathering(log.write, wait=True)
    for line in (b"first", b"a", b"b"):
        waiting.add(line, urgent=False)
    waiting.add(b"bad", urgent=True)
    assert log.portions == [[b"first"], [b"a", b"b", b"bad"]]
    hours.over.set()
    waiting.close()


def test_no_more_than_so_many_lines_wait_and_no_long_one(hours: Hours) -> None:
    log = Log()
    waiting = Gathering(log.write, wait=True)
    waiting.add(b"first", urgent=False)
    for _ in range(MOST):
        waiting.add(b"-", urgent=False)
    assert len(log.portions) == 1
    waiting.add(b"one too many", urgent=False)
    assert len(log.portions) == 2 and len(log.portions[1]) == MOST + 1
    waiting.add(b"x" * (LONG + 1), urgent=False)
    assert len(log.portions) == 3
    hours.over.set()
    waiting.close()


def test_the_end_writes_what_waits_and_later_lines_at_once(hours: Hours) -> None:
    log = Log()
    waiting = Gathering(log.write, wait=True)
    waiting.add(b"first", urgent=False)
    waiting.add(b"a", urgent=False)
    hours.over.set()
    waiting.close()
    assert log.portions == [[b"first"], [b"a"]]
    waiting.add(b"late", urgent=False)
    waiting.add(b"later", urgent=False)
    assert log.portions[2:] == [[b"late"], [b"later"]]


def test_lines_that_need_not_wait_are_written_one_by_one() -> None:
    log = Log()
    at_once = Gathering(log.write, wait=False)
    for line in (b"a", b"b"):
        at_once.add(line, urgent=False)
    assert log.portions == [[b"a"], [b"b"]]
    at_once.close()


@pytest.mark.parametrize("wait", [False, True])
def test_a_line_from_the_middle_of_a_write_comes_behind_it(wait: bool) -> None:
    """A signal handler or a finalizer that logs runs wherever the thread is."""
    written: list[bytes] = []
    both = threading.Event()

    def write(lines: list[bytes]) -> None:
        if not written:
            log.add(b"inner", urgent=True)
        written.extend(lines)
        if len(written) == 2:
            both.set()

    log = Gathering(write, wait)
    log.add(b"outer", urgent=True)
    assert both.wait(PATIENCE if wait else 0)
    log.close()
    assert written == [b"outer", b"inner"]


def test_lines_of_many_threads_all_come_and_each_threads_in_order() -> None:
    written: list[bytes] = []
    log = Gathering(written.extend, wait=True)

    def talk(name: int) -> None:
        for number in range(2000):
            log.add(b"%d %d" % (name, number), urgent=number % 500 == 0)

    threads = [threading.Thread(target=talk, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    log.close()
    for name in range(4):
        lead = b"%d " % name
        assert [line for line in written if line.startswith(lead)] == [b"%d %d" % (name, n) for n in range(2000)]


def test_what_interrupts_a_write_loses_nothing() -> None:
    written: list[bytes] = []

    class End(BaseException):
        pass

    def write(lines: list[bytes]) -> None:
        if lines == [b"a"]:
            raise End
        written.extend(lines)

    log = Gathering(write, wait=False)
    with pytest.raises(End):
        log.add(b"a", urgent=False)
    log.add(b"b", urgent=False)
    assert written == [b"a", b"b"]


@pytest.mark.parametrize(
    ("lines", "joined"),
    [
        ([b"a\n"], [b"a\n"]),
        ([b"aa\n", b"b\n", b"c\n"], [b"aa\nb\n", b"c\n"]),
        ([b"a\n", b"too long\n", b"b\n"], [b"a\n", b"too long\n", b"b\n"]),
        ([b"too long\n"], [b"too long\n"]),
    ],
)
def test_pieces_are_of_whole_lines(lines: list[bytes], joined: list[bytes]) -> None:
    assert list(pieces(lines, 5)) == joined
