"""One worker's loans from an `Assisted` broker: what comes out is shown as if the broker had done everything itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec

from .broker import Broker, Consumer
from .errors import BrokerUnavailable
from .labels import Label, take_off
from .message import Delivery, Envelope
from .sub_queues import plain, step_of

if TYPE_CHECKING:
    from .assisted import Assisted

#: Seconds between two looks for what has fallen due in the store.
PROMOTE_EVERY = 0.25
#: Seconds for which what has fallen due is borrowed from the store, to be passed on.
PROMOTE_LEASE = 30.0
#: Most that are passed on at once.
PROMOTE_MOST = 256
#: Deliveries are counted up to this many, and remembered for so many seconds.
COUNT_MOST, COUNT_TTL = 6, 86_400.0

_replace = msgspec.structs.replace


class AssistedConsumer(Consumer):
    """One worker's loans from an `Assisted` broker."""

    def __init__(self, broker: Assisted, queues: Sequence[str], lease: float) -> None:
        self._broker = broker
        self._clock = broker.clock
        self._queues = list(queues)
        self._lease = lease
        self._inner = broker.transport.consumer(broker.expand(queues), lease)
        #: Kept by the broker: what one consumer lent, the next one settles, when it is opened after an outage.
        self._lent, self._live = broker.lent, broker.live
        self._promoted = -PROMOTE_EVERY
        store = broker.open_store()
        self._waiting = None if store is None else store.consumer([broker.due(q) for q in queues], PROMOTE_LEASE)

    def receive(self, limit: int, wait: float, queues: Sequence[str] | None = None) -> Sequence[Delivery]:
        end = self._clock.monotonic() + wait
        names = self._broker.expand(self._queues if queues is None else queues)
        while True:
            self._promote(at_once=not wait)
            left = max(0.0, end - self._clock.monotonic())
            pause = left if self._waiting is None else min(left, PROMOTE_EVERY)
            came = self._inner.receive(limit, pause, names)
            if came:
                try:
                    shown = self._shown(came)
                except BrokerUnavailable:
                    # Nobody would know that these are ours; without the store none of them may be run.
                    self._inner.release(came)
                    raise
                if shown:
                    return shown
            if self._clock.monotonic() >= end:
                return ()

    def _promote(self, at_once: bool) -> None:
        """Pass on what has fallen due in the store, at most four times a second."""
        if self._waiting is None or not self._queues:
            return
        now = self._clock.monotonic()
        if not at_once and now - self._promoted < PROMOTE_EVERY:
            return
        self._promoted = now
        while came := self._waiting.receive(PROMOTE_MOST, 0.0):
            # Passed on first, then settled: killed in between, it is passed on twice, never lost.
            try:
                self._broker.transport.publish([self._due_now(each) for each in came])
            except BrokerUnavailable:
                self._waiting.release(came)
                raise
            self._waiting.ack(came)

    def _due_now(self, delivery: Delivery) -> Envelope:
        queue = delivery.queue.removeprefix(self._broker.due(""))
        return Envelope(
            id=delivery.id,
            queue=self._broker.sub_queue(queue, delivery.priority),
            body=delivery.body,
            priority=delivery.priority,
            attempt=delivery.attempt,
        )

    def _shown(self, came: Sequence[Delivery]) -> list[Delivery]:
        """Return the deliveries as the engine sees them; those on a hop go on, those that were done are dropped."""
        shown = []
        for delivery in came:
            queue = plain(delivery.queue)
            label, body = take_off(delivery.body)
            seen = delivery
            if queue != delivery.queue or body is not delivery.body:
                priority = max(delivery.priority, step_of(delivery.queue))
                count = max(1, delivery.delivery_count + label.count)
                seen = _replace(delivery, queue=queue, body=body, delivery_count=count, priority=priority)
                self._lent[delivery.receipt] = delivery
            self._live.add(delivery.receipt)
            rest = self._rest(delivery, label)
            if rest > 0:
                # Published first: killed before the ack, it hops on twice, and never not at all.
                self._broker.send_copies([seen], rest, [label.count])
                self._settle(self._inner.ack, [seen])
            else:
                shown.append((seen, label))
        if self._broker.store is None:
            return [seen for seen, _ in shown]
        return self._marked(self._broker.store, shown)

    def _rest(self, delivery: Delivery, label: Label) -> float:
        """Return how long a message on a hop has still to wait: less, if nobody was there when the hop ended.

        The broker's clock says how late it is, where that can be known; else ours beside that of who published it.
        """
        if not label.rest:
            return 0.0
        late = self._clock.time() - label.until if delivery.age is None else delivery.age - label.hop
        return label.rest - max(0.0, late)

    def _marked(self, store: Broker, deliveries: Sequence[tuple[Delivery, Label]]) -> list[Delivery]:
        """Ask the store once about a batch: what is cancelled, what was done already, and what was delivered before."""
        native, remember = self._broker.native, self._broker.remember
        if not deliveries:
            return []
        asked: list[str] = []
        for seen, _ in deliveries:
            if not native.cancel:
                asked.append(seen.id)
            if remember and seen.queue not in self._broker.broadcast:
                asked.append(_done(seen))
            if not native.delivery_count:
                asked += [_counted(seen, n) for n in range(1, COUNT_MOST)]
        marks = store.cancelled(asked) if asked else set()
        result, double, counted = [], [], []
        for seen, label in deliveries:
            if _done(seen) in marks:
                double.append(seen)
                continue
            changes: dict[str, Any] = {}
            if not native.cancel and seen.id in marks:
                changes["cancelled"] = True
            if not native.delivery_count:
                before = sum(1 for n in range(1, COUNT_MOST) if _counted(seen, n) in marks)
                changes["delivery_count"] = max(1, before + 1 + label.count)
                counted.append(_counted(seen, before + 1))
            if changes:
                self._lent.setdefault(seen.receipt, seen)
                seen = _replace(seen, **changes)
            result.append(seen)
        if counted:
            # Before anything runs: a task that kills its process was counted.
            store.cancel(counted, COUNT_TTL)
        self._settle(self._inner.ack, double)
        return result

    # Settling

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        store, remember = self._broker.store, self._broker.remember
        if store is not None and remember:
            # Before the ack: killed in between, it is delivered again and dropped, for its result is stored already.
            marks = [_done(each) for each in deliveries if each.queue not in self._broker.broadcast]
            if marks:
                store.cancel(marks, remember)
        return self._settle(self._inner.ack, deliveries)

    def requeue(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> Sequence[Delivery]:
        can = self._broker.native
        if not delay or can.requeue_delay or not self._broker.capabilities.requeue_delay:
            return self._settle(lambda some: self._inner.requeue(some, delay), deliveries)
        return self._replace(deliveries, delay, charged=True)

    def release(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        if self._broker.native.release_uncharged or not self._broker.capabilities.release_uncharged:
            return self._settle(self._inner.release, deliveries)
        return self._replace(deliveries, 0.0, charged=False)

    def bury(self, deliveries: Sequence[Delivery], reason: str) -> Sequence[Delivery]:
        if self._broker.native.dead_letters:
            return self._settle(lambda some: self._inner.bury(some, reason), deliveries)
        lost = self._lost(deliveries)
        ours = _without(deliveries, lost)
        if ours:
            # The letter first: killed in between, it is dead and comes out once more; never is it neither.
            self._broker.lay_dead(ours, reason)
        return [*lost, *self._settle(lambda some: self._inner.bury(some, reason), ours)]

    def extend(self, deliveries: Sequence[Delivery], seconds: float) -> Sequence[Delivery]:
        by_receipt = {each.receipt: each for each in deliveries}
        lost = self._inner.extend([self._lent.get(each.receipt, each) for each in deliveries], seconds)
        for each in lost:
            self._lent.pop(each.receipt, None)
            self._live.discard(each.receipt)
        return [by_receipt[each.receipt] for each in lost]

    def _replace(self, deliveries: Sequence[Delivery], delay: float, charged: bool) -> list[Delivery]:
        """Put a copy in the place of each: published first, so that a crash doubles and never loses."""
        lost = self._lost(deliveries)
        ours = _without(deliveries, lost)
        # Where the broker counts, the copy starts from nothing, and the label has what was before.
        native = self._broker.native
        counts = [(each.delivery_count if native.delivery_count else 0) - (not charged) for each in ours]
        self._broker.send_copies(ours, delay, counts)
        return [*lost, *self._settle(self._inner.ack, ours)]

    def _lost(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Return those whose loan is over: whoever has them now decides, and a copy would be one too many."""
        gone = [each for each in deliveries if each.receipt not in self._live]
        if self._broker.native.lease:
            gone += self.extend(_without(deliveries, gone), self._lease)
        return gone

    def _settle(
        self, verb: Callable[[Sequence[Delivery]], Sequence[Delivery]], deliveries: Sequence[Delivery]
    ) -> list[Delivery]:
        if not deliveries:
            return []
        by_receipt = {each.receipt: each for each in deliveries}
        lost = verb([self._lent.get(each.receipt, each) for each in deliveries])
        for receipt in by_receipt:
            self._lent.pop(receipt, None)
            self._live.discard(receipt)
        return [by_receipt[each.receipt] for each in lost]

    def close(self) -> None:
        if self._waiting is not None:
            self._waiting.close()
        self._inner.close()


def _done(delivery: Delivery) -> str:
    return f"done:{_this(delivery, delivery.queue)}"


def _counted(delivery: Delivery, number: int) -> str:
    return f"lent{number}:{_this(delivery, '')}"


def _this(delivery: Delivery, queue: str) -> str:
    """Return a name of this very message. The same id may be sent again on purpose; then its body says another time."""
    told = f"{queue}\n{delivery.id}\n{delivery.attempt}\n".encode() + delivery.body
    return blake2b(told, digest_size=16).hexdigest()


def _without(deliveries: Sequence[Delivery], lost: Sequence[Delivery]) -> list[Delivery]:
    gone = {each.receipt for each in lost}
    return [each for each in deliveries if each.receipt not in gone]
