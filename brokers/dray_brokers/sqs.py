"""The sqs:// broker: Amazon SQS, and servers that speak its protocol, through boto3.

    dray queue      an SQS queue, created when first used (unless the URL says otherwise)
    publish         SendMessageBatch, ten at a time, several requests side by side
    lease           the visibility timeout; renewed in batches, for 12 hours at most
    delivery count  ApproximateReceiveCount
    delay           DelaySeconds, up to 15 minutes

What SQS does not have (priorities, longer delays, dead letters with a reason, cancelling) the engine adds. SQS delivers
at least once and, on standard queues, in no order. It forgets messages after 14 days, dead letters included.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from dray import Broker, BrokerError, BrokerUnavailable, Capabilities, Consumer, Envelope, PublishError, Queue, Url

from .sqs_client import SqsClient, SqsOptions
from .sqs_consumer import DELETE, SqsConsumer
from .sqs_queues import Item, SqsQueues
from .sqs_wire import MOST_BYTES, MOST_DELAY, MOST_IN_BATCH, MOST_LOAN, MOST_RETENTION, Refused, entry, largest_body

logger = logging.getLogger("dray.sqs")

#: What SQS counts in a queue, by dray's word for it.
COUNTED = {
    "ready": "ApproximateNumberOfMessages",
    "delayed": "ApproximateNumberOfMessagesDelayed",
    "leased": "ApproximateNumberOfMessagesNotVisible",
}
#: Up to so many messages are purged one batch after the other. More are left to PurgeQueue, which takes a minute, in
#: which it deletes what is sent as well.
PURGED_BY_HAND = 1000
#: Seconds for which a message is borrowed to be purged.
PURGE_LOAN = 30


class SqsBroker(Broker):
    """`sqs://?region=eu-west-1`, `sqs://key:secret@?region=...&prefix=shop-`. Options: see `SqsOptions`."""

    capabilities = Capabilities(
        max_delay=MOST_DELAY,
        lease=True,
        lease_max=MOST_LOAN,
        delivery_count=True,
        requeue_delay=True,
        max_message_bytes=largest_body(MOST_BYTES),
        request_batch=MOST_IN_BATCH,
        key="fair",
        purge=True,
        size="approximate",
    )

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self._options = options = SqsOptions.of(url)
        self._fifo, self._fair = options.fifo == "yes", options.fair == "yes"
        self._client = SqsClient(url, options)
        self._queues = SqsQueues(self._client, options)
        self.capabilities = msgspec.structs.replace(
            SqsBroker.capabilities,
            max_delay=0.0 if self._fifo else MOST_DELAY,
            max_message_bytes=largest_body(options.max_bytes),
            key="order" if self._fifo else "fair" if self._fair else "",
        )

    def open(self) -> None:
        self._client.open()
        self.place = (
            f"sqs:{self._options.endpoint}:{self._client.region}:{self._options.account}:{self._options.prefix}"
        )
        self._queues.reach()

    def close(self) -> None:
        self._client.close()

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        rejected: dict[str, str] = {}
        accepted: list[Envelope] = []
        items: list[Item] = []
        for envelope in envelopes:
            try:
                self._queues.check(envelope.queue)
                made = entry(envelope, fifo=self._fifo, fair=self._fair, most_bytes=self._options.max_bytes)
            except Refused as refusal:
                rejected[envelope.id] = str(refusal)
            else:
                accepted.append(envelope)
                items.append((envelope.queue, made))
        for position, failure in self._queues.batch("send_message_batch", items).items():
            if failure.passing:
                raise BrokerUnavailable(f"{self.url}: SendMessageBatch: {failure}")
            rejected[accepted[position].id] = str(failure)
        if rejected:
            raise PublishError(rejected)

    def consumer(self, queues: Sequence[str], lease: float) -> Consumer:
        return SqsConsumer(self._client, self._queues, self._options, self.clock, queues, lease)

    def declare(self, queues: Sequence[Queue]) -> None:
        for queue in queues:
            self._queues.declare(queue.name, queue.arguments)

    def setup(self, queues: Sequence[str]) -> Sequence[str]:
        missing = [queue for queue in queues if self._queues.may_exist(queue) and self._queues.found(queue) is None]
        return [f"created the queue {self._queues.made(queue)}" for queue in missing]

    # Looking

    def queues(self) -> Sequence[str]:
        names = self._queues.listed()
        sizes = self.sizes(names)
        return [name for name in names if any(sizes[name].values())]

    def sizes(self, queues: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        return dict(zip(queues, self._client.side_by_side([partial(self._size, name) for name in queues]), strict=True))

    def _size(self, queue: str) -> dict[str, int]:
        has = self._queues.attributes(queue, *COUNTED.values()) if self._queues.may_exist(queue) else {}
        return {**{state: int(has.get(name, 0)) for state, name in COUNTED.items()}, "dead": 0}

    def purge(self, queue: str) -> int:
        if not self._queues.may_exist(queue) or self._queues.found(queue) is None:
            return 0
        size = self._size(queue)
        # PurgeQueue deletes what is lent, too; and what is delayed can be deleted in no other way.
        if not size["leased"] and (size["delayed"] or size["ready"] > PURGED_BY_HAND):
            try:
                self._queues.ask("purge_queue", queue)
            except BrokerError as error:
                # Allowed once a minute.
                if "PurgeQueueInProgress" not in str(error):
                    raise
            else:
                return size["ready"] + size["delayed"]
        if size["delayed"]:
            logger.warning("%d delayed message(s) stay in %s: SQS cannot delete them just now", size["delayed"], queue)
        return self._purge_by_hand(queue)

    def _purge_by_hand(self, queue: str) -> int:
        purged = 0
        while True:
            answer = self._queues.ask(
                "receive_message",
                queue,
                MaxNumberOfMessages=MOST_IN_BATCH,
                VisibilityTimeout=PURGE_LOAN,
                WaitTimeSeconds=1,
            )
            came = answer.get("Messages", ())
            failed = self._queues.batch(DELETE, [(queue, {"ReceiptHandle": each["ReceiptHandle"]}) for each in came])
            purged += len(came) - len(failed)
            if not came:
                return purged

    # Advice

    def advice(self, queues: Sequence[str]) -> Sequence[str]:
        found = []
        if not (self._options.prefix or self._queues.predefined):
            found.append(
                f"{self.url} has no prefix=, so every queue of the account counts as dray's when queues are listed."
            )
        unnamed = [queue for queue in queues if not self._queues.may_exist(queue)]
        if unnamed:
            found.append(
                f"{self.url}: queues= does not name {', '.join(unnamed)}: what needs them (a priority, a message that "
                "cannot be run) is refused."
            )
        for queue in queues:
            if queue in unnamed:
                continue
            try:
                found += self._advice_on(queue, self._queues.attributes(queue, "All"))
            except BrokerUnavailable:
                raise
            except BrokerError as error:
                found.append(f"Nothing is known about the queue {queue!r}: {error}")
        return found

    def _advice_on(self, queue: str, has: Mapping[str, Any]) -> list[str]:
        found = []
        if redrive := json.loads(has.get("RedrivePolicy") or "{}"):
            found.append(
                f"The queue {queue!r} has a RedrivePolicy: SQS moves a message to {redrive.get('deadLetterTargetArn')} "
                f"when it has been received {redrive.get('maxReceiveCount')} times, without a reason and unseen by "
                "`dray dead`. Keep maxReceiveCount well above max_deliveries, for giving back counts too, or remove it."
            )
        if 0 < (kept := int(has.get("MessageRetentionPeriod", 0))) < MOST_RETENTION:
            found.append(
                f"The queue {queue!r} forgets messages after {kept / 86400:.3g} days; "
                f"MessageRetentionPeriod={MOST_RETENTION} keeps them for 14."
            )
        if int(has.get("DelaySeconds", 0)):
            found.append(f"The queue {queue!r} delays every message by {has['DelaySeconds']} s (its DelaySeconds).")
        if 0 < (most := int(has.get("MaximumMessageSize", 0))) < self._options.max_bytes:
            found.append(
                f"The queue {queue!r} takes messages of {most} bytes only: write max_bytes={most} in the URL, so that "
                "larger ones are refused with advice, or raise its MaximumMessageSize."
            )
        return found
