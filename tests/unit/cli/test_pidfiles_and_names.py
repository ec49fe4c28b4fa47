"""The names of workers, the paths made of them, and the pidfile."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dray import ConfigurationError
from dray.cli.exits import TAKEN, Stop
from dray.cli.process.node_names import worker_name, worker_path
from dray.cli.process.pidfile import Pidfile

#: A process that lives until its stdin is closed; its command line is taken for a worker's, or not.
WAITING = [sys.executable, "-c", "import sys; sys.stdin.read()"]


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "box.example.org")


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("w1@%h", "w1@box.example.org"),
        ("w1@%n.%d", "w1@box.example.org"),
        ("w%%1", "w%1"),
        ("w%i", f"w{os.getpid()}"),
        ("plain", "plain"),
    ],
    ids=["host", "parts of it", "percent", "process", "plain"],
)
def test_patterns_in_a_name_stand_for_host_domain_and_process(pattern: str, name: str) -> None:
    assert worker_name(pattern) == name


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/run/%n.pid", "/run/shop.pid"),
        ("/run/%p.pid", "/run/shop@box.pid"),
        ("%h-%d-%i%%", f"box.example.org-example.org-{os.getpid()}%"),
    ],
    ids=["name", "all of it", "host and process"],
)
def test_patterns_in_a_path_stand_for_the_workers_name_too(pattern: str, path: str) -> None:
    assert worker_path(pattern, "shop@box") == path


def test_a_name_does_not_lead_into_another_directory() -> None:
    assert worker_path("/run/%n.pid", "../etc/shop@box") == "/run/.._etc_shop.pid"


def test_an_unknown_pattern_is_told_from_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"'w%z': %z stands for nothing here; there are %d, %h, %i, %n,"):
        worker_name("w%z")


def test_a_path_with_the_name_of_a_nameless_worker_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"%n stands for the worker's name: give it one, with -n"):
        worker_path("%n.pid", None)
    assert worker_path("%%n.pid", None) == "%n.pid"


@pytest.fixture
def pidfile(tmp_path: Path) -> Pidfile:
    return Pidfile(str(tmp_path / "worker.pid"))


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """Another process that is alive, and looks like a worker."""
    process = subprocess.Popen([*WAITING, "dray worker"], stdin=subprocess.PIPE)
    yield process
    process.communicate()


def test_a_pidfile_says_who_has_it_and_is_removed_at_the_end(pidfile: Pidfile) -> None:
    pidfile.claim()
    assert pidfile.path.read_text() == f"{os.getpid()}\n"
    pidfile.release()
    assert not pidfile.path.exists()


def test_the_pidfile_of_a_worker_that_runs_is_refused_with_its_process(
    pidfile: Pidfile, other: subprocess.Popen[bytes]
) -> None:
    pidfile.path.write_text(f"{other.pid}\n")
    with pytest.raises(Stop, match=f"is running already: process {other.pid}") as refused:
        pidfile.claim()
    assert refused.value.code == TAKEN
    pidfile.release()
    assert pidfile.path.read_text() == f"{other.pid}\n"


@pytest.mark.parametrize(
    "left",
    ["", "4194399\n", f"{os.getpid()}\n", "123456789012345\n"],
    ids=["empty", "dead", "this one's", "too large"],
)
def test_a_pidfile_that_a_dead_process_or_this_one_left_behind_is_replaced(pidfile: Pidfile, left: str) -> None:
    pidfile.path.write_text(left)
    pidfile.claim()
    assert pidfile.path.read_text() == f"{os.getpid()}\n"


def test_a_process_id_that_now_belongs_to_something_else_is_nobodys(pidfile: Pidfile) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        pidfile.path.write_text(f"{process.pid}\n")
        pidfile.claim()
        process.kill()
    assert pidfile.path.read_text() == f"{os.getpid()}\n"


def test_a_process_seen_within_its_exec_is_looked_at_again(pidfile: Pidfile, monkeypatch: pytest.MonkeyPatch) -> None:
    truly = Path.read_bytes
    looks: list[Path] = []

    def without_a_command_line_at_first(path: Path) -> bytes:
        if path.name != "cmdline":
            return truly(path)
        looks.append(path)
        return b"" if len(looks) < 3 else truly(path)

    with subprocess.Popen(["sleep", "60"]) as process:
        pidfile.path.write_text(f"{process.pid}\n")
        monkeypatch.setattr(Path, "read_bytes", without_a_command_line_at_first)
        pidfile.claim()
        monkeypatch.undo()
        process.kill()
    assert len(looks) == 3
    assert pidfile.path.read_text() == f"{os.getpid()}\n"


def test_a_file_that_is_no_pidfile_is_left_alone(pidfile: Pidfile) -> None:
    pidfile.path.write_text("precious\n")
    with pytest.raises(Stop, match="holds something else than a process id"):
        pidfile.claim()
    assert pidfile.path.read_text() == "precious\n"


def test_a_pidfile_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(Stop, match=r"nowhere/w\.pid cannot be written: No such file or directory"):
        Pidfile(str(tmp_path / "nowhere" / "w.pid")).claim()


def test_a_pidfile_removed_by_somebody_else_is_no_error(pidfile: Pidfile) -> None:
    pidfile.claim()
    pidfile.path.unlink()
    pidfile.release()
    assert not pidfile.path.exists()
