"""Leases: a loan ends by itself, can be renewed, and what was lost to another cannot be settled any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from ...broker import Broker, Consumer
from ...message import Delivery
from .kit import BrokerKit, ids, needs

#: How many of the subclass's leases one lasts that is to be renewed in time, whatever else the machine does.
RENEWED = 5
#: Each verb, as called by a worker that comes too late.
VERBS: dict[str, Callable[[Consumer, Sequence[Delivery]], Sequence[Delivery]]] = {
    "ack": lambda consumer, late: consumer.ack(late),
    "requeue": lambda consumer, late: consumer.requeue(late),
    "release": lambda consumer, late: consumer.release(late),
    "bury": lambda consumer, late: consumer.bury(late, "too late"),
    "extend": lambda consumer, late: consumer.extend(late, 300.0),
}


class Leases(BrokerKit):
    """leases"""

    def test_what_is_lent_is_not_lent_again(self, broker: Broker) -> None:
        self.send(broker, "a")
        self.take(self.consumer(broker))
        assert self.left(self.consumer(broker)) == []

    def test_a_loan_that_runs_out_comes_back_to_another_consumer(self, broker: Broker) -> None:
        needs(broker, "lease")
        self.send(broker, "a")
        self.take(self.consumer(broker, lease=self.lease))
        self.pass_time(broker, self.lease * 1.5)
        assert ids(self.take(self.consumer(broker))) == ["a"]

    def test_a_loan_that_runs_out_comes_back_to_the_same_consumer(self, broker: Broker) -> None:
        needs(broker, "lease")
        self.send(broker, "a")
        consumer = self.consumer(broker, lease=self.lease)
        self.take(consumer)
        self.pass_time(broker, self.lease * 1.5)
        assert ids(self.take(consumer)) == ["a"]

    def test_a_loan_that_runs_out_comes_back_through_another_connection(self, broker: Broker) -> None:
        needs(broker, "lease")
        self.send(broker, "a")
        self.take(self.consumer(broker, lease=self.lease))
        self.pass_time(broker, self.lease * 1.5)
        with self.another(broker) as other:
            assert ids(self.take(self.consumer(other))) == ["a"]

    def test_loans_of_a_whole_batch_run_out_together(self, broker: Broker) -> None:
        needs(broker, "lease")
        self.send(broker, *(f"m{n}" for n in range(20)))
        self.take(self.consumer(broker, lease=self.lease), 20)
        self.pass_time(broker, self.lease * 1.5)
        assert len(self.take(self.consumer(broker), 20)) == 20

    def test_a_loan_that_runs_out_was_counted(self, broker: Broker) -> None:
        needs(broker, "lease")
        needs(broker, "delivery_count")
        self.send(broker, "poison")
        counts = []
        for _ in range(3):
            (delivery,) = self.take(self.consumer(broker, lease=self.lease))
            counts.append(delivery.delivery_count)
            self.pass_time(broker, self.lease * 1.5)
        assert counts == [1, 2, 3]

    def test_a_renewed_loan_goes_on(self, broker: Broker) -> None:
        needs(broker, "lease")
        self.send(broker, "a")
        consumer = self.consumer(broker, lease=self.lease * RENEWED)
        lent = self.take(consumer)
        assert list(consumer.extend(lent, 300.0)) == []
        self.pass_time(broker, self.lease * (RENEWED + 1))
        assert self.left(self.consumer(broker)) == []
        assert list(consumer.ack(lent)) == []

    def test_a_loan_may_be_renewed_again_and_again(self, broker: Broker) -> None:
        needs(broker, "lease")
        self.send(broker, "a")
        consumer = self.consumer(broker, lease=self.lease * RENEWED)
        lent = self.take(consumer)
        for seconds in (self.lease * RENEWED, self.lease * (RENEWED + 1), 300.0):
            assert list(consumer.extend(lent, seconds)) == []
        self.pass_time(broker, self.lease * (RENEWED + 1.5))
        assert self.left(self.consumer(broker)) == []

    def test_a_renewed_loan_lasts_from_now_and_then_runs_out(self, broker: Broker) -> None:
        needs(broker, "lease")
        self.send(broker, "a")
        consumer = self.consumer(broker)
        assert list(consumer.extend(self.take(consumer), self.lease)) == []
        self.pass_time(broker, self.lease * 1.5)
        assert ids(self.take(self.consumer(broker))) == ["a"]

    def test_renewing_one_loan_does_not_renew_another(self, broker: Broker) -> None:
        needs(broker, "lease")
        self.send(broker, "a", "b")
        consumer = self.consumer(broker, lease=self.lease * RENEWED)
        first, second = self.take(consumer, 2)
        consumer.extend([first], 300.0)
        self.pass_time(broker, self.lease * (RENEWED + 1))
        assert ids(self.take(self.consumer(broker))) == [second.id]

    @pytest.mark.parametrize("verb", VERBS)
    def test_who_lost_a_loan_is_told_and_changes_nothing(self, broker: Broker, verb: str) -> None:
        needs(broker, "lease")
        self.send(broker, "a")
        late, holder = self.consumer(broker, lease=self.lease), self.consumer(broker)
        lost = self.take(late)
        self.pass_time(broker, self.lease * 1.5)
        held = self.take(holder)

        assert ids(VERBS[verb](late, lost)) == ["a"]

        assert self.left(late) == []
        assert list(holder.extend(held, 300.0)) == []
        assert list(holder.ack(held)) == []
        assert self.left(holder) == []
        if broker.capabilities.dead_letters:
            assert list(broker.dead("q", 10)) == []

    def test_who_lost_a_loan_cannot_settle_it_through_the_new_holder(self, broker: Broker) -> None:
        needs(broker, "lease")
        self.send(broker, "a")
        consumer = self.consumer(broker, lease=self.lease)
        lost = self.take(consumer)
        self.pass_time(broker, self.lease * 1.5)
        held = self.take(consumer)
        assert lost[0].receipt != held[0].receipt
        assert ids(consumer.ack(lost)) == ["a"]

    def test_a_lost_loan_in_a_batch_does_not_spoil_the_others(self, broker: Broker) -> None:
        needs(broker, "lease")
        self.send(broker, "lost")
        consumer = self.consumer(broker)
        lost = self.take(consumer)
        consumer.extend(lost, self.lease)
        self.pass_time(broker, self.lease * 1.5)
        self.take(self.consumer(broker))
        self.send(broker, "a", "b")
        kept = self.take(consumer, 2)
        assert ids(consumer.ack([kept[0], *lost, kept[1]])) == ["lost"]
        consumer.close()
        assert self.left(self.consumer(broker)) == []

    def test_receipts_can_be_keys_of_a_dictionary(self, broker: Broker) -> None:
        self.send(broker, "a", "b")
        assert len({each.receipt: each for each in self.take(self.consumer(broker), 2)}) == 2
