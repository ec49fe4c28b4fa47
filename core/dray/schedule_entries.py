"""Entries: which task is sent with which arguments on which schedule; gathered from where people write them.

    app.conf.beat_schedule = {"nightly": {"task": "shop.clean", "schedule": crontab(hour=3, minute=0)}}
    @app.task(schedule="0 3 * * *")  or  @app.task(every=60)
    app.add_periodic_task(30.0, ping.s("db"), name="ping the database")

What they say is checked here, before anything is sent: an entry that can never work is refused with what would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from .canvas import Signature, signature
from .errors import ArgumentsError, ConfigurationError, NotSupported
from .message import Message, Step
from .options import by_name, positional
from .schedules import Schedule, as_table, every, read_schedule
from .setting_values import check_timezone, read_seconds
from .store import MAX_NAME
from .urls import nearest

if TYPE_CHECKING:
    from .app import Dray

#: When a run is to begin and the one before has not ended: run both, leave the new one out, or let it wait.
Overlap = Literal["allow", "skip", "queue"]
#: Which of the ticks that nobody was there for are made up for: the last one, none, or all.
Missed = Literal["once", "skip", "all"]

#: The words of an entry, as they are written.
WORDS = (
    *("task", "schedule", "every", "args", "kwargs", "options", "timezone", "jitter"),
    *("overlap", "missed", "deadline", "enabled"),
)
#: Celery's words that need no counterpart.
_ELSEWHERE = {"relative": "intervals are counted from every(..., start=...), or from when the entry was first seen"}
#: Longest name that is made of a call.
LONGEST_MADE = 120
#: Options of a sending that the scheduler gives itself, or that make no sense for what is sent again and again.
_OWN_OPTIONS = ("task_id", "idempotency_key", "eta", "connection", "root_id", "parent_id")


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry, with everything that it takes to send its task; it is kept in the store like this."""

    name: str
    #: A `Schedule` as a table: its kind and its fields.
    schedule: dict[str, Any]
    call: Step
    overlap: Overlap = "allow"
    missed: Missed = "once"
    #: Seconds after which a late tick is not sent any more; None: it always is.
    deadline: float | None = None
    #: Most seconds by which a tick is sent later than it is due, the same for all who ask.
    jitter: float = 0.0
    enabled: bool = True

    def when(self, app: Dray) -> Schedule:
        """Return its schedule; raise `ConfigurationError` when the plugin that knows its kind is gone."""
        return read_schedule(self.schedule, f"the schedule {self.name!r}", app.zone, app.plugins)


def gather(app: Dray) -> dict[str, Entry]:
    """Return the entries that the code and the settings of an app declare, checked, by name."""
    found: dict[str, Entry] = {}
    places: dict[str, str] = {}
    for name, table, place in _written(app):
        if name in found:
            raise ConfigurationError(
                f"two schedules named {name!r}: {places[name]}, and {place}; give one of them another name"
            )
        found[name], places[name] = read_entry(app, name, table), place
    return found


def _written(app: Dray) -> Iterable[tuple[str, Mapping[str, Any], str]]:
    """Yield name, words and place of what is declared anywhere."""
    for name, table in app.conf.beat_schedule.items():
        yield name, table, "in beat_schedule"
    for task in app.tasks.values():
        if (said := task_entry(task.name, task.options)) is not None:
            yield task.name, said, f"with the task {task.name} itself"
    for name, words in app.periodic:
        yield name, words, "by add_periodic_task"


