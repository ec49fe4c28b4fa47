"""A worker that has a process to itself: it waits for its broker, heeds signals, and says what it is doing.

connect -> banner -> start -> (signal, limit, or nothing left in a burst) -> stop -> exit code, or the same anew
"""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ...errors import BackendUnavailable, BrokerUnavailable, ConfigurationError
from ...garbage import settle_down
from ...urls import nearest
from ...worker import Worker
from ..banner import show_banner
from ..durations import short
from ..exits import OK
from ..logs import say, written_so_far
from . import heartbeat
from .heartbeat import HeartbeatFile
from .log_output import crashes_reported
from .minder import Minder
from .node_names import worker_path
from .service import Service
from .signals import STOPS, Signals
from .stacks import stacks
from .standard_streams import StandardStreams
from .vitals import Vitals

if TYPE_CHECKING:
    from ...app import Dray

logger = logging.getLogger("dray.worker")

#: Seconds between two tries to reach the broker: the first, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0
#: Seconds between two looks at how many messages were taken, when there is a most.
COUNTING = 0.1
_HANGUP = getattr(signal, "SIGHUP", None)


class _NeverStarted(Exception):
    """The worker was asked to stop before it had begun."""


class WorkerProcess(Worker):
    """The worker of `dray worker`. Signals come to `heed`, on the minder's thread."""

    def __init__(self, app: Dray, queues: Sequence[str] | None, service: Service, **options: Any) -> None:
        super().__init__(app, queues, **options)
        self.service = service
        self.prepare_child = service.log_of_children
        #: The signals that ask it to stop, in order.
        self.asked: list[int] = []
        #: Whether it stops to be started anew.
        self.restarting = False
        path = app.conf.worker_heartbeat_file
        self.vitals = Vitals(self, HeartbeatFile(worker_path(path, self.name)) if path else None)
        #: What is looked after once the process has the streams that it will keep.
        self._kept = ExitStack()
        self._streams: StandardStreams | None = None
        self.signals = Signals()
        self._wake = threading.Event()
        #: Held by whoever starts it or asks it to stop: a request either finds it running or is found when it runs.
        self._asking = threading.Lock()
        self._running = False
        self._stopping_itself = False
        self._checking: threading.Thread | None = None
        self._on_terminal = _on_terminal()
        self._ready_since = self._quiet_since = 0.0
        self._taken = 0

    # Life, on the main thread

    def connect(self) -> None:
        """Open the broker and the result backend, so that what can never work is said at once.

        One that is merely away is waited for (the broker, by `start`) or met later (the backend, by the settler), for
        containers start in any order. A burst does not wait: it raises `BrokerUnavailable` or `BackendUnavailable`.
        """
        for part in ("broker", "backend"):
            try:
                getattr(self.app, part)
            except (BrokerUnavailable, BackendUnavailable) as error:
                if self.burst:
                    raise
                if isinstance(error, BackendUnavailable):
                    logger.warning("result backend away: %s; results are kept until it is back", error)

    def start(self) -> Worker:
        """Start, as soon as the broker is there."""
        clock, pause, since = self.app.clock, FIRST_PAUSE, self.app.clock.monotonic()
        waited = False
        while not self.asked and not self.restarting:
            try:
                super().start()
                break
            except BrokerUnavailable as error:
                if self.burst:
                    raise
                if not waited:
                    logger.warning("broker away: %s; waiting for it", error)
                    self.vitals.become(heartbeat.STARTING, "waits for its broker")
                    self._started()
                waited = True
            # Many workers start at the same moment, after an outage for one: each comes at a moment of its own.
            clock.wait(self._wake, pause * random.uniform(0.8, 1.2))
            pause = min(pause * 2, LONGEST_PAUSE)
        else:
            raise _NeverStarted
        if waited:
            logger.info("broker there after %s", short(clock.monotonic() - since))
        settle_down()
        self._ready_since = self._quiet_since = clock.monotonic()
        self.vitals.become(heartbeat.RUNNING)
        with self._asking:
            self._running = True
            for _ in self.asked:
                self.request_stop()
        logger.info("%s is ready", self.name, extra={"action": "ready"})
        self.vitals.systemd.ready()
        self._started()
        self._warn()
        return self

    def stop(self, timeout: float | None = None) -> None:
        """Say what is being waited for, and stop."""
        busy = self.running
        grace = self.shutdown_timeout if timeout is None else timeout
        what = "restarting" if self.restarting else "stopping"
        if self.asked or self.restarting:
            if not busy:
                say("%s: nothing is running", what, action=what)
            elif grace:
                then = "" if self.restarting else "; again to stop now"
                say("%s: %d task(s) may run for another %s%s", what, busy, short(grace), then, action=what)
            else:
                say("%s: %d task(s) are given back", what, busy, action=what)
        self.vitals.become(what)
        super().stop(timeout)
        logger.info("stopped; %d message(s) taken in all", self.received, extra={"action": "stopped"})

    def request_stop(self) -> None:
        """Ask it to stop, as `Worker` does, and be heard at once: no signal handler calls this."""
        super().request_stop()
        if self._source is not None:
            self._source.wake()

    def ended(self) -> None:
        """Say for the last time how it is. When the minder has ended."""
        self.vitals.become(heartbeat.RESTARTING if self.restarting else heartbeat.STOPPED)
        self.vitals.look()
        self._kept.close()

    def _started(self) -> None:
        if self._streams is None:
            if self.service.on_start is not None:
                self.service.on_start()
            self._kept.enter_context(crashes_reported())
            self._streams = self._kept.enter_context(StandardStreams())

    def _warn(self) -> None:
        if os.name == "posix" and os.geteuid() == 0 and not _in_container():
            logger.warning("this worker runs as root, and so does every task: --uid USER gives that up")
        if not self.app.broker.capabilities.shared:
            logger.warning(
                "no other process can send to this broker: only what this process itself sends arrives here "
                "(`dray doctor` says what a broker can do)"
            )

    # What comes from outside, on the minder's thread

    def heed(self, number: int) -> None:
        """Do what a signal asks for."""
        name = signal.Signals(number).name
        if name == "SIGHUP":
            # A terminal that is closed hangs up on all that run in it. Nobody would see the new worker.
            if self._on_terminal and not _on_terminal():
                self._ask(number)
            else:
                self._restart()
        elif name == "SIGUSR1":
            # On a thread of its own: should the log hang, that is one of the things to find out by other means.
            threading.Thread(target=self._show_stacks, name="dray-stacks", daemon=True).start()
        elif name == "SIGTSTP":
            self.pause()
            if self.paused:
                say("paused: nothing new is taken in; SIGCONT (kill -CONT %d) ends that", os.getpid(), action="paused")
        elif name == "SIGCONT":
            if self.paused:
                self.resume()
                say("resumed", action="resumed")
        elif name in ("SIGTTIN", "SIGTTOU"):
            self._resize(1 if name == "SIGTTIN" else -1)
        else:
            self._ask(number)

    def look_after(self) -> None:
        """See how everything is: every second or so."""
        self.service.left_behind = [pid for pid in self.service.left_behind if _lives(pid)]
        self.vitals.look()
        if self._streams is not None:
            self._streams.look()
        for number in self.signals.changed():
            logger.warning("a task has changed what %s does; this worker heeds it again", signal.Signals(number).name)
        parent = self.service.parent
        if parent is not None and os.getppid() != parent and not self.asked:
            logger.error("process %d, which looked after this worker, is gone: stopping", parent)
            self._ask(signal.SIGTERM)
        if self._running and (limit := self._limit_reached()):
            self._end_by_itself(limit)

    def _ask(self, number: int) -> None:
        """Pass a request to stop on: within the grace the first time, at once the second; SIGQUIT is both."""
        with self._asking:
            again = self._stopping_itself
            self._stopping_itself = self.restarting = False
            requests = [number] if number in STOPS or number == _HANGUP else [number, number]
            self.asked += requests
            self._wake.set()
            self.vitals.become(heartbeat.STOPPING)
            self.vitals.systemd.stopping()
            if self._running:
                # Stopping already, to restart or at a limit: the first request changes what for, and hurries nobody.
                for _ in requests[1:] if again else requests:
                    self.request_stop()

    def _end_by_itself(self, why: str, restarting: bool = False) -> None:
        with self._asking:
            if self.asked or self._stopping_itself:
                return
            self._stopping_itself, self.restarting = True, restarting
            self._wake.set()
            say(why, action="restarting" if restarting else "stopping")
            if self._running:
                self.request_stop()

    def _limit_reached(self) -> str:
        limits, now = self.service.limits, self.app.clock.monotonic()
        if self.received != self._taken or self.jobs():
            self._taken, self._quiet_since = self.received, now
        if limits.max_tasks is not None and self.received >= limits.max_tasks:
            return f"stopping: {self.received} messages were taken (--max-tasks)"
        if limits.max_idle is not None and now - self._quiet_since >= limits.max_idle:
            return f"stopping: nothing to do for {short(limits.max_idle)} (--max-idle)"
        if limits.max_run_time is not None and now - self._ready_since >= limits.max_run_time:
            return f"stopping: {short(limits.max_run_time)} are over (--max-run-time)"
        return ""

    def _resize(self, by: int) -> None:
        try:
            self.resize(self.concurrency + by)
        except ConfigurationError as error:
            logger.warning("%s", error)
        else:
            say("resized: %d `def` task(s) at once from now on", self.concurrency, action="resized")

    def _show_stacks(self) -> None:
        say("%s", stacks(self), action="stacks")

    def _restart(self) -> None:
        if self.service.wrong_with_new_code is None:
            logger.warning("SIGHUP: only a `dray worker` with a process to itself can be restarted")
        elif self._checking is None or not self._checking.is_alive():
            self._checking = threading.Thread(target=self._check_and_restart, name="dray-restart", daemon=True)
            self._checking.start()

    def _check_and_restart(self) -> None:
        """Restart, if what would be started can be: otherwise this worker is better than none."""
        assert self.service.wrong_with_new_code is not None
        say("SIGHUP: looking whether the code can be loaded as it is now", action="checking")
        wrong = self.service.wrong_with_new_code()
        if wrong is not None:
            logger.error("NOT restarted, the code as it is now cannot be loaded; the old one goes on: %s", wrong)
            return
        self.vitals.systemd.reloading()
        self._end_by_itself("restarting with the code as it is now", restarting=True)


