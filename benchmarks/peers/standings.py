"""From samples to what people read: rows with medians, spread, and how dray stands to the fastest peer."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from .table import BEST, CONFIGS, OURS
from .trials import Figure, Measure, Sample

HEAD = """\
# Performance beside other task queues

Written by `{written_by}`; not edited by hand. Beside bare loops over the same drivers:
[performance.md](performance.md).

{circumstances}

![Worker throughput of dray and its peers](performance-peers.svg)

Every library runs by its own worker command, in an environment of its own with pinned versions, on the same servers,
one after the other: rounds are interleaved (dray, peer, peer, ..., dray, peer ...). The tables have medians, and the
lowest and highest round. What has run is counted outside of all of them in the same way, by one byte that each task
appends to a file (about 1 us). *Default* is a library as it comes, with as many processes and log lines as that means;
*best* is the fastest configuration known of it in **one process**, see the table of configurations. dray's *best* has
its default settings and `-l warning`: at least once, leases renewed and checked. The peers have hiredis and uvloop
installed where they can use them; dray is as `pip install` leaves it. Ratios are of dray's best to whichever peer and
configuration did best in that line, median of the rounds: 2 is twice as fast, whatever the unit. Figures repeat within
20 to 30 % on a machine that does other things too: differences below a third mean nothing.

Servers run on the same machine and share its processors with whoever is measured, over loopback. None waits for its
disk: Redis without a file, PostgreSQL with `fsync` off. Slow libraries get fewer tasks, so that a trial takes seconds.
"""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of one side in one configuration. Every sample is kept, in the order of the rounds."""

    name: str
    config: str
    values: list[float]
    #: Processor time per task in microseconds; empty where that says nothing.
    cpu: list[float]

    @property
    def middle(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.values)

    @property
    def label(self) -> str:
        """Name and configuration, for people."""
        return f"{self.name}, {self.config}"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure on one broker: everybody who was measured, in the order of the round."""

    measure: str
    place: str
    figure: str
    unit: str
    #: Whether more is better.
    more: bool
    standings: list[Standing]
    #: The peer that did best, and how many times better dray did; None without dray or a peer.
    fastest: Standing | None
    ratio: float | None

    @property
    def ours(self) -> Standing | None:
        """dray, in its best configuration if that was measured."""
        return next(iter(self.of(OURS)), None)

    def of(self, name: str) -> list[Standing]:
        """Return what a library reached, its best configuration first."""
        return sorted((one for one in self.standings if one.name == name), key=lambda one: one.config != BEST)


class Standings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one run found, and where."""

    machine: str
    python: str
    servers: list[str]
    #: By library: what was installed, and what its configurations are.
    versions: dict[str, dict[str, str]]
    configs: dict[str, dict[str, str]]
    #: Why some did not take part, or failed.
    left_out: dict[str, str]
    date: str
    command: str
    rounds: int
    rows: list[Row]
    #: What the figures of each measure do not say.
    caveats: dict[str, str]


#: By library and configuration, a sample for each round.
Samples = Mapping[tuple[str, str], Sequence[Sample]]


def row(measure: Measure, place: str, figure: Figure, samples: Samples) -> Row:
    """Sum up the samples of one figure on one broker."""
    standings = [
        Standing(
            name=name,
            config=config,
            values=[sample.value for sample in found],
            cpu=[sample.cpu for sample in found if sample.cpu is not None],
        )
        for (name, config), found in samples.items()
        if found
    ]
    made = Row(
        measure=measure.name,
        place=place,
        figure=figure.name,
        unit=figure.unit,
        more=figure.more,
        standings=standings,
        fastest=None,
        ratio=None,
    )
    peers = [one for one in standings if one.name != OURS]
    if not peers:
        return made
    fastest = (max if figure.more else min)(peers, key=lambda one: one.middle)
    return msgspec.structs.replace(made, fastest=fastest, ratio=_ratio(made.ours, fastest, figure.more))


def _ratio(ours: Standing | None, peer: Standing, more: bool) -> float | None:
    """Return how many times better dray did. Each round by itself: both met the machine in about the same state."""
    if ours is None:
        return None
    both = [(a, b) for a, b in zip(ours.values, peer.values, strict=False) if a > 0 and b > 0]
    return statistics.median(a / b if more else b / a for a, b in both) if both else None


def standings(
    rows: Sequence[Row],
    measured: Iterable[Measure],
    installed: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]],
    servers: Iterable[str],
    left_out: Mapping[str, str],
    rounds: int,
    command: str,
) -> Standings:
    """Put a run's rows together with the circumstances; `installed` has versions and configurations by library."""
    return Standings(
        machine=f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        servers=[f"SQLite {sqlite3.sqlite_version}", *servers],
        versions={name: dict(versions) for name, (versions, _) in installed.items()},
        configs={name: dict(configs) for name, (_, configs) in installed.items()},
        left_out=dict(left_out),
        date=datetime.now(UTC).date().isoformat(),
        command=command,
        rounds=rounds,
        rows=list(rows),
        caveats={measure.name: measure.caveat for measure in measured},
    )


