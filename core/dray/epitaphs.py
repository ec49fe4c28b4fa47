"""What is written on a dead letter: why, as a line for lists, and below it the traceback of what failed.

Both travel in the `reason` of `Consumer.bury`, because every broker keeps that for as long as it keeps the letter; what
the result backend knows of a failure is gone after `result_expires`.
"""

from __future__ import annotations

from .report import Failure

#: What stands between the reason and the traceback.
_MARK = "\n\nthe traceback in the worker was:\n"
#: Most bytes (UTF-8) of the reason of a failure and of its traceback: brokers without room of their own for a reason
#: keep 3 kB of it.
_MOST_REASON, _MOST_TRACEBACK = 900, 2000


def epitaph(failure: Failure) -> str:
    """Return what is written on the letter of a task that has failed for good."""
    reason = f"failed: {failure.qualname}: {failure.text}"
    if not failure.traceback.strip():
        return reason
    # A traceback says what matters at its end.
    return _beginning(reason, _MOST_REASON) + _MARK + _ending(failure.traceback.rstrip(), _MOST_TRACEBACK)


def read_epitaph(written: str) -> tuple[str, str]:
    """Return the reason and the traceback ("" where there is none) that are written on a letter."""
    reason, _, traceback = written.partition(_MARK)
    return reason, traceback


def _beginning(text: str, most: int) -> str:
    told = text.encode()
    return text if len(told) <= most else told[:most].decode(errors="ignore") + "..."


def _ending(text: str, most: int) -> str:
    told = text.encode()
    if len(told) <= most:
        return text
    # Whole lines: half of one would be misread.
    _, _, whole = told[-most:].decode(errors="ignore").partition("\n")
    return "...\n" + whole
