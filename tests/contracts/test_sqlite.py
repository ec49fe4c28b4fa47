"""The SQLite adapters against the contracts, on real files and the real clock."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from dray import Broker, Store, Url
from dray.testing import BrokerContract, ResultBackendContract, StoreContract
from dray_backends.sqlite import SqliteBackend
from dray_backends.sqlite_store import SqliteStore
from dray_brokers.sqlite import SqliteBroker


class TestSqliteBroker(BrokerContract):
    def make_broker(self, tmp_path: Path) -> SqliteBroker:
        return SqliteBroker(Url.parse(f"sqlite:///{tmp_path}/queue.db"))

    def cut(self, broker: Broker) -> None:
        assert isinstance(broker, SqliteBroker)
        broker._file.close()

    def caller_connection(self, broker: Broker) -> sqlite3.Connection:
        assert isinstance(broker, SqliteBroker)
        return sqlite3.connect(broker._file.path)


class TestSqliteBackend(ResultBackendContract):
    def make_backend(self, tmp_path: Path) -> SqliteBackend:
        return SqliteBackend(Url.parse(f"sqlite:///{tmp_path}/results.db"))


class TestSqliteStore(StoreContract):
    def make_store(self, tmp_path: Path) -> SqliteStore:
        return SqliteStore(Url.parse(f"sqlite:///{tmp_path}/records.db?synchronous=full"))

    def cut(self, store: Store) -> None:
        assert isinstance(store, SqliteStore)
        store._file.close()