def as_json(found: Standings) -> bytes:
    """Return everything, every sample included."""
    return msgspec.json.format(msgspec.json.encode(found), indent=2)


def as_text(found: Standings) -> str:
    """Return the tables for a terminal."""
    lines = [_circumstances(found), ""]
    for one in found.rows:
        lines += [f"{_title(one)}", *(f"  {' '.join(_padded(one, standing))}" for standing in one.standings)]
        lines += [f"  dray is {ratio(one.ratio)} times {one.fastest.label}"] if one.ratio and one.fastest else []
    return "\n".join(lines)


def as_markdown(found: Standings, written_by: str) -> str:
    """Return the page for the documentation."""
    circumstances = _wrapped(f"{_circumstances(found)}. Command: `{found.command}`.")
    head = HEAD.format(written_by=written_by, circumstances=circumstances)
    return "\n".join([head, *_missing(found), *_glance(found), *_tables(found), *_configs(found), *_caveats(found)])


def _missing(found: Standings) -> Iterator[str]:
    for who, why in found.left_out.items():
        yield _wrapped(f"Not measured: {who} ({why}).")
        yield ""


def _glance(found: Standings) -> Iterator[str]:
    """Give a line for each figure: dray, the fastest peer, and the ratio."""
    yield from ("## At a glance", "", "| | broker | figure | dray | fastest peer | | dray is |")
    yield "|---|---|---|---:|---:|---|---:|"
    for one in found.rows:
        if one.ours and one.fastest and one.ratio:
            cells = (
                one.measure,
                one.place,
                f"{one.figure}, {one.unit}",
                number(one.ours.middle),
                number(one.fastest.middle),
                one.fastest.label,
                f"{ratio(one.ratio)}×",
            )
            yield f"| {' | '.join(cells)} |"


def _tables(found: Standings) -> Iterator[str]:
    """Give a table for each measure: its sides as lines, its figures as columns."""
    by_table: dict[tuple[str, str], list[Row]] = {}
    for one in found.rows:
        by_table.setdefault((one.measure, one.place), []).append(one)
    for (measure, place), rows in by_table.items():
        yield from ("", f"## {measure}, {place}", "")
        titles = [title for one in rows for title in _columns(one)]
        yield f"| | configuration | {' | '.join(titles)} |"
        yield f"|---|---|{'---:|' * len(titles)}"
        for side in dict.fromkeys((one.name, one.config) for row in rows for one in row.standings):
            cells = [cell for one in rows for cell in _cells(one, side)]
            yield f"| {side[0]} | {side[1]} | {' | '.join(cells)} |"


def _columns(one: Row) -> list[str]:
    """Return the columns of a figure: processor time where any side has it."""
    return [f"{one.figure}, {one.unit}", "from - to", *(["CPU us"] if _has_cpu(one) else [])]


def _cells(one: Row, side: tuple[str, str]) -> list[str]:
    """Return what stands in those columns for one side."""
    standing = next((found for found in one.standings if (found.name, found.config) == side), None)
    if standing is None:
        return ["-"] * len(_columns(one))
    spread = f"{number(min(standing.values))} - {number(max(standing.values))}"
    cpu = [number(statistics.median(standing.cpu)) if standing.cpu else "-"] if _has_cpu(one) else []
    return [number(standing.middle), spread, *cpu]


def _has_cpu(one: Row) -> bool:
    return any(standing.cpu for standing in one.standings)


def _configs(found: Standings) -> Iterator[str]:
    """Give what was installed, and what the configurations are."""
    yield from ("", "## Configurations", "", "| | versions | default | best |", "|---|---|---|---|")
    for name, versions in found.versions.items():
        said = ", ".join(f"{package} {version}" for package, version in versions.items())
        yield f"| {name} | {said} | {' | '.join(found.configs[name].get(config, '-') for config in CONFIGS)} |"


def _caveats(found: Standings) -> Iterator[str]:
    yield from ("", "## What these numbers do not say", "")
    said: dict[str, list[str]] = {}
    for name, caveat in found.caveats.items():
        said.setdefault(caveat, []).append(name)
    for caveat, names in said.items():
        yield _wrapped(f"- **{'; '.join(names)}**: {caveat}", "  ")
    yield ""


def _wrapped(text: str, indent: str = "") -> str:
    """Return a paragraph in lines of 120 characters, those after the first one indented."""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _circumstances(found: Standings) -> str:
    rounds = f"median of {found.rounds} rounds" if found.rounds > 1 else "one round"
    return f"{found.date}, {found.machine}, {found.python}, {', '.join(found.servers)}, {rounds}"


def _title(one: Row) -> str:
    return f"{one.measure}, {one.place}: {one.figure}, {one.unit}"


def _padded(one: Row, standing: Standing) -> Iterator[str]:
    for cell, width in zip(_cells(one, (standing.name, standing.config)), (10, 20, 8), strict=False):
        yield cell.rjust(width)
    yield standing.label


def number(value: float) -> str:
    """Return a number with as many digits as mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def ratio(value: float) -> str:
    """Return a ratio with as many digits as mean something."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
