"""The tasks of an app: made of functions, told apart by their names, and found by importing modules."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from .errors import TaskOptionError, UnknownTask
from .task import AsyncTask, Task, task_name
from .urls import nearest

if TYPE_CHECKING:
    from .app import Dray

#: What the name of a module that may be missing begins with.
_MAYBE = "?"


class Tasks(dict[str, Task[..., Any]]):
    """The registered tasks by name."""

    def __missing__(self, name: str) -> Task[..., Any]:
        known = ", ".join(sorted(self)) or "none"
        raise UnknownTask(f"no task named {name!r}{nearest(name, self) or '.'} Registered: {known}.")

    def add(self, task: Task[..., Any]) -> Task[..., Any]:
        """Register a task, in place of one that an earlier import of the same module made; return it."""
        known = self.get(task.name)
        if known is not None and _code(known.function) != _code(task.function):
            raise TaskOptionError(
                f"two tasks named {task.name!r}: {_place(known.function)} and {_place(task.function)}; "
                "give one of them another name with @app.task(name=...)"
            )
        self[task.name] = task
        return task


def task_of(app: Dray, function: Any, options: dict[str, Any], bind: bool) -> Task[..., Any]:
    """Return a task of an app, not registered yet, made of a function and the options of `@app.task`."""
    if not callable(function):
        raise TaskOptionError(f"@app.task decorates a function; got {function!r}. Options are given by name.")
    base = options.pop("base", None) or app.task_cls
    if base is None:
        base = AsyncTask if iscoroutinefunction(function) else Task
    elif not (isinstance(base, type) and issubclass(base, Task)):
        raise TaskOptionError(f"{task_name(function)}: base is a subclass of dray.Task; got {base!r}")
    return base(app, function, options, bind)


def if_there(module: str) -> str:
    """Return what `import_all` is given for a module that may be missing."""
    return _MAYBE + module


def import_all(modules: Iterable[str]) -> None:
    """Import modules in order, for the tasks that they register. What an import raises is not caught."""
    for module in modules:
        name = module.removeprefix(_MAYBE)
        if name == module or _findable(name):
            import_module(name)


def _findable(module: str) -> bool:
    try:
        return module in sys.modules or find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _code(function: Any) -> Any:
    """Return what tells two functions apart, but not two imports of the same one."""
    return getattr(function, "__module__", None), getattr(function, "__qualname__", None)


def _place(function: Any) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', function)}"
