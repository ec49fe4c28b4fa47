"""Read what options are given - durations, instants, lists of names, JSON - or say what they take: for `callback=`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click

#: What click hands a value to.
Callback = Callable[[click.Context, click.Parameter, Any], Any]


def seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Read a duration: "90", "30s", "5m", "1h30m"; not below zero."""
    if value is None:
        return None
    from ..setting_values import read_seconds  # brings msgspec, which `--help` can do without

    try:
        found = read_seconds(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a duration; write seconds, or 30s, 5m, 1h30m") from None
    if found < 0:
        raise click.BadParameter(f"{value!r} is below zero")
    return found


def instant(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """Read a date and time in ISO 8601."""
    if value is None:
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a time; write 2030-01-31T09:00:00+02:00") from None


def seconds_or_instant(ctx: click.Context, param: click.Parameter, value: str | None) -> float | datetime | None:
    """Read a duration from now, or a date and time."""
    for read in (seconds, instant):
        try:
            return read(ctx, param, value)
        except click.BadParameter:
            continue
    raise click.BadParameter(f"{value!r} is neither a duration (30s, 5m) nor a time (2030-01-31T09:00:00+02:00)")


def json_of(kind: type[Any], example: str) -> Callback:
    """Return what reads JSON of one kind: written out, in a file ("@calls.json"), or from stdin ("-")."""

    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
        if value is None:
            return None
        try:
            found = json.loads(_text(value))
        except OSError as error:
            raise click.BadParameter(f"{value[1:]!r} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise click.BadParameter(f"that is not JSON: {error}; write {example}") from None
        if not isinstance(found, kind):
            raise click.BadParameter(f"that is JSON, but of another kind; write {example}")
        return found

    return read


def names(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[str]:
    """Read names, separated by commas or given in several options."""
    return list(dict.fromkeys(name.strip() for text in value for name in text.split(",") if name.strip()))


def _text(value: str) -> str:
    if value == "-":
        return sys.stdin.read()
    return Path(value[1:]).read_text(encoding="utf-8") if value.startswith("@") else value
