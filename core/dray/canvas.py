"""Calls as values: single ones (`Signature`), and put together: one after the other, side by side, and then one more.

add.s(2).delay(3)                            # partial: the arguments of the call come first, in front of its own
add.si(2, 2)                                 # immutable: takes nothing from whoever calls it
chain(fetch.s(url), parse.s(), store.s())()  # each gets the result of the one before; `|` does the same
group(resize.s(p, w) for w in widths)()      # all at once
chord(header, body)()                        # the body gets the list of the header's results; header | body, too

`clone` and `set` return copies. `link`, `link_error` and `on_error` add to the canvas itself, as in Celery, and return
it; a canvas that is put into another is copied by that. What becomes of them is in flows.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Self, TypeVar

from .arguments import EVERY
from .context import current
from .errors import TaskOptionError
from .message import Step
from .options import check_send_options
from .redaction import hide

if TYPE_CHECKING:
    from .app import Dray
    from .group_result import GroupResult
    from .result import AsyncResult

T = TypeVar("T")

#: What becomes of a group when a member fails: see `Group`.
POLICIES = ("fail_fast", "wait", "collect", "ignore")


class Canvas:
    """Something that can be sent: a call, or calls put together."""

    __slots__ = ("_app", "options")

    _app: Dray | None
    #: Options for whatever of it is sent first.
    options: dict[str, Any]

    @property
    def app(self) -> Dray:
        """The app it will be sent by: the one it was made with, or the current one."""
        if self._app is not None:
            return self._app
        from .shared import current_app  # tasks make signatures; looking up the current app is the way back

        return current_app()

    def clone(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
        """Return a copy that is called with more arguments, and options laid over its own."""
        raise NotImplementedError

    def set(self, **options: Any) -> Self:
        """Return a copy with these options laid over its own."""
        return self.clone(**options)

    def copy(self) -> Self:
        """Return another one that is equal; what is linked to it is not linked to this one."""
        return self.clone()

    def link(self, callback: Signature) -> Self:
        """Have it call `callback` with its result; return itself."""
        raise NotImplementedError

    def link_error(self, callback: Signature) -> Self:
        """Have it call `callback`, once, when it has failed for good, with the id of the call that did; return itself.

        A callback with three parameters more than it is given gets (request, exception, traceback) instead of the id.
        """
        raise NotImplementedError

    def on_error(self, callback: Signature) -> Self:
        """`link_error` under its other name."""
        return self.link_error(callback)

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Send it with these arguments in front of its own; return the handle on its end."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        id: str | None = None,
        **options: Any,
    ) -> Any:
        """Send it with more arguments and options; return the handle on its end.

        `id` names the whole: sent a second time under the same one, nothing new begins, and the same handle is
        returned. Raises NotSupported when it needs a store and there is none.
        """
        from .flows import send  # the way back: flows are made of what stands here

        callbacks, errbacks = (signatures(options.pop(option, None), option) for option in ("link", "link_error"))
        whole = self.clone(args, kwargs, **options)
        for callback in callbacks:
            whole.link(callback)
        for errback in errbacks:
            whole.link_error(errback)
        return send(whole, id)

    async def adelay(self, *args: Any, **kwargs: Any) -> Any:
        """`delay` for coroutines."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """`apply_async` for coroutines: the event loop goes on while the broker answers."""
        return await asyncio.to_thread(self.apply_async, args, kwargs, **options)

    def __or__(self, other: Any) -> Chain:
        """Return the chain of this and what comes after it."""
        return Chain(self, other) if isinstance(other, Canvas) else NotImplemented


class Signature(Canvas):
    """A call that has not been made: a task, arguments and options."""

    __slots__ = ("args", "immutable", "kwargs", "task")

    def __init__(
        self,
        task: str,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        immutable: bool = False,
        app: Dray | None = None,
    ) -> None:
        self.task = task
        self.args = tuple(args)
        self.kwargs = dict(kwargs or {})
        self.options = dict(options or {})
        self.immutable = immutable
        self._app = app
        check_send_options(self.options, task)

    def clone(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Signature:
        """Return a copy with `args` put in front, and `kwargs` and options laid over its own."""
        if self.immutable:
            args, kwargs = (), None
        return Signature(
            self.task,
            (*args, *self.args),
            {**self.kwargs, **(kwargs or {})},
            {**self.options, **options},
            immutable=self.immutable,
            app=self._app,
        )

    def set(self, immutable: bool | None = None, **options: Any) -> Signature:
        """Return a copy with these options laid over its own."""
        copy = Signature(
            self.task, self.args, self.kwargs, {**self.options, **options}, immutable=self.immutable, app=self._app
        )
        if immutable is not None:
            copy.immutable = immutable
        return copy

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        """Send it, with `args` in front of its own and `kwargs` laid over them."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[Any]:
        """Send it with more arguments and options. It has a name already: `task_id`, so it takes no `id`."""
        call = self.clone(args, kwargs, **options)
        return self.app.send_task(call.task, call.args, call.kwargs, **call.options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task here and now, as a plain function."""
        call = self.clone(args, kwargs)
        return self.app.tasks[call.task](*call.args, **call.kwargs)

    def link(self, callback: Signature) -> Signature:
        return self._linked("link", callback)

    def link_error(self, callback: Signature) -> Signature:
        return self._linked("link_error", callback)

    def _linked(self, option: str, callback: Signature) -> Signature:
        # A copy: what is linked to the callback later on is not linked here, so that no circle can be made.
        callbacks = [each.copy() for each in signatures(callback, option)]
        self.options[option] = [*signatures(self.options.get(option), option), *callbacks]
        return self

    def to_step(self, app: Dray) -> Step:
        """Return it in the form that travels inside a message."""
        if self.options.get("depends_on") is not None:
            raise TaskOptionError(
                f"{self.task}: depends_on is for calls that are sent by themselves; a chain waits anyway"
            )
        options = {name: _plain(value, app) for name, value in self.options.items() if value is not None}
        serializer = options.pop("serializer", None) or app.conf.task_serializer
        packed = app.payloads.dump((self.args, self.kwargs), serializer, options.pop("compression", None))
        return Step(
            task=self.task,
            payload=packed.data,
            content_type=packed.content_type,
            content_encoding=packed.content_encoding,
            immutable=self.immutable,
            link=steps(options.pop("link", None), "link", app),
            link_error=steps(options.pop("link_error", None), "link_error", app),
            options=options,
            sensitive=app.tasks[self.task].parameters.marks if self.task in app.tasks else (),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signature) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((self.task, len(self.args), self.immutable))

    def __repr__(self) -> str:
        args, kwargs = hide(self.args, self.kwargs, self._marks())
        shown = [repr(value) for value in args] + [f"{name}={value!r}" for name, value in kwargs.items()]
        return f"{self.task}({', '.join(shown)})"

    def _marks(self) -> Collection[int | str]:
        """Return which arguments are not to be shown, as far as it is known which task this is."""
        try:
            task = self.app.tasks.get(self.task)
            marks = task.parameters.marks if task is not None else ()
        except Exception:  # no app, or one that cannot be built: a repr must not fail
            return (EVERY,)
        # Whoever calls it puts arguments in front, which moves these to other places.
        complete = self.immutable or not any(isinstance(mark, int) for mark in marks)
        return marks if complete else {*marks, *range(len(self.args))}

    def _key(self) -> tuple[Any, ...]:
        return self.task, self.args, self.kwargs, self.options, self.immutable


class Chain(Canvas):
    """One after the other: each gets the result of the one before as its first argument.

    When one fails for good, those after it do not run, and have failed with its error. A group within a chain is
    waited for: what comes after it gets the list of its results.
    """

    __slots__ = ("items",)

    def __init__(self, *items: Canvas | Iterable[Canvas], app: Dray | None = None) -> None:
        found: list[Canvas] = []
        for item in _canvases(items, "chain"):
            # A chain in a chain is no step of its own.
            found += item._flat() if isinstance(item, Chain) else [item]
        if not found:
            raise TaskOptionError("a chain has at least one task in it: chain(fetch.s(url), parse.s())")
        # Copies: what is linked to the whole is not linked to what it was made of.
        self.items = tuple(item.copy() for item in found)
        self.options = {}
        # Not that of the first: a stream does not know one.
        self._app = app if app is not None else next((i._app for i in self.items if i._app is not None), None)
        for item in self.items[:-1]:
            if isinstance(item, Group) and item.is_empty:
                raise TaskOptionError(
                    "what comes after an empty group would never have anything to wait for: give the group (the "
                    "header of the chord) at least one task, or leave it out"
                )

    def clone(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
        """Return a copy whose first is called with more arguments and options."""
        # The id of a chain is that of its end.
        id, items = options.pop("task_id", None), list(self.items)
        items[0] = items[0].clone(args, kwargs, **options)
        if id is not None:
            items[-1] = items[-1].set(task_id=id)
        return self._of(*items)

    def link(self, callback: Signature) -> Self:
        self.items[-1].link(callback)
        return self

    def link_error(self, callback: Signature) -> Self:
        # Each of them, of which at most one can fail.
        for item in self.items:
            item.link_error(callback)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Send it with these arguments for the first."""
        return self.apply_async(args, kwargs)

    def _flat(self) -> list[Canvas]:
        return [*self.items]

    def _of(self, *items: Canvas) -> Self:
        copy = object.__new__(type(self))
        copy.items, copy.options, copy._app = tuple(item.copy() for item in items), {}, self._app
        return copy

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chain) and self.items == other.items

    def __hash__(self) -> int:
        return hash(self.items)

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.items))


