"""Where each queue is: named in the URL, put together, looked up, or created; and requests that are about a queue.

A queue that was deleted under us is looked up, or created, once more. Batches are cut to what SQS takes and sent side
by side, and what fails of a batch is looked at one by one.
"""

from __future__ import annotations

import json
import logging
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from dray import BrokerError, BrokerUnavailable, UrlError

from .sqs_client import SqsClient, SqsOptions
from .sqs_errors import Failure, NotAllowed, QueueMissing
from .sqs_wire import Refused, batches, queue_name, queue_of

logger = logging.getLogger("dray.sqs")

#: One entry of a batch, and the queue it is for.
Item = tuple[str, Mapping[str, Any]]
#: Pauses before asking again for a queue that was just created and is not there yet (seconds).
APPEARING = (0.0, 0.5, 1.0)
#: Pauses before the next tries of entries that may succeed later (seconds); each is varied by half.
AGAIN = (0.1, 0.3, 0.9)
#: How the URL's `queues=` is written.
_NAMED = re.compile(r"(?P<queue>[^,]+?):(?P<url>https?://[^,]+)")


class SqsQueues:
    """The queues that one URL leads to. Thread-safe."""

    def __init__(self, client: SqsClient, options: SqsOptions) -> None:
        self._client = client
        self._options = options
        self._fifo = options.fifo == "yes"
        #: Found so far.
        self._urls: dict[str, str] = {}
        #: What `Broker.declare` asked for, by queue: attributes as SQS names them.
        self._declared: dict[str, dict[str, str]] = {}
        self.predefined = self._named(options.queues)

    def _named(self, text: str) -> dict[str, str]:
        found = {}
        for part in filter(None, text.split(",")):
            named = _NAMED.fullmatch(part)
            if named is None:
                raise UrlError(f"{self._client.url}: queues= takes name:url,name:url; {part!r} is not a name and a URL")
            found[named["queue"]] = named["url"]
        return found

    def reach(self) -> None:
        """Ask SQS anything at all; raise `BrokerUnavailable` or `BrokerError` when it cannot be asked."""
        try:
            if self.predefined:
                queue, url = next(iter(self.predefined.items()))
                self._client.ask("get_queue_attributes", queue, QueueUrl=url, AttributeNames=["QueueArn"])
            elif self._options.account:
                self._client.ask("get_queue_attributes", QueueUrl=self.found("dray"), AttributeNames=["QueueArn"])
            else:
                self._client.ask("get_queue_url", QueueName=self.name("dray"))
        except (QueueMissing, NotAllowed):
            # Whoever says that knows us.
            pass

    # Where they are

    def check(self, queue: str) -> None:
        """Raise `Refused` for a queue that there cannot be."""
        if self.predefined:
            if queue not in self.predefined:
                raise Refused(
                    f"the queue {queue!r} is not among those that queues= names: {', '.join(self.predefined)}; add "
                    f"{queue}:https://..., or say account= instead, for queues with our own names"
                )
        elif queue not in self._urls:
            queue_name(queue, self._options.prefix, self._fifo)

    def may_exist(self, queue: str) -> bool:
        """Return whether a queue may hold anything. Raises `BrokerError` for one that there cannot be.

        With `queues=`, those that the engine names after another (`emails__p5`) need not be named.
        """
        if queue not in self.predefined and _named_after(queue, self.predefined):
            return False
        self.name(queue)
        return True

    def name(self, queue: str) -> str:
        """Return what a queue is called in SQS, or raise `BrokerError`."""
        try:
            self.check(queue)
            return queue if self.predefined else queue_name(queue, self._options.prefix, self._fifo)
        except Refused as refusal:
            raise BrokerError(f"{self._client.url}: {refusal}") from None

    def url(self, queue: str) -> str:
        """Return the URL of a queue, which is created if need be. Raises `BrokerError` when that is not allowed."""
        url = self._urls.get(queue)
        if url is None:
            url = self._urls[queue] = self.found(queue) or self.made(queue)
        return url

    def found(self, queue: str) -> str | None:
        """Return the URL of a queue; None when it does not exist."""
        name = self.name(queue)
        if self.predefined:
            return self.predefined[queue]
        if self._options.account:
            return f"{self._client.endpoint.rstrip('/')}/{self._options.account}/{name}"
        if queue in self._urls:
            return self._urls[queue]
        try:
            return str(self._client.ask("get_queue_url", queue, QueueName=name)["QueueUrl"])
        except QueueMissing:
            return None

    def made(self, queue: str) -> str:
        """Create a queue and return its URL."""
        name = self.name(queue)
        if self._options.create == "no":
            raise BrokerError(
                f"{self._client.url}: there is no queue {name!r}, and create=no: create it, or run `dray setup` with a "
                "URL that may"
            )
        attributes = {"MessageRetentionPeriod": str(self._options.retention)}
        if self._fifo:
            attributes["FifoQueue"] = "true"
        attributes |= self._declared_for(queue)
        try:
            answer = self._client.ask("create_queue", queue, QueueName=name, Attributes=attributes)
        except BrokerUnavailable:
            raise
        except BrokerError:
            # Somebody else may have created it at the same moment, with other attributes: then it is there.
            url = self.found(queue)
            if url is None:
                raise
            return url
        logger.info("created the queue %s", answer["QueueUrl"])
        return str(answer["QueueUrl"])

    def declare(self, queue: str, attributes: Mapping[str, Any]) -> None:
        """Create a queue with these attributes; raise `BrokerError` when it exists with others."""
        wanted = {key: _text(value) for key, value in attributes.items()}
        self._declared[queue] = wanted
        url = self.found(queue)
        if url is None:
            self._urls[queue] = self.made(queue)
            return
        if not wanted:
            return
        has = self.attributes(queue, *wanted)
        for key, value in wanted.items():
            if _meaning(has.get(key)) != _meaning(value):
                raise BrokerError(
                    f"{self._client.url}: the queue {queue!r} exists with {key}={has.get(key)}, and {value} is "
                    "declared; change the one with SetQueueAttributes, or the other"
                )

    def _declared_for(self, queue: str) -> dict[str, str]:
        """Return the attributes declared for a queue, or for the one that the engine named it after."""
        if queue in self._declared:
            return self._declared[queue]
        parent = self._declared.get(_named_after(queue, self._declared) or "", {})
        # Encrypted it should be, too, if that is; but looking at dead letters counts as receiving them, and SQS would
        # move them on.
        return {key: value for key, value in parent.items() if key != "RedrivePolicy"}

    def listed(self) -> list[str]:
        """Return all queues of ours, whatever they hold; with `queues=`, those it names."""
        if self.predefined:
            return sorted(self.predefined)
        prefix, found = self._options.prefix, []
        parameters: dict[str, Any] = {"MaxResults": 1000, **({"QueueNamePrefix": prefix} if prefix else {})}
        while True:
            answer = self._client.ask("list_queues", **parameters)
            for url in answer.get("QueueUrls", ()):
                queue = queue_of(url.rpartition("/")[2], prefix, self._fifo)
                if queue is not None:
                    found.append(queue)
                    self._urls.setdefault(queue, url)
            if not answer.get("NextToken"):
                return sorted(found)
            parameters["NextToken"] = answer["NextToken"]

    def attributes(self, queue: str, *names: str) -> dict[str, str]:
        """Return attributes of a queue; none when it does not exist."""
        url = self.found(queue)
        if url is None:
            return {}
        try:
            answer = self._client.ask("get_queue_attributes", queue, QueueUrl=url, AttributeNames=list(names))
        except QueueMissing:
            self._forget(queue, url)
            return {}
        return {key: str(value) for key, value in answer.get("Attributes", {}).items()}

    def _forget(self, queue: str, url: str) -> None:
        # Somebody else may have found its new place meanwhile.
        if self._urls.get(queue) == url:
            self._urls.pop(queue, None)

    # Asking about a queue

    def ask(self, verb: str, queue: str, **parameters: Any) -> dict[str, Any]:
        """Make one request about a queue, which is created if need be."""
        return self.there(queue, lambda url: self._client.ask(verb, queue, QueueUrl=url, **parameters))

    def there(self, queue: str, ask: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
        """Return what `ask` answers for the URL of a queue, which is created if need be."""
        for pause in APPEARING:
            if pause:
                time.sleep(pause)
            url = self.url(queue)
            try:
                return ask(url)
            except QueueMissing as error:
                self._forget(queue, url)
                if self.predefined or self._options.account:
                    raise BrokerError(f"{error}: the queue that the URL names does not exist") from error
        raise BrokerUnavailable(f"{self._client.url}: the queue {queue!r} was created and is not there yet")

    def batch(self, verb: str, items: Sequence[Item]) -> dict[int, Failure]:
        """Send entries to their queues, ten at a time and side by side; return which of them failed, and why.

        What may succeed later has been tried again. Raises `BrokerUnavailable` when a whole request got no answer: any
        subset may have taken effect then.
        """
        failed = self._batch(verb, items, range(len(items)))
        for pause in AGAIN:
            again = [position for position, failure in failed.items() if failure.passing]
            if not again:
                break
            time.sleep(pause * random.uniform(0.5, 1.5))
            for position in again:
                del failed[position]
            failed |= self._batch(verb, items, again)
        return failed

    def _batch(self, verb: str, items: Sequence[Item], positions: Sequence[int]) -> dict[int, Failure]:
        by_queue: defaultdict[str, list[int]] = defaultdict(list)
        for position in positions:
            by_queue[items[position][0]].append(position)
        jobs = [
            partial(self._send, verb, queue, items, [of_queue[n] for n in stretch])
            for queue, of_queue in by_queue.items()
            for stretch in batches([items[position][1] for position in of_queue], self._options.max_bytes)
        ]
        # Side by side the batches would arrive in any order.
        in_order = self._fifo and verb == "send_message_batch"
        failed: dict[int, Failure] = {}
        for answer in [job() for job in jobs] if in_order else self._client.side_by_side(jobs):
            failed |= answer
        return failed

    def _send(self, verb: str, queue: str, items: Sequence[Item], positions: Sequence[int]) -> dict[int, Failure]:
        entries = [{"Id": str(position), **items[position][1]} for position in positions]
        answer = self.ask(verb, queue, Entries=entries)
        return {int(each["Id"]): Failure(each) for each in answer.get("Failed", ())}


def _named_after(queue: str, known: Iterable[str]) -> str | None:
    """Return the queue that this one is named after by the engine, if it is one of these: of `q__dead`, `q`."""
    return next((name for name in known if queue.startswith(f"{name}__")), None)


def _text(value: object) -> str:
    """Return an attribute as SQS wants it: policies as JSON, yes and no as JSON has them."""
    return json.dumps(value) if isinstance(value, dict | list | bool) else str(value)


def _meaning(text: str | None) -> object:
    return json.loads(text) if text is not None and text.startswith("{") else text
