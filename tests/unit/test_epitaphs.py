"""What is written on a dead letter is read again as it was, and fits where brokers keep little."""

from __future__ import annotations

import pytest

from dray.capabilities import LABEL_BYTES
from dray.epitaphs import epitaph, read_epitaph
from dray.labels import Label, put_on, take_off
from dray.report import Failure

TRACEBACK = 'Traceback (most recent call last):\n  File "shop.py", line 7, in charge\nValueError: no\n'


def failure(text: str = "no", traceback: str = TRACEBACK) -> Failure:
    return Failure(module="builtins", qualname="ValueError", text=text, traceback=traceback)


def test_a_reason_and_a_traceback_are_read_as_they_were_written() -> None:
    assert read_epitaph(epitaph(failure("two\n\nlines"))) == ("failed: ValueError: two\n\nlines", TRACEBACK.rstrip())


@pytest.mark.parametrize("traceback", ["", "\n"])
def test_without_a_traceback_the_reason_stands_alone_and_whole(traceback: str) -> None:
    assert epitaph(failure("x" * 5000, traceback)) == "failed: ValueError: " + "x" * 5000


def test_any_other_reason_has_no_traceback() -> None:
    assert read_epitaph("unknown task 'shop.ad'") == ("unknown task 'shop.ad'", "")


@pytest.mark.parametrize("letter", ["x", "ä", "\N{PILE OF POO}"])
def test_what_is_long_is_shortened_so_that_both_fit_on_a_label(letter: str) -> None:
    lines = "".join(f"  {letter * 30} {n}\n" for n in range(500))
    written = epitaph(failure(letter * 5000, lines))
    assert take_off(put_on(Label(reason=written), b"body"))[0].reason == written
    assert len(written.encode()) < LABEL_BYTES - 1024
    reason, traceback = read_epitaph(written)
    assert reason.endswith(f"{letter}...") and traceback.startswith("...\n  ") and traceback.endswith(" 499")