class Group(Canvas):
    """Side by side: all get the same arguments in front of their own; the result is the list of theirs, in order.

    `on_error` says what becomes of the whole, where something waits for it: "fail_fast" - it has failed as soon as one
    member has for good; "wait" - the same, once all have ended; "collect" - it never fails, and in place of their
    results failed members have a `dray.Ending` (all members have one); "ignore" - it never fails, and only the
    results of those that succeeded count; a number - it fails if less than that share (0.95) of its members succeeds.
    """

    __slots__ = ("_members", "_stream", "callbacks", "cancel_rest", "errbacks", "on_failure")

    def __init__(
        self,
        *members: Canvas | Iterable[Canvas],
        on_error: str | float = "fail_fast",
        cancel_rest: bool = False,
        app: Dray | None = None,
    ) -> None:
        self._members = tuple(_canvases(members, "group"))
        #: Whether members that have not ended are cancelled when it has failed.
        self.cancel_rest = cancel_rest
        self._stream: Iterator[Canvas] | None = None
        self.on_failure = _policy(on_error)
        self.callbacks: tuple[Signature, ...] = ()
        self.errbacks: tuple[Signature, ...] = ()
        self.options = {}
        self._app = app if app is not None else next((m._app for m in self._members if m._app is not None), None)

    @classmethod
    def stream(
        cls, members: Iterable[Canvas], *, on_error: str | float = "fail_fast", app: Dray | None = None
    ) -> Group:
        """Return a group whose members are made while they are sent, page by page: for more than memory holds.

        It can be sent once, and only at the beginning of a flow.
        """
        made = cls(on_error=on_error, app=app)
        made._stream = iter(members)
        return made

    @property
    def is_empty(self) -> bool:
        """Whether it is known to have no members."""
        return self._stream is None and not self._members

    @property
    def is_stream(self) -> bool:
        """Whether its members are made while they are sent."""
        return self._stream is not None

    @property
    def tasks(self) -> tuple[Canvas, ...]:
        """Its members. Of a stream they are made now, all of them."""
        if self._stream is not None:
            self._members, self._stream = tuple(_canvases((self._stream,), "group")), None
        return self._members

    def pages(self, size: int) -> Iterator[list[Canvas]]:
        """Yield the members, as they will be called, up to `size` at a time."""
        members = iter(self._members) if self._stream is None else _checked(self._stream, "group")
        while page := list(islice(members, size)):
            yield [member.clone(**self.options) for member in page] if self.options else page

    def clone(self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any) -> Self:
        """Return a copy whose members are all called with more arguments and options."""
        for option in ("task_id", "idempotency_key"):
            if options.get(option) is not None:
                raise TaskOptionError(f"{option} stands for one call, and a group has many: set it on one of them")
        copy = self._copy()
        if self._stream is not None:
            # The stream itself moves: it can be sent once, whoever has it.
            rest, copy.options = self._stream, {**self.options, **options}
            copy._stream = (member.clone(args, kwargs) for member in rest) if args or kwargs else rest
        else:
            copy._members = tuple(member.clone(args, kwargs, **options) for member in self._members)
        return copy

    def link(self, callback: Signature) -> Self:
        """Have it call `callback`, once, with the list of its results; return itself."""
        self.callbacks = (*self.callbacks, *signatures(callback, "link"))
        return self

    def link_error(self, callback: Signature) -> Self:
        """Have it call `callback`, once, when it has failed, with the id of the member that did; return itself."""
        self.errbacks = (*self.errbacks, *signatures(callback, "link_error"))
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> GroupResult:
        """Send it with these arguments in front of its members' own."""
        return self.apply_async(args, kwargs)  # type: ignore[no-any-return]

    def _copy(self) -> Self:
        copy = object.__new__(type(self))
        for name in ("_members", "_stream", "callbacks", "cancel_rest", "errbacks", "on_failure", "options", "_app"):
            setattr(copy, name, getattr(self, name))
        return copy

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Canvas]:
        return iter(self.tasks)

    def __getitem__(self, place: int) -> Canvas:
        return self.tasks[place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Group) and (self._members, self.on_failure) == (other._members, other.on_failure)

    def __hash__(self) -> int:
        return hash(self._members)

    def __repr__(self) -> str:
        shown = "..." if self._stream is not None else ", ".join(map(repr, self._members))
        return f"group({shown})"


