"""The grade card: what a conformance run found out about each adapter, printed when the run ends.

A pytest plugin. It is switched on by `dray.testing.pytest_plugin`, or alone with `pytest_plugins =
["dray.testing.grades"]`, and says nothing in runs without a conformance kit. Works under pytest-xdist, because all it
knows travels in the test reports.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

#: How a skip says that a capability is missing; the rest of the reason names it.
NEEDS = "needs capability: "


@dataclass
class Card:
    """What is known of one subclass of a kit."""

    kit: str
    #: passed, failed and skipped, per section.
    sections: dict[str, Counter[str]] = field(default_factory=dict)
    #: How many tests were skipped for each reason.
    skipped: Counter[str] = field(default_factory=Counter)
    #: What the adapter declares, as JSON. Read only when the card is printed, so that other runs import nothing for it.
    capabilities: str = ""

    def count(self, section: str, outcome: str) -> None:
        self.sections.setdefault(section, Counter())[outcome] += 1

    def total(self, outcome: str) -> int:
        return sum(counts[outcome] for counts in self.sections.values())


class Grades:
    """Collects the outcomes of one run. Registered once per run, by `pytest_configure`."""

    def __init__(self) -> None:
        self.cards: dict[str, Card] = {}

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        found = _kit_and_section(item)
        if found is not None:
            # Travels with every report of this test, to the process that prints the card.
            item.user_properties.append(("dray_contract", ":".join(found)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        known = dict(report.user_properties)
        if "dray_contract" not in known or (report.when != "call" and report.passed):
            return
        kit, section = str(known["dray_contract"]).split(":")
        card = self.cards.setdefault(report.nodeid.rpartition("::")[0], Card(kit))
        card.count(section, report.outcome)
        if report.skipped and isinstance(report.longrepr, tuple):
            card.skipped[report.longrepr[2].removeprefix("Skipped: ")] += 1
        if "dray_capabilities" in known:
            card.capabilities = str(known["dray_capabilities"])

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if place := terminalreporter.config.getoption("--dray-grades", None):
            Path(place).write_text(as_json(self.cards))
        for name, card in self.cards.items():
            terminalreporter.section(f"{card.kit}: {name.rpartition('::')[2]}")
            for line in lines(card):
                terminalreporter.write_line(line, red=line.lstrip().startswith("FAILED"))


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.has_plugin("dray-grades"):
        config.pluginmanager.register(Grades(), "dray-grades")


def as_json(cards: Mapping[str, Card]) -> str:
    """Return grade cards as JSON: what documentation is made from."""
    written = {
        name.rpartition("::")[2]: {
            "kit": card.kit,
            "passed": card.total("passed"),
            "failed": card.total("failed"),
            "skipped": dict(sorted((why.replace(NEEDS, ""), n) for why, n in card.skipped.items())),
            "capabilities": json.loads(card.capabilities) if card.capabilities else None,
        }
        for name, card in sorted(cards.items())
    }
    return json.dumps(written, indent=1) + "\n"


def lines(card: Card) -> list[str]:
    """Return the grade card as text."""
    passed, failed, skipped = (card.total(outcome) for outcome in ("passed", "failed", "skipped"))
    written = [f"{'FAILED: ' if failed else ''}{passed} passed, {failed} failed, {skipped} skipped"]
    written += ["", *(_mark(section, counts) for section, counts in card.sections.items())]
    if card.skipped:
        written += ["", "not tested:"]
        written += [f"  {reason.replace(NEEDS, 'needs ')} ({n})" for reason, n in sorted(card.skipped.items())]
    if card.capabilities:
        written += ["", "what dray makes of its capabilities:", *_supports(card.capabilities)]
    return written


def _mark(section: str, counts: Counter[str]) -> str:
    claimed = counts["passed"] + counts["failed"]
    if counts["failed"]:
        mark = "FAILED"
    elif not claimed:
        mark = "-"
    else:
        mark = "ok, in part" if counts["skipped"] else "ok"
    return f"  {mark:<12} {section:<20} {counts['passed']}/{claimed}"


def _supports(declared: str) -> list[str]:
    import msgspec

    from ..capabilities import Capabilities, resolve

    supports = resolve(msgspec.json.decode(declared, type=Capabilities))
    rows = []
    for how in ("native", "emulated", "refused"):
        rows += _wrapped(f"  {how:<9}", [support.feature for support in supports if support.how == how])
    return rows


def _wrapped(head: str, words: list[str], width: int = 100) -> list[str]:
    if not words:
        return [f"{head} none"]
    rows = [head]
    for word in words:
        if len(rows[-1]) + len(word) > width:
            rows.append(" " * len(head))
        rows[-1] += f" {word},"
    rows[-1] = rows[-1].removesuffix(",")
    return rows


def _kit_and_section(item: pytest.Item) -> tuple[str, str] | None:
    """Return the kit a test comes from and its section, or None for a test that comes from no kit."""
    function = getattr(item, "function", None)
    if function is None or not function.__module__.startswith("dray.testing."):
        return None
    for base in item.cls.__mro__:  # type: ignore[attr-defined]
        if base.__module__.startswith("dray.testing.") and base.__name__.endswith("Contract"):
            section = function.__qualname__.partition(".")[0]
            home = next((each for each in item.cls.__mro__ if each.__name__ == section), base)  # type: ignore[attr-defined]
            return base.__name__, (home.__doc__ or section).partition("\n")[0].rstrip(".")
    return None
