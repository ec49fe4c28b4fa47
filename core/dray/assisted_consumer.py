"""One worker's loans from an `Assisted` broker: what comes out is shown as if the broker had done everything itself."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from .broker import Broker, Consumer
from .capabilities import FOREVER
from .errors import BrokerError, BrokerUnavailable
from .labels import Label, take_off
from .message import Delivery, Envelope

if TYPE_CHECKING:
    from .assisted import Assisted

#: Seconds between two looks for what has fallen due in the store. What the store keeps has waited for longer than the
#: broker's longest delay: more than so small a part of that does not matter either, up to a limit.
PROMOTE_EVERY, PROMOTE_PART, PROMOTE_SELDOM = 0.25, 1 / 500, 2.0
#: Seconds for which what has fallen due is borrowed from the store, to be passed on, and most of it at once.
PROMOTE_LEASE, PROMOTE_MOST = 30.0, 256
#: Seconds until what was refused is tried again: a queue is full, or its leader changes.
REFUSED_PAUSE = 5.0
#: Seconds for which it is remembered how often something was delivered.
COUNT_TTL = 86_400.0

logger = logging.getLogger("dray")

_replace = msgspec.structs.replace


class Copy(NamedTuple):
    """What is published once more in the place of a delivery, to come out after `delay` seconds."""

    of: Delivery
    label: Label
    delay: float


class AssistedConsumer(Consumer):
    """One worker's loans from an `Assisted` broker."""

    def __init__(self, broker: Assisted, queues: Sequence[str], lease: float) -> None:
        self._broker = broker
        self._clock = broker.clock
        self._queues = list(queues)
        self._lease = lease
        #: Which queue, and which priority in it, each queue of the transport stands for.
        self._stand_ins = broker.stand_ins(queues)
        #: Loans from the store of what has fallen due there; made when it is first needed, and again after an outage.
        self._due: Consumer | None = None
        self._promote_every = min(max(PROMOTE_EVERY, broker.native.max_delay * PROMOTE_PART), PROMOTE_SELDOM)
        #: When (monotonic) to look next.
        self._next_look = -math.inf
        if broker.needs_store:
            # Asked for first: who cannot go on without it should not leave a consumer behind.
            broker.open_store()
        self._inner = broker.transport.consumer(list(self._stand_ins), lease)
        self._inner_is_well = True
        self._woken = False
        #: What the transport handed over, by receipt, where something else of it is shown; and the receipts of all that
        #: is not settled: nothing else may be copied. Without leases, loans end with the consumer.
        native = broker.native
        self._lent: dict[Any, Delivery] = broker.lent if native.lease else {}
        self._live: set[Any] = broker.live if native.lease else set()

    # Receiving

    def receive(self, limit: int, wait: float, queues: Sequence[str] | None = None) -> Sequence[Delivery]:
        end = self._clock.monotonic() + wait
        names = self._broker.expand(self._queues if queues is None else queues)
        while True:
            self._promote()
            left = max(0.0, end - self._clock.monotonic())
            # Not well until it has answered: whatever it raises, its loans may be over.
            self._inner_is_well = False
            came = self._inner.receive(limit, left if self._due is None else min(left, self._promote_every), names)
            self._inner_is_well = True
            if came and (shown := self._look_through(came)):
                return shown
            if self._woken:
                self._woken = False
                return ()
            # Who does not wait asks for what is due by now.
            if left <= 0 and (wait > 0 or not self._promote(at_once=True)):
                return ()

    def resume(self) -> bool:
        # When the store was away, or nothing could be published, what was lent is still lent.
        return self._inner_is_well or self._inner.resume()

    def _promote(self, *, at_once: bool = False) -> bool:
        """Pass on what has fallen due in the store, now and then or as long as there is more; return whether any."""
        now = self._clock.monotonic()
        # Asked for even when there is nothing to pass on: nothing may be borrowed that could not be looked up then.
        store = self._broker.open_store() if self._broker.needs_store else None
        if store is None or self._broker.native.max_delay >= FOREVER:
            return False
        if not at_once and now < self._next_look:
            return False
        try:
            if self._due is None:
                self._due = store.consumer([self._broker.due(queue) for queue in self._queues], PROMOTE_LEASE)
            came = self._due.receive(PROMOTE_MOST, 0.0)
            self._next_look = now + self._promote_every if len(came) < PROMOTE_MOST else -math.inf
            if came:
                self._pass_on(self._due, came)
            return bool(came)
        except BrokerError:
            # Whatever it holds comes out again: nothing of it has been acked.
            self._end_due()
            raise

    def _pass_on(self, due: Consumer, came: Sequence[Delivery]) -> None:
        # Passed on first, then settled: killed in between, it is passed on twice, never lost.
        refused = self._broker.pass_on(self._due_now(each) for each in came)
        due.ack([each for each in came if each.id not in refused])
        if refused:
            logger.error("due, but not to be published now: %s", "; ".join(f"{id}: {refused[id]}" for id in refused))
            due.requeue([each for each in came if each.id in refused], REFUSED_PAUSE)

    def _due_now(self, delivery: Delivery) -> Envelope:
        queue = delivery.queue.removeprefix(self._broker.due(""))
        return Envelope(
            id=delivery.id,
            queue=self._broker.sub_queue(queue, delivery.priority),
            body=delivery.body,
            priority=delivery.priority,
            attempt=delivery.attempt,
            key=take_off(delivery.body)[0].key or None,
        )

    def _end_due(self) -> None:
        due, self._due = self._due, None
        if due is not None:
            with suppress(BrokerError):
                due.close()

    def _look_through(self, came: Sequence[Delivery]) -> list[Delivery]:
        """Return the deliveries as the engine sees them; those on a hop go on, those that were done are dropped."""
        shown: list[tuple[Delivery, Label]] = []
        hopping: list[Copy] = []
        try:
            for delivery in came:
                seen, label = self._seen(delivery)
                rest = self._rest(delivery, label)
                if rest > 0:
                    hopping.append(Copy(seen, _replace(label, hop=0.0, rest=0.0, until=0.0), rest))
                else:
                    shown.append((seen, label))
            if hopping:
                self._put_copies(hopping)
            store = self._broker.open_store() if self._broker.needs_store and shown else None
            return [seen for seen, _ in shown] if store is None else self._marked(store, shown)
        except BrokerError:
            # Nobody would know that these are ours; and what cannot be looked up may not run.
            self._settle(self._inner.release, came)
            raise

    def _seen(self, delivery: Delivery) -> tuple[Delivery, Label]:
        """Take note of a loan; return it as the engine sees it, and its label."""
        queue, step = self._stand_ins.get(delivery.queue, (delivery.queue, 0))
        label, body = take_off(delivery.body)
        self._live.add(delivery.receipt)
        if queue == delivery.queue and body is delivery.body:
            return delivery, label
        self._lent[delivery.receipt] = delivery
        count, priority = max(1, delivery.delivery_count + label.count), max(delivery.priority, step)
        return _replace(delivery, queue=queue, body=body, delivery_count=count, priority=priority), label

    def _rest(self, delivery: Delivery, label: Label) -> float:
        """Return how long a message on a hop has still to wait: less, if nobody was there when the hop ended.

        The broker's clock says how late it is, where that can be known; else ours beside that of who published it.
        """
        if not label.rest:
            return 0.0
        late = self._clock.time() - label.until if delivery.age is None else delivery.age - label.hop
        return min(label.rest, FOREVER) - max(0.0, late)

    # What the store knows

    def _marked(self, store: Broker, shown: Sequence[tuple[Delivery, Label]]) -> list[Delivery]:
        """Ask the store once about a batch: what is cancelled, what was done already, and what was delivered before."""
        native, broadcast = self._broker.native, self._broker.broadcast
        asked: list[str] = []
        for seen, label in shown:
            if not native.cancel:
                asked.append(seen.id)
            if self._broker.remember and seen.queue not in broadcast:
                asked.append(_done(seen))
            if not native.delivery_count:
                asked.append(_counted(seen, label, 1))
        marks = store.cancelled(asked) if asked else set()
        double = [seen for seen, _ in shown if _done(seen) in marks] if self._broker.remember else []
        gone = {seen.receipt for seen in double}
        ours = [(seen, label) for seen, label in shown if seen.receipt not in gone]
        counts = {} if native.delivery_count else self._counts(store, ours, marks)
        if double:
            self._settle(self._inner.ack, double)
        return [self._but(seen, seen.id in marks, counts.get(seen.receipt)) for seen, _ in ours]

    def _counts(self, store: Broker, shown: Sequence[tuple[Delivery, Label]], marks: set[str]) -> dict[Any, int]:
        """Return how often each has been delivered, this time included, and mark that in the store."""
        before = {seen.receipt: 1 if _counted(seen, label, 1) in marks else 0 for seen, label in shown}
        # What comes for the first time, which is nearly everything, has been asked about. Of the rest, more is asked.
        many, known = [pair for pair in shown if before[pair[0].receipt]], 1
        while many:
            numbers = range(known + 1, 4 * known + 1)
            found = store.cancelled([_counted(seen, label, n) for seen, label in many for n in numbers])
            for seen, label in many:
                before[seen.receipt] += sum(_counted(seen, label, n) in found for n in numbers)
            known = numbers[-1]
            many = [pair for pair in many if before[pair[0].receipt] >= known]
        # Before anything runs: a task that kills its process was counted.
        store.cancel([_counted(seen, label, before[seen.receipt] + 1) for seen, label in shown], COUNT_TTL)
        return {seen.receipt: max(1, before[seen.receipt] + 1 + label.count) for seen, label in shown}

    def _but(self, seen: Delivery, cancelled: bool, count: int | None) -> Delivery:
        """Return a delivery as it is shown with what the store knows."""
        changes: dict[str, Any] = {}
        if cancelled and not self._broker.native.cancel:
            changes["cancelled"] = True
        if count not in (None, seen.delivery_count):
            changes["delivery_count"] = count
        if not changes:
            return seen
        self._lent.setdefault(seen.receipt, seen)
        return _replace(seen, **changes)

    # Settling

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        store = self._broker.open_store() if self._broker.remember else None
        if store is not None:
            # Before the ack: killed in between, it is delivered again and dropped, for its result is stored already.
            marks = [_done(each) for each in deliveries if each.queue not in self._broker.broadcast]
            try:
                store.cancel(marks, self._broker.remember)
            except BrokerUnavailable:
                # Opened by the next try: `receive`, which would do it too, is not called while there is no room.
                self._broker.store_is_open = False
                raise
        return self._settle(self._inner.ack, deliveries)

    def requeue(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> Sequence[Delivery]:
        can = self._broker.native
        if not delay or can.requeue_delay or not self._broker.capabilities.requeue_delay:
            return self._settle(lambda some: self._inner.requeue(some, delay), deliveries)
        return self._replace(deliveries, delay, uncharged=0)

    def release(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        if self._broker.native.release_uncharged or not self._broker.capabilities.release_uncharged:
            return self._settle(self._inner.release, deliveries)
        return self._replace(deliveries, 0.0, uncharged=1)

    def bury(self, deliveries: Sequence[Delivery], reason: str) -> Sequence[Delivery]:
        if self._broker.native.dead_letters:
            return self._settle(lambda some: self._inner.bury(some, reason), deliveries)
        lost = self._lost(deliveries)
        ours = _without(deliveries, lost)
        # The letter first: killed in between, it is dead and comes out once more; never is it neither.
        refused = self._broker.lay_dead((each, self._epitaph(each, reason)) for each in ours)
        buried = [each for each in ours if each.id not in refused]
        over = self._settle(lambda some: self._inner.bury(some, reason), buried)
        return [*lost, *over, *self._put_off([each for each in ours if each.id in refused], refused)]

    def extend(self, deliveries: Sequence[Delivery], seconds: float) -> Sequence[Delivery]:
        by_receipt = {each.receipt: each for each in deliveries}
        lost = self._inner.extend([self._lent.get(each.receipt, each) for each in deliveries], seconds)
        self._forget(each.receipt for each in lost)
        return [by_receipt[each.receipt] for each in lost]

    def wake(self) -> None:
        self._woken = True
        self._inner.wake()

    def close(self) -> None:
        self._end_due()
        self._inner.close()

    def _label(self, delivery: Delivery) -> Label:
        """Return the label that the body came with."""
        return take_off(self._lent.get(delivery.receipt, delivery).body)[0]

    def _epitaph(self, delivery: Delivery, reason: str) -> Label:
        now, key = self._clock.time(), self._label(delivery).key
        count, priority = delivery.delivery_count, delivery.priority
        return Label(count=count, reason=reason, buried=now, priority=priority, key=key)

    def _replace(self, deliveries: Sequence[Delivery], delay: float, uncharged: int) -> list[Delivery]:
        """Put a copy in the place of each that is still ours, counted as often as it, less `uncharged`."""
        lost = self._lost(deliveries)
        counts, copies = self._broker.native.delivery_count, []
        for each in _without(deliveries, lost):
            label = self._label(each)
            # Where the broker counts, the copy starts from nothing; marks in the store go on counting.
            before = each.delivery_count if counts else label.count
            copies.append(Copy(each, _replace(label, count=before - uncharged), delay))
        return [*lost, *self._put_copies(copies)]

    def _put_copies(self, copies: Sequence[Copy]) -> list[Delivery]:
        """Put copies in the place of loans: published first, so that a crash doubles and never loses."""
        refused = self._broker.send_copies(copies)
        over = self._settle(self._inner.ack, [each for each, _, _ in copies if each.id not in refused])
        return [*over, *self._put_off([each for each, _, _ in copies if each.id in refused], refused)]

    def _put_off(self, deliveries: Sequence[Delivery], refused: Any) -> list[Delivery]:
        """Give back what could not be put where it belongs."""
        for each in deliveries:
            logger.error("%s comes out once more, what should follow was refused: %s", each.id, refused[each.id])
        return self._settle(lambda some: self._inner.requeue(some, REFUSED_PAUSE), deliveries)

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
        self._forget(by_receipt)
        return [by_receipt[each.receipt] for each in lost]

    def _forget(self, receipts: Iterable[Any]) -> None:
        for receipt in receipts:
            self._lent.pop(receipt, None)
            self._live.discard(receipt)


def _done(delivery: Delivery) -> str:
    return f"done:{_this(delivery)}"


def _counted(delivery: Delivery, label: Label, number: int) -> str:
    """Return the mark of a delivery: the so many-th since the message was last a dead letter."""
    return f"lent{number}:{label.buried}:{_this(delivery)}"


def _this(delivery: Delivery) -> str:
    """Return a name of this very message. The same id may be sent again on purpose; then its body says another time."""
    told = f"{delivery.queue}\n{delivery.id}\n{delivery.attempt}\n".encode() + delivery.body
    return blake2b(told, digest_size=16).hexdigest()


def _without(deliveries: Sequence[Delivery], lost: Sequence[Delivery]) -> list[Delivery]:
    gone = {each.receipt for each in lost}
    return [each for each in deliveries if each.receipt not in gone]
