"""Kinds of schedules as values: cron expressions, intervals, one instant; and how people write them.

    crontab(minute=0, hour=8, day_of_week="mon-fri", timezone="Europe/Berlin")
    every(minutes=15)
    at(datetime(2027, 1, 1, tzinfo=UTC))
    read_schedule("*/15 * * * * *", "the cleanup")

A schedule knows nothing of tasks, stores or clocks: asked for the next instant after another, it answers. Plugins bring
further kinds (`register_schedules`): subclasses of `Schedule`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from hashlib import sha256
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn, TypeVar

import msgspec

from .errors import ConfigurationError
from .hookspecs import PLUGIN_API, Register, hookimpl
from .setting_values import check_timezone, read_seconds
from .urls import nearest

if TYPE_CHECKING:
    from .plugins import Plugins

dray_api = PLUGIN_API

#: Shortest interval (seconds).
SHORTEST = 0.1
#: What cron calls some expressions.
NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class Schedule(msgspec.Struct, frozen=True):
    """When something is due, as a value. Subclass it for a kind of your own: a frozen struct of plain fields.

    Instants are seconds since 1970. The same question always gets the same answer, in every process.
    """

    #: The name it is registered under.
    kind: ClassVar[str] = ""

    def next(self, after: float, since: float) -> float | None:
        """Return the first instant later than `after`, or None when there is none.

        `since` is when the entry began: intervals are counted from there.
        """
        raise NotImplementedError

    def first(self, since: float) -> float | None:
        """Return the first instant of an entry that begins at `since`; one that has passed is late, not lost."""
        return self.next(since, since)

    def within(self, timezone: str) -> Schedule:
        """Return it with its times of day in `timezone`, unless it has one of its own."""
        return self

    def __str__(self) -> str:
        return repr(self)


S = TypeVar("S", bound=Schedule)


class Cron(Schedule, frozen=True):
    """A cron expression. Made by `crontab`, or read from text."""

    kind: ClassVar[str] = "crontab"

    #: Five fields, or six with seconds in front.
    text: str
    #: Whose times of day it speaks of; None: those of the app's `timezone`.
    timezone: str | None = None
    #: True: where both are restricted, day of month *and* day of week have to fit, as in Celery. False: one of them, as
    #: in cron.
    both: bool = False

    def next(self, after: float, since: float) -> float | None:
        from cronsim import CronSim

        # It knows whole seconds only, so the fraction is cut off and not rounded: rounding up would pass over one.
        moments = CronSim(self.text, datetime.fromtimestamp(math.floor(after), _zone(self.timezone)))
        moments.day_and = moments.day_and or self.both
        # Asked from within an hour that is there twice, it begins with the first of them, which has passed.
        return next((at for moment in moments if (at := moment.timestamp()) > after), None)

    def within(self, timezone: str) -> Schedule:
        return self if self.timezone else msgspec.structs.replace(self, timezone=timezone)

    def __str__(self) -> str:
        return f"{self.text} ({self.timezone})" if self.timezone else self.text


class Every(Schedule, frozen=True):
    """An interval. Made by `every`, or read from a number, a timedelta or text such as "15m"."""

    kind: ClassVar[str] = "every"

    seconds: float
    #: The instant it is counted from; None: when the entry began.
    start: float | None = None

    def next(self, after: float, since: float) -> float | None:
        start = since if self.start is None else self.start
        number = max(math.floor((after - start) / self.seconds), -1 if self.start is not None else 0) + 1
        at = start + number * self.seconds
        # Dividing may lose what adding brings back.
        return at if at > after else start + (number + 1) * self.seconds

    def __str__(self) -> str:
        return f"every {_short(self.seconds)}"


class At(Schedule, frozen=True):
    """One instant. Made by `at`, or read from a datetime or its text."""

    kind: ClassVar[str] = "at"

    instant: float

    def next(self, after: float, since: float) -> float | None:
        return self.instant if self.instant > after else None

    def first(self, since: float) -> float | None:
        return self.instant

    def __str__(self) -> str:
        return f"once at {datetime.fromtimestamp(self.instant, UTC):%Y-%m-%d %H:%M:%S} UTC"


@hookimpl
def register_schedules(register: Register) -> None:
    """Contribute the kinds that dray comes with."""
    for kind in (Cron, Every, At):
        register(kind.kind, kind)


# How people write them


def crontab(
    minute: Any = "*",
    hour: Any = "*",
    *,
    day_of_week: Any = "*",
    day_of_month: Any = "*",
    month_of_year: Any = "*",
    second: Any = None,
    timezone: str | None = None,
) -> Cron:
    """Return a schedule by the clock and the calendar, in Celery's words; `crontab()` is every minute.

    Each field is a number, a list of numbers, or text: `"*/15"`, `"8-18/2"`, `"1,15"`, `"mon-fri"`, `"jan"`; of days
    also `"L"` (the last of the month), `"LW"` (its last working day), `"5L"` (its last Friday), `"1#2"` (its second
    Monday). With `second` it is finer than a minute. Times of day are in `timezone`, or in the app's.
    """
    said = {
        "second": second,
        "minute": minute,
        "hour": hour,
        "day_of_month": day_of_month,
        "month_of_year": month_of_year,
        "day_of_week": day_of_week,
    }
    if second is None:
        del said["second"]
    fields = {name: _field(name, value, f"crontab({name}={value!r})") for name, value in said.items()}
    return _checked(Cron(" ".join(fields.values()), timezone, both=True), "crontab")


def every(
    interval: float | timedelta | str = 0,
    *,
    seconds: float = 0,
    minutes: float = 0,
    hours: float = 0,
    days: float = 0,
    weeks: float = 0,
    start: datetime | None = None,
) -> Every:
    """Return an interval: `every(30)` (seconds), `every("1h30m")`, `every(minutes=5)`.

    It is counted from `start`, or from when a scheduler first sees the entry; late ticks do not make later ones late.
    """
    try:
        more = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
        length = read_seconds(interval) + more.total_seconds()
    except (ValueError, TypeError, OverflowError):
        length = 0.0
    if not length >= SHORTEST:
        raise ConfigurationError(
            f"every({interval!r}): an interval is a number of seconds of at least {SHORTEST:g}, a timedelta or text "
            "such as '5m'; or every(minutes=5)"
        )
    return Every(length, None if start is None else at(start).instant)


def at(moment: datetime) -> At:
    """Return a schedule of one instant: a datetime with a zone."""
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ConfigurationError(
            f"at({moment!r}): which instant that is depends on a zone: datetime(2027, 1, 1, tzinfo=UTC)"
        )
    return At(moment.timestamp())


def schedule(value: Any = None, *, run_every: Any = None, timezone: str | None = None) -> Schedule:
    """Return any schedule from any way to write one: `schedule("0 8 * * mon-fri")`, `schedule(run_every=30)`."""
    found = read_schedule(run_every if value is None else value, "schedule()")
    return _checked(found.within(timezone), "schedule") if timezone else found


def read_schedule(value: Any, where: str, zone: tzinfo = UTC, plugins: Plugins | None = None) -> Schedule:
    """Return the schedule that `value` means; raise `ConfigurationError` that names `where` it stands, and what works.

    A schedule; a number of seconds or a timedelta; a datetime (a naive one is in `zone`); text: a cron expression of
    five or six fields or a nickname like "@daily", a duration like "15m", a datetime; or a table of a plugin's kind:
    `{"kind": "solar", "event": "sunset"}`.
    """
    match value:
        case Schedule():
            return value
        case Mapping():
            return _of_kind(value, where, plugins)
        case datetime():
            return at(value if value.tzinfo else value.replace(tzinfo=zone))
        case str():
            return _read_text(value.strip(), where, zone)
        case int() | float() | timedelta() if not isinstance(value, bool):
            return every(value)
    _refuse(value, where)


def as_table(found: Schedule) -> dict[str, Any]:
    """Return a schedule as a table of plain values, which `read_schedule` reads."""
    return {"kind": found.kind, **msgspec.to_builtins(found)}


def _read_text(text: str, where: str, zone: tzinfo) -> Schedule:
    fields = NICKNAMES.get(text.lower(), text).split()
    if len(fields) in (5, 6) and not _is_date(text):
        names = list(FIELDS)[-len(fields) :]
        told = [_field(name, field, f"{where}: {text!r}") for name, field in zip(names, fields, strict=True)]
        return _checked(Cron(" ".join(told)), f"{where}: {text!r}")
    try:
        return every(read_seconds(text))
    except (ValueError, ConfigurationError):
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        _refuse(text, where)
    return at(moment if moment.tzinfo else moment.replace(tzinfo=zone))


def _is_date(text: str) -> bool:
    return re.match(r"\d{4}-\d\d-\d\d", text) is not None


def _refuse(value: Any, where: str) -> NoReturn:
    hint = nearest(value.lower(), NICKNAMES) if isinstance(value, str) and value.startswith("@") else ""
    raise ConfigurationError(
        f"{where}: {value!r} is no schedule{hint or '.'} It takes: seconds (900) or '15m', a timedelta, a cron "
        "expression ('0 8 * * mon-fri', with seconds '*/15 * * * * *', '@daily'), crontab(hour=8, minute=0), "
        "every(minutes=15), or a datetime for once."
    )


def _of_kind(table: Mapping[str, Any], where: str, plugins: Plugins | None) -> Schedule:
    fields = dict(table)
    name = fields.pop("kind", None)
    if not isinstance(name, str):
        raise ConfigurationError(f"{where}: a table that is a schedule says its kind: {{'kind': 'crontab', ...}}")
    own: dict[str, Any] = {kind.kind: kind for kind in (Cron, Every, At)}
    if name not in own and plugins is None:
        raise ConfigurationError(f"{where}: there is no kind of schedule {name!r}{nearest(name, own)}")
    kind = own[name] if name in own else plugins.find("schedules", name)  # type: ignore[union-attr]
    try:
        found = msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{where}: a schedule of the kind {name!r}: {error}") from None
    if not isinstance(found, Schedule):
        raise ConfigurationError(f"{where}: the kind {name!r} is no subclass of dray.Schedule")
    return _checked(found, where)


# What a field may say


class _Field(NamedTuple):
    lowest: int
    highest: int
    names: tuple[str, ...]
    example: str


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
#: The fields of a cron expression, in their order.
FIELDS = {
    "second": _Field(0, 59, (), "'*/15'"),
    "minute": _Field(0, 59, (), "'*/15'"),
    "hour": _Field(0, 23, (), "'8-18'"),
    "day_of_month": _Field(1, 31, (), "'1,15' or 'L'"),
    "month_of_year": _Field(1, 12, _MONTHS, "'jan,jul' or '*/3'"),
    "day_of_week": _Field(0, 7, _DAYS, "'mon-fri', 0 and 7 being Sunday"),
}
_TERM = re.compile(r"(?P<low>\*|\w+)(?:-(?P<high>\w+))?(?:/(?P<step>\d+))?")
#: The words about days that have no number: "L", "LW", "5L", "mon#2".
_SPECIAL = {
    "day_of_month": re.compile(r"LW?", re.I),
    "day_of_week": re.compile(rf"[0-7]L|(?:[0-7]|{'|'.join(_DAYS)})#[1-5]", re.I),
}


def _field(name: str, value: Any, shown: str) -> str:
    """Return a field as cron text; raise `ConfigurationError` that says what the field takes."""
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        terms = [str(item) for item in value if not isinstance(item, bool)]
    else:
        terms = [] if isinstance(value, bool | bytes) else str(value).split(",")
    told = [_term(name, term.strip()) for term in terms]
    if not told or None in told:
        field = FIELDS[name]
        raise ConfigurationError(
            f"{shown}: {name} takes {field.lowest} to {field.highest}, a list of those, or text such as "
            f"{field.example}; '*' for all"
        )
    return ",".join(filter(None, told))


def _term(name: str, term: str) -> str | None:
    """Return one item of a field's list as cronsim reads it; None for what fits nowhere."""
    field = FIELDS[name]
    if name in _SPECIAL and _SPECIAL[name].fullmatch(term):
        return term
    found = _TERM.fullmatch(term)
    if found is None or found["step"] == "0":
        return None
    low = None if found["low"] == "*" else _number(field, found["low"])
    high = None if found["high"] is None else _number(field, found["high"])
    if (low is None) != (found["low"] == "*") or (high is None) != (found["high"] is None):
        return None
    step = "" if found["step"] is None else f"/{int(found['step'])}"
    if low is None:
        return None if high is not None else f"*{step}"
    if high is None:
        return f"{low}{step}"
    if low == high:
        return str(low)  # cronsim would take a range of one with a step for an open one
    if low < high:
        return f"{low}-{high}{step}"
    # From Friday to Monday: over the end, and on from the beginning.
    end = 6 if name == "day_of_week" else field.highest
    over = chain(range(low, end + 1), range(field.lowest, high + 1))
    return ",".join(map(str, list(over)[:: int(found["step"] or 1)]))