def worker_for(
    app: Dray, service: Service | None = None, *, queues: Sequence[str], exclude: Sequence[str], **options: Any
) -> WorkerProcess:
    """Return the worker that some options mean; raise `ConfigurationError` for what can never work."""
    return WorkerProcess(app, _chosen(app, queues, exclude), service or Service(), **options)


def run_worker(
    app: Dray,
    *,
    place: str,
    as_json: bool,
    own_log: bool,
    service: Service,
    **options: Any,
) -> int | None:
    """Run a worker until it is asked to stop, and return the exit code; None: it is to be started anew."""
    worker = worker_for(app, service, **options)
    every = worker.vitals.every if service.limits.max_tasks is None else COUNTING
    minder = Minder(worker.signals.arrived, worker.heed, worker.look_after, every)
    with worker.signals.heeded(keep_hangup=service.again):
        try:
            with minder:
                worker.connect()
                if as_json:
                    names = ", ".join(worker.queues)
                    logger.info("%s takes from %s", worker.name, names, extra={"action": "starting"})
                else:
                    written_so_far()
                    show_banner(worker, place=place, own_log=own_log)
                worker.run()
        except _NeverStarted:
            say("stopped before the broker was there", action="stopped")
        finally:
            worker.ended()
    return None if worker.restarting else _exit_code(worker.asked)


