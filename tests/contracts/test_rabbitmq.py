"""The amqp:// broker against the contract, on a real RabbitMQ: classic queues, and quorum queues."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any, ClassVar
from uuid import uuid4

import pytest

from dray import Broker, Url
from dray.testing import BrokerContract
from dray_brokers.rabbitmq import RabbitBroker


def rabbit(server: Any, **options: str) -> RabbitBroker:
    """Return a broker, not yet opened, in a corner of its own of the server."""
    chosen = {"prefix": f"{uuid4().hex}.", **options}
    return RabbitBroker(Url.parse(f"{server.url}?" + "&".join(f"{key}={value}" for key, value in chosen.items())))


def cut_connections(broker: RabbitBroker) -> None:
    """Break the sockets under the broker's connections."""
    for link in (broker._sending, broker._receiving):
        if link is not None and link.is_open:
            assert link._connection is not None
            link._connection._transport._sock.shutdown(socket.SHUT_RDWR)


class TestRabbitClassic(BrokerContract):
    options: ClassVar[dict[str, str]] = {"queue_type": "classic"}

    @pytest.fixture
    def broker(self, rabbitmq_server: Any) -> Iterator[Broker]:
        broker = rabbit(rabbitmq_server, **self.options)
        broker.open()
        yield broker
        broker.close()

    def cut(self, broker: Broker) -> None:
        assert isinstance(broker, RabbitBroker)
        cut_connections(broker)


class TestRabbitQuorum(TestRabbitClassic):
    options: ClassVar[dict[str, str]] = {"queue_type": "quorum"}
