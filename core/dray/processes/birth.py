"""How a child of the pool comes to life: what it is told, and how it finds the app, its settings and its signals."""

from __future__ import annotations

import fcntl
import importlib
import os
import pickle
import resource
import signal
import sys
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..capabilities import Capabilities
from ..errors import ConfigurationError
from ..settings import settings_table

if TYPE_CHECKING:
    from ..app import Dray

#: What is sent to whole groups of processes: by a terminal, by whoever stops a service. It is meant for the worker,
#: which then drains; a child goes on with its task.
MEANT_FOR_THE_WORKER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
#: The lowest number for the ends of pipes that tasks are not to find by accident; below the usual limit of 1024.
PRIVATE = 600
#: The option of prctl(2) that has the kernel send a signal when the parent is gone.
PR_SET_PDEATHSIG = 1


class Birth(NamedTuple):
    """What a child is told. Goes through a pipe, for there are passwords in it; never through arguments or files."""

    #: Where the app is, "module:attribute".
    place: str
    #: Settings that are not at their defaults in the worker, each pickled.
    settings: dict[str, bytes]
    #: The worker's name and process.
    worker: str
    parent: int
    #: What to call first: "module:function" and its arguments.
    prepare: tuple[str, tuple[Any, ...]] | None
    #: What the worker's broker can do, so that nobody need ask it.
    capabilities: Capabilities
    #: True: somebody in the worker's process wants to hear of events.
    listening: bool
    #: Resident memory (bytes) at which it ends; None: there is no limit.
    max_memory: int | None
    #: Signals that are held back in the worker's main thread, as they are to be here.
    mask: frozenset[int]


def birth(
    app: Dray, worker: str, prepare: tuple[str, tuple[Any, ...]] | None, pool: str = "processes", forked: bool = False
) -> Birth:
    """Return what to tell a child of this thread. Raises `ConfigurationError` for an app that none could find.

    `forked`: it gets a copy of everything there is, and need not find anything.
    """
    return Birth(
        place="" if forked else place_of(app, pool),
        settings={} if forked else _changed_settings(app),
        worker=worker,
        parent=os.getpid(),
        prepare=None if forked else prepare,
        capabilities=app.broker.capabilities,
        listening=app.hearing,
        max_memory=app.conf.worker_max_memory_per_child,
        mask=frozenset(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    )


def place_of(app: Dray, pool: str = "processes") -> str:
    """Return where other processes find an app, "module:attribute"; raise `ConfigurationError` if nowhere."""
    # What was started may have imported the app from where it is; it is imported again only if it must be.
    for name, module in sorted(sys.modules.items(), key=lambda item: item[0] == "__main__"):
        if not isinstance(module, ModuleType) or (name == "__main__" and not _has_a_file(module)):
            continue
        for attribute, value in list(vars(module).items()):
            if value is app:
                return f"{name}:{attribute}"
    otherwise = ", or set worker_start_method = 'fork'" if pool == "processes" else ""
    raise ConfigurationError(
        f"the pool {pool!r} cannot run {app}: its processes find an app by the module it is in, and this one is an "
        f"attribute of no module that can be imported. Make it one (`app = Dray(...)` in shop/tasks.py){otherwise}"
    )


def _has_a_file(main: ModuleType) -> bool:
    """Return whether what was started can be imported again: a script or `python -m`, but no shell or notebook."""
    spec = main.__spec__
    # `python -m package` is left out by those that import it again.
    named = spec is not None and not spec.name.endswith("__main__")
    return named or (spec is None and os.path.exists(getattr(main, "__file__", None) or ""))


def found(birth: Birth) -> Dray:
    """Return the app, with its tasks, in a child that was not forked. Raises whatever importing it raises."""
    from ..app import Dray  # not earlier: it is for the app's own module to say what is imported first

    module, _, attribute = birth.place.partition(":")
    app = getattr(importlib.import_module(module), attribute, None)
    if not isinstance(app, Dray):
        raise ConfigurationError(
            f"{birth.place} is an app in the worker, and {'nothing' if app is None else app!r} in its child process: "
            "does the module depend on who imports it?"
        )
    values = {name: pickle.loads(value) for name, value in birth.settings.items()}
    # What is built from a setting is not built again: leave alone what says the same.
    others = {name: value for name, value in values.items() if getattr(app.conf, name) != value}
    app.conf.update(others, origin="the worker")
    return app


def loaded(told: Birth, app: Dray | None = None) -> Dray:
    """Return the app with its tasks, in a child; `app` if that was forked with it. Raises what loading it raises."""
    if app is None:
        app = found(told)
        if told.prepare is not None:
            call(told.prepare)
    app.connections.known = told.capabilities
    app.load_tasks()
    return app


def _changed_settings(app: Dray) -> dict[str, bytes]:
    settings = {}
    for name, setting in settings_table().items():
        if (value := getattr(app.conf, name)) != setting.default or app.conf.origin(name) != "default":
            try:
                settings[name] = pickle.dumps(value)
            except Exception:
                # A function, say: what cannot travel was written in a module, where the child finds it as well.
                continue
    return settings


# In the child


def call(prepare: tuple[str, tuple[Any, ...]]) -> None:
    """Call "module:function" with its arguments."""
    place, arguments = prepare
    module, _, name = place.partition(":")
    getattr(importlib.import_module(module), name)(*arguments)


def settle_signals(mask: frozenset[int]) -> None:
    """Let pass what is meant for the worker. Everything has been held back since this process was made."""
    for number in MEANT_FOR_THE_WORKER:
        # Not ignored: that would pass on to the programs that tasks start, and nobody could terminate those.
        signal.signal(number, _let_pass)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _let_pass(number: int, frame: FrameType | None) -> None:
    """Do nothing."""


def lead_a_group() -> None:
    """Leave the group of the worker: what is meant for a terminal's foreground, or for one child, hits no other."""
    try:
        os.setpgid(0, 0)
    except OSError:
        pass  # it leads one already


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the one that made it ends, even if no thread of it can run then.

    Only if that one - the worker, or the server that forks for it - is as deaf as we were when we were made: a SIGTERM
    that ends it must not kill what is running.
    """
    held_back = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    if sys.platform != "linux" or signal.SIGTERM not in held_back:
        return
    import ctypes

    maker = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != maker or not _alive(parent):
        os._exit(1)  # it was gone before we asked


def let_the_server_end() -> None:
    """Let the server that forked this process end with the worker. It lives as long as anybody can ask it for more.

    That it ends is what kills those of us of whom no thread can run. A task that uses it itself starts one of its own.
    """
    if forkserver.get_inherited_fds() is None:
        return  # forked by nobody but the worker, or not at all
    server: Any = forkserver._forkserver
    if (held := getattr(server, "_forkserver_alive_fd", None)) is not None:
        os.close(held)
        server._forkserver_alive_fd = None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def private(end: Connection) -> int:
    """Return a descriptor for an end of a pipe that tasks do not find by accident, and programs do not inherit.

    A task that closes all the descriptors it did not open, or thinks so, would cut the child off.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    lowest = PRIVATE if limit == resource.RLIM_INFINITY else min(PRIVATE, limit // 2)
    copy = fcntl.fcntl(end.fileno(), fcntl.F_DUPFD_CLOEXEC, lowest)
    end.close()
    return copy
