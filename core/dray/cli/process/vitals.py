"""How a worker's process is: told to the heartbeat file and to systemd, by what its threads really do."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from ..durations import short
from . import heartbeat
from .heartbeat import Heartbeat, HeartbeatFile
from .systemd import Systemd

if TYPE_CHECKING:
    from ...worker import Worker

#: Seconds after which a thread that has not come round is taken to hang; and while the broker is away, when connecting
#: to it may take long.
HUNG_AFTER, HUNG_AWAY_AFTER = 60.0, 300.0
#: Seconds by which systemd is asked to be patient, again and again, while the broker is waited for.
PATIENCE = 30.0


class Vitals:
    """Used by the minder's thread; `phase` may be set by any."""

    def __init__(self, worker: Worker, file: HeartbeatFile | None) -> None:
        self._worker = worker
        self._file = file
        self.systemd = Systemd()
        self._state, self._since = heartbeat.STARTING, time.time()
        self._written = 0.0
        #: What the process is at, and what is to be said of that.
        self.phase, self.reason = heartbeat.STARTING, ""

    @property
    def every(self) -> float:
        """How often (seconds) to look: often enough for whoever waits for a word."""
        return min(1.0, (self.systemd.watchdog or 30.0) / 3)

    def look(self) -> None:
        """See how the worker is, and say so."""
        state, reason = self.state()
        if state != heartbeat.HUNG:
            # A worker whose threads hang is for the watchdog to end: its leases run out, and others take over.
            self.systemd.alive()
        if state == heartbeat.STARTING:
            self.systemd.starting(PATIENCE)
        if self.systemd.listens:
            self.systemd.status(f"{state}{': ' + reason if reason else ''}; {self._worker.running} running")
        now = time.time()
        if state != self._state:
            self._state, self._since = state, now
        elif abs(now - self._written) < heartbeat.EVERY:
            return
        self._written = now
        if self._file is not None:
            worker = self._worker
            self._file.write(
                Heartbeat(os.getpid(), worker.name, state, self._since, now, worker.running, worker.received, reason)
            )

    def state(self) -> tuple[str, str]:
        """Return in one word how the worker is, and in some what is wrong."""
        worker = self._worker
        pulse, now = worker.pulse(), worker.app.clock.monotonic()
        away = pulse.away_since is not None
        threads = {"keeper": pulse.keeper} | ({"source": pulse.source} if self.phase == heartbeat.RUNNING else {})
        for name, looked in threads.items():
            if looked is not None and (late := now - looked) > (HUNG_AWAY_AFTER if away else HUNG_AFTER):
                return heartbeat.HUNG, f"its {name} thread has not come round for {short(late)}"
        if self.phase != heartbeat.RUNNING:
            return self.phase, self.reason
        if pulse.away_since is not None:
            return heartbeat.BROKER_AWAY, f"the broker has been away for {short(now - pulse.away_since)}"
        return (heartbeat.PAUSED, "") if worker.paused else (heartbeat.RUNNING, "")

    def become(self, phase: str, reason: str = "") -> None:
        """Note what the process is at from now on."""
        self.phase, self.reason = phase, reason
