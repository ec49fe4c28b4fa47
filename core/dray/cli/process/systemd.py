"""Tell systemd how the worker is (`Type=notify`): ready, reloading, stopping, alive. A few datagrams, no library.

Without `NOTIFY_SOCKET` in the environment - nobody listens - nothing is sent.
"""

from __future__ import annotations

import os
import socket
import time


class Systemd:
    """What systemd, or whatever else speaks its protocol, is told. Any thread; never blocks, never raises."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        #: "@" stands for the zero byte with which names begin that are in no directory.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._status = ""
        #: Seconds within which it has to be told that the worker is alive; None: it does not watch.
        self.watchdog = _watchdog()

    @property
    def listens(self) -> bool:
        """Whether anybody is told."""
        return bool(self._address)

    def ready(self) -> None:
        """The worker has started, or is back from a reload."""
        self._send("READY=1")

    def alive(self) -> None:
        """The watchdog need not bite."""
        self._send("WATCHDOG=1")

    def starting(self, seconds: float) -> None:
        """It takes longer, but not longer than that many seconds until the next word."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def reloading(self) -> None:
        """The worker restarts in the same process; `ready` is said again when that is over."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The worker is about to end."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; sent when it has changed."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            # A socket for each word: tasks have been seen to close file descriptors that they did not open.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.setblocking(False)
                channel.sendto(text.encode(), self._address)
        except OSError:
            # Nobody there any more, or too busy to listen. A word that is missed is said again, but for the first.
            pass


def _watchdog() -> float | None:
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        return int(os.environ.get("WATCHDOG_USEC", "")) / 1e6 or None
    except ValueError:
        return None
