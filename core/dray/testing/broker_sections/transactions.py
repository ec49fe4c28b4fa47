"""Transactions: what is sent within one of the caller's exists when the caller commits, and never when not."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from ...broker import Broker
from ...errors import BrokerError, NotSupported, PublishError
from ..background import HANGS, Background
from .kit import LONG, BrokerKit, envelope, ids, needs


class Transactions(BrokerKit):
    """transactions"""

    def caller_connection(self, broker: Broker) -> Any:
        """Return a connection of the broker's own driver to the same place: in no transaction, and not in autocommit.

        It is closed by the test. Only asked for when the broker declares `transactional`.
        """
        raise NotImplementedError("say how the caller connects: def caller_connection(self, broker): return ...")

    def test_what_is_no_connection_is_refused(self, broker: Broker) -> None:
        if broker.capabilities.transactional:
            with pytest.raises(BrokerError, match="Stranger"):
                broker.publish_within(Stranger(), [envelope("a")])
        else:
            with pytest.raises(NotSupported):
                broker.publish_within(Stranger(), [envelope("a")])

    def test_what_is_sent_comes_out_after_the_commit(self, broker: Broker) -> None:
        needs(broker, "transactional")
        with closing(self.caller_connection(broker)) as connection:
            broker.publish_within(connection, [envelope("a", body=b"\x00bytes", attempt=3)])
            connection.commit()
            (delivery,) = self.take(self.consumer(broker))
        assert (delivery.id, delivery.queue, delivery.body, delivery.attempt) == ("a", "q", b"\x00bytes", 3)

    def test_what_is_sent_does_not_come_out_before_the_commit(self, broker: Broker) -> None:
        needs(broker, "transactional")
        consumer = self.consumer(broker)
        with closing(self.caller_connection(broker)) as connection:
            broker.publish_within(connection, [envelope("a")])
            assert self.left(consumer) == []
            connection.commit()
            assert ids(self.take(consumer)) == ["a"]

    def test_what_is_rolled_back_never_was(self, broker: Broker) -> None:
        needs(broker, "transactional")
        with closing(self.caller_connection(broker)) as connection:
            broker.publish_within(connection, [envelope("a"), envelope("b", delay=self.lease)])
            connection.rollback()
        self.pass_time(broker, self.lease * 1.5)
        assert self.left(self.consumer(broker)) == []
        if broker.capabilities.find:
            assert broker.find(["a", "b"]) == {}

    def test_a_connection_that_ends_without_a_commit_sends_nothing(self, broker: Broker) -> None:
        needs(broker, "transactional")
        with closing(self.caller_connection(broker)) as connection:
            broker.publish_within(connection, [envelope("a")])
        assert self.left(self.consumer(broker)) == []

    def test_what_was_rolled_back_can_be_sent_again(self, broker: Broker) -> None:
        needs(broker, "transactional")
        with closing(self.caller_connection(broker)) as connection:
            broker.publish_within(connection, [envelope("a", body=b"first")])
            connection.rollback()
            broker.publish_within(connection, [envelope("a", body=b"second")])
            connection.commit()
        consumer = self.consumer(broker)
        assert [each.body for each in self.take(consumer)] == [b"second"]
        assert self.left(consumer) == []

    def test_several_sends_are_one_transaction(self, broker: Broker) -> None:
        needs(broker, "transactional")
        with closing(self.caller_connection(broker)) as connection:
            broker.publish_within(connection, [envelope("a", "first"), envelope("b", "second")])
            broker.publish_within(connection, [envelope("c", "first")])
            connection.commit()
        assert sorted(ids(self.take(self.consumer(broker, "first", "second"), 3))) == ["a", "b", "c"]

    def test_a_large_batch_keeps_its_order(self, broker: Broker) -> None:
        needs(broker, "transactional")
        needs(broker, "fifo")
        sent = [f"m{n}" for n in range(300)]
        with closing(self.caller_connection(broker)) as connection:
            broker.publish_within(connection, [envelope(id) for id in sent])
            connection.commit()
        assert ids(self.take(self.consumer(broker), 300)) == sent

    def test_an_empty_batch_sends_nothing(self, broker: Broker) -> None:
        needs(broker, "transactional")
        with closing(self.caller_connection(broker)) as connection:
            broker.publish_within(connection, [])
            connection.commit()
        assert self.left(self.consumer(broker)) == []

    def test_delays_and_priorities_are_kept(self, broker: Broker) -> None:
        needs(broker, "transactional")
        needs(broker, "max_delay", LONG)
        needs(broker, "priority_levels", 10)
        batch = [envelope("low"), envelope("high", priority=9), envelope("later", delay=LONG)]
        with closing(self.caller_connection(broker)) as connection:
            broker.publish_within(connection, batch)
            connection.commit()
        consumer = self.consumer(broker)
        assert ids(self.take(consumer, 2)) == ["high", "low"]
        assert self.left(consumer) == []

    def test_what_is_stored_already_is_left_as_it_is(self, broker: Broker) -> None:
        needs(broker, "transactional")
        needs(broker, "dedup")
        self.send(broker, envelope("a", body=b"first"))
        with closing(self.caller_connection(broker)) as connection:
            broker.publish_within(connection, [envelope("a", body=b"second")])
            connection.commit()
        consumer = self.consumer(broker)
        assert [each.body for each in self.take(consumer)] == [b"first"]
        assert self.left(consumer) == []

    def test_a_waiting_receive_wakes_when_the_caller_commits(self, broker: Broker) -> None:
        needs(broker, "transactional")
        consumer = self.consumer(broker)
        with closing(self.caller_connection(broker)) as connection:
            broker.publish_within(connection, [envelope("a")])
            waiting = Background(lambda: consumer.receive(1, HANGS / 2))
            connection.commit()
            assert ids(waiting.result()) == ["a"]

    def test_what_is_refused_takes_nothing_else_with_it(self, broker: Broker) -> None:
        needs(broker, "transactional")
        needs(broker, "max_message_bytes")
        body = b"x" * ((broker.capabilities.max_message_bytes or 0) + 1)
        with closing(self.caller_connection(broker)) as connection:
            with pytest.raises(PublishError) as refusal:
                broker.publish_within(connection, [envelope("before"), envelope("fat", body=body), envelope("after")])
            assert list(refusal.value.rejected) == ["fat"]
            connection.commit()
        assert sorted(ids(self.take(self.consumer(broker), 2))) == ["after", "before"]


class Stranger:
    """No connection of any driver."""
