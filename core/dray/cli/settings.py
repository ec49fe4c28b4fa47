"""`dray settings`: every setting with its value, where that comes from, and what it does."""

from __future__ import annotations

import click

from ..settings import Row, Settings, describe
from ..urls import nearest
from .command import command, option
from .exits import Stop
from .session import Session
from .tables import Cell, Styled, show_facts, show_json, show_table


@command(
    "settings",
    examples=[
        ("dray settings --changed", "what is not as it comes"),
        ("dray -A shop.tasks settings retry", "those with 'retry' in their name, as this app has them"),
        ("dray settings worker_lease", "everything about one"),
    ],
)
@click.argument("name", required=False)
@option("--changed", is_flag=True, help="Only those that are set somewhere.")
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def settings(session: Session, name: str | None, changed: bool, as_json: bool) -> None:
    """Show the settings, their values, and where these come from: code, environment, file or default.

    NAME is a setting, or part of the names of several. Passwords are masked.
    """
    conf = session.app.conf
    rows = [row for row in _matching(name) if not changed or conf.origin(row.name) != "default"]
    shown = conf.shown()
    if as_json:
        show_json({"settings": [_facts(row, conf, shown[row.name]) for row in rows]})
    elif len(rows) == 1 and name:
        _show_one(rows[0], conf, shown[rows[0].name])
    elif not rows:
        click.echo("Everything is as it comes: no setting is set anywhere.")
    else:
        show_table(
            ["setting", "value", "from", "what it does"],
            [[row.name, _value(row, shown[row.name]), _origin(row, conf), row.help] for row in rows],
        )


def _matching(name: str | None) -> list[Row]:
    rows = describe()
    if not name:
        return rows
    word = name.lower().removeprefix("dray_").replace("-", "_")
    exact = [row for row in rows if row.name == word]
    found = exact or [row for row in rows if word in row.name or word in row.celery]
    if not found:
        from ..settings import hint

        known = [row.name for row in rows]
        raise Stop(f"no setting is called {name!r}, wholly or in part{hint(word) or nearest(word, known)}")
    return found


def _show_one(row: Row, conf: Settings, value: str) -> None:
    show_facts(
        [
            ("setting", Styled(row.name, "bold")),
            ("what it does", row.help),
            ("value", f"{value} {row.unit}".rstrip() if value != "None" else value),
            ("from", conf.origin(row.name)),
            ("default", row.default),
            ("takes", row.type),
            ("environment", row.environment),
            ("in Celery", row.celery or "nothing like it"),
        ]
    )


def _value(row: Row, value: str) -> Cell:
    text = value if len(value) <= 24 else value[:21] + "..."
    return f"{text} {_short(row.unit)}".rstrip() if value != "None" else text


def _short(unit: str) -> str:
    return {"seconds": "s", "bytes": "bytes"}.get(unit, unit)


def _origin(row: Row, conf: Settings) -> Cell:
    origin = conf.origin(row.name)
    return Styled(origin, "dim") if origin == "default" else Styled(origin, "green")


def _facts(row: Row, conf: Settings, value: str) -> dict[str, str]:
    return {
        "name": row.name,
        "value": value,
        "origin": conf.origin(row.name),
        "default": row.default,
        "unit": row.unit,
        "help": row.help,
        "type": row.type,
        "environment": row.environment,
        "celery": row.celery,
    }
