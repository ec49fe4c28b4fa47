"""Tasks that belong to no app, and which app is the current one."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, overload

from .context import current
from .errors import ConfigurationError
from .task import AsyncTask, Task, task_name

if TYPE_CHECKING:
    from typing import Unpack

    from .app import Dray
    from .options import TaskOptions

P = ParamSpec("P")
R = TypeVar("R")


class Decorator:
    """The types of `@app.task(...)`."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...
    def __call__(self, function: Any, /) -> Any:
        raise NotImplementedError


class BoundDecorator:
    """The types of `@app.task(bind=True, ...)`: the first parameter is the task and not an argument."""

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...
    def __call__(self, function: Any, /) -> Any:
        raise NotImplementedError


# All the global state there is: what has been declared for every app, and which app is meant by "the current one".

declared: list[tuple[Any, dict[str, Any], bool]] = []
_default_app: Callable[[], Dray | None] = lambda: None  # noqa: E731
chosen_app: ContextVar[Dray | None] = ContextVar("dray_current_app", default=None)


def set_default(app: Dray) -> None:
    global _default_app
    _default_app = weakref.ref(app)


def current_app() -> Dray:
    """Return the app whose task is running, else the one made current by `as_current`, else the newest app."""
    running = current.get()
    if running is not None and running.task is not None:
        return running.task.app
    found = chosen_app.get() or _default_app()
    if found is None:
        raise ConfigurationError('there is no app yet: create one, app = Dray("name")')
    return found


class SharedTask:
    """A task that belongs to no app; whatever is done with it is done with the current app's task of that name."""

    def __init__(self, name: str, function: Any) -> None:
        self.name = name
        self.__wrapped__ = function
        self.__doc__ = function.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return current_app().tasks[self.name](*args, **kwargs)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(current_app().tasks[self.name], attribute)

    def __repr__(self) -> str:
        return f"<shared task {self.name}>"


@overload
def shared_task(function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
@overload
def shared_task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def shared_task(*, bind: Literal[True], **options: Unpack[TaskOptions]) -> BoundDecorator: ...
@overload
def shared_task(*, bind: Literal[False] = False, **options: Unpack[TaskOptions]) -> Decorator: ...
def shared_task(function: Any = None, /, *, bind: bool = False, **options: Any) -> Any:
    """Make a task for whichever app will be there: for libraries, which have none of their own."""

    def declare(function: Any) -> Any:
        name = options.get("name") or task_name(function)
        declared.append((function, {**options, "name": name}, bind))
        return SharedTask(name, function)

    return declare(function) if function is not None else declare
