"""The rpc:// result backend against the contract, each record sent by one connection and received by another."""

from __future__ import annotations

import logging
import select
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from pika import BasicProperties

from dray import BackendError, BackendUnavailable, BrokerError, Record, ResultBackend, Url
from dray.testing import ResultBackendContract
from dray.testing.background import Background
from dray.testing.faults import wait_until
from dray_backends.rpc import RpcBackend
from dray_brokers.rabbitmq_connection import Session
from dray_brokers.rabbitmq_publisher import Post


def url_of(server: Any) -> Url:
    return Url.parse(f"{server.url}?prefix={uuid4().hex}.")


def opened(url: Url) -> RpcBackend:
    backend = RpcBackend(url)
    backend.open()
    return backend


class RoundTrip(RpcBackend):
    """A backend whose records are stored by another process's, as far as the server can tell."""

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self._worker = RpcBackend(url)

    def open(self) -> None:
        super().open()
        self._worker.open()

    def close(self) -> None:
        super().close()
        self._worker.close()

    def store(self, records: Sequence[Record], ttl: float | None) -> None:
        if records:
            # What is sent last arrives last.
            marker = Record(id=f"marker-{uuid4().hex}", state="", final=True, body=b"")
            sent = [msgspec.structs.replace(each, reply_to=self.address) for each in (*records, marker)]
            self._worker.store(sent, ttl)
            assert super().wait([marker.id], 10)
            self.forget([marker.id])


class TestRpcBackend(ResultBackendContract):
    @pytest.fixture
    def backend(self, rabbitmq_server: Any) -> Iterator[ResultBackend]:
        backend = RoundTrip(url_of(rabbitmq_server))
        backend.open()
        yield backend
        backend.close()


@pytest.fixture
def sender(rabbitmq_server: Any) -> Iterator[RpcBackend]:
    backend = opened(url_of(rabbitmq_server))
    yield backend
    backend.close()


@pytest.fixture
def worker(rabbitmq_server: Any) -> Iterator[RpcBackend]:
    backend = opened(url_of(rabbitmq_server))
    yield backend
    backend.close()


def result(id: str, reply_to: str, body: bytes = b"value") -> Record:
    return Record(id=id, state="SUCCESS", final=True, body=body, reply_to=reply_to)


def test_a_result_comes_to_who_sent_the_task_and_to_no_other(sender: RpcBackend, worker: RpcBackend) -> None:
    worker.store([result("a", sender.address)], 300)
    assert set(sender.wait(["a"], 10)) == {"a"}
    assert worker.fetch(["a"]) == {}


def test_what_a_process_stores_for_itself_is_there_at_once(sender: RpcBackend) -> None:
    sender.store([result("a", sender.address)], 300)
    assert set(sender.fetch(["a"])) == {"a"}


def test_a_result_for_a_process_that_is_gone_is_no_error(sender: RpcBackend, worker: RpcBackend) -> None:
    worker.store([result("a", "dray.reply.gone"), result("b", sender.address)], 300)
    assert set(sender.wait(["b"], 10)) == {"b"}


def test_a_result_that_nobody_asked_for_is_dropped(worker: RpcBackend, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "dray.rpc"):
        worker.store([result("a", "")], 300)
    assert "nobody waits for the result of a" in caplog.text
    assert worker.fetch(["a"]) == {}


def test_what_came_while_the_connection_was_lost_is_there_afterwards(sender: RpcBackend, worker: RpcBackend) -> None:
    assert sender._link is not None
    lost = sender._link
    lost._connection._transport._sock.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: not lost.is_open)
    worker.store([result("a", sender.address)], 300)
    assert set(sender.wait(["a"], 10)) == {"a"}


def test_a_wait_goes_on_when_the_connection_is_lost_under_it(sender: RpcBackend, worker: RpcBackend) -> None:
    waiting = Background(lambda: sender.wait(["a"], 30))
    assert sender._link is not None
    sender._link._connection._transport._sock.shutdown(socket.SHUT_RDWR)
    worker.store([result("a", sender.address)], 300)
    assert set(waiting.result()) == {"a"}


def test_a_queue_that_is_deleted_is_made_again_under_who_waits(
    sender: RpcBackend, worker: RpcBackend, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = Background(lambda: sender.wait(["a"], 30))
    link = worker._link
    assert link is not None
    with link.session() as session:
        session.ask("queue_delete", "deleting", queue=sender.address)
        wait_until(lambda: "deleted on the server, with the results that were in it" in caplog.text)
        # What is sent meanwhile is gone, as the queue was.
        wait_until(lambda: is_there(session, sender.address))
    worker.store([result("a", sender.address)], 300)
    assert set(waiting.result()) == {"a"}


def is_there(session: Session, queue: str) -> bool:
    try:
        session.ask("queue_declare", "looking", queue=queue, passive=True)
    except BrokerError:
        session.renew()
        return False
    return True


def test_a_channel_that_is_closed_is_opened_again_under_who_waits(sender: RpcBackend, worker: RpcBackend) -> None:
    waiting = Background(lambda: sender.wait(["a"], 30))
    link, reading = sender._link, sender._reading
    assert link is not None and reading is not None
    # An ack for nothing: the server closes the channel, and says so on no other.
    link.post(lambda: reading.basic_ack(12345))
    wait_until(lambda: not reading.is_open)
    worker.store([result("a", sender.address)], 300)
    assert set(waiting.result()) == {"a"}


def test_what_comes_while_the_channel_is_being_closed_is_kept(sender: RpcBackend, worker: RpcBackend) -> None:
    link, reading = sender._link, sender._reading
    assert link is not None and reading is not None
    sock = link._connection._transport._sock
    came = threading.Event()

    def close_when_it_has_come() -> None:
        if select.select([sock], [], [], 10)[0]:
            came.set()
        reading.close()

    link.post(close_when_it_has_come)
    worker.store([result("a", sender.address)], 300)
    assert came.wait(10)
    wait_until(lambda: not reading.is_closing)
    assert link.is_open
    assert set(sender._kept.fetch(["a"])) == {"a"}


def test_something_that_is_no_result_is_dropped(
    sender: RpcBackend, worker: RpcBackend, caplog: pytest.LogCaptureFixture
) -> None:
    worker._connected().send([Post("", sender.address, BasicProperties(message_id="x"), b"garbage")])
    worker.store([result("a", sender.address)], 300)
    assert set(sender.wait(["a"], 10)) == {"a"}
    assert "something that is no result" in caplog.text


def test_the_queue_of_a_process_goes_when_it_closes(rabbitmq_server: Any, worker: RpcBackend) -> None:
    gone = opened(url_of(rabbitmq_server))
    address = gone.address
    gone.close()
    link = worker._link
    assert link is not None
    with link.session() as session, pytest.raises(BrokerError, match="NOT_FOUND"):
        session.ask("queue_declare", "looking", queue=address, passive=True)


def test_a_server_that_is_not_there_is_told_in_a_line() -> None:
    backend = RpcBackend(Url.parse("rpc://user:secret@127.0.0.1:1/"))
    with pytest.raises(BackendUnavailable, match="nothing listens there") as refusal:
        backend.open()
    assert "secret" not in str(refusal.value)


def test_a_wrong_password_is_told_in_a_line(rabbitmq_server: Any) -> None:
    url = Url.parse(rabbitmq_server.url.replace("guest:guest", "guest:wrong"))
    with pytest.raises(BackendError, match="check the user name and password"):
        RpcBackend(url).open()
