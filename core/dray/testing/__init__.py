"""What dray ships for tests: conformance kits for plugin authors, and fixtures for users' own tests.

    from dray.testing import BrokerContract

    class TestFolderBroker(BrokerContract):
        def make_broker(self, tmp_path):
            return FolderBroker(Url.parse(f"folder://{tmp_path}/q"))

Importing this package imports nothing else: a kit, and pytest with it, is loaded when its name is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend_contract import ResultBackendContract as ResultBackendContract
    from .broker_contract import BrokerContract as BrokerContract
    from .driver import Driver as Driver
    from .enqueued import Enqueued as Enqueued
    from .faults import ExecutionLedger as ExecutionLedger
    from .faults import FlakyBackend as FlakyBackend
    from .faults import FlakyBroker as FlakyBroker
    from .faults import FlakyStore as FlakyStore
    from .faults import wait_until as wait_until
    from .held_clock import HeldClock as HeldClock
    from .memory import memory_app as memory_app
    from .memory import on_memory as on_memory
    from .serializer_contract import SerializerContract as SerializerContract
    from .store_contract import StoreContract as StoreContract

_MODULE_OF = {
    "BrokerContract": "broker_contract",
    "Driver": "driver",
    "Enqueued": "enqueued",
    "ExecutionLedger": "faults",
    "FlakyBackend": "faults",
    "FlakyBroker": "faults",
    "FlakyStore": "faults",
    "HeldClock": "held_clock",
    "ResultBackendContract": "backend_contract",
    "SerializerContract": "serializer_contract",
    "StoreContract": "store_contract",
    "memory_app": "memory",
    "on_memory": "memory",
    "wait_until": "faults",
}

__all__ = [
    "BrokerContract",
    "Driver",
    "Enqueued",
    "ExecutionLedger",
    "FlakyBackend",
    "FlakyBroker",
    "FlakyStore",
    "HeldClock",
    "ResultBackendContract",
    "SerializerContract",
    "StoreContract",
    "memory_app",
    "on_memory",
    "wait_until",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'dray.testing' has no attribute {name!r}")
    module = f"{__name__}.{_MODULE_OF[name]}"
    if name.endswith("Contract") and module not in sys.modules:
        import pytest

        # Else a failing contract would say "AssertionError" and nothing else.
        pytest.register_assert_rewrite(module)
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
