"""One server process on this machine: started, killed with -9, started again on its port and data, always ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import keeper

#: Seconds that a server may take until it answers.
PATIENCE = 60.0


class ServerDidNotStart(Exception):
    """A server ended, or did not answer in time; with the end of its log."""


class Process:
    """A command that serves on a port.

    `answers` says whether it does; it may raise OSError for "not yet". `user` is who it runs as, when we are root.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        answers: Callable[[], bool],
        *,
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.log = folder / f"{Path(command[0]).name}-{os.urandom(3).hex()}.log"
        self._command = list(command)
        self._folder = folder
        self._answers = answers
        self._environment = {**os.environ, **(environment or {})}
        self._user = user
        self._stop_signal = stop_signal
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._running is not None and self._running.poll() is None

    def start(self) -> None:
        """Start it when it does not run; return when it answers."""
        if not self.alive:
            self._launch()
        wait_for_answer(self._answers, lambda: self.alive, self._story)

    def _launch(self) -> None:
        who: dict[str, Any] = {"user": self._user, "extra_groups": []} if self._user else {}
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **who,
            )
        _keeper().write(f"+ {self._running.pid}")

    def stop(self) -> None:
        """Ask it to end, and wait; kill it when it does not within 20 s."""
        if self._running is None:
            return
        if self.alive:
            self._running.send_signal(self._stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._running.wait(20)
        self.kill()

    def kill(self) -> None:
        """Kill it and all that it started with -9; return when it is gone."""
        if self._running is None:
            return
        if self.alive:
            keeper.kill_tree(self._running.pid)
        self._running.wait(20)
        _keeper().write(f"- {self._running.pid}")
        self._running = None

    def _story(self, what: str) -> ServerDidNotStart:
        tail = self.log.read_text(errors="replace").splitlines()[-30:]
        return ServerDidNotStart("\n".join([f"{' '.join(self._command)}: {what}. The end of its log:", *tail]))


def wait_for_answer(
    answers: Callable[[], bool],
    alive: Callable[[], bool],
    story: Callable[[str], ServerDidNotStart],
    patience: float = PATIENCE,
) -> None:
    """Return when `answers()`; raise `story(what happened)` when it is not `alive()`, or after `patience` seconds."""
    end = time.monotonic() + patience
    while True:
        with contextlib.suppress(OSError):
            if answers():
                return
        if not alive():
            raise story("ended")
        if time.monotonic() > end:
            raise story(f"did not answer within {patience:g} s")
        time.sleep(0.02)


def new_folder(name: str, user: str | None = None) -> Path:
    """Make a folder for a server's data: its path is short enough for sockets, and it goes when the test run ends."""
    folder = Path(tempfile.mkdtemp(prefix=f"dray-{name}-"))
    if user and os.geteuid() == 0:
        shutil.chown(folder, user)
    _keeper().write(f"+ {folder}")
    return folder


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _keeper().write(f"- {folder}")


def replies(
    port: int, question: bytes, answer: bytes, wrap: Callable[[socket.socket], socket.socket] | None = None
) -> bool:
    """Return whether the server on `port` of 127.0.0.1, asked `question`, says `answer`. `wrap` puts TLS around it."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as plain, wrap(plain) if wrap else plain as talk:
        talk.sendall(question)
        said = b""
        # Redis says "-LOADING ..." while it reads its file.
        while answer not in said and not said.startswith(b"-"):
            part = talk.recv(4096)
            if not part:
                return False
            said += part
        return answer in said


class _Keeper:
    """The companion that ends servers when this process dies. See keeper.py."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", keeper.__file__], stdin=subprocess.PIPE, start_new_session=True, text=True, bufsize=1
        )

    def write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Have it end what is still named, and go."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)


_the_keeper: _Keeper | None = None


def _keeper() -> _Keeper:
    global _the_keeper
    if _the_keeper is None:
        _the_keeper = _Keeper()
    return _the_keeper


def end_everything() -> None:
    """End all servers that are still there: the last thing a test run does."""
    global _the_keeper
    if _the_keeper is not None:
        _the_keeper.end()
        _the_keeper = None
