"""Read what options are given - durations, instants, lists of names, JSON - or say what they take: for `callback=`."""

from __future__ import annotations

import json
import re
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


def size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Read an amount of memory in bytes: "200000000", "200M", "1.5GB"; K, M and G are powers of 1024."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?", value.strip(), re.IGNORECASE)
    if found is None:
        raise click.BadParameter(f"{value!r} is not a size; write bytes, or 200M, 1.5G")
    return int(float(found[1]) * 1024 ** ["", "K", "M", "G"].index(found[2].upper()))


def mode(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Read the rights of a file in octal: "027"."""
    if value is None:
        return None
    if re.fullmatch("0?o?[0-7]{1,3}", value) is None:
        raise click.BadParameter(f"{value!r} is not a mode; write it in octal, like 027")
    return int(value.lstrip("0o") or "0", 8)


def names(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[str]:
    """Read names, separated by commas or given in several options."""
    return list(dict.fromkeys(name.strip() for text in value for name in text.split(",") if name.strip()))


def _text(value: str) -> str:
    if value == "-":
        return sys.stdin.read()
    return Path(value[1:]).read_text(encoding="utf-8") if value.startswith("@") else value
