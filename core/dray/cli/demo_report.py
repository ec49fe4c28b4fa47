"""What `dray demo` says at the end: what is in the files, and the ledger of who ran what."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from .demo_ledger import Ledger
from .demo_screen import Screen
from .demo_tasks import Facts
from .tables import printable

#: How many of the most used names are shown.
TOP = 10


#: Commands that work as they stand, in any folder that one may write into.
@dataclass(frozen=True, kw_only=True)
class Kill:
    """A worker killed on the way, and the one that was started in its place."""

    at: float
    #: How many tasks were done by then.
    done: int
    #: The process id of the one that took over.
    replacement: int
    #: What it had begun and not ended.
    held: Collection[int]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What is in the files, all together."""

    files: int
    python: int
    text: int
    binary: int
    unreadable: int
    #: Python files that could not be parsed.
    unparsed: int
    lines: int
    words: int
    functions: int
    classes: int
    bytes: int
    biggest: tuple[str, int]
    names: list[tuple[str, int]]


@dataclass(frozen=True, kw_only=True)
class Account:
    """What became of the tasks. Durations are seconds."""

    sent: int
    #: Ended by the ledger, and with a result.
    done: int
    failed: int
    #: Neither done nor failed: must be none.
    lost: int
    run_twice: int
    #: Begun by a worker that did not live to end them.
    cut_short: int
    executions: int
    sending: float
    #: From the start of the first worker to the end of the last task.
    working: float
    tasks_per_second: float
    #: How many tasks were done when a worker was killed; None: none was.
    killed_at: int | None
    #: From the kill until its replacement began its first task.
    recovery: float | None
    #: From the kill until all that the killed one had begun was done.
    caught_up: float | None


def contents(found: Mapping[int, Facts], files: Sequence[Path], root: Path) -> Contents:
    """Add up what the tasks returned."""
    all_facts = found.values()
    kinds = Counter(facts.kind for facts in all_facts)
    names: Counter[str] = Counter()
    for facts in all_facts:
        names.update(facts.names)
    biggest = max(found, key=lambda number: found[number].size, default=None)
    return Contents(
        files=len(found),
        python=kinds["python"],
        text=kinds["text"],
        binary=kinds["binary"],
        unreadable=kinds["unreadable"],
        unparsed=sum(facts.kind == "python" and not facts.parsed for facts in all_facts),
        lines=sum(facts.lines for facts in all_facts),
        words=sum(facts.words for facts in all_facts),
        functions=sum(facts.functions for facts in all_facts),
        classes=sum(facts.classes for facts in all_facts),
        bytes=sum(facts.size for facts in all_facts),
        biggest=("", 0) if biggest is None else (_shown(files[biggest], root), found[biggest].size),
        # Of two names used as often, the first one by the alphabet: the same report every time.
        names=sorted(names.items(), key=lambda pair: (-pair[1], pair[0]))[:TOP],
    )


def account(
    ledger: Ledger, *, sent: int, done: int, failed: int, sending: float, began: float, kill: Kill | None
) -> Account:
    """Settle the account from the ledger; `done` and `failed` are what the results say, `began` when work did."""
    working = max((ledger.last or began) - began, 1e-6)
    return Account(
        sent=sent,
        done=done,
        failed=failed,
        lost=sent - done - failed,
        run_twice=len(ledger.run_twice),
        cut_short=len(ledger.cut_short),
        executions=ledger.executions,
        sending=round(sending, 3),
        working=round(working, 3),
        tasks_per_second=round(done / working, 1),
        killed_at=kill.done if kill else None,
        recovery=_since(kill, ledger.first_of(kill.replacement)) if kill else None,
        caught_up=_since(kill, max(_ended(ledger, kill), default=None)) if kill else None,
    )


def _ended(ledger: Ledger, kill: Kill) -> list[float]:
    return [ledger.ended[number][0].at for number in kill.held if number in ledger.ended]


def _since(kill: Kill, moment: float | None) -> float | None:
    return None if moment is None else round(moment - kill.at, 3)


def as_json(title: str, inside: Contents, ledger: Account) -> dict[str, Any]:
    """Return the report for machines."""
    path, size = inside.biggest
    readable = {"biggest": {"path": path, "bytes": size}, "names": dict(inside.names)}
    return {"directory": title, **asdict(inside), **readable, "ledger": asdict(ledger)}


