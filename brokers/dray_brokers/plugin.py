"""Contribute the built-in brokers, by URL scheme, through the same hook a third party uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dray import hookimpl

dray_api = (1, 0)


@hookimpl
def register_brokers(register: Callable[[str, Any], None]) -> None:
    register("memory", "dray_brokers.memory:MemoryBroker")
    register("sqlite", "dray_brokers.sqlite:SqliteBroker")
