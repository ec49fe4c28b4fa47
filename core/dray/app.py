"""The app: its settings, plugins and connections, and the tasks registered with it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, timedelta, tzinfo
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload
from zoneinfo import ZoneInfo

from . import revocations, states, webhooks
from .alerts import Alert, Alerts, read_rule
from .backend import ResultBackend
from .broker import Broker
from .builtin_tasks import install
from .canvas import Canvas, Signature, signature
from .capabilities import Support
from .clock import SYSTEM_CLOCK, Clock
from .codec import Payloads, Writer
from .connections import Connections
from .dead_letters import DeadLetters
from .errors import ConfigurationError, NotSupported
from .events import Events
from .execution import Execution
from .group_result import GroupResult
from .hookspecs import Event
from .idempotency import check_one_queue, given_id
from .ids import id_source
from .limits import Limits
from .locks import Lock
from .message import Message
from .middleware import Middleware
from .options import by_name, check_send_options, positional
from .plugins import Plugins
from .redaction import redacted
from .registry import Tasks, if_there, import_all, task_of
from .report import record
from .result import AsyncResult, Rounds
from .routes import Route, Routes
from .sealing import Sealing, sealing_of
from .sender import Sender
from .settings import Settings
from .shared import BoundDecorator, Decorator, chosen_app, declared, set_default
from .signals import OnceEach
from .task import AsyncTask, Task, blank_message
from .unique import Claims

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Unpack

    from .batches import Batch, BatchResult
    from .fans import Fans
    from .options import SendOptions, TaskOptions
    from .schedule_control import Schedules
    from .scheduler import Scheduler
    from .store import Store
    from .worker import Worker

P = ParamSpec("P")
R = TypeVar("R")
L = TypeVar("L", bound=Callable[[Event], object])

logger = logging.getLogger(__name__)


class Dray:
    """A task queue: its tasks, its settings, and its connections to the broker and the result backend.

    Creating one reads nothing and connects to nothing; settings are read, plugins loaded and connections opened when
    they are first needed. Settings may be given as keyword arguments. Thread-safe, and safe to use after a fork.
    """

    def __init__(
        self,
        name: str = "dray",
        *,
        broker: str | Sequence[str] | None = None,
        backend: str | None = None,
        include: Iterable[str] = (),
        task_cls: type[Task[..., Any]] | None = None,
        clock: Clock = SYSTEM_CLOCK,
        set_as_current: bool = True,
        **settings: Any,
    ) -> None:
        urls = {"broker_url": broker, "result_backend": backend}
        self.name = name
        self.clock = clock
        self.new_id = id_source(clock)
        self.task_cls = task_cls
        self._given = {**{word: url for word, url in urls.items() if url is not None}, **settings}
        self._include = list(include)
        self._tasks = Tasks()
        self._shared_begun = self._shared_added = 0
        self._middleware: list[Middleware] = []
        #: What `add_periodic_task` was given: names, and entries as they are written in `beat_schedule`.
        self.periodic: list[tuple[str, dict[str, Any]]] = []
        #: Sent when the app's modules are imported, before anything runs or is scheduled: where code adds schedules.
        self.on_after_configure, self.on_after_finalize = OnceEach("on_after_configure"), OnceEach("on_after_finalize")
        self._connections: Connections | None = None
        self._listeners: dict[str, list[Callable[[Event], object]]] = {}
        #: What hears of every event in this process, and in the children of its workers, besides the plugins.
        self.hearers: list[Callable[[Event], None]] = []
        #: In a process that runs tasks for a worker: what takes to that worker what its plugins are to hear.
        self.teller: Callable[[Event], None] | None = None
        self._lock = threading.RLock()
        self._rounds: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Rounds]] = (
            weakref.WeakKeyDictionary()
        )
        if set_as_current:
            set_default(self)

    # What it is made of

    @cached_property
    def conf(self) -> Settings:
        """The settings: those given in code, then the environment, then the configuration file, then the defaults."""
        return Settings.load(self._given)

    def config_from_object(self, source: Any, namespace: str = "") -> None:
        """Take settings from a module, class, dict, "module:attribute" text or pydantic-settings object."""
        self.conf.from_object(source, namespace)

    @cached_property
    def plugins(self) -> Plugins:
        """The plugins of this app, loaded when first needed."""
        with self._lock:
            if "plugins" in self.__dict__:  # another thread was first
                return self.__dict__["plugins"]  # type: ignore[no-any-return]
            plugins = Plugins(self.conf)
            # Set before the hook runs: a plugin that configures the app may look at the plugins.
            self.__dict__["plugins"] = plugins
            plugins.amend("configure", app=self)
            return plugins

    @cached_property
    def payloads(self) -> Payloads:
        """The serializers and compressions of this app."""
        return Payloads(self.plugins, self.conf)

    @cached_property
    def sealing(self) -> Sealing | None:
        """What signs or encrypts this app's messages and results; None when the settings ask for neither."""
        return sealing_of(self.plugins, self.conf)

    @cached_property
    def execution(self) -> Execution:
        """What runs this app's tasks."""
        return Execution(self)

    @cached_property
    def middleware(self) -> list[Middleware]:
        """The middleware in force, outermost first: what `use` added, then what plugins bring."""
        brought = self.plugins.amend("middleware", app=self)
        return [*self._middleware, *(one for some in brought if some for one in some)]

    def use(self, *middleware: Middleware) -> None:
        """Put middleware around every publish and execution. Call it before the app is first used."""
        if "middleware" in self.__dict__:
            raise ConfigurationError("use() comes too late: the app has sent or run a task already")
        self._middleware.extend(middleware)

    @cached_property
    def zone(self) -> tzinfo:
        """The zone of datetimes that are given without one."""
        return UTC if self.conf.enable_utc else ZoneInfo(self.conf.timezone)

    @property
    def origin(self) -> str:
        """Who sends: `pid@host`."""
        return self.connections.origin

    @property
    def connections(self) -> Connections:
        """The connections of this process."""
        found = self._connections
        if found is None or found.pid != os.getpid():
            # Whatever lock another thread held when the process forked stays behind with the old object.
            if found is not None:
                self._lock = threading.RLock()
            with self._lock:
                if self._connections is found:
                    self._connections = Connections(self.plugins, self.conf, self.clock)
                found = self._connections
        assert found is not None
        return found

    @property
    def broker(self) -> Broker:
        """The broker, open."""
        return self.connections.broker

    @property
    def backend(self) -> ResultBackend | None:
        """The result backend, open; None when results are disabled."""
        return self.connections.backend

    def backend_for_reading(self, url: str = "") -> ResultBackend:
        """The result backend (or that at a task's own `url`), or an error that says how to have one."""
        found = self.connections.backend_at(url) if url else self.connections.backend
        if found is None:
            raise NotSupported(
                f"{self.name} keeps no results: set result_backend (DRAY_RESULT_BACKEND), e.g. sqlite:///results.db"
            )
        return found

    backend_for_writing = backend_for_reading

    def store(self, feature: str) -> Store:
        """The store, open, or an error that says that `feature` needs one, and how to have one."""
        self.require_store(feature)
        found = self.connections.records
        assert found is not None
        return found

    def require_store(self, feature: str) -> None:
        """Raise an error that says that `feature` needs a store, and how to have one, if there is none."""
        if self.connections.store_url is None:
            raise NotSupported(
                f"{feature} needs a store, and {self.name} has none: set store_url (DRAY_STORE_URL), e.g. "
                "store_url='sqlite:///dray.db'"
            )

    def backend_url_of(self, task: str) -> str:
        """The URL of a task's own result backend; "" when it uses the app's."""
        found = self._tasks.get(task)
        return "" if found is None else found.resolved.backend

    def backends_for_reading(self) -> list[ResultBackend]:
        """The result backends of the app and of tasks that have their own, or an error that says how to have one."""
        own = sorted({task.resolved.backend for task in self.tasks.values()} - {""})
        found = [self.connections.backend_at(url) for url in own]
        return found if found and self.connections.backend_url is None else [self.backend_for_reading(), *found]

    def reply_to(self, task: str) -> str:
        """Where results of a task have to be sent so that this process gets them; "" where they are kept for all."""
        return self.connections.address(self.backend_url_of(task))

    def close(self) -> None:
        """Close the connections. The app can be used again; it then opens new ones."""
        if "events" in self.__dict__:
            self.events.recorder.stop()
        if "_alerts" in self.__dict__:
            self._alerts.close()
        if self._connections is not None and self._connections.pid == os.getpid():
            self._connections.close()
        self._connections = None

    def __enter__(self) -> Dray:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Tasks

    @property
    def tasks(self) -> Tasks:
        """The registered tasks by name, shared ones included."""
        if self._shared_added < len(declared):
            with self._lock:
                # Begun before a task is made: its class may ask for tasks too. Added after: other threads wait for it.
                while self._shared_begun < len(declared):
                    function, options, bind = declared[self._shared_begun]
                    self._shared_begun += 1
                    try:
                        self._tasks.add(task_of(self, function, dict(options), bind))
                    finally:
                        self._shared_added += 1
        return self._tasks

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, *, bind: Literal[True], **options: Unpack[TaskOptions]) -> BoundDecorator: ...
    @overload
    def task(self, *, bind: Literal[False] = False, **options: Unpack[TaskOptions]) -> Decorator: ...
    def task(self, function: Any = None, /, *, bind: bool = False, **options: Any) -> Any:  # type: ignore[misc]
        """Make a task of a `def` or `async def` function: bare, or with options, `@app.task(max_retries=5)`.

        With `bind=True` the function's first parameter is the task itself, with `self.request` and `self.retry`.
        """
        if function is not None:
            return self._tasks.add(task_of(self, function, options, bind))
        return lambda function: self._tasks.add(task_of(self, function, options, bind))

    def register_task(self, task: Task[P, R] | type[Task[P, R]]) -> Task[P, R]:
        """Register a class-based task: a subclass of Task with a `run` method (or an instance of one)."""
        made = task(self) if isinstance(task, type) else task
        return self._tasks.add(made)  # type: ignore[return-value]

    def add_periodic_task(
        self,
        schedule: Any,
        sig: Signature,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        **words: Any,
    ) -> str:
        """Have schedulers send a signature on a schedule; return the name of the entry, made of the call if not given.

        `words` are those of an entry of `beat_schedule`, or options of the sending, as in Celery.
        """
        from .schedule_entries import periodic  # only an app with schedules loads it

        found, entry = periodic(schedule, sig.clone(args, kwargs), name, words)
        self.periodic.append((found, entry))
        return found

    def autodiscover_tasks(self, packages: Iterable[str] | None = None, related_name: str = "tasks") -> None:
        """Have `package.tasks` of each package imported when a worker starts; packages without one are passed over."""
        for package in packages if packages is not None else [self.name]:
            self._include.append(if_there(f"{package}.{related_name}") if related_name else package)

    def load_tasks(self) -> None:
        """Import every module that `include`, `imports` and `autodiscover_tasks` name, and send `on_after_configure`.

        Done by workers, schedulers and the CLI. Safe to repeat: each receiver is called once.
        """
        install(self)
        import_all([*self._include, *self.conf.imports, *self.conf.include])
        self.on_after_configure.send(sender=self)
        self.on_after_finalize.send(sender=self)
        if webhooks.wanted(self) or self._alerts.call_urls:
            webhooks.register(self)

    def route(self, task: str) -> Route:
        """Return the queue and priority of a task that says nothing about them."""
        return self.routes.route(task)

    def annotations(self, task: str) -> dict[str, Any]:
        """Return what `task_annotations` lays over the options of `task`."""
        return self.routes.annotations(task)

    @cached_property
    def routes(self) -> Routes:
        """Where calls go, as the settings say."""
        return Routes(self.conf)

    # Sending

    def send_task(
        self,
        name: str,
        args: Iterable[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncResult[Any]:
        """Send a task by name; its code need not be importable here. If it is registered, its own options apply."""
        if name in self.tasks:
            return self.tasks[name].apply_async(args, kwargs, **options)
        if options.get("depends_on") is not None:
            depends_on, allow_failure = options.pop("depends_on"), options.pop("allow_failure", None)
            call = Signature(name, positional(args, name), by_name(kwargs, name), options, app=self)
            from .flows import send_after  # only an app with flows loads it

            return send_after(call, depends_on, bool(allow_failure))
        (sent,) = self.sender.publish(*self.call(name, positional(args, name), by_name(kwargs, name), options), options)
        return AsyncResult(sent.id, self, ignored=sent.ignore_result)

    def call(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: Mapping[str, Any]
    ) -> tuple[list[Message], Writer]:
        """Return the message of a call, not sent and not written, and what writes its arguments."""
        if name in self.tasks:
            task = self.tasks[name]
            return list(task._messages([(args, kwargs)], task._blank(options), options)), task._writer(options)
        check_send_options(options, name)
        message = blank_message(self, name, options, None).but(
            id=given_id(name, options) or self.new_id(), args=args, kwargs=kwargs
        )
        if not (message.queue or message.exchange):
            message = self.routes.placed(message, options, None)
        if message.idempotent:
            check_one_queue(message)
        compression = options.get("compression", self.conf.task_compression)
        return [message], self.payloads.writer(options.get("serializer") or self.conf.task_serializer, compression)

    @cached_property
    def fans(self) -> Fans:
        """What waits until several calls have ended."""
        from .fans import Fans  # only an app with flows loads it

        return Fans(self)

    @cached_property
    def sender(self) -> Sender:
        """What this app's messages leave through."""
        return Sender(self, self.routes)

    def run_eagerly(self, task: Task[..., Any], message: Message) -> AsyncResult[Any]:
        """Run a task here and now, retries included; return its finished result."""
        encoded = self.sender.prepare(message, task._writer({}).fill)
        report = self.execution.eagerly(task, encoded)
        result: AsyncResult[Any] = AsyncResult(message.id, self, returns=task.parameters.returns)
        result._final = report
        if self.conf.task_store_eager_result and not message.ignore_result:
            self.connections.store([record(self, message.id, report, 0)], self.conf.result_expires)
        if self.conf.task_eager_propagates:
            result.get()
        return result

    def batch(self, calls: Iterable[Canvas], *, name: str = "", allow_failures: bool = False) -> Batch:
        """Return a batch of these calls, which may get callbacks and is then called: `app.batch(calls).then(call)()`.

        As soon as one of them fails it has failed, and the rest is cancelled; with `allow_failures` all of them run.
        """
        from .batches import Batch  # only an app with batches loads it

        return Batch(calls, app=self, name=name, allow_failures=allow_failures)

    def signature(self, task: str, args: Iterable[Any] = (), kwargs: Any = None, **options: Any) -> Signature:
        """Return a call of the task with that name as a value, not sent."""
        return signature(task, args, kwargs, app=self, **options)

    # One at a time

    @cached_property
    def limits(self) -> Limits:
        """How often, and how many at a time, tasks and queues may run: changed here while workers run."""
        return Limits(self)

    @cached_property
    def claims(self) -> Claims:
        """Which calls of unique tasks are there."""
        return Claims(self)

    def lock(self, name: str, ttl: float | timedelta | str = 30.0, wait: float | timedelta | str | None = None) -> Lock:
        """Return a lock that all processes share, to be held with `with` or `async with`; not held yet.

        It is renewed while it is held, and free `ttl` seconds after its process has died. Waits for `wait` seconds
        (None: as long as it takes) and then raises `LockTaken`.
        """
        return Lock(self, name, 1, ttl, wait)

    def semaphore(
        self, name: str, places: int, ttl: float | timedelta | str = 30.0, wait: float | timedelta | str | None = None
    ) -> Lock:
        """Return a lock that so many may hold at a time."""
        return Lock(self, name, places, ttl, wait)

    @cached_property
    def schedules(self) -> Schedules:
        """The schedules of this app: to look at, and to change at run time."""
        from .schedule_control import Schedules  # only an app with schedules loads it

        return Schedules(self)

    # Looking back

    def AsyncResult(self, id: str, backend: str = "") -> AsyncResult[Any]:
        """Return the handle on the task with this id; `backend` is its URL where the task has one of its own."""
        return AsyncResult(id, self, backend=backend)

    def GroupResult(self, id: str) -> GroupResult:
        """Return the handle on a group that was saved (`GroupResult.save`); raise UnknownResult when there is none."""
        return GroupResult.restore(id, self)

    def BatchResult(self, id: str) -> BatchResult:
        """Return the handle on the batch with this id; raise UnknownResult when there is none."""
        from .batches import BatchResult

        return BatchResult.restore(id, self)

    def revoke(self, ids: str | Iterable[str], *, terminate: bool = False, signal: str | int = "SIGTERM") -> None:
        """Cancel tasks by id, durably: they will not start. Raises NotSupported where the broker cannot.

        One that runs is told: a coroutine is cancelled, a `def` task sees `request.cancelled`. With `terminate` it is
        ended: in a child process with `signal` and then by force; in a thread it is raised out of its next step.
        """
        chosen = [ids] if isinstance(ids, str) else list(ids)
        revocations.revoke(self.broker, chosen, revocations.REVOKED_FOR, signal if terminate else None)

    def whereabouts(self, id: str) -> str:
        """Return the state of a task of which nothing is stored, by asking the broker for its message."""
        broker = self.broker
        if not broker.capabilities.find:
            return states.UNKNOWN
        place = broker.find([id]).get(id)
        if place is None:
            return states.UNKNOWN
        if place == "dead":
            return states.REJECTED
        if place != "leased" and broker.capabilities.cancel and broker.cancelled([id]):
            return states.REVOKED
        return states.PENDING

    @cached_property
    def dead_letters(self) -> DeadLetters:
        """What could not be run, kept with the reason: to look at, replay, edit and delete."""
        return DeadLetters(self)

    def rounds(self, url: str = "") -> Rounds:
        """Return what looks for results on behalf of the running event loop, in the backend at `url`."""
        loop = asyncio.get_running_loop()
        rounds = self._rounds.setdefault(loop, {})
        found = rounds.get(url)
        if found is None:
            # The backend is looked up each time: it may have been closed and opened again since.
            found = rounds[url] = Rounds(
                lambda ids, seconds: asyncio.to_thread(self.backend_for_reading(url).wait, ids, seconds)
            )
        return found

    def support(self) -> list[Support]:
        """Return how each feature is had on this app's broker: rows of (feature, native | emulated | refused, note)."""
        return self.connections.support()

    def on(self, type: str) -> Callable[[L], L]:
        """Have a function called with each `Event` of a type, where it happens: `@app.on("task-failed")`.

        It is called on the engine's threads: be quick. What it raises is logged; but a process of the pool in which a
        function for "worker-process-init" raises is not ready for tasks, and ends.
        """

        def listen(function: L) -> L:
            self._listeners.setdefault(type, []).append(function)
            return function

        return listen

    def listeners(self, type: str) -> Sequence[Callable[[Event], object]]:
        """Return the functions that are called with events of a type."""
        return self._listeners.get(type, ())

    def hear(self, hearer: Callable[[Event], None]) -> None:
        """Have a part of the engine hear of every event. It returns at once, and never raises."""
        if hearer not in self.hearers:
            self.hearers.append(hearer)

    @property
    def listening(self) -> bool:
        """Whether anybody is told of events. Cheap."""
        return bool(self._listeners) or self.teller is not None or self.hearing

    @property
    def hearing(self) -> bool:
        """Whether anybody in this process is told of what happens in the children of its workers, too."""
        return bool(self.hearers) or self.plugins.has("event")

    def notify(self, type: str, message: Message | None = None, worker: str = "", **details: Any) -> None:
        """Tell plugins and functions that listen what happened. Costs nothing when nobody listens."""
        if not self.listening:
            return
        seen = None if message is None else redacted(self, message)
        happened = Event(type=type, at=self.clock.time(), message=seen, worker=worker, details=details)
        for function in self.listeners(type):
            try:
                function(happened)
            except Exception:
                logger.exception("%s raised, called for %s", function, type)
        (self.teller or self.tell)(happened)

    def tell(self, event: Event) -> None:
        """Tell the plugins, and what else hears, of an event that happened here or in a child of a worker."""
        for hear in self.hearers:
            hear(event)
        self.plugins.observe("event", event=event)

    @cached_property
    def events(self) -> Events:
        """What happened, as it is kept for monitors: to read and to follow."""
        return Events(self)

    @property
    def wants_presence(self) -> bool:
        """Whether workers of this app are to be missed when they are gone without a word."""
        return self.conf.worker_send_task_events or any("worker-lost" in rule.when for rule in self._alerts.rules)

    def alert(
        self,
        tell: Callable[[Alert], Any] | str | None = None,
        *,
        when: str | Iterable[str],
        more_than: int = 0,
        within: float = 60.0,
        pattern: str = "*",
        quiet: float | None = None,
    ) -> Any:
        """Have a function, or the URL of a webhook, called when events of a type come `more_than` times `within` s.

        Counted are those of tasks (or workers) whose name fits the pattern: with a store in all processes together.
        Then it is quiet for `quiet` s, or as long again. Without a function it is a decorator.
        """
        if tell is None:
            return lambda function: self.alert(
                function, when=when, more_than=more_than, within=within, pattern=pattern, quiet=quiet
            )
        self._alerts.add(read_rule(tell, when, more_than, within, pattern, quiet))
        return tell

    @cached_property
    def _alerts(self) -> Alerts:
        return Alerts(self)

    # Running

    def worker(self, queues: Sequence[str] | str | None = None, **options: Any) -> Worker:
        """Return a worker for this app, not started: `with app.worker(): ...`, or `.run()`. See `dray.Worker`."""
        from .worker import Worker  # the floor above: only an app that runs one loads it

        return Worker(self, queues, **options)

    def scheduler(self, **options: Any) -> Scheduler:
        """Return a scheduler for this app, not started: `with app.scheduler(): ...`, or `.run()`."""
        from .scheduler import Scheduler  # the floor above: only an app that runs one loads it

        return Scheduler(self, **options)

    @contextmanager
    def as_current(self) -> Iterator[None]:
        """Make this the app that `current_app()` and shared tasks use, within the block."""
        token = chosen_app.set(self)
        try:
            yield
        finally:
            chosen_app.reset(token)

    def __repr__(self) -> str:
        return f"<Dray {self.name} with {len(self._tasks)} task(s)>"
