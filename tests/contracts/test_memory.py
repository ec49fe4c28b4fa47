"""The memory adapters against the contracts, on a clock that moves only when a test moves it."""

from __future__ import annotations

from pathlib import Path

from dray import ManualClock, Url
from dray.testing import BrokerContract, ResultBackendContract, StoreContract
from dray_backends.memory import MemoryBackend
from dray_backends.memory_store import MemoryStore
from dray_brokers.memory import MemoryBroker


class TestMemoryBroker(BrokerContract):
    patience = moment = 0.0

    def make_broker(self, tmp_path: Path) -> MemoryBroker:
        broker = MemoryBroker(Url.parse("memory://"))
        broker.clock = ManualClock()
        return broker


class TestMemoryBackend(ResultBackendContract):
    def make_backend(self, tmp_path: Path) -> MemoryBackend:
        backend = MemoryBackend(Url.parse("memory://"))
        backend.clock = ManualClock()
        return backend


class TestMemoryStore(StoreContract):
    def make_store(self, tmp_path: Path) -> MemoryStore:
        store = MemoryStore(Url.parse("memory://"))
        store.clock = ManualClock()
        return store
