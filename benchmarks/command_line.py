"""What the command lines of both benchmarks have: how words are read, and how people are told how far it is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection


def some_of(text: str, known: Collection[str]) -> list[str]:
    """Return names that are given with commas between them, all of them known."""
    found = text.split(",")
    if unknown := [name for name in found if name not in known]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
    return found


def positive(text: str) -> int:
    """Return a whole number above zero."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def say(text: str) -> None:
    """Show how far it is, to people only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
