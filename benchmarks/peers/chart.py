"""A bar chart as SVG, by hand: bars in groups, each group on a scale of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

WIDTH, BAR, GAP, TITLE, LABEL, FIGURE = 860, 20, 8, 44, 190, 90
#: dray and the others, readable on light and on dark ground.
OURS, OTHERS, TEXT, SPREAD = "#d9822b", "#7c93a8", "#808080", "#505050"


class Bar(NamedTuple):
    """One side: its median, and the lowest and highest round."""

    label: str
    value: float
    low: float
    high: float
    #: What stands beside it.
    text: str
    ours: bool = False


class Group(NamedTuple):
    """Bars that can be compared."""

    title: str
    bars: Sequence[Bar]


def as_svg(title: str, note: str, groups: Sequence[Group]) -> str:
    """Return the chart. Bars begin at zero; a thin line goes from the lowest to the highest round."""
    height = TITLE + 24 + sum(TITLE + len(group.bars) * (BAR + GAP) for group in groups)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'role="img" aria-label={quoteattr(title)} font-family="sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        _text(0, 20, title, size=17),
        _text(0, 40, note, size=12),
    ]
    top = TITLE
    for group in groups:
        lines += _group(group, top)
        top += TITLE + len(group.bars) * (BAR + GAP)
    return "\n".join([*lines, "</svg>", ""])


def _group(group: Group, top: int) -> Iterator[str]:
    yield _text(0, top + 30, group.title, size=14)
    most = max((bar.high for bar in group.bars), default=0) or 1
    scale = (WIDTH - LABEL - FIGURE) / most
    for number, bar in enumerate(group.bars):
        y = top + TITLE + number * (BAR + GAP)
        middle, end = y + BAR / 2, LABEL + bar.high * scale
        yield _text(LABEL - 8, y + 15, bar.label, anchor="end")
        yield (
            f'<rect x="{LABEL}" y="{y}" width="{max(bar.value * scale, 1):.1f}" height="{BAR}" '
            f'fill="{OURS if bar.ours else OTHERS}"/>'
        )
        yield (
            f'<line x1="{LABEL + bar.low * scale:.1f}" y1="{middle}" x2="{end:.1f}" y2="{middle}" '
            f'stroke="{SPREAD}" stroke-width="2"/>'
        )
        yield _text(end + 6, y + 15, bar.text)


def _text(x: float, y: float, text: str, *, size: int = 13, anchor: str = "start") -> str:
    look = f'font-size="{size}" text-anchor="{anchor}" fill="{TEXT}"'
    return f'<text x="{x:.0f}" y="{y:.0f}" {look}>{escape(text)}</text>'
