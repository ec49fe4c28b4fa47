"""Where a worker's log goes: it survives what tasks do to files, and what logrotate does."""

from __future__ import annotations

import faulthandler
import io
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dray.cli.exits import Stop
from dray.cli.process.descriptors import PRIVATE, identity, private_copy
from dray.cli.process.gathering import MOST
from dray.cli.process.log_output import crashes_reported, log_output

#: Longest time (seconds) that anything here may take on a slow machine.
PATIENCE = 30.0


def line(text: str) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text, "levelno": logging.INFO})


def test_a_file_that_is_moved_away_or_removed_is_opened_anew(tmp_path: Path) -> None:
    log = tmp_path / "w.log"
    with log_output(sys.stderr, str(log)) as handler:
        handler.emit(line("one"))
        log.rename(tmp_path / "w.log.1")
        handler.emit(line("two"))
        assert (tmp_path / "w.log.1").read_text() == "one\n" and log.read_text() == "two\n"
        log.unlink()
        handler.emit(line("three"))
    assert log.read_text() == "three\n"


def test_a_log_whose_descriptor_was_closed_goes_on_and_spares_who_has_it_now(tmp_path: Path) -> None:
    log, precious = tmp_path / "w.log", tmp_path / "precious"
    with log_output(sys.stderr, str(log)) as handler:
        number = handler._descriptor  # type: ignore[attr-defined]
        os.close(number)
        stolen = os.open(precious, os.O_RDWR | os.O_CREAT)
        os.dup2(stolen, number)
        handler.emit(line("one"))
        os.write(number, b"mine")
        os.close(stolen)
    assert log.read_text() == "one\n"
    assert precious.read_bytes() == b"mine"
    assert identity(number) is not None
    os.close(number)


