"""What people are shown of an exception: one line of it, or its traceback without the engine's own frames."""

from __future__ import annotations

import os
import traceback
from types import TracebackType
from typing import Any

from .report import Failure

_ENGINE = os.path.dirname(__file__) + os.sep


def trace(error: BaseException) -> str:
    """Return the traceback as text, without the engine's own frames above the task's."""
    try:
        return "".join(traceback.format_exception(type(error), error, _users(error.__traceback__)))
    except Exception:
        return f"{type(error).__qualname__} (its traceback cannot be shown)"


def shown(error: BaseException) -> Any:
    """Return an exception as logging shows it, without the engine's frames."""
    return type(error), error, _users(error.__traceback__)


def line(error: BaseException) -> str:
    """Return an exception on one line, whatever its own methods do."""
    found = Failure.of(error)
    return f"{found.qualname}: {found.text}" if found.text else found.qualname


def _users(found: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that begins with the user's own code."""
    while found is not None and found.tb_frame.f_code.co_filename.startswith(_ENGINE):
        found = found.tb_next
    return found