def _exit_code(asked: Sequence[int]) -> int:
    # Asked twice, it did not finish its work: whoever started it can tell by the code.
    return 128 + asked[1] if len(asked) > 1 else OK


def _in_container() -> bool:
    return os.getppid() == 0 or any(map(os.path.exists, ("/.dockerenv", "/run/.containerenv")))


def _lives(child: int) -> bool:
    """Return whether a child of this process lives; one that does not is no zombie afterwards."""
    try:
        return os.waitpid(child, os.WNOHANG)[0] == 0
    except ChildProcessError:
        return False


def _on_terminal() -> bool:
    """Return whether the process has a terminal; one that was closed is none any more."""
    try:
        return os.isatty(0)
    except OSError:
        return False


def _chosen(app: Dray, queues: Sequence[str], exclude: Sequence[str]) -> list[str] | None:
    """Return the queues to take from; None: whatever the tasks use."""
    if not exclude:
        return list(queues) or None
    known = list(queues) or app.worker().queues
    for name in exclude:
        if name not in known and (hint := nearest(name, known)):
            logger.warning("-X %s: no task uses that queue%s", name, hint)
    left = [name for name in known if name not in exclude]
    if not left:
        raise ConfigurationError(f"-X leaves no queue to take from; without it: {', '.join(known)}")
    return left