def show(screen: Screen, inside: Contents, ledger: Account) -> None:
    """Show the report to people, and what to try next."""
    _heading(screen, "In the files")
    kinds = [("Python", inside.python), ("other text", inside.text), ("binary", inside.binary)]
    kinds += [("unreadable", inside.unreadable)] if inside.unreadable else []
    _row(screen, "files", f"{inside.files:,}", ", ".join(f"{number:,} {kind}" for kind, number in kinds))
    _row(screen, "lines", f"{inside.lines:,}", f"{inside.words:,} words")
    broken = f"{inside.unparsed:,} Python file(s) not parsed: broken, or too large"
    _row(screen, "functions", f"{inside.functions:,}", broken if inside.unparsed else "")
    _row(screen, "classes", f"{inside.classes:,}")
    path, size = inside.biggest
    _row(screen, "bytes", f"{inside.bytes:,}", f"biggest: {cut(path, 26)} ({size:,})" if path else "")
    if inside.names:
        screen.line()
        _heading(screen, "Most used names", gap=False)
        rows = (len(inside.names) + 1) // 2
        for row in range(rows):
            pairs = inside.names[row::rows]
            screen.line("  " + "   ".join(f"{cut(name, 21):<21} {number:>12,}" for name, number in pairs))
    _show_account(screen, ledger)
    screen.line()
    _heading(screen, "Try next", gap=False)
    for command, comment in next_steps(launcher()):
        screen.line(f"  {click.style(command, fg='cyan')}" + (f"  # {comment}" if comment else ""))


def next_steps(dray: str) -> tuple[tuple[str, str], ...]:
    """Return what to try next, as commands with a comment each; `dray` is how the command line is called."""
    return (
        (f"{dray} doctor", "what can your queue do?"),
        (r"printf 'import dray\napp = dray.Dray()\n@app.task\ndef hi(): print(42)' >my.py", ""),
        (f"{dray} -A my call my.hi && {dray} -A my worker --burst", "your first task"),
    )


def launcher() -> str:
    """Return how dray is called from here: by name where the shell finds it, else by its path if that is short."""
    path = os.path.relpath(sys.argv[0])
    return "dray" if shutil.which("dray") or len(path) > len(".venv-3.13/bin/dray") else path


def _show_account(screen: Screen, ledger: Account) -> None:
    _heading(screen, "Ledger, kept by the tasks themselves")
    _row(screen, "sent", f"{ledger.sent:,}", f"in {ledger.sending:.2f} s")
    _row(
        screen,
        "done",
        f"{ledger.done:,}",
        f"in {ledger.working:.1f} s",
        "green" if ledger.done == ledger.sent else "red",
    )
    if ledger.failed:
        _row(screen, "failed", f"{ledger.failed:,}", "", "red")
    _row(screen, "run twice", f"{ledger.run_twice:,}", _why_twice(ledger))
    _row(screen, "lost", f"{ledger.lost:,}", "", "red" if ledger.lost else "green")
    _row(screen, "per second", f"{ledger.tasks_per_second:,.0f}")
    if ledger.recovery is not None:
        _row(screen, "recovery", f"{ledger.recovery:.1f} s", "from the kill to the next worker's first task")


def _why_twice(ledger: Account) -> str:
    if not ledger.run_twice:
        return ""
    unsettled = ledger.run_twice - ledger.cut_short
    why = f"{ledger.cut_short:,} cut short"
    return f"{why}, {unsettled:,} done but not yet acknowledged" if unsettled > 0 else why


def _heading(screen: Screen, text: str, gap: bool = True) -> None:
    if gap:
        screen.line()
    screen.line(click.style(text, bold=True))


def _row(screen: Screen, label: str, number: str, note: str = "", colour: str | None = None) -> None:
    shown = click.style(f"{number:>12}", fg=colour, bold=colour is not None)
    screen.line(f"  {label:<12}{shown}   {click.style(note, dim=True) if note else ''}".rstrip())


def _shown(path: Path, root: Path) -> str:
    return printable(os.fsencode(path.relative_to(root)).decode(errors="replace"))


def cut(text: str, width: int) -> str:
    """Return `text`, or the end of it that fits into `width` columns."""
    return text if len(text) <= width else "..." + text[3 - width :]
