"""Every hook a plugin can implement. A plugin is a module or object with functions marked `@dray.hookimpl`.

Two kinds. *Resources* have one winner, chosen by name: the hook is handed `register(name, target)`, where `target` is
a class or, better, a string `"module:Class"` that is imported only when a URL or setting asks for that name.
*Behaviour* has many listeners: `configure` and `middleware` amend, and fail loudly; all others observe, and one that
raises is logged, counted and named, and never stops the work.

A plugin says which plugin API it was built for: `dray_api = (1, 0)`. Hooks grow by new optional arguments only;
an implementation may take fewer arguments than the specification has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import pluggy

from .message import Message
from .middleware import Middleware

if TYPE_CHECKING:
    from .app import Dray

#: The plugin API this dray speaks: (major, minor). The major must match, a plugin's minor may not be higher.
PLUGIN_API = (1, 0)

#: The name of the pluggy project and of the entry-point group.
GROUP = "dray"

_TYPES = """
task-sent task-received task-started task-progress task-succeeded task-failed task-retried task-revoked task-rejected
task-expired task-ignored task-requeued task-released task-handedback task-recognised task-worker-lost task-runaway
task-buried worker-process-init worker-process-shutdown worker-online worker-heartbeat worker-stopping worker-offline
worker-lost scheduler-online scheduler-offline scheduler-tick broker-lost broker-back backend-lost backend-back
lease-lost dead-letters-trimmed events-dropped
"""
#: The types of events there are: what each is about is said in docs/hooks.md.
EVENT_TYPES = frozenset(_TYPES.split())

hookspec = pluggy.HookspecMarker(GROUP)
#: Marks a function of a plugin as the implementation of the hook of that name.
hookimpl = pluggy.HookimplMarker(GROUP)

#: Registers one resource: `register("nats", "dray_nats.broker:NatsBroker")`.
Register = Callable[[str, Any], None]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a task or a worker."""

    #: One of `EVENT_TYPES`.
    type: str
    #: When (seconds since 1970).
    at: float
    #: The message concerned, for task events.
    message: Message | None = None
    #: The worker concerned, for worker events: `name@host`.
    worker: str = ""
    #: What else there is to say. Of a task that ended: `runtime` (seconds) and `reason` (text); of one that was buried:
    #: `reason`; of its progress: `state` and `meta`. Of a worker: `queues`, `reason`, `away` (seconds); of its
    #: heartbeat: `pid`, `queues`, `slots`, `running`, `waiting`, `received`; of a lost one: `missed_by`. Of a tick:
    #: `schedule`, `due` (instant), `what` ("sent", "missed", "skipped" or "failed"), `id`, `note`. Of lost leases:
    #: `ids`. Of trimmed dead letters: `queue`, `count`, `why`. Of dropped events: `count`.
    details: Mapping[str, Any] = {}


# Resources


@hookspec
def register_brokers(register: Register) -> None:
    """Contribute brokers by URL scheme."""


@hookspec
def register_backends(register: Register) -> None:
    """Contribute result backends by URL scheme."""


@hookspec
def register_stores(register: Register) -> None:
    """Contribute stores (small records with compare-and-set) by URL scheme."""


@hookspec
def register_serializers(register: Register) -> None:
    """Contribute serializers by short name."""


@hookspec
def register_codecs(register: Register) -> None:
    """Contribute payload compressions by content-encoding name."""


@hookspec
def register_seals(register: Register) -> None:
    """Contribute seals (what signs or encrypts whole messages and results) by name."""


@hookspec
def register_executors(register: Register) -> None:
    """Contribute executors by pool name."""


@hookspec
def register_schedules(register: Register) -> None:
    """Contribute kinds of schedules by name: each target is a subclass of `dray.Schedule`."""


@hookspec
def register_commands(register: Register) -> None:
    """Contribute sub-commands of `dray` by name: each target is a click command."""


@hookspec
def register_panels(register: Register) -> None:
    """Contribute pages of the dashboard by path."""


# Behaviour that amends


@hookspec
def configure(app: Dray) -> None:
    """Look at or change an app's settings when it is first used, before anything is built from them."""


@hookspec
def middleware(app: Dray) -> Iterable[Middleware] | None:
    """Return middleware to put around every publish and execution of this app."""


# Behaviour that observes


@hookspec
def event(event: Event) -> None:
    """Hear of everything that happens to tasks and workers. Called on the engine's threads: be quick."""


@hookspec
def health(report: dict[str, Any]) -> None:
    """Add checks to what `dray doctor` and health endpoints show."""


@hookspec
def redact(arguments: dict[str, Any]) -> None:
    """Replace, in place, arguments that logs and listings must not show."""


@hookspec(firstresult=True)
def classify_error(error: BaseException) -> str | None:
    """Say what an exception of a task means: "retry", "fail" or "drop". None: no opinion. The first opinion wins."""
