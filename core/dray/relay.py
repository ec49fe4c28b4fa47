"""A broker that passes every verb on to another one: what stands between the engine and a broker is made of this."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from .broker import Broker, Consumer
from .message import Envelope, Queue, Waiting

T = TypeVar("T")


class Relay(Broker):
    """Passes on all verbs but `open` and `close`, each through `_ask`."""

    @abstractmethod
    def _ask(self, verb: str, call: Callable[[Broker], T], ids: Iterable[str] = ()) -> T:
        """Make a call of the broker that is meant, and return what it returns; `ids` are those it is about."""

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        self._ask("publish", lambda broker: broker.publish(envelopes), (each.id for each in envelopes))

    def publish_within(self, connection: Any, envelopes: Sequence[Envelope]) -> None:
        ids = (each.id for each in envelopes)
        self._ask("publish_within", lambda broker: broker.publish_within(connection, envelopes), ids)

    def consumer(self, queues: Sequence[str], lease: float) -> Consumer:
        return self._ask("consumer", lambda broker: broker.consumer(queues, lease))

    def declare(self, queues: Sequence[Queue]) -> None:
        self._ask("declare", lambda broker: broker.declare(queues))

    def setup(self, queues: Sequence[str]) -> Sequence[str]:
        return self._ask("setup", lambda broker: broker.setup(queues))

    def advice(self, queues: Sequence[str]) -> Sequence[str]:
        return self._ask("advice", lambda broker: broker.advice(queues))

    def cancel(self, ids: Sequence[str], ttl: float) -> None:
        self._ask("cancel", lambda broker: broker.cancel(ids, ttl), ids)

    def cancelled(self, ids: Sequence[str]) -> set[str]:
        return self._ask("cancelled", lambda broker: broker.cancelled(ids), ids)

    def find(self, ids: Sequence[str]) -> Mapping[str, str]:
        return self._ask("find", lambda broker: broker.find(ids), ids)

    def queues(self) -> Sequence[str]:
        return self._ask("queues", lambda broker: broker.queues())

    def sizes(self, queues: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        return self._ask("sizes", lambda broker: broker.sizes(queues))

    def peek(self, queue: str, limit: int) -> Sequence[Waiting]:
        return self._ask("peek", lambda broker: broker.peek(queue, limit))

    def purge(self, queue: str) -> int:
        return self._ask("purge", lambda broker: broker.purge(queue))

    def dead(self, queue: str, limit: int, ids: Sequence[str] | None = None) -> Sequence[Waiting]:
        return self._ask("dead", lambda broker: broker.dead(queue, limit, ids))

    def replay(self, queue: str, ids: Sequence[str] | None = None) -> int:
        return self._ask("replay", lambda broker: broker.replay(queue, ids))

    def discard(self, queue: str, ids: Sequence[str] | None = None) -> int:
        return self._ask("discard", lambda broker: broker.discard(queue, ids))
