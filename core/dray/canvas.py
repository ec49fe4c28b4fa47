"""Calls as values: a Signature is a task, its arguments and its options, not yet sent.

add.s(2).delay(3)                    # partial: the arguments of the call come first, in front of the signature's
add.si(2, 2)                         # immutable: takes nothing from whoever calls it
charge.apply_async((order,), link=receipt.s(), link_error=alert.s())
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from .arguments import EVERY
from .context import current
from .errors import TaskOptionError
from .message import Step
from .options import check_send_options
from .redaction import hide

if TYPE_CHECKING:
    from .app import Dray
    from .result import AsyncResult


class Signature:
    """A call that has not been made. Immutable: `set`, `clone` and `si`-like changes return copies."""

    __slots__ = ("_app", "args", "immutable", "kwargs", "options", "task")

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

    @property
    def app(self) -> Dray:
        """The app it will be sent by: the one it was made with, or the current one."""
        if self._app is not None:
            return self._app
        from .shared import current_app  # tasks make signatures; looking up the current app is the way back

        return current_app()

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
        """Send it with more arguments and options."""
        call = self.clone(args, kwargs, **options)
        return self.app.send_task(call.task, call.args, call.kwargs, **call.options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task here and now, as a plain function."""
        call = self.clone(args, kwargs)
        return self.app.tasks[call.task](*call.args, **call.kwargs)

    def link(self, callback: Signature) -> Signature:
        """Return a copy that calls `callback` with its result."""
        return self.set(link=[*signatures(self.options.get("link"), "link"), callback])

    def link_error(self, callback: Signature) -> Signature:
        """Return a copy that calls `callback` when it has failed for good."""
        return self.set(link_error=[*signatures(self.options.get("link_error"), "link_error"), callback])

    def to_step(self, app: Dray) -> Step:
        """Return it in the form that travels inside a message."""
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


def signatures(value: Signature | Iterable[Signature] | None, option: str) -> list[Signature]:
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


def _plain(value: Any, app: Dray) -> Any:
    """Return an option's value as it can travel: durations as seconds, instants with their zone."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=app.zone)
    return value