class Chord(Chain):
    """A group, and what gets the list of its results: `chord(header, body)()` or `chord(header)(body)`."""

    __slots__ = ()

    def __init__(
        self,
        header: Group | Iterable[Canvas],
        body: Canvas | None = None,
        *,
        on_error: str | float | None = None,
        app: Dray | None = None,
    ) -> None:
        group = header if isinstance(header, Group) else Group(header, app=app)
        if on_error is not None:
            group = group._copy()
            group.on_failure = _policy(on_error)
        if group.is_empty:
            raise TaskOptionError(
                "a chord with an empty header: its body would never have anything to wait for; give it at least one "
                "task, or send the body by itself"
            )
        if body is None:
            self.items, self.options, self._app = (group.copy(),), {}, app if app is not None else group._app
        else:
            super().__init__(group, body, app=app)

    def __call__(self, body: Canvas | None = None, *args: Any, **kwargs: Any) -> Any:
        """Send it; with a body, if it has none yet."""
        if isinstance(body, Canvas):
            return (self | body).apply_async(args, kwargs)
        return self.apply_async(args if body is None else (body, *args), kwargs)


chain, group, chord = Chain, Group, Chord


def signature(
    task: str | Signature,
    args: Iterable[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    immutable: bool = False,
    app: Dray | None = None,
    **options: Any,
) -> Signature:
    """Return a signature of the task with that name, which need not be importable here."""
    if isinstance(task, Signature):
        return task.clone(args, kwargs, **options)
    running = current.get()
    if app is None and running is not None and running.task is not None:
        app = running.task.app
    return Signature(task, args, kwargs, options, immutable=immutable, app=app)


def signatures(value: Any, option: str) -> list[Signature]:
    """Return the callbacks in a `link` or `link_error` option as a list; raise `TaskOptionError` for anything else."""
    if value is None:
        return []
    found = [value] if isinstance(value, Signature) or not isinstance(value, Iterable) else list(value)
    for item in found:
        if not isinstance(item, Signature):
            raise TaskOptionError(f"{option} takes signatures such as notify.s(); got {item!r}")
    return found


def steps(value: Signature | Iterable[Signature] | None, option: str, app: Dray) -> tuple[Step, ...]:
    """Return the callbacks in a `link` or `link_error` option in the form that travels inside a message."""
    return tuple(callback.to_step(app) for callback in signatures(value, option)) if value else ()


def _canvases(given: Iterable[Any], what: str) -> Iterator[Canvas]:
    """Yield what a chain or group is given: one by one, or as one iterable."""
    items = list(given)
    if len(items) == 1 and not isinstance(items[0], Canvas):
        if isinstance(items[0], str | bytes | Mapping) or not isinstance(items[0], Iterable):
            raise TaskOptionError(f"a {what} is made of signatures such as add.s(2, 2); got {items[0]!r}")
        items = items[0]  # type: ignore[assignment]
    yield from _checked(items, what)


def _checked(items: Iterable[Any], what: str) -> Iterator[Canvas]:
    for item in items:
        if not isinstance(item, Canvas):
            raise TaskOptionError(f"a {what} is made of signatures such as add.s(2, 2); got {item!r}")
        yield item


def _policy(on_error: Any) -> str | float:
    if isinstance(on_error, float | int) and not isinstance(on_error, bool) and 0 < on_error <= 1:
        return float(on_error)
    if on_error not in POLICIES:
        raise TaskOptionError(
            f"on_error is one of {', '.join(map(repr, POLICIES))}, or the share of members that have to succeed, "
            f"0.95; got {on_error!r}"
        )
    return str(on_error)


def _plain(value: Any, app: Dray) -> Any:
    """Return an option's value as it can travel: durations as seconds, instants with their zone."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=app.zone)
    return value
