"""The heartbeat file: a worker writes down every other second how it is, and whoever looks after it reads that.

Imports next to nothing: `dray healthcheck` is run every few seconds by many.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

logger = logging.getLogger("dray.worker")

#: Seconds between two heartbeats, and after how many without one a worker is taken for dead.
EVERY, MAX_AGE = 2.0, 30.0

#: What a worker does, by the word that the file has for it.
STARTING, RUNNING, PAUSED, STOPPING, RESTARTING, STOPPED = (
    "starting",
    "running",
    "paused",
    "stopping",
    "restarting",
    "stopped",
)
#: The broker is away; one of the worker's own threads does not come round any more.
BROKER_AWAY, HUNG = "broker-away", "hung"


class Heartbeat(NamedTuple):
    """How a worker is."""

    pid: int
    name: str
    state: str
    #: Since when it has been in this state, and when this was written: seconds since 1970.
    since: float
    time: float
    #: Tasks that run at this moment, and messages taken since it started.
    running: int
    taken: int
    #: In words, what is wrong; "" when nothing is.
    reason: str = ""


class Health(NamedTuple):
    """What a heartbeat comes to: whether to leave the worker alone, whether work can be expected of it, and why."""

    alive: bool
    ready: bool
    reason: str
    heartbeat: Heartbeat | None


class HeartbeatFile:
    """Where heartbeats are written. Used from one thread at a time; never raises."""

    def __init__(self, path: str) -> None:
        self.path = Path(path).absolute()
        self._failed = False

    def write(self, heartbeat: Heartbeat) -> None:
        """Replace the file: who reads it finds the last heartbeat or this one, and nothing in between."""
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            beside.write_text(json.dumps(heartbeat._asdict()) + "\n", encoding="utf-8")
            beside.replace(self.path)
            self._failed = False
        except OSError as error:
            # Said once. The worker works; only whoever looks after it will think otherwise, and restart it.
            if not self._failed:
                logger.error("the heartbeat file %s cannot be written: %s", self.path, error.strerror)
            self._failed = True


def examine(path: str, max_age: float = MAX_AGE, now: float | None = None) -> Health:
    """Return how the worker is whose heartbeat file this is."""
    try:
        found = _read(path)
    except FileNotFoundError:
        return Health(False, False, f"there is no {path}: no worker has been started with that heartbeat file", None)
    except OSError as error:
        return Health(False, False, f"{path} cannot be read: {error.strerror}", None)
    except (ValueError, TypeError):
        return Health(False, False, f"{path} is not a heartbeat file", None)
    return judge(found, max_age, time.time() if now is None else now)


def judge(found: Heartbeat, max_age: float, now: float) -> Health:
    """Return what a heartbeat means at an instant.

    A worker without its broker is alive: to restart it would not bring the broker back.
    """
    who, age = f"{found.name} (process {found.pid})", now - found.time
    if found.state == STOPPED:
        return Health(False, False, f"{who} has stopped, {age:.0f}s ago", found)
    if abs(age) > max_age:
        when = f"{age:.0f}s old" if age > 0 else f"from the future ({-age:.0f}s)"
        return Health(False, False, f"the heartbeat of {who} is {when}; at most {max_age:.0f}s are allowed", found)
    said = f"{who}: {found.state} for {max(now - found.since, 0):.0f}s"
    said += f", {found.reason}" if found.reason else f", {found.running} task(s) running"
    return Health(found.state != HUNG, found.state == RUNNING, said, found)


def _read(path: str) -> Heartbeat:
    known: dict[str, Any] = json.loads(Path(path).read_bytes())
    found = Heartbeat(**{name: known[name] for name in Heartbeat._fields if name in known})
    float(found.time), float(found.since)
    return found
