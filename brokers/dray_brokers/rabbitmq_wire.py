"""What a message of ours looks like in AMQP, and what is made of whatever comes out of a queue.

The body is the envelope's, untouched. `message_id` is its id and `timestamp` its hour; everything else that is not
zero is a header, or the `priority`, which only means something to queues that somebody has declared with priorities.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from pika import BasicProperties

from dray import Delivery, Envelope

from .rabbitmq_connection import MOST_NAME
from .rabbitmq_frames import Arrival

#: Survives a restart of the server, in a durable queue.
PERSISTENT = 2
#: Our headers: the attempt, how often it was handed out, and an id that is too long for a `message_id`.
ATTEMPT, DELIVERIES, LONG_ID = "x-dray-attempt", "x-dray-deliveries", "x-dray-id"
#: Headers that RabbitMQ writes about a message's past. A copy must not have them: it would be dropped, as going round
#: in circles, when it comes to a queue of the ladder that they name.
_PAST = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")


def properties_of(envelope: Envelope, now: float) -> BasicProperties:
    """Return the properties of a new message."""
    headers: dict[str, Any] = {}
    if envelope.attempt:
        headers[ATTEMPT] = envelope.attempt
    priority = envelope.priority or None
    return named(envelope.id, headers, delivery_mode=PERSISTENT, priority=priority, timestamp=int(now))


def named(id: str, headers: dict[str, Any], **fields: Any) -> BasicProperties:
    """Return properties with an id of any length."""
    if len(id) > MOST_NAME // 4 and len(id.encode()) > MOST_NAME:
        headers[LONG_ID] = id
    else:
        fields["message_id"] = id
    return BasicProperties(headers=headers or None, **fields)


def id_of(properties: BasicProperties) -> str:
    """Return the id of a message: ours, one that somebody else gave it, or a new one."""
    found = properties.message_id or (properties.headers or {}).get(LONG_ID) or properties.correlation_id
    return _text(found)[:128] if found else uuid4().hex


def delivery_of(arrival: Arrival, queue: str, receipt: Any, count: int) -> Delivery:
    """Return what is handed over, for the `count`th time, for a message that came from `queue`."""
    properties = arrival.properties
    return Delivery(
        id=id_of(properties),
        queue=queue,
        body=arrival.body,
        receipt=receipt,
        delivery_count=count,
        priority=min(properties.priority or 0, 9),
        attempt=_number((properties.headers or {}).get(ATTEMPT)),
        published=float(properties.timestamp) if properties.timestamp else None,
    )


def deliveries(arrival: Arrival) -> int:
    """Return how often a message had been handed out when it was put into its queue."""
    return _number((arrival.properties.headers or {}).get(DELIVERIES))


def lost_deliveries(arrival: Arrival) -> int:
    """Return how often a message that is redelivered has been handed out since, by a quorum queue's count, or once."""
    return max(1, _number((arrival.properties.headers or {}).get("x-delivery-count")))


def copied(properties: BasicProperties, handed_out: int) -> BasicProperties:
    """Return the properties of a copy that has been handed out so often."""
    headers = {key: value for key, value in (properties.headers or {}).items() if not key.startswith(_PAST)}
    headers.pop(DELIVERIES, None)
    if handed_out > 0:
        headers[DELIVERIES] = handed_out
    fields = dict(vars(properties), headers=headers or None, delivery_mode=PERSISTENT)
    # Who may publish under somebody else's name is not for us to say; the server would refuse it.
    fields["user_id"] = None
    return BasicProperties(**fields)


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53 else 0


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
