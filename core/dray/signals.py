"""Celery's signals: functions that are connected by name to what happens to tasks and workers in this process.

    from dray import signals

    @signals.task_failure.connect
    def tell(sender=None, task_id=None, exception=None, **kwargs): ...

Signals belong to the process and not to an app: a receiver hears of all apps. Which signal is sent where, and with
what, is in docs/hooks.md; who sends them is `signalling`.
"""

from __future__ import annotations

import inspect
import logging
import threading
import weakref
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, TypeVar, overload

from .errors import ConfigurationError, NotSupported

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

#: Held by whoever connects or disconnects. Sending takes no lock: it goes by the tuple there is.
_lock = threading.Lock()


class Receiver(NamedTuple):
    """A function that is connected to a signal."""

    #: What it is known by: connecting it again changes nothing.
    uid: Hashable
    #: Of whom it hears; None: of all.
    sender: Any
    #: Returns the function, or None when it was connected weakly and is gone.
    find: Callable[[], Callable[..., Any] | None]


class Signal:
    """Something that functions can be connected to, and are called for: `signal.connect`. Thread-safe."""

    def __init__(self, name: str) -> None:
        self.name = name
        #: Who is connected. Empty: whoever would send it need not gather what it tells.
        self.receivers: tuple[Receiver, ...] = ()

    @overload
    def connect(
        self, receiver: F, *, sender: Any = None, weak: bool = False, dispatch_uid: Hashable | None = None
    ) -> F: ...
    @overload
    def connect(
        self, receiver: None = None, *, sender: Any = None, weak: bool = False, dispatch_uid: Hashable | None = None
    ) -> Callable[[F], F]: ...
    def connect(
        self, receiver: Any = None, *, sender: Any = None, weak: bool = False, dispatch_uid: Hashable | None = None
    ) -> Any:
        """Have a function called for this signal: bare, as a decorator, or as one with options.

        `sender` is a task or its name: it is then called for that one alone. With `weak=True` the signal does not keep
        the function alive, as in Celery; here that is not the default, for there a lambda is gone at once. What has a
        `dispatch_uid` is connected once, whichever function it is. A receiver takes `**kwargs`, and is no coroutine
        function; what it raises is logged.
        """
        if receiver is None:
            return lambda function: self.connect(function, sender=sender, weak=weak, dispatch_uid=dispatch_uid)
        _check(self.name, receiver)
        uid = _uid(receiver, sender, dispatch_uid)
        find = _weakly(receiver) if weak else lambda: receiver
        with _lock:
            if all(known.uid != uid or known.find() is None for known in self.receivers):
                self.receivers = (*self._alive(), Receiver(uid, sender, find))
        return receiver

    def disconnect(
        self, receiver: Callable[..., Any] | None = None, sender: Any = None, *, dispatch_uid: Hashable | None = None
    ) -> bool:
        """Take back what `connect` did, given the same things; return whether it was connected."""
        uid = _uid(receiver, sender, dispatch_uid)
        with _lock:
            left = tuple(known for known in self._alive() if known.uid != uid)
            found = len(left) < len(self._alive())
            self.receivers = left
        return found

    def send(self, sender: Any = None, **named: Any) -> list[tuple[Callable[..., Any], Any]]:
        """Call every receiver; return each with what it returned, or with the exception, logged, that it raised."""
        answers: list[tuple[Callable[..., Any], Any]] = []
        for known in self.receivers:
            if known.sender is not None and not _same(known.sender, sender):
                continue
            function = known.find()
            if function is None:
                continue
            try:
                answers.append((function, function(signal=self, sender=sender, **named)))
            except (Exception, SystemExit) as error:
                logger.exception("%s raised, connected to %s", _name(function), self.name)
                answers.append((function, error))
        return answers

    def _alive(self) -> tuple[Receiver, ...]:
        return tuple(known for known in self.receivers if known.find() is not None)

    def __repr__(self) -> str:
        return f"<Signal {self.name} with {len(self.receivers)} receiver(s)>"


