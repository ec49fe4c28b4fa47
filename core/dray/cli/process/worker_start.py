"""From the command `dray worker` to a worker that runs: what has to be done to the process first, and in which order.

background -> pidfile -> other user -> process above -> app -> settings -> log -> worker -> the same anew

No thread is started and nothing of the user's is imported before the last fork, and nothing of the user's runs with the
rights of root when another user was asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ...builtin_tasks import own_tasks
from .. import logs
from ..exits import OK, USAGE, Stop
from ..session import Session
from ..worker import SETTINGS
from . import restart
from .node_names import worker_name, worker_path

if TYPE_CHECKING:
    from ...app import Dray
    from .daemon import Detached
    from .pidfile import Pidfile
    from .service import Service
    from .watch import Watch

#: Seconds of grace with --watch when nobody says: who changes code does not want to wait.
GRACE_WHEN_WATCHING = 3.0


@dataclass(kw_only=True)
class _Asked:
    """What the options say of the process; the others are about its worker."""

    name: str | None
    level: str | None
    as_json: bool
    logfile: str | None
    pidfile: str | None
    detach: bool
    uid: str | None
    gid: str | None
    umask: int | None
    watch: list[str]
    include: list[str]
    max_tasks: int | None
    max_idle: float | None
    max_run_time: float | None


def start_worker(ctx: click.Context, session: Session, options: dict[str, Any]) -> int:
    """Run a worker as the options of the command say; return the exit code."""
    check = options.pop("check")
    asked = _Asked(**{field.name: options.pop(field.name) for field in fields(_Asked)})
    changes = {setting: options.pop(option) for option, setting in SETTINGS.items()}
    if check:
        return _check(session, asked, changes, options)
    before = restart.before()
    logfile = asked.logfile = _path(asked.logfile, asked)
    watch = _watch(asked, options)
    detached: Detached | None = None
    if asked.detach:
        from . import daemon

        if before is not None:
            daemon.redirect(logfile)
        else:
            found = daemon.detach(logfile)
            if isinstance(found, int):
                return found
            detached = found
        asked.logfile = logfile or os.devnull
    with detached or nullcontext():
        pidfile = _pidfile(asked, before)
        try:
            parent, code = _parent(watch, before, options)
            if code is None:
                service = _service(session, asked, detached, parent, before)
                code = _run(session, asked, changes, options, service)
            return _again(ctx, session.started_in, parent) if code is None else code
        finally:
            if pidfile is not None:
                pidfile.release()


# The process


def _path(pattern: str | None, asked: _Asked) -> str | None:
    name = worker_name(asked.name) if asked.name else None
    return os.path.abspath(worker_path(pattern, name)) if pattern else None


def _watch(asked: _Asked, options: Mapping[str, Any]) -> Watch | None:
    if not asked.watch:
        return None
    if options["burst"] or asked.detach:
        raise Stop(f"--watch and --{'burst' if options['burst'] else 'detach'} do not go together", USAGE)
    from .watch import Watch

    return Watch(asked.watch)


def _pidfile(asked: _Asked, before: restart.Before | None) -> Pidfile | None:
    """Claim the pidfile, and then belong to whom the options say: root may write where others may not."""
    from .daemon import become, owner

    wanted = owner(asked.uid, asked.gid)
    pidfile = None
    # The process above has claimed it already, and still has it.
    if asked.pidfile is not None and (before is None or before.parent is None):
        from .pidfile import Pidfile

        path = _path(asked.pidfile, asked)
        assert path is not None
        pidfile = Pidfile(path)
        pidfile.claim(wanted.uid if wanted is not None and os.geteuid() == 0 else None)
    if asked.umask is not None:
        os.umask(asked.umask)
    if wanted is not None:
        try:
            become(wanted)
        except Stop:
            if pidfile is not None:
                pidfile.release()
            raise
    return pidfile


def _parent(
    watch: Watch | None, before: restart.Before | None, options: dict[str, Any]
) -> tuple[int | None, int | None]:
    """Stay behind as the process above, where one is needed; return its id, and there the exit code."""
    if watch is not None and options["shutdown_timeout"] is None:
        options["shutdown_timeout"] = GRACE_WHEN_WATCHING
    if before is not None:
        return before.parent, None
    if watch is None and os.getpid() != 1:
        return None, None
    from .parent import Parent

    code = Parent(watch, options["shutdown_timeout"] or 0.0).run()
    return (os.getppid(), None) if code is None else (None, code)


def _again(ctx: click.Context, directory: str, parent: int | None) -> NoReturn:
    ctx.find_root().close()  # and the app with it
    try:
        restart.again(directory, parent)
    except OSError as error:
        raise Stop(f"the worker cannot be started anew: {error.filename}: {error.strerror}") from None


def _service(
    session: Session, asked: _Asked, detached: Detached | None, parent: int | None, before: restart.Before | None
) -> Service:
    from .service import Limits, Service

    return Service(
        limits=Limits(max_tasks=asked.max_tasks, max_idle=asked.max_idle, max_run_time=asked.max_run_time),
        parent=parent,
        wrong_with_new_code=lambda: restart.wrong_with_new_code(session.started_in),
        on_start=detached.started if detached is not None else None,
        log_of_children=("dray.cli.logs:log_for_good", (asked.level, asked.as_json, asked.logfile)),
        again=before is not None,
        left_behind=before.children if before is not None else [],
    )


# The app and its worker


def _app(session: Session, asked: _Asked, changes: Mapping[str, Any]) -> Dray:
    """Return the app, its tasks imported, with the settings that options name."""
    app = session.app
    for setting, value in changes.items():
        if value is not None:
            option = next(option for option, name in SETTINGS.items() if name == setting)
            app.conf.update({setting: value}, origin=f"--{option.replace('_', '-')}")
    if asked.include:
        app.conf.update({"include": [*app.conf.include, *asked.include]}, origin="--include")
    session.named_app("worker")
    return app


def _named(app: Dray, asked: _Asked) -> str | None:
    pattern = asked.name or app.conf.worker_name
    return worker_name(pattern) if pattern else None


def _run(
    session: Session, asked: _Asked, changes: Mapping[str, Any], options: Mapping[str, Any], service: Service
) -> int | None:
    from .worker_process import run_worker

    app = _app(session, asked, changes)
    with logs.as_log(asked.level, asked.as_json, asked.logfile, gather=True) as ours:
        if ours and asked.logfile == os.devnull:
            click.echo(f"{click.style('warning:', fg='yellow', bold=True)} it logs nowhere: --logfile PATH", err=True)
        return run_worker(
            app,
            place=session.app_place,
            as_json=asked.as_json,
            own_log=ours,
            service=service,
            name=_named(app, asked),
            **options,
        )


def _check(session: Session, asked: _Asked, changes: Mapping[str, Any], options: Mapping[str, Any]) -> int:
    """Do what a worker does before it connects; raise what is wrong."""
    from .worker_process import worker_for

    app = _app(session, asked, changes)
    worker = worker_for(app, name=_named(app, asked), **options)
    count = len(own_tasks(app))
    tasks = f"{count} task{'s' if count != 1 else ''}"
    click.echo(f"ok: app {app.name!r} with {tasks}, queues {', '.join(worker.queues)}, pool {worker.pool}")
    return OK
