"""How numbers are written for people."""

from __future__ import annotations


def number(value: float | None) -> str:
    """Return a number with as many digits as mean something."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 or not value else f"{value:.4f}"


def share(ratio: float) -> str:
    """Return a part of one, or a multiple."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3f}"


def times(ratio: float) -> str:
    """Return how many times as good something is."""
    return f"{ratio:.0f}×" if ratio >= 20 else f"{ratio:.1f}×" if ratio >= 1 else f"{ratio:.2f}×"


def bound(value: float) -> str:
    """Return a number that somebody has set, as he did."""
    return f"{value:,g}" if value < 1e6 else f"{value:,.0f}"


def anchor(heading: str) -> str:
    """Return how GitHub calls a heading in links."""
    return "".join(letter for letter in heading.lower() if letter.isalnum() or letter in "_- ").replace(" ", "-")
