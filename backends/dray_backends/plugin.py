"""Contribute the built-in result backends, by URL scheme, through the same hook a third party uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dray import hookimpl

dray_api = (1, 0)


@hookimpl
def register_backends(register: Callable[[str, Any], None]) -> None:
    register("memory", "dray_backends.memory:MemoryBackend")
    register("sqlite", "dray_backends.sqlite:SqliteBackend")
