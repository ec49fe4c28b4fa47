"""How messages get from queues into one worker's hands: as many as were asked for, and hardly ever one more.

RabbitMQ pushes, to whoever has consumers open, up to a number that is fixed when a consumer begins. Here a consumer
(in AMQP's sense) is therefore opened for one grant and ends with it:

    classic queue   opened and cancelled in one breath: the server answers the cancelling after the last message, so
                    that a grant is one round trip, whatever it brings
    quorum queue    messages on their way to a consumer that is cancelled are sent back, and counted as delivered. So
                    one is cancelled when its grant is used up. `basic.get` tells how many more there are; half of
                    those are granted, because others may take the rest
    empty queue     a *bell*: a consumer with a grant of one, left open while nothing comes; also beside queues that
                    bring something, while whoever takes it comes back soon for more

An open grant means that the queue has nothing for us: whatever it gets is pushed. What was pushed and is not asked
for within a moment goes back, uncharged (rabbitmq_consumer.py).
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from pika import spec

from dray import BrokerError, BrokerUnavailable

from .rabbitmq_channel import RabbitChannel
from .rabbitmq_connection import Link
from .rabbitmq_errors import translated
from .rabbitmq_frames import Arrival
from .rabbitmq_tags import Tags

#: Fewer than this are fetched from a quorum queue one by one: they cost less than a consumer.
FEW = 4
#: A classic queue pushes about 190 before it waits for the socket; one that pushed so many may have more.
MANY = 100
#: Seconds without another message after which a grant on a quorum queue will not be used up any more.
PATIENCE = 0.1
#: Seconds for which an ack may wait, before it is sent by itself, for those of earlier messages; twice that at most.
LINGER = 0.002


class _Grant:
    """One consumer of the server's: up to `credit` messages from `queue`. Belongs to the connection's thread."""

    def __init__(self, queue: str, credit: int) -> None:
        self.queue = queue
        self.credit = credit
        #: Whose future is told when the credit is used up, or the server has said that it was cancelled.
        self.ended: Future[None] | None = None
        self.cancelled = False


class Intake:
    """A channel and what comes in on it. `take`, `fetch`, `listen` and `stop` are called by one thread at a time.

    `names` maps each queue to what it is called on the server.
    """

    def __init__(self, link: Link, names: dict[str, str], quorum: Collection[str]) -> None:
        self._link = link
        self._names = names
        #: Those of `names` that are quorum queues.
        self._quorum = quorum
        self._queues = list(names)
        self._numbers = itertools.count(1)
        self._grants: dict[str, _Grant] = {}
        #: Queues with an open bell, and what has arrived and was not taken yet.
        self._bells: dict[str, str] = {}
        self._arrived: dict[str, deque[Arrival]] = {queue: deque() for queue in names}
        self._tags, self._lingering = Tags(), False
        #: The answers to `get` that are awaited.
        self._gets: deque[tuple[str, Future[int]]] = deque()
        #: Guards `_arrived` and `_lost`; notified when one of them changes.
        self._changed = threading.Condition()
        self._lost: BrokerError | None = None
        self._channel = link.channel()
        link.call("preparing a channel", self._begin, self._channel)

    def _begin(self, future: Future[None]) -> None:
        channel = self._channel
        channel.on_arrivals, channel.on_got = self._on_arrivals, self._on_got
        channel.add_on_close_callback(self._on_close)
        channel.add_on_cancel_callback(self._on_cancelled_by_server)
        channel.add_callback(self._on_cancel_ok, [spec.Basic.CancelOk], one_shot=False)
        future.set_result(None)

    # From other threads

    @property
    def lost(self) -> BrokerError | None:
        """Why nothing comes in any more; None while all is well."""
        return self._lost

    def take(self, queue: str, most: int) -> list[Arrival]:
        """Return up to `most` of what has arrived from a queue."""
        with self._changed:
            arrived = self._arrived[queue]
            return [arrived.popleft() for _ in range(min(most, len(arrived)))]

    def is_quiet(self, queue: str) -> bool:
        """Whether the queue has nothing for us, as an open grant shows."""
        return queue in self._bells

    @property
    def holds_ready(self) -> bool:
        """Whether something is open or has arrived that nobody may ask for."""
        return bool(self._bells) or any(self._arrived.values())

    @property
    def queues_not_asked(self) -> list[str]:
        """Queues with a bell, or with something that has arrived."""
        return [queue for queue, arrived in self._arrived.items() if arrived or queue in self._bells]

    def fetch(self, queue: str, most: int) -> None:
        """Have up to `most` messages arrive from a queue, as many as it has. `take` them then."""
        if queue in self._quorum:
            self._fetch_quorum(queue, most)
            return
        while most > 0:
            came = self._grant_and_cancel(queue, most)
            most -= came
            if came < MANY:
                return

    def listen(self, queues: Iterable[str], seconds: float) -> None:
        """Return when something has arrived from any of `queues`, or is lost, or the time is over."""
        if bells := self._new_bells(queues):
            self._link.call("listening", lambda future: self._ring(bells, future), self._channel)
        with self._changed:
            self._changed.wait_for(lambda: self._lost or any(self._arrived[queue] for queue in queues), seconds)

    def ring(self, queues: Iterable[str]) -> None:
        """Open the bells of these queues and go on: what they bring is there at one of the next looks."""
        if bells := self._new_bells(queues):
            self._link.post(lambda: self._ring(bells, Future()))

    def _new_bells(self, queues: Iterable[str]) -> dict[str, str]:
        bells = {queue: self._tag(queue) for queue in queues if queue not in self._bells}
        self._bells.update(bells)
        return bells

    def stop(self, queues: Sequence[str]) -> None:
        """Cancel the bells of these queues; what they had brought has arrived when this returns."""
        tags = [tag for queue in queues if (tag := self._bells.get(queue))]
        if tags and self._lost is None:
            self._link.call("cancelling", lambda future: self._cancel_all(tags, future), self._channel)

    def ack(self, tags: Sequence[int]) -> None:
        """Have the server forget these messages."""
        self._link.post(lambda: self._ack(tags))

    def give_back(self, tags: Sequence[int]) -> None:
        """Have the server put these back at the head of their queues, marked as redelivered."""

        def work() -> None:
            self._tags.closed(tags)
            with self._channel.connection.in_one_piece():
                for tag in tags:
                    self._channel.basic_nack(tag, requeue=True)

        self._link.post(work)

    def close(self) -> None:
        """Close the channel: the server puts back what was not acked. Safe twice."""
        channel = self._channel
        if self._lost is None:
            try:
                self._link.call("closing a channel", lambda future: self._close(channel, future))
            except BrokerError:
                pass

    def _fetch_quorum(self, queue: str, most: int) -> None:
        behind = self._get(queue, 1)
        if behind <= 0 or most <= 1:
            return
        if behind <= FEW:
            self._get(queue, min(behind, most - 1))
            return
        tag, used_up = self._tag(queue), Future[None]()
        credit = min(most - 1, (behind + 1) // 2)
        self._bells[queue] = tag
        self._link.post(lambda: self._grant(tag, queue, credit, used_up))
        arrived = -1
        while self._lost is None and arrived < len(self._arrived[queue]):
            arrived = len(self._arrived[queue])
            try:
                used_up.result(PATIENCE)
                return
            except FutureTimeout:
                continue
        # Others were quicker. Left open it would bring more with every ack, whether we ask for it or not.
        self.stop([queue])

    def _get(self, queue: str, number: int) -> int:
        """Fetch one by one; return how many are left behind the last, -1 when there was none."""

        def work(future: Future[int]) -> None:
            with self._channel.connection.in_one_piece():
                for position in range(number):
                    # Answered in order: with the last answer, all are there.
                    self._gets.append((queue, future if position == number - 1 else Future()))
                    self._channel.get(self._names[queue])

        return self._link.call(f"looking into the queue {self._names[queue]}", work, self._channel)

    def _grant_and_cancel(self, queue: str, credit: int) -> int:
        """Fetch from a classic queue in one round trip; return how many came."""
        tag, before = self._tag(queue), len(self._arrived[queue])

        def work(future: Future[None]) -> None:
            with self._channel.connection.in_one_piece():
                self._grant(tag, queue, credit, future)
                self._cancel(tag)

        self._link.call(f"fetching from the queue {self._names[queue]}", work, self._channel)
        return len(self._arrived[queue]) - before

    # On the connection's thread

    def _ring(self, bells: Mapping[str, str], future: Future[None]) -> None:
        with self._channel.connection.in_one_piece():
            for queue, tag in bells.items():
                self._grant(tag, queue, 1, None)
        future.set_result(None)

    def _tag(self, queue: str) -> str:
        """Return a tag for a new grant, from which its queue can be told."""
        return f"{self._queues.index(queue)}.{next(self._numbers)}"

    def _grant(self, tag: str, queue: str, credit: int, ended: Future[None] | None) -> None:
        grant = self._grants[tag] = _Grant(queue, credit)
        grant.ended = ended
        self._channel.consume(self._names[queue], tag, credit)

    def _cancel(self, tag: str) -> None:
        self._grants[tag].cancelled = True
        self._channel.cancel(tag, answer=True)

    def _cancel_all(self, tags: Sequence[str], future: Future[None]) -> None:
        left = [tag for tag in tags if tag in self._grants]
        if not left:
            future.set_result(None)
            return
        with self._channel.connection.in_one_piece():
            for tag in left:
                self._cancel(tag)
        # Answered in order.
        self._grants[left[-1]].ended = future

    def _on_arrivals(self, tag: str, arrivals: Sequence[Arrival]) -> None:
        if not self._channel.is_open:
            # It is being closed, and the server will put these back.
            return
        self._tags.opened(arrival.tag for arrival in arrivals)
        queue, grant = self._queues[int(tag.partition(".")[0])], self._grants.get(tag)
        with self._changed:
            self._arrived[queue].extend(arrivals)
            if grant is None or grant.cancelled:
                return
            grant.credit -= len(arrivals)
            if grant.credit == 0:
                # Before any of its messages is acked, which would make room for another: so it can bring no more.
                self._channel.cancel(tag, answer=False)
                self._end(tag)
                self._changed.notify_all()

    def _on_cancel_ok(self, frame: Any) -> None:
        with self._changed:
            self._end(frame.method.consumer_tag)
            self._changed.notify_all()

    def _end(self, tag: str) -> None:
        grant = self._grants.pop(tag)
        if self._bells.get(grant.queue) == tag:
            del self._bells[grant.queue]
        if grant.ended is not None and not grant.ended.done():
            grant.ended.set_result(None)

    def _on_got(self, arrival: Arrival | None) -> None:
        queue, future = self._gets.popleft()
        if arrival is not None:
            self._tags.opened([arrival.tag])
            with self._changed:
                self._arrived[queue].append(arrival)
        if not future.done():
            future.set_result(-1 if arrival is None else arrival.behind)

    def _ack(self, tags: Sequence[int]) -> None:
        """Ack with one frame what is done up to the first that is open; the others may wait a moment for that one."""
        if upto := self._tags.done(tags):
            self._channel.basic_ack(upto, multiple=True)
        if self._tags.waiting and not self._lingering:
            self._lingering = True
            self._channel.connection.ioloop.call_later(LINGER, self._ack_overdue)

    def _ack_overdue(self) -> None:
        self._lingering = False
        if self._channel.is_open:
            self._ack_each(self._tags.overdue())
            self._ack([])

    def _ack_each(self, tags: Sequence[int]) -> None:
        with self._channel.connection.in_one_piece():
            for tag in tags:
                self._channel.basic_ack(tag)

    def _close(self, channel: RabbitChannel, future: Future[None]) -> None:
        if channel.is_closed:
            future.set_result(None)
        else:
            # What is closed under these comes back.
            self._ack_each(self._tags.rest())
            channel.add_on_close_callback(lambda *about: future.set_result(None))
            channel.close()

    def _on_close(self, channel: Any, reason: BaseException) -> None:
        error = translated(reason, self._link.url, "consuming")
        self._lose(error)

    def _on_cancelled_by_server(self, frame: Any) -> None:
        grant = self._grants.get(frame.method.consumer_tag)
        queue = "a queue" if grant is None else f"the queue {self._names[grant.queue]}"
        self._lose(BrokerUnavailable(f"{self._link.url}: consuming: {queue} was deleted, or its node has gone"))

    def _lose(self, error: BrokerError) -> None:
        with self._changed:
            self._lost = self._lost or error
            self._changed.notify_all()
