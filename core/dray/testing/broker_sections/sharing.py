"""Sharing: many threads and connections at one queue, none of which gets what another has."""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Sequence
from functools import partial

from ...broker import Broker, Consumer
from ...clock import SYSTEM_CLOCK
from ...message import Delivery
from ..background import HANGS, Background
from .kit import LONG, BrokerKit, ids, needs


class Sharing(BrokerKit):
    """sharing"""

    def test_two_consumers_never_get_the_same_message(self, broker: Broker) -> None:
        self.send(broker, "a", "b")
        mine, yours = self.consumer(broker), self.consumer(broker)
        first, second = self.take(mine, 1), self.take(yours, 1)
        assert sorted(ids(first + second)) == ["a", "b"]
        assert self.left(mine) == []
        assert self.left(yours) == []

    def test_racing_consumers_share_out_every_message_once(self, broker: Broker) -> None:
        self.send(broker, *(f"m{n}" for n in range(self.many)))
        taken = self._race(*(self.consumer(broker) for _ in range(4)))
        assert len(taken) == self.many
        assert taken.most_common(1)[0][1] == 1

    def test_racing_connections_share_out_every_message_once(self, broker: Broker) -> None:
        needs(broker, "shared")
        self.send(broker, *(f"m{n}" for n in range(self.many)))
        with self.another(broker) as other:
            taken = self._race(*(self.consumer(one) for one in (broker, other, broker, other)))
        assert len(taken) == self.many
        assert taken.most_common(1)[0][1] == 1

    def test_one_thread_receives_while_another_settles(self, broker: Broker) -> None:
        self.send(broker, *(f"m{n}" for n in range(300)))
        consumer = self.consumer(broker)
        handed_on: queue.SimpleQueue[Sequence[Delivery]] = queue.SimpleQueue()

        def receive() -> int:
            received = 0
            while received < 300 and (batch := self.take(consumer, 10)):
                received += len(batch)
                handed_on.put(batch)
            handed_on.put([])
            return received

        receiver = Background(receive)
        while batch := handed_on.get(timeout=HANGS):
            assert list(consumer.ack(batch)) == []
        assert receiver.result() == 300
        consumer.close()
        assert self.left(self.consumer(broker)) == []

    def test_settling_goes_on_while_receive_waits(self, broker: Broker) -> None:
        self.send(broker, "a", "b", "c")
        consumer = self.consumer(broker)
        first, second, third = self.take(consumer, 3)
        waiting = Background(lambda: consumer.receive(1, HANGS / 2))
        settled = Background(lambda: (consumer.ack([first]), consumer.bury([second], "for the test")))
        assert [list(over) for over in settled.result()] == [[], []]
        consumer.requeue([third])
        assert ids(waiting.result()) == [third.id]

    def test_a_waiting_receive_wakes_when_something_is_published(self, broker: Broker) -> None:
        consumer = self.consumer(broker)
        waiting = Background(lambda: consumer.receive(1, HANGS / 2))
        self.send(broker, "a")
        assert ids(waiting.result()) == ["a"]

    def test_a_waiting_receive_wakes_when_another_connection_publishes(self, broker: Broker) -> None:
        with self.another(broker) as other:
            consumer = self.consumer(broker)
            waiting = Background(lambda: consumer.receive(1, HANGS / 2))
            self.send(other, "a")
            assert ids(waiting.result()) == ["a"]

    def test_a_waiting_receive_wakes_when_another_consumer_gives_back(self, broker: Broker) -> None:
        self.send(broker, "a")
        holder, consumer = self.consumer(broker), self.consumer(broker)
        lent = self.take(holder)
        waiting = Background(lambda: consumer.receive(1, HANGS / 2))
        holder.requeue(lent)
        assert ids(waiting.result()) == ["a"]

    def test_a_waiting_receive_wakes_when_a_delay_is_over(self, broker: Broker) -> None:
        needs(broker, "max_delay")
        self.send(broker, "later", delay=self.lease)
        consumer = self.consumer(broker)
        waiting = Background(lambda: consumer.receive(1, HANGS / 2))
        self.pass_time(broker, self.lease * 1.5)
        assert ids(waiting.result()) == ["later"]

    def test_a_waiting_receive_wakes_when_a_loan_runs_out(self, broker: Broker) -> None:
        needs(broker, "lease")
        self.send(broker, "a")
        self.take(self.consumer(broker, lease=self.lease))
        consumer = self.consumer(broker)
        waiting = Background(lambda: consumer.receive(1, HANGS / 2))
        self.pass_time(broker, self.lease * 1.5)
        assert ids(waiting.result()) == ["a"]

    def test_who_is_woken_misses_nothing(self, broker: Broker) -> None:
        consumer = self.consumer(broker)
        waiting = Background(lambda: consumer.receive(10, self.moment))
        consumer.wake()
        assert list(waiting.result()) == []
        self.send(broker, "a")
        assert ids(self.take(consumer)) == ["a"]

    def test_without_a_wait_an_empty_queue_says_so_at_once(self, broker: Broker) -> None:
        consumer = self.consumer(broker)
        assert list(Background(lambda: consumer.receive(10, 0)).result()) == []

    def test_without_a_wait_only_delayed_messages_say_so_at_once(self, broker: Broker) -> None:
        needs(broker, "max_delay", LONG)
        self.send(broker, "later", delay=LONG)
        consumer = self.consumer(broker)
        assert list(Background(lambda: consumer.receive(10, 0)).result()) == []

    def _race(self, *consumers: Consumer) -> Counter[str]:
        """Have everybody receive and ack in small batches, until all is taken and nothing more comes."""
        taken: list[str] = []
        end = SYSTEM_CLOCK.monotonic() + self.patience

        def drain(consumer: Consumer) -> None:
            nonlocal end
            while True:
                batch = consumer.receive(7, self.moment)
                # In the hands of nobody for a moment is what was borrowed for somebody who had just gone away.
                if not batch and (len(set(taken)) >= self.many or SYSTEM_CLOCK.monotonic() >= end):
                    return
                if batch:
                    # Patience is for what does not come, not for how long it takes to take in all of it.
                    end = SYSTEM_CLOCK.monotonic() + self.patience
                taken.extend(ids(batch))
                consumer.ack(batch)

        for racer in [Background(partial(drain, consumer)) for consumer in consumers]:
            racer.result()
        return Counter(taken)
