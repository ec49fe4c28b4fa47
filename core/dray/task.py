"""A task: a function that can be sent. The life of a call begins here, in `delay` and `apply_async`.

call -> `message` (checked, given an id, routed) -> `Dray.publish` (app.py) -> the broker
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property, update_wrapper
from inspect import iscoroutinefunction
from itertools import islice, repeat
from math import inf
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar, Unpack

import msgspec

from .arguments import Parameters
from .builtin_tasks import MAP, STARMAP
from .canvas import Canvas, Group, Signature, steps
from .codec import Writer
from .context import DIRECTLY, TRACE_HEADERS, Context, current
from .errors import MaxRetriesExceeded, Replace, Retry, TaskOptionError
from .idempotency import check_one_queue, given_id
from .limits import WORDS as LIMIT_WORDS
from .limits import TaskLimits, check_limits, is_limit_key, task_limits
from .message import Message
from .options import (
    TASK_WORDS,
    SendOptions,
    by_name,
    check_send_options,
    check_task_options,
    instant,
    kept_after_failure,
    one_of_many,
    positional,
    time_limits,
)
from .report import progress
from .result import AsyncResult
from .retries import RetryPolicy, read_policy, seconds
from .routes import NOWHERE
from .task_hooks import HOOKS, as_method
from .unique import WORDS as UNIQUE_WORDS
from .unique import Unique, read_unique, send_unique
from .webhook_options import Webhook, check_places, read_webhooks

if TYPE_CHECKING:
    from .app import Dray
    from .batches import BatchResult

P = ParamSpec("P")
R = TypeVar("R")

_replace = msgspec.structs.replace


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """A task's options with all gaps filled: from `task_annotations`, then the task, then the settings."""

    queue: str | None
    exchange: str | None
    routing_key: str | None
    priority: int | None
    key: str | None
    ordered: bool
    expires: float | None
    serializer: str
    compression: str | None
    acks_late: bool
    ignore_result: bool
    #: URL of its own result backend, or "".
    backend: str
    store_errors: bool
    track_started: bool
    dead_letter: bool
    max_deliveries: int
    reject_on_worker_lost: bool
    #: Seconds a run may take, or None.
    time_limit: float | None
    soft_time_limit: float | None
    #: The first of them that a run can reach (inf: there is none).
    limit: float
    #: What is called when it has ended.
    webhooks: tuple[Webhook, ...]
    #: Which arguments are not to be shown (`Parameters.marks`).
    sensitive: tuple[int | str, ...]
    policy: RetryPolicy
    limits: TaskLimits
    unique: Unique | None


