"""One worker's loans from SQS: what it borrows at once or by long polls, and how it settles them.

A loan is a visibility timeout, and its proof is the receipt handle of that one receive. SQS is lax about proofs whose
loan is over: it may take them, ignore them, or refuse them. So every loan knows, by our own clock, when it ends, and
what is over is told as lost without asking: who lost a loan changes nothing.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import Any

from dray import BrokerError, BrokerUnavailable, Clock, Consumer, Delivery

from .sqs_client import SqsClient, SqsOptions
from .sqs_errors import OVER
from .sqs_queues import SqsQueues
from .sqs_receiver import Receiver, lent_before
from .sqs_wire import MOST_IN_BATCH, MOST_LOAN, read

logger = logging.getLogger("dray.sqs")

#: A loan is asked for so much longer than the worker is told (seconds): for the way of the answer, and for what waits a
#: moment (`LINGER`) before it is handed over.
SLACK = 1.0
#: Seconds for the way of an answer.
ON_ITS_WAY = 0.5
#: An answer that comes so many seconds after its long poll should have ended is not trusted: this process was frozen,
#: or the network was, and the loans may be over.
LATE = 3.0
#: Seconds for which a queue in which nothing was found is not asked again, as long as others bring something.
QUIET = 0.25
#: The two requests that settle, as the driver calls them.
DELETE, CHANGE = "delete_message_batch", "change_message_visibility_batch"
#: Loans are given up so many seconds before SQS ends them after 12 hours.
BEFORE_THE_END = 5.0


class Loan:
    """The receipt of a delivery. Two are equal only when they are the same."""

    __slots__ = ("ends", "handle", "last", "settled")

    def __init__(self, handle: str, ends: float, last: float) -> None:
        self.handle = handle
        #: When it is over, and when it is over whatever is asked (on the monotonic clock, rather too early).
        self.ends, self.last = ends, last
        #: Whether SQS has been told what became of the message, and said yes.
        self.settled = False


class SqsConsumer(Consumer):
    """The loans of one worker."""

    def __init__(
        self,
        client: SqsClient,
        queues: SqsQueues,
        options: SqsOptions,
        clock: Clock,
        names: Sequence[str],
        lease: float,
    ) -> None:
        self._client = client
        self._queues = queues
        self._options = options
        self._clock = clock
        self._names = tuple(name for name in names if queues.may_exist(name))
        self._loan = min(math.ceil(lease + SLACK), MOST_LOAN)
        # While a message of a group is lent, SQS lends no other of it; but it may put several of them into one answer.
        self._at_once = 1 if options.fifo == "yes" else MOST_IN_BATCH
        self._changed = threading.Condition()
        self._receivers = {name: self._receiver(name) for name in self._names}
        #: Until when (monotonic) queues in which nothing was found are quiet.
        self._quiet: dict[str, float] = {}
        #: What was lent and not settled: what `close` gives back.
        self._lent: dict[Loan, Delivery] = {}
        self._closed = False

    def _receiver(self, name: str) -> Receiver:
        return Receiver(
            f"dray-sqs-{name}",
            partial(self._borrow, name),
            self._end_now,
            self._changed,
            self._clock,
            at_once=self._at_once,
            # Over before what we hold comes back, renewed at a third at the latest: the poll that a killed process has
            # left behind would get it, and it would be charged with one more delivery.
            longest=min(self._options.wait, max(1, self._loan * 2 // 3)),
            threads=self._options.receivers,
        )

    # Borrowing

    def receive(self, limit: int, wait: float, queues: Sequence[str] | None = None) -> Sequence[Delivery]:
        if limit <= 0:
            return []
        end = self._clock.monotonic() + wait
        names = self._names if queues is None else [name for name in queues if name in self._receivers]
        quiet = self._quiet_ones(names)
        taken, going_on = self._look_round(names, limit, quiet)
        if not taken and wait <= 0 and quiet:
            taken, _ = self._look_round(quiet, limit)
        receivers = [self._receivers[name] for name in names]
        with self._changed:
            if wait > 0 and not taken:
                self._want(names, limit, end)
            while not taken and not self._closed:
                taken = self._came(receivers, limit)
                left = end - self._clock.monotonic()
                if taken or left <= 0:
                    break
                self._changed.wait(left)
            if wait > 0 and taken:
                # What is still wanted is polled for while the caller works on what is there.
                self._want(names, 0, end)
                if not lent_before(taken):
                    self._want(going_on, limit - len(taken), end)
            self._lent.update((delivery.receipt, delivery) for delivery in taken)
        return taken

    def _want(self, names: Sequence[str], messages: int, until: float) -> None:
        for name in names:
            self._receivers[name].want(messages, until)

    def _quiet_ones(self, names: Sequence[str]) -> list[str]:
        now = self._clock.monotonic()
        return [name for name in names if self._quiet.get(name, now) > now]

    def _look_round(
        self, names: Sequence[str], limit: int, unasked: Container[str] = ()
    ) -> tuple[list[Delivery], Sequence[str]]:
        """Return what is there, and the queues in which more should be waited for.

        Of the `unasked` only what has come is taken.
        """
        taken: list[Delivery] = []
        for number, name in enumerate(names, 1):
            room = limit - len(taken)
            try:
                came, there_is_more = self._look(name, room, ask=name not in unasked)
            except BrokerError:
                # What was borrowed already must not be forgotten; the next call will meet the error again.
                if not taken:
                    raise
                break
            taken += came
            if there_is_more or len(came) == room:
                # The room that is left is this queue's; the ones behind it are looked at when it has no more.
                return taken, names[:number]
        return taken, names

    def _look(self, name: str, room: int, *, ask: bool) -> tuple[list[Delivery], bool]:
        """Return what has come from one queue, and whether there seems to be more.

        Nothing being on its way, ask without waiting: once, and when that brings all it can, once more side by side.
        """
        receiver = self._receivers[name]
        with self._changed:
            taken = receiver.take(room)
            if taken or receiver.polling or self._closed or not ask:
                return taken, False
        taken = self._borrow(name, min(room, self._at_once), 0)
        room -= len(taken)
        if len(taken) < self._at_once:
            return taken, False
        # Whole ones only: for what is left over beside them the next call asks.
        asks = min(room // self._at_once, self._options.receivers)
        answers = self._client.side_by_side([partial(self._try, name)] * asks)
        more = [delivery for answer in answers for delivery in answer]
        return [*taken, *more], len(more) == asks * self._at_once

    def _try(self, name: str) -> list[Delivery]:
        try:
            return self._borrow(name, self._at_once, 0)
        except BrokerError:
            # What the others bring must not be forgotten; the next call will meet the error again.
            return []

    def _came(self, receivers: Sequence[Receiver], limit: int) -> list[Delivery]:
        taken: list[Delivery] = []
        for receiver in receivers:
            taken += receiver.take(limit - len(taken))
        for receiver in receivers:
            failure = receiver.failure()
            if failure is not None and not taken:
                raise failure
        return taken

    def _borrow(self, name: str, most: int, wait: int) -> list[Delivery]:
        """Ask SQS for up to `most` messages of a queue, waiting `wait` seconds for them."""
        if most <= 0:
            return []
        ask = self._client.poll if wait else partial(self._client.ask, "receive_message")
        asked = self._clock.monotonic()
        answer = self._queues.there(
            name,
            lambda url: ask(
                name,
                QueueUrl=url,
                MaxNumberOfMessages=most,
                VisibilityTimeout=self._loan,
                WaitTimeSeconds=wait,
                MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
            ),
        )
        now = self._clock.monotonic()
        began = max(asked, now - ON_ITS_WAY) if wait else asked
        found = [self._delivery(name, message, began) for message in answer.get("Messages", ())]
        self._quiet[name] = -math.inf if found else now + QUIET
        if found and wait and now - asked > wait + LATE:
            self._end_now(found)
            return []
        return found

    def _delivery(self, name: str, message: Mapping[str, Any], began: float) -> Delivery:
        content = read(message["Body"])
        told = message.get("Attributes", {})
        return Delivery(
            # Somebody else's message goes to the engine as it is; the engine says what it is.
            id=message["MessageId"] if content is None else content.id,
            queue=name,
            body=message["Body"].encode(errors="replace") if content is None else content.body,
            receipt=Loan(message["ReceiptHandle"], began + self._loan, began + MOST_LOAN - BEFORE_THE_END),
            delivery_count=int(told.get("ApproximateReceiveCount", 1)),
            attempt=0 if content is None else content.attempt,
            published=float(told["SentTimestamp"]) / 1000 if "SentTimestamp" in told else None,
        )

    # Settling

    def ack(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        return self._settle(DELETE, deliveries, lambda loan: {})

    def requeue(self, deliveries: Sequence[Delivery], delay: float = 0.0) -> Sequence[Delivery]:
        now = self._clock.monotonic()

        def away(loan: Loan) -> dict[str, int]:
            # The time away counts towards the 12 hours.
            return {"VisibilityTimeout": max(0, min(math.ceil(delay), int(loan.last - now)))}

        return self._settle(CHANGE, deliveries, away)

    def bury(self, deliveries: Sequence[Delivery], reason: str) -> Sequence[Delivery]:
        # The engine has put a copy into the queue of dead letters before.
        return self.ack(deliveries)

    def extend(self, deliveries: Sequence[Delivery], seconds: float) -> Sequence[Delivery]:
        now, longer = self._clock.monotonic(), math.ceil(seconds)
        lost, ours = self._split(deliveries)
        ending = [each for each in ours if now + longer > each.receipt.last]
        for each in ending:
            logger.warning(
                "%s: held for almost 12 hours, the longest that SQS lends a message; it comes again", each.id
            )
        going_on = [each for each in ours if now + longer <= each.receipt.last]
        over = self._tell(CHANGE, going_on, lambda loan: {"VisibilityTimeout": longer})
        gone = {each.receipt for each in over}
        for each in going_on:
            if each.receipt not in gone:
                each.receipt.ends = now + longer
        return [*lost, *ending, *over]

    def close(self) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
            left = list(self._lent.values())
            self._lent.clear()
        for receiver in self._receivers.values():
            left += receiver.close()
        try:
            if self._client.is_open:
                self._end_now(self._split(left)[1])
        except BrokerError as error:
            logger.debug("%d message(s) not given back, their loans run out: %s", len(left), error)

    def _settle(
        self, verb: str, deliveries: Sequence[Delivery], fields: Callable[[Loan], Mapping[str, int]]
    ) -> list[Delivery]:
        lost, ours = self._split(deliveries)
        over = self._tell(verb, ours, fields)
        for delivery in ours:
            delivery.receipt.settled = True
        with self._changed:
            for delivery in deliveries:
                self._lent.pop(delivery.receipt, None)
        return [*lost, *over]

    def _end_now(self, deliveries: Sequence[Delivery]) -> None:
        """Let messages come out again at once, whoever has them."""
        self._tell(CHANGE, deliveries, lambda loan: {"VisibilityTimeout": 0})

    def _split(self, deliveries: Sequence[Delivery]) -> tuple[list[Delivery], list[Delivery]]:
        """Return those whose loan is over, and those that are still ours; what is settled is neither."""
        now = self._clock.monotonic()
        # The same one twice in a request would be refused, with the whole request.
        held = {each.receipt: each for each in deliveries if not each.receipt.settled}.values()
        return [each for each in held if each.receipt.ends <= now], [each for each in held if each.receipt.ends > now]

    def _tell(
        self, verb: str, deliveries: Sequence[Delivery], fields: Callable[[Loan], Mapping[str, int]]
    ) -> list[Delivery]:
        """Tell SQS about loans; return those that it says are over. Raises when it did not take all others."""
        failed = self._queues.batch(
            verb, [(each.queue, {"ReceiptHandle": each.receipt.handle, **fields(each.receipt)}) for each in deliveries]
        )
        over = [deliveries[position] for position, failure in failed.items() if failure.code in OVER]
        for failure in failed.values():
            if failure.code not in OVER:
                raise (BrokerUnavailable if failure.passing else BrokerError)(f"{self._client.url}: {verb}: {failure}")
        return over
