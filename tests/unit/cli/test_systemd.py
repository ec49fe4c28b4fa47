"""What systemd is told, over a real datagram socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dray.cli.process.systemd import Systemd


class Listener:
    """A socket that stands for systemd's."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(10)

    def heard(self) -> str:
        return self._socket.recv(4096).decode()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@dray-test-{os.getpid()}"
    made = Listener(name.replace("@", "\0"))
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    yield made
    made.close()


def test_each_word_is_one_datagram(listener: Listener) -> None:
    systemd = Systemd()
    assert systemd.listens
    systemd.ready()
    systemd.alive()
    systemd.stopping()
    systemd.starting(30)
    assert [listener.heard() for _ in range(4)] == [
        "READY=1",
        "WATCHDOG=1",
        "STOPPING=1",
        "EXTEND_TIMEOUT_USEC=30000000",
    ]


def test_a_reload_says_when_it_began(listener: Listener) -> None:
    Systemd().reloading()
    word, moment = listener.heard().split("\n")
    assert word == "RELOADING=1"
    assert moment.startswith("MONOTONIC_USEC=") and int(moment.partition("=")[2]) > 0


def test_a_status_is_said_when_it_has_changed(listener: Listener) -> None:
    systemd = Systemd()
    for text in ("one", "one", "two"):
        systemd.status(text)
    systemd.ready()
    assert [listener.heard() for _ in range(3)] == ["STATUS=one", "STATUS=two", "READY=1"]


def test_nobody_is_told_where_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not Systemd().listens
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    systemd = Systemd()
    systemd.ready()
    assert systemd.listens


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("30000000", None, 30.0),
        ("30000000", str(os.getpid()), 30.0),
        ("30000000", "1", None),
        ("", None, None),
        ("x", None, None),
    ],
    ids=["anybody", "this one", "another", "nobody", "nonsense"],
)
def test_the_watchdog_is_fed_by_the_process_that_it_watches(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str | None, seconds: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", pid)
    assert Systemd().watchdog == seconds
