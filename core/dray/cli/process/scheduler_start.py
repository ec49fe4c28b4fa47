"""From the command `dray scheduler` to a scheduler that runs, and to its end.

background -> pidfile -> other user -> app -> settings -> log -> scheduler, until a signal stops it
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import click

from .. import logs
from ..exits import OK
from ..session import Session
from . import daemon
from .minder import Minder
from .node_names import worker_name, worker_path
from .pidfile import Pidfile
from .signals import STOPS, Signals
from .systemd import Systemd

if TYPE_CHECKING:
    from ...app import Dray
    from ...scheduler import Scheduler

logger = logging.getLogger("dray.scheduler")

#: Seconds between two looks at whether the scheduler is at work, for systemd.
LOOKS = 2.0


def start_scheduler(session: Session, options: Mapping[str, Any]) -> int:
    """Run a scheduler as the options of the command say; return the exit code."""
    name = worker_name(options["name"]) if options["name"] else None
    if options["check"]:
        return _check(_app(session, options), name)
    logfile, pidfile = (
        os.path.abspath(worker_path(path, name)) if path else None for path in (options["logfile"], options["pidfile"])
    )
    detached = None
    if options["detach"]:
        found = daemon.detach(logfile)
        if isinstance(found, int):
            return found
        detached, logfile = found, logfile or os.devnull
    with detached or nullcontext(), ExitStack() as held:
        _settle(options, pidfile, held)
        app = _app(session, options)
        held.enter_context(logs.as_log(options["level"], options["as_json"], logfile))
        _run(app.scheduler(name=name), detached)
    return OK


def _settle(options: Mapping[str, Any], path: str | None, held: ExitStack) -> None:
    """Claim the pidfile, and then belong to whom the options say: root may write where others may not."""
    wanted = daemon.owner(options["uid"], options["gid"])
    if path is not None:
        pidfile = Pidfile(path)
        pidfile.claim(wanted.uid if wanted is not None and os.geteuid() == 0 else None)
        held.callback(pidfile.release)
    if options["umask"] is not None:
        os.umask(options["umask"])
    if wanted is not None:
        daemon.become(wanted)


def _app(session: Session, options: Mapping[str, Any]) -> Dray:
    app = session.app
    if options["max_interval"]:
        app.conf.update({"beat_max_loop_interval": options["max_interval"]}, origin="--max-interval")
    if options["include"]:
        app.conf.update({"include": [*app.conf.include, *options["include"]]}, origin="--include")
    return session.named_app("scheduler")


def _check(app: Dray, name: str | None) -> int:
    from ...schedule_entries import gather

    entries = gather(app)
    app.store("the scheduler")
    click.echo(f"ok: app {app.name!r} with {len(entries)} schedule{'s' if len(entries) != 1 else ''} of its own")
    for entry in entries.values():
        click.echo(f"  {entry.name}: {entry.call.task}, {entry.when(app)}{'' if entry.enabled else ', disabled'}")
    return OK


def _run(scheduler: Scheduler, detached: daemon.Detached | None) -> None:
    """Run it until a signal comes. What can never work is raised before anybody is told that it has started."""
    signals, systemd = Signals(), Systemd()

    def heed(number: int) -> None:
        if number in STOPS or number == getattr(signal, "SIGQUIT", None):
            logs.say("stopping", action="stopping")
            systemd.stopping()
            scheduler.request_stop()
        elif number != getattr(signal, "SIGCONT", None):
            logger.warning("%s says nothing to a scheduler; SIGTERM stops it", signal.Signals(number).name)

    def look() -> None:
        if scheduler.running and systemd.watchdog:
            systemd.alive()

    with signals.heeded(), Minder(signals.arrived, heed, look, LOOKS):
        scheduler.start(embedded=False)
        logger.info(
            "%s is ready: %d schedule(s) in code, more in the store",
            scheduler.name,
            scheduler.declared,
            extra={"action": "ready"},
        )
        systemd.ready()
        if detached is not None:
            detached.started()
        try:
            scheduler.wait()
        finally:
            scheduler.stop()
    logger.info("stopped; %d tick(s) sent", scheduler.sent, extra={"action": "stopped"})
