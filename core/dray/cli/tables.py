"""Show rows, facts and JSON on stdout: tables by rich on a terminal where it is installed, plain text otherwise."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import click

if TYPE_CHECKING:
    from ..capabilities import Support


class Styled(NamedTuple):
    """A cell with a colour: a colour's name, "dim" or "bold"."""

    text: str
    style: str


#: What stands in a table.
Cell = str | Styled

#: How the state of a task, a plugin or a check is coloured.
STYLES = {
    "SUCCESS": "green",
    "FAILURE": "red",
    "REJECTED": "red",
    "REVOKED": "yellow",
    "EXPIRED": "yellow",
    "RETRY": "yellow",
    "UNKNOWN": "red",
    "loaded": "green",
    "disabled": "yellow",
    "failed": "red",
    "incompatible": "red",
    "native": "green",
    "emulated": "yellow",
    "refused": "red",
}


def coloured(word: str) -> Cell:
    """Return a state as a cell in its colour."""
    return Styled(word, STYLES[word]) if word in STYLES else word


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, right: Sequence[str] = ()) -> None:
    """Print rows under headings; the columns named in `right` hold numbers. The last column may be wrapped."""
    cells = [[_cell(cell) for cell in row] for row in rows]
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and _by_rich(columns, cells, right):
        return
    widths = [max(len(name), *(len(row[n].text) for row in cells), 0) for n, name in enumerate(columns)]
    heads = [Styled(name.upper(), "bold") for name in columns]
    for row in [heads, *cells]:
        parts = [
            _padded(cell, 0 if n == len(columns) - 1 and columns[n] not in right else widths[n], columns[n] in right)
            for n, cell in enumerate(row)
        ]
        click.echo("  ".join(parts).rstrip())


def show_support(support: Iterable[Support]) -> None:
    """Print how each feature is had on one broker, and what that means."""
    show_table(
        ["feature", "how", "what that means"],
        [[row.feature, coloured(row.how), Styled(row.note, "dim")] for row in support],
    )


def show_facts(facts: Iterable[tuple[str, Cell]], *, indent: str = "", file: TextIO | None = None) -> None:
    """Print names with their values, one below the other; those without a value are left out."""
    told = [(name, cell) for name, value in facts if (cell := _cell(value, lines=True)).text]
    width = max((len(name) for name, _ in told), default=0)
    for name, cell in told:
        first, *more = cell.text.splitlines()
        lead = click.style(f"{name:<{width}}", dim=True)
        click.echo(f"{indent}{lead}  {_style(Styled(first, cell.style))}", file=file)
        for line in more:
            click.echo(f"{indent}{'':<{width}}  {_style(Styled(line, cell.style))}", file=file)


def show_json(data: Any) -> None:
    """Print `data` as JSON, for machines; what JSON does not know is shown as text."""
    click.echo(json.dumps(data, indent=2, default=str))


def printable(text: str) -> str:
    """Return `text` without what could move a terminal's cursor: messages come from anywhere."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cell(cell: Cell, lines: bool = False) -> Styled:
    text, style = (cell, "") if isinstance(cell, str) else cell
    clean = "\n".join(map(printable, text.splitlines())) if lines else printable(text)
    return Styled(clean, style)


def _padded(cell: Styled, width: int, right: bool) -> str:
    pad = " " * (width - len(cell.text))
    return pad + _style(cell) if right else _style(cell) + pad


def _style(cell: Styled) -> str:
    if not cell.style or not cell.text:
        return cell.text
    if cell.style in ("dim", "bold"):
        return click.style(cell.text, **{cell.style: True})
    return click.style(cell.text, fg=cell.style)


def _by_rich(columns: Sequence[str], rows: Sequence[Sequence[Styled]], right: Sequence[str]) -> bool:
    """Print a table with rich; return False where it is not installed."""
    try:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for n, name in enumerate(columns):
        # Only the last column gives way when the terminal is narrow: a cut id is of no use to anybody.
        table.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=n < len(columns) - 1,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(cell.text, style=cell.style) for cell in row))
    Console().print(table)
    return True
