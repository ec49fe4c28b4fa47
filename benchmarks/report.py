"""From samples to what people read: rows with medians, spread and ratios; as text, Markdown and JSON."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec
from measures import LIMIT, OURS, Figure, Measure, Sample

#: What each of the columns shows.
COLUMNS = (
    "measure",
    "broker",
    "figure",
    "unit",
    "dray",
    "from - to",
    "limit",
    "of the limit",
    "aim",
    "CPU us: dray",
    "limit",
)

HEAD = """\
# Performance

Written by `python benchmarks/run.py --markdown docs/performance.md`; not edited by hand.

{circumstances}. Command: `{command}`.

dray runs with its default settings: at least once, leases renewed and checked, results beside the messages, log level
`warning`. Beside it, in the same run, stands a bare loop over the same driver, which does the least that a queue has to
do: encode, store, fetch in batches, decode, call, delete. It is the limit on this machine. Rounds are interleaved
(dray, limit, dray, limit ...); the table has medians, and the lowest and highest round. *Of the limit* is how much of
the bare loop's speed dray reaches: 1 is as fast, more is faster. That share is worth more than the figures themselves,
which repeat within 20 to 30 % on a machine that does other things too. Each task counts itself outside of dray, by one
byte appended to a file (about 1 us on both sides).
"""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure on one broker, over all rounds. Every sample is kept, in the order of the rounds."""

    measure: str
    place: str
    figure: str
    unit: str
    dray: list[float]
    limit: list[float]
    #: Processor time per call, in microseconds; empty where that says nothing.
    dray_cpu: list[float]
    limit_cpu: list[float]
    #: How much of the limit's speed dray reaches, median of the rounds: 1 is as fast as the bare loop, more is faster.
    ratio: float | None
    aim: float | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one run found, and where."""

    machine: str
    python: str
    sqlite: str
    date: str
    command: str
    rounds: int
    rows: list[Row]
    #: What the figures of each measure do not say.
    caveats: dict[str, str]


def row(measure: Measure, figure: Figure, samples: dict[str, list[Sample]]) -> Row:
    """Sum up the samples of one figure, by side."""
    ours, limit = samples[OURS], samples.get(LIMIT, [])
    # Each round by itself: its two sides met the machine in about the same state.
    ratios = [a.value / b.value if figure.is_rate else b.value / a.value for a, b in zip(ours, limit, strict=False)]
    return Row(
        measure=measure.name,
        place=measure.place,
        figure=figure.name,
        unit=figure.unit,
        dray=[sample.value for sample in ours],
        limit=[sample.value for sample in limit],
        dray_cpu=[sample.cpu for sample in ours if sample.cpu is not None],
        limit_cpu=[sample.cpu for sample in limit if sample.cpu is not None],
        ratio=_middle(ratios),
        aim=figure.aim,
    )


def report(rows: Sequence[Row], measured: Iterable[Measure], rounds: int, command: str) -> Report:
    """Put a run's rows together with the circumstances."""
    return Report(
        machine=f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        sqlite=sqlite3.sqlite_version,
        date=datetime.now(UTC).date().isoformat(),
        command=command,
        rounds=rounds,
        rows=list(rows),
        caveats={measure.name: measure.caveat for measure in measured},
    )


def as_text(found: Report) -> str:
    """Return the table for a terminal."""
    cells = [COLUMNS, *(_cells(row) for row in found.rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 4 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return "\n".join([_circumstances(found), "", *lines])


def as_json(found: Report) -> bytes:
    """Return everything, every sample included."""
    return msgspec.json.format(msgspec.json.encode(found), indent=2)


def as_markdown(found: Report) -> str:
    """Return the page for the documentation."""
    return "\n".join([_head(found), *_table(found), *_caveats(found)])


def _head(found: Report) -> str:
    return HEAD.format(circumstances=_circumstances(found), command=found.command)


def _table(found: Report) -> Iterable[str]:
    yield "| " + " | ".join(COLUMNS) + " |"
    yield "|---|---|---|---|" + "---:|" * (len(COLUMNS) - 4)
    for one in found.rows:
        yield "| " + " | ".join(_cells(one)) + " |"


def _caveats(found: Report) -> Iterable[str]:
    yield from ("", "## What these numbers do not say", "")
    said: dict[str, list[str]] = {}
    for name, caveat in found.caveats.items():
        said.setdefault(caveat, []).append(name)
    for caveat, names in said.items():
        yield f"- **{'; '.join(names)}**: {caveat}"
    yield ""


def _circumstances(found: Report) -> str:
    return (
        f"{found.date}, {found.machine}, {found.python}, SQLite {found.sqlite}, "
        f"median of {found.rounds} round{'s' if found.rounds > 1 else ''}"
    )


def _cells(one: Row) -> tuple[str, ...]:
    return (
        one.measure,
        one.place or "-",
        one.figure,
        one.unit,
        _number(_middle(one.dray)),
        f"{_number(min(one.dray))} - {_number(max(one.dray))}",
        _number(_middle(one.limit)),
        "-" if one.ratio is None else f"{one.ratio:.2f}" if one.ratio >= 0.1 else f"{one.ratio:.3f}",
        _number(one.aim),
        _number(_middle(one.dray_cpu)),
        _number(_middle(one.limit_cpu)),
    )


def _middle(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _number(value: float | None) -> str:
    """Return a number with as many digits as mean something."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
