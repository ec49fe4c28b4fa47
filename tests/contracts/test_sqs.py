"""The sqs:// broker keeps the broker contract, on two servers that err in different places, on both kinds of queues."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from dray import Broker, Url
from dray.testing import BrokerContract
from dray.testing.background import Background
from dray_brokers.sqs import SqsBroker

from ..servers.sqs import MiniStackServer, MotoServer, SqsServer


class SqsContract(BrokerContract):
    """What the runs have in common: queues with a prefix of their own, and loans of whole seconds."""

    lease = 1.0
    many = 600
    options = ""

    def on(self, server: SqsServer) -> SqsBroker:
        return SqsBroker(Url.parse(f"{server.url}&prefix={secrets.token_urlsafe(4)}{self.options}"))

    @pytest.fixture
    def server(self) -> SqsServer:
        raise NotImplementedError

    @pytest.fixture
    def broker(self, server: SqsServer, tmp_path: Path) -> Iterator[Broker]:
        broker = self.on(server)
        broker.open()
        yield broker
        broker.close()

    def cut(self, broker: Broker) -> None:
        assert isinstance(broker, SqsBroker)
        broker._client._client().close()


class TestSqsOnMoto(SqsContract):
    # It looks at every message of a queue for each request.
    many, patience = 100, 30.0
    # In a container it has no lock: polls that race are lent the same messages.
    options = "&receivers=1"

    @pytest.fixture
    def server(self, moto_server: MotoServer) -> SqsServer:
        return moto_server

    # Two of those that race are lent the same message now and then.

    def test_racing_consumers_share_out_every_message_once(self, broker: Broker) -> None:
        self.send(broker, *(f"m{n}" for n in range(self.many)))
        assert len(self._race(*(self.consumer(broker) for _ in range(4)))) == self.many

    def test_racing_connections_share_out_every_message_once(self, broker: Broker) -> None:
        self.send(broker, *(f"m{n}" for n in range(self.many)))
        with self.another(broker) as other:
            assert len(self._race(*(self.consumer(one) for one in (broker, other, broker, other)))) == self.many

    def test_threads_that_publish_at_once_lose_nothing(self, broker: Broker) -> None:
        senders = [Background(partial(self.send, broker, *(f"{n}-{m}" for m in range(25)))) for n in range(4)]
        for sender in senders:
            sender.result()
        assert set(self._race(self.consumer(broker))) == {f"{n}-{m}" for n in range(4) for m in range(25)}


class TestSqsOnMiniStack(SqsContract):
    # It takes a quarter of what SQS takes today.
    options = "&max_bytes=262144"

    @pytest.fixture
    def server(self, ministack_server: MiniStackServer) -> SqsServer:
        return ministack_server


class TestFifoSqsOnMiniStack(SqsContract):
    many, patience = 200, 12.0
    options = "&fifo=yes&max_bytes=262144"

    @pytest.fixture
    def server(self, ministack_server: MiniStackServer) -> SqsServer:
        return ministack_server
