"""Functions given as `@app.task(on_failure=..., on_success=...)`: called as the methods of a task class are, by name.

    async def to_the_sick_bay(task_id, error): ...

    @app.task(on_failure=to_the_sick_bay)

A function names what it wants to know and is given that; one that names something else is refused when it is declared.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .errors import TaskOptionError
from .urls import nearest

if TYPE_CHECKING:
    from .task import Task

#: The hooks of a task, and what the method of that name is called with.
HOOKS: Mapping[str, tuple[str, ...]] = {
    "before_start": ("task_id", "args", "kwargs"),
    "on_success": ("retval", "task_id", "args", "kwargs"),
    "on_retry": ("exc", "task_id", "args", "kwargs", "einfo"),
    "on_failure": ("exc", "task_id", "args", "kwargs", "einfo"),
    "after_return": ("status", "retval", "task_id", "args", "kwargs", "einfo"),
}
#: Other names for the same.
_ALSO = {
    "exc": ("error", "exception"),
    "einfo": ("traceback",),
    "retval": ("result", "value"),
    "status": ("state",),
}


def check_hooks(options: Mapping[str, Any], task: str) -> None:
    """Raise `TaskOptionError` for a hook among the options of a task that could not be called."""
    for hook in HOOKS.keys() & options.keys():
        function = options[hook]
        if function is None:
            continue
        if not callable(function):
            raise TaskOptionError(f"{task}: {hook} is a function; got {function!r}")
        known = {*_names(hook), "task", "self", "request"}
        for parameter in _parameters(function) or ():
            named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            if named and parameter.default is parameter.empty and parameter.name not in known:
                raise TaskOptionError(
                    f"{task}: {hook}={_name(function)} wants {parameter.name!r}, and nobody knows what that is"
                    f"{nearest(parameter.name, known) or '.'} It is told, by name: {', '.join(sorted(known))}."
                )


def as_method(hook: str, function: Callable[..., Any], task: Task[..., Any]) -> Callable[..., Any]:
    """Return what can be called in place of the method `hook` of a task."""
    parameters = _parameters(function)
    if parameters is None:
        return function
    kinds = {parameter.kind for parameter in parameters}
    if inspect.Parameter.VAR_POSITIONAL in kinds or inspect.Parameter.POSITIONAL_ONLY in kinds:
        return function  # it takes them in order, as the method does
    wanted = None if inspect.Parameter.VAR_KEYWORD in kinds else {parameter.name for parameter in parameters}

    def call(*values: Any) -> Any:
        told = dict(zip(HOOKS[hook], values, strict=True))
        told.update({other: told[name] for name, others in _ALSO.items() if name in told for other in others})
        told.update(task=task, request=task.request)
        if wanted is None:
            return function(**told)
        told["self"] = task
        return function(**{name: told[name] for name in wanted if name in told})

    return call


def _names(hook: str) -> list[str]:
    return [other for name in HOOKS[hook] for other in (name, *_ALSO.get(name, ()))]


def _parameters(function: Any) -> list[inspect.Parameter] | None:
    """Return the parameters of a function; None where nobody can tell, because it is written in C."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", function))
