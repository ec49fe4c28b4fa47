"""One worker's loans from RabbitMQ: what is handed over, counted, and given back.

RabbitMQ keeps a message that was handed over until it is acked or the connection ends; then it stands at the head of
its queue again, marked as redelivered. Classic queues do not count that. So the count travels with the message: one
that is redelivered is not handed over, it is first sent to the back of its queue with its count raised, and the old
one is acked. Thus a message that kills its workers neither blocks its queue nor lives for ever. Killed between the two
steps, there are two of it, the older with its old count: it can run twice, it is never lost.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from dray import BrokerError, BrokerUnavailable, Consumer, Delivery

from .rabbitmq_frames import Arrival
from .rabbitmq_intake import Intake
from .rabbitmq_publisher import Post
from .rabbitmq_wire import copied, deliveries, delivery_of, lost_deliveries

if TYPE_CHECKING:
    from .rabbitmq import RabbitBroker

logger = logging.getLogger("dray.rabbitmq")

#: Seconds after which what was pushed and is not asked for goes back.
HOLD = 0.1
#: Seconds that a message is kept away for each time after the first that it was lost with its worker, and the most.
PAUSE, LONGEST_PAUSE = 1.0, 10.0
#: Most copies that are put back before what they are copies of is acked: killed in between, so many are there twice.
COPIES = 100
_numbers = itertools.count(1)


class Copy(NamedTuple):
    """A message to be put back: as what, where, and when."""

    queue: str
    delay: float
    arrival: Arrival
    #: How often it has been handed out.
    handed_out: int


class PutBack(NamedTuple):
    """What became of copies: which were refused, how many there was an answer for, and why there was none for more."""

    refused: set[int]
    answered: int
    error: BrokerError | None = None


class RabbitConsumer(Consumer):
    """The loans of one worker. A receipt is the consumer's number and the delivery tag."""

    def __init__(self, broker: RabbitBroker, queues: Sequence[str], intake: Intake, own: dict[str, str]) -> None:
        self._broker = broker
        self._clock = broker.clock
        self._queues = list(queues)
        self._intake = intake
        #: Queues that are this consumer's alone, and what the server calls them.
        self._own = own
        self._number = next(_numbers)
        self._held: dict[int, Arrival] = {}
        #: Held by who looks for messages: `receive`, or the guard.
        self._turn = threading.Lock()
        self._last_asked = self._clock.monotonic()
        self._closed = threading.Event()
        self._guard: threading.Thread | None = None

    # Receiving

    def receive(self, limit: int, wait: float, queues: Sequence[str] | None = None) -> Sequence[Delivery]:
        names = self._queues if queues is None else list(queues)
        limit = min(limit, self._broker.capabilities.max_receive_batch)
        end = self._clock.monotonic() + wait
        with self._turn:
            try:
                self._let_go([queue for queue in self._intake.queues_not_asked if queue not in names])
                taken = self._receive(names, limit, end) if limit > 0 and names else []
            except BrokerError:
                # The engine opens another one. What this one holds must not wait for the end of the process.
                self._intake.close()
                raise
            self._last_asked = self._clock.monotonic()
            if self._guard is None and self._intake.holds_ready:
                self._guard = threading.Thread(target=self._watch, name="dray-rabbitmq-guard", daemon=True)
                self._guard.start()
        return taken

    def _receive(self, names: Sequence[str], limit: int, end: float) -> list[Delivery]:
        while True:
            taken, lost = self._look(names, limit)
            if lost:
                taken += self._send_to_the_back(lost)
            if taken:
                return taken
            left = end - self._clock.monotonic()
            if not lost and left <= 0:
                return []
            if not lost:
                self._intake.listen(names, left)

    def _look(self, names: Sequence[str], limit: int) -> tuple[list[Delivery], list[tuple[str, Arrival]]]:
        """Return what there is, handed over, and what was lost with another worker."""
        taken: list[Delivery] = []
        lost: list[tuple[str, Arrival]] = []
        empty: list[str] = []
        for queue in names:
            if (room := limit - len(taken)) <= 0:
                break
            if (gone := self._intake.lost) is not None:
                raise gone
            arrived = self._intake.take(queue, room)
            # What a bell has brought is handed over at once; the next call sees what came after it.
            if not arrived and not self._intake.is_quiet(queue):
                self._intake.fetch(queue, room)
                arrived = self._intake.take(queue, room)
                if not arrived:
                    empty.append(queue)
            for arrival in arrived:
                if arrival.redelivered:
                    lost.append((queue, arrival))
                else:
                    taken.append(self._hand_over(queue, arrival, deliveries(arrival) + 1))
        if taken and self._clock.monotonic() - self._last_asked < HOLD:
            # Who comes back so soon need not look into the same empty queues each time, such as those of the urgent.
            self._intake.ring(empty)
        return taken, lost

    def _hand_over(self, queue: str, arrival: Arrival, count: int) -> Delivery:
        self._held[arrival.tag] = arrival
        return delivery_of(arrival, queue, (self._number, arrival.tag), count)

    def _send_to_the_back(self, lost: Sequence[tuple[str, Arrival]]) -> list[Delivery]:
        """Count what was lost with another worker, at the back of its queue; return what has to be handed over here."""
        copies = []
        for queue, arrival in lost:
            count = deliveries(arrival) + lost_deliveries(arrival)
            copies.append(Copy(queue, min(PAUSE * (count - 1), LONGEST_PAUSE), arrival, count))
        refused, answered, error = self._put(copies)
        if error is not None:
            if self._intake.lost is not None:
                raise error
            logger.warning("%d redelivered message(s) stay where they are: %s", len(lost) - answered, error)
            refused |= set(range(answered, len(lost)))
        # There is no room at the back, or nothing can be published now: the count is told, though not kept.
        return [self._hand_over(copies[n].queue, copies[n].arrival, copies[n].handed_out + 1) for n in sorted(refused)]

    # What nobody asks for

    def _watch(self) -> None:
        """Give back what was pushed, when `receive` is not called for a while."""
        while not self._closed.wait(HOLD):
            with self._turn:
                if self._intake.lost is not None or self._closed.is_set():
                    # Lost, it is of no use to anybody: the engine opens another one, and forgets it.
                    return
                if self._clock.monotonic() - self._last_asked < HOLD:
                    continue
                try:
                    self._let_go(self._intake.queues_not_asked)
                except BrokerError as error:
                    # The next receive says so too, to somebody who can do something about it.
                    logger.debug("giving back: %s", error)

    def _let_go(self, queues: Sequence[str]) -> None:
        """Give back, uncounted, what has arrived from these queues; nothing more comes from them."""
        if not queues:
            return
        self._intake.stop(queues)
        copies = []
        for queue in queues:
            for arrival in self._intake.take(queue, 1 << 30):
                count = deliveries(arrival) + (lost_deliveries(arrival) if arrival.redelivered else 0)
                copies.append(Copy(queue, 0.0, arrival, count))
        refused, answered, error = self._put(copies)
        if error is not None:
            refused |= set(range(answered, len(copies)))
        self._intake.give_back([copies[n].arrival.tag for n in refused])
        if error is not None and not isinstance(error, BrokerUnavailable):
            raise error

    def _put(self, copies: Sequence[Copy]) -> PutBack:
        """Publish copies, and then ack what they are copies of, a few at a time."""
        refused: set[int] = set()
        for start in range(0, len(copies), COPIES):
            part = dict(enumerate(copies[start : start + COPIES], start))
            posts = [self._post(copy) for copy in part.values()]
            needed = sorted({copy.queue for copy in part.values() if copy.delay > 0 and copy.queue not in self._own})
            try:
                fates = self._broker.put(posts, needed, any(copy.delay > 0 for copy in part.values()))
            except BrokerError as error:
                return PutBack(refused, start, error)
            refused |= {start + n for n in fates}
            self._intake.ack([copy.arrival.tag for n, copy in part.items() if n not in refused])
        return PutBack(refused, len(copies))

    def _post(self, copy: Copy) -> Post:
        properties = copied(copy.arrival.properties, copy.handed_out)
        name = self._own.get(copy.queue) or self._broker.topology.name(copy.queue)
        if copy.delay > 0:
            return self._broker.topology.delayed(name, copy.delay, properties, copy.arrival.body)
        return Post("", name, properties, copy.arrival.body)

    # Settling

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        held, over = self._claim(deliveries)
        self._intake.ack([each.receipt[1] for each, _ in held])
        return over

    def requeue(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> Sequence[Delivery]:
        held, over = self._claim(deliveries)
        delay = min(delay, self._broker.capabilities.max_delay)
        self._replace(held, [Copy(each.queue, delay, arrival, each.delivery_count) for each, arrival in held])
        return over

    def release(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        held, over = self._claim(sorted(deliveries, key=lambda each: each.receipt))
        copies = [Copy(each.queue, 0.0, arrival, each.delivery_count - 1) for each, arrival in held]
        self._replace(held, copies)
        return over

    def bury(self, deliveries: Sequence[Delivery], reason: str) -> Sequence[Delivery]:
        # The engine has put a copy into the dead letters before it calls this.
        return self.ack(deliveries)

    def _claim(self, deliveries: Sequence[Delivery]) -> tuple[list[tuple[Delivery, Arrival]], list[Delivery]]:
        """Return those that are ours to settle, no longer held, and the others."""
        held, over = [], []
        for delivery in deliveries:
            number, tag = delivery.receipt
            ours = number == self._number and self._intake.lost is None
            if ours and (arrival := self._held.pop(tag, None)) is not None:
                held.append((delivery, arrival))
            else:
                over.append(delivery)
        return held, over

    def _replace(self, held: Sequence[tuple[Delivery, Arrival]], copies: Sequence[Copy]) -> None:
        """Put copies in the place of loans. Killed after the first step, both are there: it can run twice."""
        refused, answered, error = self._put(copies)
        # Its queue is full: RabbitMQ's own way back does not ask for room, but leads to the head, and is counted.
        self._intake.give_back([copies[n].arrival.tag for n in refused])
        if error is not None:
            # Still ours: the engine tries again.
            self._held.update((arrival.tag, arrival) for _, arrival in held[answered:])
            raise error

    def close(self) -> None:
        self._closed.set()
        with self._turn:
            if self._intake.lost is None:
                try:
                    self._let_go(self._intake.queues_not_asked)
                except BrokerError as error:
                    logger.debug("giving back: %s", error)
            self._intake.close()
        for name in self._own.values():
            self._broker.drop(name)
        self._own.clear()
        self._held.clear()
