"""What a run found: every sample, as it is kept in a file and shown in tables."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec
from ground import LIMIT, MORE_IS_BETTER, OURS, Figure, Measure, Sample


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure on one broker, over all rounds. Every sample is kept, in the order of the rounds."""

    measure: str
    place: str
    figure: str
    unit: str
    #: Of the report.
    part: str
    #: Whether more is better.
    more: bool
    dray: list[float]
    limit: list[float]
    #: Processor time per call, in microseconds; empty where that says nothing.
    dray_cpu: list[float]
    limit_cpu: list[float]
    #: How much of the limit's speed dray reaches, median of the rounds: 1 is as fast as the bare loop, more is faster.
    ratio: float | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one run found, and where."""

    machine: str
    python: str
    #: What ran, with versions.
    servers: list[str]
    #: Why some brokers were not measured.
    left_out: dict[str, str]
    date: str
    command: str
    rounds: int
    rows: list[Row]
    #: What the figures of each measure do not say.
    caveats: dict[str, str]


def row(measure: Measure, figure: Figure, samples: Mapping[str, Sequence[Sample]]) -> Row:
    """Sum up the samples of one figure, by side."""
    ours, limit = samples[OURS], samples.get(LIMIT, [])
    more = figure.unit in MORE_IS_BETTER
    # Each round by itself: its two sides met the machine in about the same state.
    both = [(a.value, b.value) for a, b in zip(ours, limit, strict=False) if a.value > 0 and b.value > 0]
    ratios = [a / b if more else b / a for a, b in both]
    return Row(
        measure=measure.name,
        place=measure.place,
        figure=figure.name,
        unit=figure.unit,
        part=figure.part,
        more=more,
        dray=[sample.value for sample in ours],
        limit=[sample.value for sample in limit],
        dray_cpu=[sample.cpu for sample in ours if sample.cpu is not None],
        limit_cpu=[sample.cpu for sample in limit if sample.cpu is not None],
        ratio=statistics.median(ratios) if ratios else None,
    )


def report(
    rows: Sequence[Row],
    measured: Iterable[Measure],
    rounds: int,
    command: str,
    servers: Iterable[str],
    left_out: Mapping[str, str],
) -> Report:
    """Put a run's rows together with the circumstances."""
    return Report(
        machine=f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        servers=[f"SQLite {sqlite3.sqlite_version}", *servers],
        left_out=dict(left_out),
        date=datetime.now(UTC).date().isoformat(),
        command=command,
        rounds=rounds,
        rows=list(rows),
        caveats={measure.name: measure.caveat for measure in measured},
    )


def as_json(found: Report) -> bytes:
    """Return everything, every sample included."""
    return msgspec.json.format(msgspec.json.encode(found), indent=2)
