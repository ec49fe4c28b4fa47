"""The SQLite adapters against the contracts, on real files and the real clock."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from dray import Broker, Url
from dray.testing import BrokerContract, ResultBackendContract
from dray_backends.sqlite import SqliteBackend
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