def test_a_stream_is_written_to_by_a_descriptor_of_its_own(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as stream:
        with log_output(stream, None) as handler:
            copy = handler._descriptor  # type: ignore[attr-defined]
            assert copy >= PRIVATE and not os.get_inheritable(copy)
            handler.emit(line("one"))
            os.close(copy)
            handler.emit(line("two"))
            again = handler._descriptor  # type: ignore[attr-defined]
        assert identity(again) is None
    assert (tmp_path / "stderr").read_text() == "one\ntwo\n"


def test_what_cannot_be_encoded_is_written_in_another_way(tmp_path: Path) -> None:
    with log_output(sys.stderr, str(tmp_path / "w.log")) as handler:
        handler.emit(line("a\udcffb"))
    assert (tmp_path / "w.log").read_text() == "a\\udcffb\n"


def test_a_stream_without_a_file_is_written_to_as_it_is() -> None:
    stream = io.StringIO()
    with log_output(stream, None) as handler:
        handler.emit(line("one"))
    assert stream.getvalue() == "one\n"


def test_a_logfile_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    missing = log_output(sys.stderr, str(tmp_path / "nowhere" / "w.log"))
    with pytest.raises(Stop, match=r"nowhere/w\.log cannot be written: No such file"), missing:
        pytest.fail("it was opened")


def test_a_low_limit_of_descriptors_is_no_obstacle(tmp_path: Path) -> None:
    code = (
        "import os, resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "from dray.cli.process.descriptors import private_copy\n"
        "assert 3 <= private_copy(1) < 64"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    copy = private_copy(1)
    assert copy >= PRIVATE
    os.close(copy)


def test_a_crash_is_told_with_the_stack_of_every_thread() -> None:
    code = (
        "import ctypes\nfrom dray.cli.process.log_output import crashes_reported\n"
        "def task(): ctypes.string_at(0)\n"
        "with crashes_reported(): task()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode < 0
    assert "Fatal Python error: Segmentation fault" in ended.stderr and "in task" in ended.stderr


def test_who_reports_crashes_already_is_left_alone() -> None:
    before = faulthandler.is_enabled()
    with crashes_reported():
        assert faulthandler.is_enabled()
    assert faulthandler.is_enabled() == before


STREAMS = """
import logging, os, sys
from dray.cli.process.log_output import log_output
from dray.cli.process.standard_streams import StandardStreams

with log_output(sys.stderr, {log!r}) as handler, StandardStreams() as streams:
    logging.getLogger().handlers[:] = [handler]
    {do}
    streams.look()
    streams.look()
    print("printed", flush=True)
"""


@pytest.mark.parametrize(
    ("do", "printed", "said"),
    [
        ("pass", "printed\n", ""),
        ("os.close(1)", "printed\n", "a task has closed file descriptor 1 (stdout); it is open again\n"),
        (
            "os.close(1); import sqlite3; sqlite3.connect('at.db').execute('CREATE TABLE a (b)')",
            "printed\n",
            "a task has closed file descriptor 1 (stdout); it is open again\n",
        ),
        ("sys.stdout.close()", "printed\n", "a task has closed sys.stdout; it is open again\n"),
        ("os.closerange(3, 65)", "printed\n", ""),
        (
            "os.close(1); os.open(os.devnull, os.O_WRONLY)",
            "",
            "a task has closed file descriptor 1 (stdout), and it is another file now: whatever tasks print or read "
            "there goes wrong; restart this worker\n",
        ),
    ],
    ids=["nothing", "descriptor", "stopgap", "object", "all others", "taken"],
)
def test_standard_streams_that_a_task_closes_are_open_again(tmp_path: Path, do: str, printed: str, said: str) -> None:
    code = STREAMS.format(log=str(tmp_path / "log"), do=do)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert ended.stdout == printed
    assert (tmp_path / "log").read_text() == said


GATHERED = """
import logging, os, signal, sys
from dray.cli.logs import as_log, log_for_good

logger = logging.getLogger("shop")
with as_log("info", False, sys.argv[1], gather=True):
    for number in range(3):
        logger.info("line %d", number)
    {do}
"""


@pytest.mark.parametrize(
    ("do", "code", "more"),
    [
        ("pass", 0, []),
        ("raise SystemExit(3)", 3, []),
        ("logger.error('bad'); os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ["bad"]),
        ("logger.warning('bad'); os._exit(1)", 1, ["bad"]),
        ("os.fork() or (logger.info('child'), os._exit(0)); os.wait(); logger.info('after')", 0, ["child", "after"]),
        ("os.fork() or (logger.info('child'), sys.exit(0)); os.wait()", 0, ["child"]),
    ],
    ids=[
        "the end",
        "an exit",
        "a kill after an error",
        "an exit at once after a warning",
        "a fork",
        "a child that stays",
    ],
)
def test_lines_that_are_written_together_are_all_there_once_and_in_order(
    tmp_path: Path, do: str, code: int, more: list[str]
) -> None:
    log = tmp_path / "w.log"
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", GATHERED.format(do=do), str(log)], check=False)
    assert ended.returncode == code
    said = [line.rpartition("shop: ")[2] for line in log.read_text().splitlines()]
    assert said == ["line 0", "line 1", "line 2", *more]


def test_a_process_of_a_pool_leaves_no_line_unwritten(tmp_path: Path) -> None:
    code = (
        "import logging, os, sys; from dray.cli.logs import log_for_good\n"
        "log_for_good('info', False, sys.argv[1])\n"
        "for number in range(3): logging.info('line %d', number)\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "w.log")], check=True)
    assert len((tmp_path / "w.log").read_text().splitlines()) == 3


@pytest.mark.parametrize("blocking", [True, False])
def test_a_full_pipe_is_waited_for_and_no_line_is_lost_or_torn(blocking: bool) -> None:
    lines = [f"{number} {'-' * 90}" for number in range(4 * MOST)]
    reading, writing = os.pipe()
    os.set_blocking(writing, blocking)
    far = threading.Event()

    def talk(handler: logging.Handler) -> None:
        for number, text in enumerate(lines):
            if number == MOST:
                far.set()
            handler.handle(line(text))

    with open(writing, "w") as stream, log_output(stream, None, gather=True) as handler, open(reading) as read:
        talker = threading.Thread(target=talk, args=(handler,))
        talker.start()
        assert far.wait(PATIENCE)
        assert [read.readline().rstrip("\n") for _ in lines] == lines
        talker.join(PATIENCE)


def test_a_pipe_that_nobody_reads_any_more_holds_nobody_up(capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    with open(writing, "w") as stream, log_output(stream, None, gather=True) as handler:
        handler.handle(line("heard"))
        handler.flush()
        os.close(reading)
        for number in range(2 * MOST):
            handler.handle(line(f"line {number}"))
    said = capsys.readouterr().err
    assert "Broken pipe" in said and "line(s) of the log are lost, the first: line" in said


def test_a_terminal_gets_every_line_at_once() -> None:
    ours, theirs = os.openpty()
    with open(theirs, "w") as stream, log_output(stream, None, gather=True) as handler, open(ours, "rb", 0) as seen:
        for text in ("one", "two"):
            handler.handle(line(text))
            # The kernel hands over a line's text and its end in two pieces; a read in between gets the first alone.
            assert seen.readline() == f"{text}\r\n".encode()


def test_a_filter_keeps_lines_out_or_changes_them(tmp_path: Path) -> None:
    with log_output(sys.stderr, str(tmp_path / "w.log")) as handler:
        handler.addFilter(lambda record: record.msg != "no")
        assert not handler.handle(line("no"))
        assert handler.handle(line("yes"))
    assert (tmp_path / "w.log").read_text() == "yes\n"
