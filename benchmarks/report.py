"""From rows to what people read: goals and tables with medians, spread and ratios; as text and Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

import judging
from formats import number, share
from ground import TRAFFIC
from peers.standings import Standings
from rows import Report, Row

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
    "CPU us: dray",
    "limit",
)

HEAD = """\
# Performance

Written by `make bench`; not edited by hand.

{circumstances}. Command: `{command}`.
{left_out}
dray runs with its default settings: at least once, leases renewed and checked, results beside the messages, log level
`warning`. Where the broker keeps no results, they go where they usually do: for RabbitMQ back to the sender (`rpc://`),
for SQS and kombu into Redis, which then also is the store for what those brokers lack (marks of what was cancelled and
of what has run). Beside dray, in the same run, stands a bare loop over the same driver, which does the least that a
queue has to do: encode, store, fetch in batches, decode, call, delete. It is the limit on this machine. Rounds are
interleaved (dray, limit, dray, limit ...); the tables have medians, and the lowest and highest round. What takes long
is measured in the first round only (calls after a long rest, growth on SQLite and PostgreSQL, idleness on SQS). *Of
the limit* is how close dray comes to the bare loop: 1 is as good, more is better, whatever the unit. That share is
worth more than the figures themselves, which repeat within 20 to 30 % on a machine that does other things too. Each
task counts itself outside of dray, by one byte appended to a file (about 1 us on both sides).

Servers run on the same machine and share its processors with whoever is measured, over loopback. None waits for its
disk: Redis without a file, PostgreSQL with `fsync` off, RabbitMQ with persistent messages and confirms. MiniStack
stands in for SQS: how many requests a task costs holds there too, how long they take does not (its long polls look for
messages ten times a second). Slow brokers get fewer tasks. What is said of *dray worker*, of processes, growth, logs
and payloads is of a worker that runs by its own command.

Beside other task queues, by the same means for all: [performance-peers.md](performance-peers.md).
"""

#: The overview: measure, figure and title of each column.
GLANCE = (
    ("enqueue one by one", "rate", "enqueue one by one /s"),
    ("enqueue bulk", "rate", "bulk /s"),
    ("work def", "rate", "work /s"),
    ("work def, results stored", "rate", "results stored /s"),
    ("latency", "start p50", "start p50 ms"),
    ("latency", "result p50", "result p50 ms"),
    ("latency", "result p99", "p99 ms"),
    ("idle worker", "load", "idle % CPU"),
    ("queued task", "size", "bytes queued"),
)


def as_text(found: Report, peers: Standings | None) -> str:
    """Return the table for a terminal, and the goals."""
    cells = [COLUMNS, *(_cells(row) for row in found.rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 4 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    verdicts = list(judging.verdicts(found.rows, peers))
    return "\n".join([_circumstances(found), "", *lines, "", *judging.as_text(verdicts)])


def as_markdown(found: Report, peers: Standings | None) -> str:
    """Return the page for the documentation."""
    goals = judging.as_markdown(list(judging.verdicts(found.rows, peers)), peers)
    return "\n".join([_head(found), *goals, *_glance(found), *_tables(found), *_caveats(found)])


def _head(found: Report) -> str:
    left_out = "".join(f"\nNot measured: {place} ({reason}).\n" for place, reason in found.left_out.items())
    return HEAD.format(circumstances=_circumstances(found), command=found.command, left_out=left_out)


def _glance(found: Report) -> Iterable[str]:
    """Give one line for each broker: dray's medians, and in brackets how close they come to the limit."""
    yield from ("## At a glance", "", "In brackets: of the limit.", "")
    yield "| broker | " + " | ".join(title for _, _, title in GLANCE) + " |"
    yield "|---|" + "---:|" * len(GLANCE)
    by_place: dict[str, dict[tuple[str, str], Row]] = {}
    for one in found.rows:
        if one.place:
            by_place.setdefault(one.place, {})[one.measure, one.figure] = one
    for place, rows in by_place.items():
        yield f"| {place} | " + " | ".join(_brief(rows.get((name, figure))) for name, figure, _ in GLANCE) + " |"


def _brief(one: Row | None) -> str:
    if one is None:
        return "-"
    return number(_middle(one.dray)) + ("" if one.ratio is None else f" ({share(one.ratio)})")


def _tables(found: Report) -> Iterable[str]:
    for part in dict.fromkeys(one.part for one in found.rows):
        rows = [one for one in found.rows if one.part == part]
        if part == TRAFFIC:
            yield from _traffic(rows)
            continue
        # A column in which nothing stands is none.
        lines = [_cells(one) for one in rows]
        shown = [n for n in range(len(COLUMNS)) if n < 6 or any(line[n] != "-" for line in lines)]
        yield from ("", f"## {part}", "")
        for line in (COLUMNS, ["---" if n < 4 else "---:" for n in range(len(COLUMNS))], *lines):
            yield "| " + " | ".join(line[n] for n in shown) + " |"


def _traffic(rows: Sequence[Row]) -> Iterable[str]:
    """Give a line for each broker and what is counted there."""
    titles = {one.measure: f"{one.measure}{'' if one.unit == 'per task' else f', {one.unit}'}" for one in rows}
    yield from ("", f"## {TRAFFIC}", "", "For each task; in brackets what the bare loop needs. Medians.", "")
    yield "| broker | counted | " + " | ".join(titles.values()) + " |"
    yield "|---|---|" + "---:|" * len(titles)
    for place, figure in dict.fromkeys((one.place, one.figure) for one in rows):
        line = {one.measure: one for one in rows if (one.place, one.figure) == (place, figure)}
        cells = (_with_limit(line[measure]) if measure in line else "-" for measure in titles)
        yield f"| {place} | {figure} | " + " | ".join(cells) + " |"


def _with_limit(one: Row) -> str:
    return number(_middle(one.dray)) + (f" ({number(_middle(one.limit))})" if one.limit else "")


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
        f"{found.date}, {found.machine}, {found.python}, {', '.join(found.servers)}, "
        f"median of {found.rounds} round{'s' if found.rounds > 1 else ''}"
    )


def _cells(one: Row) -> tuple[str, ...]:
    return (
        one.measure,
        one.place or "-",
        one.figure,
        one.unit,
        number(_middle(one.dray)),
        f"{number(min(one.dray))} - {number(max(one.dray))}",
        number(_middle(one.limit)),
        "-" if one.ratio is None else share(one.ratio),
        number(_middle(one.dray_cpu)),
        number(_middle(one.limit_cpu)),
    )


def _middle(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
