"""The kombu bridge against the contract, on the five transports that can be had here."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dray import Broker, Url
from dray.testing import BrokerContract
from dray_brokers.kombu import KombuBroker


def kombu(text: str) -> KombuBroker:
    return KombuBroker(Url.parse(text))


class TestKombuMemory(BrokerContract):
    def make_broker(self, tmp_path: Path) -> KombuBroker:
        # All of a process's kombu+memory:// brokers see the same queues.
        return kombu(f"kombu+memory://?prefix={uuid4().hex}.")


class TestKombuFilesystem(BrokerContract):
    #: Every fetch reads the whole folder.
    many = 300

    def make_broker(self, tmp_path: Path) -> KombuBroker:
        return kombu(f"kombu+filesystem://{tmp_path}/queues")


# What kombu 5.7 uses of SQLAlchemy is deprecated since SQLAlchemy 2.1.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
class TestKombuSqlalchemy(BrokerContract):
    many = 300

    def make_broker(self, tmp_path: Path) -> KombuBroker:
        return kombu(f"kombu+sqla+sqlite:///{tmp_path}/queues.db?poll=0.02")


class TestKombuRedis(BrokerContract):
    @pytest.fixture
    def broker(self, redis_server: Any):
        broker = kombu(f"kombu+{redis_server.url}?transport.global_keyprefix={uuid4().hex}:")
        broker.open()
        yield broker
        broker.close()

    def cut(self, broker: Broker) -> None:
        assert isinstance(broker, KombuBroker)
        broker._link._channel.pool.disconnect()


class TestKombuAmqp(BrokerContract):
    @pytest.fixture
    def broker(self, rabbitmq_server: Any):
        broker = kombu(f"kombu+{rabbitmq_server.url}?prefix={uuid4().hex}.")
        broker.open()
        yield broker
        broker.close()

    def cut(self, broker: Broker) -> None:
        assert isinstance(broker, KombuBroker)
        broker._link._connection.connection.transport.sock.close()