class OnceEach(Signal):
    """A signal of one app that each receiver hears once, however often it is sent. What a receiver raises is raised."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._told: set[Hashable] = set()

    def send(self, sender: Any = None, **named: Any) -> list[tuple[Callable[..., Any], Any]]:
        """Call those receivers that have not heard it yet; return each with what it returned."""
        answers: list[tuple[Callable[..., Any], Any]] = []
        for known in self.receivers:
            with _lock:
                new = known.uid not in self._told
                # Before it is called: what it does may have this sent once more.
                self._told.add(known.uid)
            if new and (function := known.find()) is not None:
                try:
                    answers.append((function, function(signal=self, sender=sender, **named)))
                except BaseException:
                    self._told.discard(known.uid)
                    raise
        return answers


def _check(name: str, receiver: Any) -> None:
    if not callable(receiver):
        raise ConfigurationError(f"{name}.connect takes a function; got {receiver!r}. Options are given by name.")
    if inspect.iscoroutinefunction(receiver):
        raise ConfigurationError(
            f"{name}: {_name(receiver)} is a coroutine function, and receivers are called, not awaited: make it a `def`"
        )
    try:
        taken = inspect.signature(receiver).parameters.values()
    except (TypeError, ValueError):
        return  # written in C: nobody can tell
    if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in taken):
        raise ConfigurationError(
            f"{name}: {_name(receiver)} takes no **kwargs: signals are told in keywords, and of more of them over time"
        )


def _uid(receiver: Any, sender: Any, dispatch_uid: Hashable | None) -> Hashable:
    if dispatch_uid is None:
        # A bound method is another object each time it is asked for.
        owner = getattr(receiver, "__self__", None)
        dispatch_uid = id(receiver) if owner is None else (id(owner), getattr(receiver, "__func__", receiver))
    return dispatch_uid, sender if isinstance(sender, str) else id(sender)


def _weakly(receiver: Callable[..., Any]) -> Callable[[], Callable[..., Any] | None]:
    return weakref.WeakMethod(receiver) if inspect.ismethod(receiver) else weakref.ref(receiver)


def _same(wanted: Any, sender: Any) -> bool:
    """Tell whether a sender is the one that was asked for; tasks and workers go by their names as well."""
    if wanted is sender:
        return True
    if isinstance(wanted, str):
        return wanted == (sender if isinstance(sender, str) else getattr(sender, "name", None))
    return isinstance(sender, str) and getattr(wanted, "name", None) == sender


def _name(function: Any) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"


before_task_publish = Signal("before_task_publish")
after_task_publish = Signal("after_task_publish")
task_received = Signal("task_received")
task_prerun = Signal("task_prerun")
task_postrun = Signal("task_postrun")
task_success = Signal("task_success")
task_failure = Signal("task_failure")
task_retry = Signal("task_retry")
task_revoked = Signal("task_revoked")
task_rejected = Signal("task_rejected")
task_unknown = Signal("task_unknown")
task_internal_error = Signal("task_internal_error")
worker_init = Signal("worker_init")
worker_ready = Signal("worker_ready")
worker_shutting_down = Signal("worker_shutting_down")
worker_shutdown = Signal("worker_shutdown")
worker_process_init = Signal("worker_process_init")
worker_process_shutdown = Signal("worker_process_shutdown")
heartbeat_sent = Signal("heartbeat_sent")
beat_init = Signal("beat_init")
beat_embedded_init = Signal("beat_embedded_init")
setup_logging = Signal("setup_logging")

#: Those that are sent for a task while a worker has it.
OF_RUNS = (task_prerun, task_postrun, task_success, task_failure, task_retry, task_revoked, task_rejected)
#: Those that are sent for a task that a worker does not run.
OF_REFUSALS = (task_revoked, task_rejected, task_unknown)

_LOGGERS = "dray sets up no loggers but those of `dray worker`: connect setup_logging, and set up all of them there"
_POOL = "the pool gevent has one process: connect worker_process_init and worker_process_shutdown, sent in it"
_SETTINGS = "an app is configured before its worker is made: use the hook `configure`, or the signal worker_init"

#: Celery's other signals, and what to use instead.
INSTEAD: Mapping[str, str] = {
    "after_setup_logger": _LOGGERS,
    "after_setup_task_logger": _LOGGERS,
    "celeryd_init": _SETTINGS,
    "celeryd_after_setup": _SETTINGS,
    "worker_before_create_process": "processes of a pool begin as `worker_start_method` says: use worker_process_init",
    "eventlet_pool_started": _POOL,
    "eventlet_pool_preshutdown": _POOL,
    "eventlet_pool_postshutdown": _POOL,
    "eventlet_pool_apply": "use task_received",
}


def __getattr__(name: str) -> Signal:
    if name in INSTEAD:
        raise NotSupported(f"there is no signal {name}: {INSTEAD[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