class Task(Generic[P, R]):
    """A function registered with an app. Made by `@app.task`; subclass it and pass `base=` to add behaviour.

    Class attributes named like the options of `@app.task` are defaults for every task of that base class.
    """

    name: str
    app: Dray

    def __init__(self, app: Dray, function: Any = None, options: Mapping[str, Any] | None = None, bind: bool = False):
        given = dict(options or {})
        given.pop("base", None)
        if function is None:
            function, bind = type(self).run, True
        self.app = app
        self.bind = bind
        self.function = function
        named = type(self) if function is type(self).run else function
        self.name = given.pop("name", None) or getattr(type(self), "name", None) or task_name(named)
        self.options: dict[str, Any] = {**_class_options(type(self)), **given}
        check_task_options(self.options, self.name)
        self._check_one_of_each_hook()
        kept_after_failure(self.options, self.name)
        # Read once now, so that a bad retry option is an error at the declaration; the defaults come later.
        read_policy(self.options, default_max=3, default_delay=0, task=self.name)
        if "sensitive" in given:
            Parameters.of(function, bound=bind, name=self.name, sensitive=given["sensitive"]).check_sensitive()
        if not self.options.keys().isdisjoint((*LIMIT_WORDS, *UNIQUE_WORDS)) or callable(self.options.get("key")):
            signature = Parameters.of(function, bound=bind, name=self.name)
            task_limits(self.options, signature, self.name)
            read_unique(self.options, signature, self.name)
        self.is_async = iscoroutinefunction(function)
        self._checked = bool(self.options.get("typing", True))
        #: What `delay` starts from: a blank message made without options, outside any task. Kept, so made long ago.
        self._plain: Message | None = None
        #: True once it is known that what it says about limits can be kept here.
        self._can_be_kept = False
        if function is not type(self).run:
            update_wrapper(self, function)

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Do the work. Override it in a class-based task; for a decorated function it is that function."""
        if self.function is type(self).run:
            raise NotImplementedError(f"the task class {type(self).__qualname__} defines no run()")
        result: R = self.function(self, *args, **kwargs) if self.bind else self.function(*args, **kwargs)
        return result

    @cached_property
    def entry(self) -> Callable[P, R]:
        """What a run calls: `run`, or, where that would only pass everything on, the decorated function itself."""
        plain = type(self).run is Task.run and self.function is not Task.run and not self.bind
        function: Callable[P, R] = self.function if plain else self.run
        return function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call it here and now, as the plain function it is: no broker, no worker, no retries."""
        return self.run(*args, **kwargs)

    # Sending

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send the task; return as soon as the broker has it safe. Arguments are checked as in a call."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Iterable[Any] | None = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[SendOptions]
    ) -> AsyncResult[R]:
        """Send the task with options: countdown, eta, expires, queue, priority, task_id, headers, link ...

        Raises ArgumentsError, SerializationError, TaskOptionError or NotSupported for what can never work, and
        BrokerUnavailable when the broker stayed away for all of `retry_policy`. Safe from any thread.
        """
        call = positional(args, self.name), by_name(kwargs, self.name)
        if options.get("depends_on") is not None:
            return self._send_after(call, options)
        messages = list(self._messages([call], self._blank(options), options))
        if self.app.conf.task_always_eager:
            return self.app.run_eagerly(self, messages[0])
        if not self._can_be_kept:
            self._can_be_kept = check_limits(self)
        if self.resolved.unique is not None:
            (handle,) = send_unique(self, messages, options)
        else:
            (handle,) = self._handles(self.app.sender.publish(messages, self._writer(options), options))
        return handle

    def delay_many(
        self, calls: Iterable[tuple[Any, ...] | Mapping[str, Any]], **options: Unpack[SendOptions]
    ) -> list[AsyncResult[R]]:
        """Send many calls at once: each item is a tuple of arguments, or a dict of keyword arguments.

        One round trip per batch of the broker instead of one per call. Either all calls are valid, or nothing is sent.
        """
        if options.get("task_id") is not None:
            raise TaskOptionError(f"sending {self.name}: task_id names one call; delay_many sends many")
        if options.get("idempotency_key") is not None:
            raise TaskOptionError(f"sending {self.name}: idempotency_key stands for one call; delay_many sends many")
        if options.get("depends_on") is not None:
            raise TaskOptionError(f"sending {self.name}: depends_on is for one call; delay_many sends many")
        messages = self._messages(map(one_of_many, calls, repeat(self.name)), self._blank(options), options)
        if self.app.conf.task_always_eager:
            return [self.app.run_eagerly(self, message) for message in messages]
        if not self._can_be_kept:
            self._can_be_kept = check_limits(self)
        if self.resolved.unique is not None:
            return send_unique(self, messages, options)
        return self._handles(self.app.sender.publish(messages, self._writer(options), options))

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """`delay` for coroutines: the event loop goes on while the broker answers."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(
        self, args: Iterable[Any] | None = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[SendOptions]
    ) -> AsyncResult[R]:
        """`apply_async` for coroutines."""
        return await asyncio.to_thread(self.apply_async, args, kwargs, **options)

    async def adelay_many(
        self, calls: Iterable[tuple[Any, ...] | Mapping[str, Any]], **options: Unpack[SendOptions]
    ) -> list[AsyncResult[R]]:
        """`delay_many` for coroutines."""
        return await asyncio.to_thread(self.delay_many, calls, **options)

    def apply(
        self, args: Iterable[Any] | None = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R]:
        """Run the task here and now with everything a worker does: conversion, hooks, retries (at once), result."""
        call = positional(args, self.name), by_name(kwargs, self.name)
        (message,) = self._messages([call], self._blank(options), options)
        return self.app.run_eagerly(self, message)

    def s(self, *args: Any, **kwargs: Any) -> Signature:
        """Return the call as a value, not sent. Arguments given later come in front."""
        return Signature(self.name, args, kwargs, app=self.app)

    def si(self, *args: Any, **kwargs: Any) -> Signature:
        """Return the call as a value that takes no further arguments."""
        return Signature(self.name, args, kwargs, app=self.app, immutable=True)

    signature = s

    def map(self, items: Iterable[Any]) -> Signature:
        """Return a call that runs this task for each item, one after the other; its result is the list of theirs."""
        return Signature(MAP, (self.name, list(items)), app=self.app)

    def starmap(self, items: Iterable[Iterable[Any]]) -> Signature:
        """Return a call that runs this task with each list of arguments, one after the other."""
        return Signature(STARMAP, (self.name, [list(item) for item in items]), app=self.app)

    def chunks(self, items: Iterable[Iterable[Any]], size: int) -> Group:
        """Return a group of calls, each of which runs this task with up to `size` of these lists of arguments."""
        if size < 1:
            raise TaskOptionError(f"{self.name}: chunks() takes a size of at least 1; got {size!r}")
        every = iter(items)
        return Group(iter(lambda: self.starmap(islice(every, size)), self.starmap(())), app=self.app)

    def _blank(self, options: Mapping[str, Any]) -> Message:
        """Return what all calls with these options have in common: routed, timed, without id and arguments."""
        plain = self._plain
        # In a forked child the origin is another one.
        if not options and plain is not None and current.get() is None and plain.origin == self.app.origin:
            return plain
        check_send_options(options, self.name)
        blank = blank_message(self.app, self.name, options, self.resolved)
        if not options and current.get() is None and blank.expires is None:
            self._plain = blank
        return blank

    def _messages(
        self, calls: Iterable[tuple[tuple[Any, ...], dict[str, Any]]], blank: Message, options: Mapping[str, Any]
    ) -> Iterator[Message]:
        """Yield the message of each call, its arguments checked against the signature. Nobody else has seen it yet."""
        check = self.parameters.check if self._checked else None
        given, new_id = given_id(self.name, options) if options else None, self.app.new_id
        placed = blank.queue or blank.exchange
        created = self.app.clock.time() if blank is self._plain else blank.created
        for args, kwargs in calls:
            if check is not None:
                check(args, kwargs)
            message = _replace(blank, id=given or new_id(), created=created, args=args, kwargs=kwargs)
            if not placed:
                message = self.app.routes.placed(message, options, self.resolved)
            if blank.idempotent:
                check_one_queue(message)
            yield message

    def _send_after(self, call: tuple[tuple[Any, ...], dict[str, Any]], options: SendOptions) -> AsyncResult[R]:
        from .flows import send_after  # flows are made of tasks

        check_send_options(options, self.name)
        own: dict[str, Any] = {**options}
        depends_on, allow_failure = own.pop("depends_on"), own.pop("allow_failure", None)
        return send_after(Signature(self.name, *call, own, app=self.app), depends_on, bool(allow_failure))

    def _handles(self, sent: Sequence[Message]) -> list[AsyncResult[R]]:
        app, returns, backend = self.app, self.parameters.returns, self.resolved.backend
        return [AsyncResult(m.id, app, ignored=m.ignore_result, returns=returns, backend=backend) for m in sent]

    def _writer(self, options: Mapping[str, Any]) -> Writer:
        """Return what writes the arguments of a call with these options."""
        own = self.resolved
        compression = options.get("compression", own.compression)
        return self.app.payloads.writer(options.get("serializer") or own.serializer, compression)

    # While it runs

    @property
    def request(self) -> Context:
        """What is known about this task's execution in this thread or coroutine.

        A task that another one calls as a plain function is not being executed: it sees an empty request.
        """
        found = current.get()
        return found if found is not None and found.task is self else DIRECTLY

    def retry(
        self,
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        *,
        countdown: float | None = None,
        eta: datetime | None = None,
        max_retries: int | None = None,
    ) -> Retry:
        """Ask to be run again, with other arguments if given: after `countdown` s, at `eta`, or as the policy says.

        Raises Retry, which ends the run; with `throw=False` returns it and the retry happens when the task returns.
        When no retries are left, `exc` (or the exception being handled) is raised instead, or MaxRetriesExceeded.
        Called outside a worker it raises that exception at once.
        """
        request = self.request
        error = exc if exc is not None else sys.exc_info()[1]
        if request.called_directly:
            _give_up(self.name, error, 0)
        policy = self.resolved.policy
        limit = max_retries if max_retries is not None else policy.max_retries
        now = self.app.clock.time()
        start = instant(eta or countdown or 0.0, now, "countdown", self.name, self.app.zone)
        if not policy.allows(request.retries, limit, request.message.created, start):
            _give_up(self.name, error, request.retries)
        again = Retry(exc=error, countdown=countdown, eta=eta, max_retries=max_retries, args=args, kwargs=kwargs)
        if throw:
            raise again from error
        request.pending_retry = again
        return again

    def replace(self, canvas: Canvas) -> NoReturn:
        """End this run, and have a canvas take its place: what it comes to is the result of this call.

        Whatever follows this call, its callbacks, and the group that it is a member of, follow the canvas. Raises
        `Replace`, which ends the run; write `raise self.replace(...)`, or `return`, as you like. Called outside a
        worker it runs the canvas here and now, and raises it all the same.
        """
        if not isinstance(canvas, Canvas):
            raise TaskOptionError(f"{self.name}: replace() takes a signature, chain, group or chord; got {canvas!r}")
        raise Replace(canvas)

    def add_to_chord(self, call: Signature) -> AsyncResult[Any]:
        """Have one more call belong to the group that this one is a member of: whoever waits for it waits for both.

        Its result comes after those of the members that are there. Raises `TaskOptionError` when this call is no
        member of a group that something waits for.
        """
        from .flows import join  # flows are made of tasks

        fan = self.request.message.fan
        if not fan:
            raise TaskOptionError(f"{self.name}: add_to_chord() is for members of a group that something waits for")
        return join(self.app, fan, call)

    @property
    def batch(self) -> BatchResult:
        """The batch that the running call is a member of: `self.batch.add(...)`, `self.batch.cancel()`.

        Raises `UnknownResult` when it is a member of none.
        """
        return self.app.BatchResult(self.request.message.fan)

    def update_state(self, task_id: str | None = None, state: str | None = None, meta: Any = None) -> None:
        """Store a state of your own, such as PROGRESS, with `meta` to read from `AsyncResult.info`.

        It never replaces a final state, and a final state cannot be written this way: a name such as FAILURE is stored
        as what it is, a note about a task that is still running.
        """
        request = self.request
        message = request.message if not request.called_directly and task_id in (None, request.id) else None
        record = progress(self.app, message, task_id or request.id, state, meta, request)
        if message is not None and self.app.listening:
            self.app.notify("task-progress", message, request.hostname, state=record.state, meta=meta)
        if message is not None and request.note is not None:
            request.note(record)
        elif message is not None:  # as in a worker: if nobody keeps it, nobody minds
            self.app.connections.store([record], self.app.conf.result_expires)
        else:
            self.app.backend_for_writing(record.backend).store([record], self.app.conf.result_expires)

    def AsyncResult(self, id: str) -> AsyncResult[R]:
        """Return the handle on a call of this task, by its id."""
        return AsyncResult(id, self.app, returns=self.parameters.returns, backend=self.resolved.backend)

    # To override in a base class. Called in the thread (or, for `async def`, awaited on the loop) that ran the task.

    def before_start(self, task_id: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Called before each run."""

    def on_success(self, retval: R, task_id: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Called when it has returned."""

    def on_retry(
        self, exc: BaseException, task_id: str, args: tuple[Any, ...], kwargs: dict[str, Any], einfo: str
    ) -> Any:
        """Called when it will be run again. `einfo` is the traceback as text."""

    def on_failure(
        self, exc: BaseException, task_id: str, args: tuple[Any, ...], kwargs: dict[str, Any], einfo: str
    ) -> Any:
        """Called when it has failed for good. `einfo` is the traceback as text."""

    def after_return(
        self, status: str, retval: Any, task_id: str, args: tuple[Any, ...], kwargs: dict[str, Any], einfo: str
    ) -> Any:
        """Called after each run; `status` is SUCCESS, RETRY or FAILURE, `retval` the value or the exception."""

    # What the engine reads

    @cached_property
    def parameters(self) -> Parameters:
        """The signature, read once."""
        said = {**self.options, **self.app.annotations(self.name)}
        return Parameters.of(
            self.function, bound=self.bind, name=self.name, sensitive=frozenset(said.get("sensitive", ()))
        )

    @property
    def max_retries(self) -> int | None:
        """Most retries after the first run; None: no limit."""
        return self.resolved.policy.max_retries

    @cached_property
    def hooks(self) -> frozenset[str]:
        """Which of the methods above are called: those that its class overrides, or its options replace."""
        said = {**self.options, **self.app.annotations(self.name)}
        for name in HOOKS:
            if said.get(name) is not None:
                vars(self)[name] = as_method(name, said[name], self)
        return frozenset(
            name for name in HOOKS if name in vars(self) or getattr(type(self), name) is not getattr(Task, name)
        )

    @cached_property
    def resolved(self) -> Resolved:
        """The options with all gaps filled. Worked out when the task is first used; later changes are not seen."""
        conf = self.app.conf
        said = {**self.options, **self.app.annotations(self.name)}
        check_task_options(said, self.name)
        webhooks = read_webhooks(said.get("webhook"), self.name)
        check_places(webhooks, conf, self.name)
        hard, soft = time_limits(said, self.name, conf.task_time_limit, conf.task_soft_time_limit)
        expires = said.get("expires")
        limits = task_limits(said, self.parameters, self.name, conf.task_default_rate_limit)
        return Resolved(
            queue=said.get("queue"),
            exchange=said.get("exchange"),
            routing_key=said.get("routing_key"),
            priority=said.get("priority"),
            key=None if limits.key is not None and is_limit_key(said.get("key")) else said.get("key"),
            ordered=bool(said.get("ordered")),
            expires=None if expires is None else seconds(expires, "expires", self.name),
            serializer=said.get("serializer") or conf.task_serializer,
            compression=said.get("compression", conf.task_compression),
            acks_late=said.get("acks_late", conf.task_acks_late),
            ignore_result=said.get("ignore_result", conf.task_ignore_result),
            backend=said.get("backend") or "",
            store_errors=said.get("store_errors_even_if_ignored", conf.task_store_errors_even_if_ignored),
            track_started=said.get("track_started", conf.task_track_started),
            dead_letter=self._kept_after_failure(),
            max_deliveries=said.get("max_deliveries", conf.task_max_deliveries),
            reject_on_worker_lost=said.get("reject_on_worker_lost", conf.task_reject_on_worker_lost),
            time_limit=hard,
            soft_time_limit=soft,
            limit=min(soft or inf, hard or inf),
            webhooks=webhooks,
            sensitive=self.parameters.marks,
            policy=read_policy(
                said,
                default_max=conf.task_default_max_retries,
                default_delay=conf.task_default_retry_delay,
                task=self.name,
            ),
            limits=limits,
            unique=read_unique(said, self.parameters, self.name),
        )

    def _check_one_of_each_hook(self) -> None:
        for name in HOOKS.keys() & self.options.keys():
            if self.options[name] is not None and getattr(type(self), name) is not getattr(Task, name):
                raise TaskOptionError(
                    f"{self.name}: {name} is a method of {type(self).__qualname__} and an option: leave out one of them"
                )

    def _kept_after_failure(self) -> bool:
        for said in (self.app.annotations(self.name), self.options):
            if (kept := kept_after_failure(said, self.name)) is not None:
                return kept
        return not self.app.conf.task_acks_on_failure

    def __repr__(self) -> str:
        return f"<task {self.name} of {self.app.name}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a task is not data: send its name, {self.name!r}, or a signature")


class AsyncTask(Task[P, R]):
    """The task made from an `async def` function: calling it returns the coroutine."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
        """Call it here and now, as the plain coroutine function it is."""
        return self.run(*args, **kwargs)  # type: ignore[return-value]


def blank_message(app: Dray, name: str, options: Mapping[str, Any], own: Resolved | None) -> Message:
    """Build what calls have in common, from the options given, the task's own, the routes and the settings.

    Where only the arguments tell where a call goes it has no queue yet, and `Routes.placed` gives it one.
    """
    now = app.clock.time()
    running = current.get()
    headers = dict(options.get("headers") or ())
    root_id, parent_id = options.get("root_id"), options.get("parent_id")
    if running is not None and not running.called_directly:
        root_id, parent_id = root_id or running.root_id, parent_id or running.id
        for header in TRACE_HEADERS:
            if header in running.headers:
                headers.setdefault(header, running.headers[header])
    route = app.routes.place(name, options, own) or NOWHERE
    key, ordered = options.get("key"), options.get("ordered")
    if own is not None:
        key, ordered = own.key if key is None else key, own.ordered if ordered is None else ordered
    if (tenant := options.get("tenant")) is not None:
        key = tenant
    if ordered and key is None:
        raise TaskOptionError(f"sending {name}: ordered=True keeps the order of a key; say which, key=...")
    eta, expires, ignore = options.get("eta"), options.get("expires"), options.get("ignore_result")
    if idempotent := options.get("idempotency_key") is not None:
        # Whoever gets it a second time knows by the result that it is done.
        ignore = False
    if eta is None and (countdown := options.get("countdown")) is not None:
        eta = countdown
    if expires is None and own is not None:
        expires = own.expires
    hard, soft = time_limits(options, name)
    if soft is not None and hard is None and own is not None:
        time_limits(options, name, own.time_limit)
    return Message(
        id="",
        task=name,
        queue=route.queue,
        priority=route.priority,
        created=now,
        eta=None if eta is None else instant(eta, now, "countdown", name, app.zone),
        expires=None if expires is None else instant(expires, now, "expires", name, app.zone),
        root_id=root_id,
        parent_id=parent_id,
        ignore_result=(own.ignore_result if own else app.conf.task_ignore_result) if ignore is None else ignore,
        link=steps(options.get("link"), "link", app),
        link_error=steps(options.get("link_error"), "link_error", app),
        headers=headers,
        origin=app.origin,
        sensitive=own.sensitive if own is not None else (),
        key=key,
        ordered=bool(ordered),
        fair=tenant is not None,
        idempotent=idempotent,
        exchange=route.exchange,
        routing_key=route.routing_key,
        time_limit=hard,
        soft_time_limit=soft,
    )


def task_name(function: Any) -> str:
    """Return the name a function or class is registered under: "module.name", as whoever imports it will see it."""
    module = getattr(function, "__module__", None)
    if module in ("__main__", "__mp_main__"):
        # A script sends what its worker, which imports it by file name, must find; and what the processes of a pool
        # must find, which import it under the second of these names.
        main = sys.modules[module]
        spec = getattr(main, "__spec__", None)
        file = getattr(main, "__file__", None)
        if spec is not None and spec.name != "__main__":
            module = spec.name.removesuffix(".__main__")
        elif file:
            module = file.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".py")
    name = getattr(function, "__name__", None)
    if name is None:
        raise TaskOptionError(f"{function!r} has no name of its own: give it one with @app.task(name=...)")
    return f"{module}.{name}"


def _give_up(name: str, error: BaseException | None, retries: int) -> NoReturn:
    if error is not None:
        raise error
    raise MaxRetriesExceeded(f"{name} asked for another retry after {retries}, and gave no exception to raise instead")


def _class_options(kind: type) -> dict[str, Any]:
    """Return the options that a base class and its own bases say as class attributes, the nearest one winning."""
    said: dict[str, Any] = {}
    for each in reversed(kind.__mro__[: kind.__mro__.index(Task)]):
        words = TASK_WORDS - HOOKS.keys() - {"name"}
        said.update({word: value for word, value in vars(each).items() if word in words})
    return said