def _number(field: _Field, word: str) -> int | None:
    if word.lower()[:3] in field.names and word.isalpha():
        return field.names.index(word.lower()[:3]) + field.lowest
    return int(word) if word.isdecimal() and field.lowest <= int(word) <= field.highest else None


def _checked(found: S, shown: str) -> S:
    """Return a schedule that has a zone there is, and an instant that comes; raise `ConfigurationError` otherwise."""
    from cronsim import CronSimError

    if isinstance(found, Cron) and found.timezone is not None:
        try:
            check_timezone(found.timezone)
        except ValueError as error:
            raise ConfigurationError(f"{shown}: timezone={found.timezone!r}: {error}") from None
    try:
        comes = not isinstance(found, Cron) or found.next(0.0, 0.0) is not None
    except CronSimError:
        comes = False
    if not comes:
        raise ConfigurationError(f"{shown}: {found} never comes: there is no such day in those months")
    return found


@lru_cache(maxsize=64)
def _zone(name: str | None) -> tzinfo:
    if name in (None, "UTC"):
        return UTC
    from zoneinfo import ZoneInfo  # slow to import, and UTC needs none of it

    return ZoneInfo(str(name))


def _short(seconds: float) -> str:
    """Return a duration in the largest units that fit it: "1h30m"."""
    if seconds != int(seconds):
        return f"{seconds:g}s"
    left, told = int(seconds), ""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
        number, left = divmod(left, size)
        told += f"{number}{unit}" if number else ""
    return told


# What a scheduler asks


def ticks(found: Schedule, first: float, until: float, since: float) -> Iterator[float]:
    """Yield the instant `first`, and those after it up to `until`."""
    tick: float | None = first
    while tick is not None and tick <= until:
        yield tick
        tick = found.next(tick, since)


def latest(found: Schedule, first: float, until: float, since: float) -> float:
    """Return the last instant up to `until`, given that `first` is one; in few steps, however many are in between."""
    known, bound = first, until
    while (following := found.next(known, since)) is not None and following <= until:
        # Between `bound` and `until` there is none.
        known, middle = following, (following + bound) / 2
        jump = found.next(middle, since)
        if jump is not None and jump <= until:
            known = jump
        else:
            bound = middle
    return known


def jittered(name: str, due: float, jitter: float) -> float:
    """Return when a tick is to be sent: between its due instant and `jitter` seconds later, the same everywhere."""
    if not jitter:
        return due
    share = int.from_bytes(sha256(f"{name}\0{due!r}".encode()).digest()[:6]) / 2**48
    return due + share * jitter
