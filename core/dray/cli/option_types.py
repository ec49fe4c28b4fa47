"""What the options of commands take: durations, instants, lists of names, JSON."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from ..setting_values import read_seconds


class _Seconds(click.ParamType):
    """A duration: "90", "30s", "5m", "1h30m"; not below zero."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = read_seconds(value)
        except ValueError:
            self.fail(f"{value!r} is not a duration; write seconds, or 30s, 5m, 1h30m", param, ctx)
        if seconds < 0:
            self.fail(f"{value!r} is below zero", param, ctx)
        return seconds


class _Instant(click.ParamType):
    """A date and time in ISO 8601; one without a zone is in UTC."""

    name = "iso time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a time; write 2030-01-31T09:00:00+02:00", param, ctx)


class _SecondsOrInstant(click.ParamType):
    """A duration from now, or a date and time."""

    name = "seconds|iso time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | datetime:
        try:
            return SECONDS.convert(value, param, ctx)
        except click.UsageError:
            try:
                return INSTANT.convert(value, param, ctx)
            except click.UsageError:
                self.fail(
                    f"{value!r} is neither a duration (30s, 5m) nor a time (2030-01-31T09:00:00+02:00)", param, ctx
                )


class _Json(click.ParamType):
    """JSON of one kind, written out, or in a file: "@calls.json"; "-" is stdin."""

    name = "json"

    def __init__(self, kind: type[Any], example: str) -> None:
        self.kind = kind
        self.example = example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, self.kind):
            return value
        try:
            found = json.loads(_text(value))
        except OSError as error:
            self.fail(f"{value[1:]!r} cannot be read: {error.strerror}", param, ctx)
        except (ValueError, RecursionError) as error:
            self.fail(f"that is not JSON: {error}; write {self.example}", param, ctx)
        if not isinstance(found, self.kind):
            self.fail(f"that is JSON, but of another kind; write {self.example}", param, ctx)
        return found


SECONDS = _Seconds()
INSTANT = _Instant()
SECONDS_OR_INSTANT = _SecondsOrInstant()
ARGS = _Json(list, "a list in quotes, --args '[1, \"two\"]', or name a file, --args @args.json")
KWARGS = _Json(dict, "an object in quotes, --kwargs '{\"x\": 1}', or name a file, --kwargs @kwargs.json")


def names(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[str]:
    """Read an option that takes names, separated by commas or given several times; for `callback=`."""
    found = [name.strip() for text in value for name in text.split(",") if name.strip()]
    return list(dict.fromkeys(found))


def _text(value: str) -> str:
    if value == "-":
        return sys.stdin.read()
    return Path(value[1:]).read_text(encoding="utf-8") if value.startswith("@") else value
