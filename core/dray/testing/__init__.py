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
    from .serializer_contract import SerializerContract as SerializerContract

_MODULE_OF = {
    "BrokerContract": "broker_contract",
    "ResultBackendContract": "backend_contract",
    "SerializerContract": "serializer_contract",
}

__all__ = ["BrokerContract", "ResultBackendContract", "SerializerContract"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'dray.testing' has no attribute {name!r}")
    module = f"{__name__}.{_MODULE_OF[name]}"
    if module not in sys.modules:
        import pytest

        # Else a failing contract would say "AssertionError" and nothing else.
        pytest.register_assert_rewrite(module)
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