def task_entry(task: str, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the words of the entry that a task's own options declare; None: they declare none."""
    said, interval = options.get("schedule"), options.get("every")
    if said is None and interval is None:
        return None
    if said is not None and interval is not None:
        raise ConfigurationError(f"{task}: give schedule= or every=, not both")
    if isinstance(said, Mapping) and "kind" not in said:
        return {"task": task, **said}
    return {"task": task, **({"schedule": said} if said is not None else {"every": interval})}


def periodic(schedule: Any, call: Signature, name: str | None, words: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return name and words of the entry that `add_periodic_task` was asked for."""
    own = {word: value for word, value in words.items() if word in WORDS}
    options = {word: value for word, value in words.items() if word not in WORDS}
    shown = name if name is not None else repr(call)[:LONGEST_MADE]
    if not isinstance(schedule, Mapping):
        read_schedule(schedule, f"the schedule {shown!r}")
    return shown, {"task": call.set(**options), "schedule": schedule, **own}


def read_entry(app: Dray, name: str, table: Mapping[str, Any]) -> Entry:
    """Return the entry that some words mean; raise `ConfigurationError` for what can never work."""
    where = f"the schedule {name!r}"
    _check_words(app, name, table, where)
    call = _call(app, table, where)
    return Entry(
        name=name,
        schedule=as_table(_schedule(app, table, where)),
        call=call.to_step(app),
        overlap=_one_of(table.get("overlap", "allow"), get_args(Overlap), "overlap", where),
        missed=_one_of(table.get("missed", "once"), get_args(Missed), "missed", where),
        deadline=_seconds(table.get("deadline"), "deadline", where),
        jitter=_seconds(table.get("jitter"), "jitter", where) or 0.0,
        enabled=_one_of(table.get("enabled", True), (True, False), "enabled", where),
    )


def call_of(app: Dray, step: Step) -> Signature:
    """Return the call of an entry as a value: what its task is sent with."""
    blank = Message(
        id="",
        task=step.task,
        payload=step.payload,
        content_type=step.content_type,
        content_encoding=step.content_encoding,
    )
    args, kwargs, serializer = app.payloads.arguments(blank)
    options: dict[str, Any] = {"serializer": serializer.name, **step.options}
    if step.content_encoding:
        options["compression"] = step.content_encoding
    for word, calls in (("link", step.link), ("link_error", step.link_error)):
        if calls:
            options[word] = [call_of(app, one) for one in calls]
    return Signature(step.task, args, kwargs, options, immutable=step.immutable, app=app)


def check_overlap(app: Dray, entries: Iterable[Entry]) -> None:
    """Raise `NotSupported` for an entry that has to know whether its last run has ended, when nobody can tell."""
    for entry in entries:
        if entry.overlap != "allow" and app.backend is None and not app.broker.capabilities.find:
            raise NotSupported(
                f"the schedule {entry.name!r} has overlap={entry.overlap!r}, and nobody can tell whether its last run "
                f"has ended: {app.broker.url} cannot look up messages, and there is no result_backend "
                "(DRAY_RESULT_BACKEND), e.g. sqlite:///results.db"
            )


def _check_words(app: Dray, name: str, table: Mapping[str, Any], where: str) -> None:
    longest = MAX_NAME - len(f"schedule:{app.name}:")
    if not isinstance(name, str) or not 0 < len(name) <= longest or not name.isprintable():
        raise ConfigurationError(f"a schedule's name is a printable text of 1 to {longest} characters; got {name!r}")
    if not isinstance(table, Mapping):
        raise ConfigurationError(f"{where} is a table of task, schedule, args ...; got {table!r}")
    for word in table:
        if word not in WORDS:
            hint = f"; {_ELSEWHERE[word]}" if word in _ELSEWHERE else nearest(str(word), WORDS)
            raise ConfigurationError(f"{where} has no {word!r}{hint or '. It takes: ' + ', '.join(WORDS)}")


def _schedule(app: Dray, table: Mapping[str, Any], where: str) -> Schedule:
    said, interval, timezone = table.get("schedule"), table.get("every"), table.get("timezone")
    if (said is None) == (interval is None):
        raise ConfigurationError(f"{where} says its schedule= or every=, one of them")
    if timezone is not None:
        try:
            check_timezone(timezone)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"{where}: timezone={timezone!r}: {error}") from None
    if interval is not None:
        return every(interval)
    return read_schedule(said, where, app.zone, app.plugins).within(timezone or app.conf.timezone)


def _call(app: Dray, table: Mapping[str, Any], where: str) -> Signature:
    """Return the call that an entry makes: of a task that is known here, with arguments that fit it."""
    task = table.get("task")
    if isinstance(task, Signature):
        call = task.clone(table.get("args") or (), table.get("kwargs"), **dict(table.get("options") or {}))
    else:
        name = getattr(task, "name", task)
        if not isinstance(name, str):
            raise ConfigurationError(f"{where} names no task: 'task': 'shop.clean'")
        args, kwargs = positional(table.get("args"), name), by_name(table.get("kwargs"), name)
        call = signature(name, args, kwargs, app=app, **dict(table.get("options") or {}))
    known = app.tasks.get(call.task)
    if known is None:
        registered = ", ".join(sorted(app.tasks)) or "none"
        raise ConfigurationError(
            f"{where} names the task {call.task!r}, which is not registered{nearest(call.task, app.tasks) or '.'} "
            f"Registered: {registered}. Modules with tasks are imported when `include` or `imports` names them."
        )
    for word in _OWN_OPTIONS:
        if call.options.get(word) is not None:
            raise ConfigurationError(f"{where}: the option {word!r} is not for what is sent again and again")
    try:
        if known.options.get("typing", True):
            known.parameters.check(call.args, call.kwargs)
    except ArgumentsError as error:
        raise ArgumentsError(f"{where}: {error}") from None
    return call


def _one_of(value: Any, known: Iterable[Any], word: str, where: str) -> Any:
    if value in tuple(known):
        return value
    shown = " or ".join(repr(one) for one in known)
    raise ConfigurationError(f"{where}: {word} is {shown}; got {value!r}")


def _seconds(value: Any, word: str, where: str) -> float | None:
    if value is None:
        return None
    try:
        found = read_seconds(value)
    except ValueError:
        found = -1.0
    if found < 0:
        raise ConfigurationError(f"{where}: {word} is a number of seconds, a timedelta or '5m'; got {value!r}")
    return found
