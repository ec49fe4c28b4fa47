"""The limit of sqs://: batches of ten, one after the other, and results in Redis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
from contender import Spot

from limits.loop import Item, SharedLoop
from limits.redis import RedisLoop

#: Messages in one request, and the longest that one waits for messages (seconds).
BATCH, WAIT = 10, 1


class SqsLoop(SharedLoop):
    """One client. SQS takes nothing but text: bodies are in hexadecimal."""

    batch = BATCH

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot)
        self._results = RedisLoop(spot)
        self._sqs = client(spot.servers["sqs"])
        self._queue = self._sqs.create_queue(QueueName="limit")["QueueUrl"]

    def put(self, bodies: Sequence[bytes]) -> None:
        entries = [{"Id": str(n), "MessageBody": body.hex()} for n, body in enumerate(bodies)]
        self._sqs.send_message_batch(QueueUrl=self._queue, Entries=entries)

    def take(self) -> Sequence[Item]:
        return self._receive(0)

    def settle(self, items: Sequence[Item], results: Sequence[bytes]) -> None:
        self._results.store(results)
        entries = [{"Id": str(n), "ReceiptHandle": handle} for n, (handle, _) in enumerate(items)]
        self._sqs.delete_message_batch(QueueUrl=self._queue, Entries=entries)

    def call(self, body: bytes) -> bytes:
        self.put([body])
        return self._results.result()

    def serve(self, answer: Callable[[bytes], bytes], ended: Callable[[], bool]) -> None:
        while not ended():
            if items := self._receive(WAIT):
                for _, body in items:
                    self._results.tell(answer(body))
                self.settle(items, ())

    def _receive(self, wait: int) -> list[Item]:
        answer = self._sqs.receive_message(QueueUrl=self._queue, MaxNumberOfMessages=BATCH, WaitTimeSeconds=wait)
        return [(each["ReceiptHandle"], bytes.fromhex(each["Body"])) for each in answer.get("Messages", ())]

    def close(self) -> None:
        self._sqs.close()
        self._results.close()
        super().close()


def client(url: str) -> Any:
    """Return a client of the server at a dray URL."""
    parts = urlsplit(url)
    options = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return boto3.client(
        "sqs",
        aws_access_key_id=parts.username,
        aws_secret_access_key=parts.password,
        region_name=options["region"],
        endpoint_url=options["endpoint"],
    )
