"""Where a worker's log goes: it survives what tasks do to files, and what logrotate does."""

from __future__ import annotations

import faulthandler
import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dray.cli.exits import Stop
from dray.cli.process.log_output import PRIVATE, crashes_reported, identity, log_output, private_copy


def line(text: str) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": text})


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
        "from dray.cli.process.log_output import private_copy\n"
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
        ("sys.stdout.close()", "printed\n", "a task has closed sys.stdout; it is open again\n"),
        ("os.closerange(3, 65)", "printed\n", ""),
        (
            "os.close(1); os.open(os.devnull, os.O_WRONLY)",
            "",
            "a task has closed file descriptor 1 (stdout), and it is another file now: whatever tasks print or read "
            "there goes wrong; restart this worker\n",
        ),
    ],
    ids=["nothing", "descriptor", "object", "all others", "taken"],
)
def test_standard_streams_that_a_task_closes_are_open_again(tmp_path: Path, do: str, printed: str, said: str) -> None:
    code = STREAMS.format(log=str(tmp_path / "log"), do=do)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == printed
    assert (tmp_path / "log").read_text() == said
