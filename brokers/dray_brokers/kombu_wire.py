"""Envelopes as messages of kombu's, and back. Messages of Celery's come out whole, as what they are.

The facts of an envelope travel as headers, its body as bytes; virtual transports wrap that in JSON and base64.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from dray import Delivery, Envelope

ID, ATTEMPT, PRIORITY, PUBLISHED = "dray-id", "dray-attempt", "dray-priority", "dray-published"
#: Properties that have to outlive a message being sent once more.
_KEPT = ("correlation_id", "reply_to", "message_id", "type", "app_id", "priority")


def written(envelope: Envelope, now: float) -> dict[str, Any]:
    """Return an envelope as the arguments of `kombu.Producer.publish`."""
    return {
        "body": envelope.body,
        "content_type": "application/octet-stream",
        "content_encoding": "binary",
        "headers": {ID: envelope.id, ATTEMPT: envelope.attempt, PRIORITY: envelope.priority, PUBLISHED: now},
    }


def again(message: Any) -> dict[str, Any]:
    """Return a message as it came, whoever sent it, as the arguments of `kombu.Producer.publish`."""
    return {
        "body": _bytes(message.body),
        "content_type": message.content_type or "application/octet-stream",
        "content_encoding": message.content_encoding or "binary",
        "headers": dict(message.headers or {}),
        **{name: message.properties[name] for name in _KEPT if message.properties.get(name) is not None},
    }


def read(message: Any, queue: str, receipt: Any) -> Delivery:
    """Return a message as a delivery; one that is not ours as its bytes, one of Celery's whole."""
    headers = message.headers if isinstance(message.headers, dict) else {}
    body = _bytes(message.body)
    if ID in headers:
        return Delivery(
            id=str(headers[ID]),
            queue=queue,
            body=body,
            receipt=receipt,
            priority=_number(headers.get(PRIORITY)),
            attempt=_number(headers.get(ATTEMPT)),
            published=headers.get(PUBLISHED) if isinstance(headers.get(PUBLISHED), float) else None,
        )
    id = headers.get("id") or message.properties.get("correlation_id") or message.delivery_tag
    return Delivery(
        id=str(id)[:128],
        queue=queue,
        body=_whole(message, body) if _of_celery(headers, body) else body,
        receipt=receipt,
    )


def _of_celery(headers: dict[str, Any], body: bytes) -> bool:
    """Tell whether a message calls a task of Celery's: by its headers, or (protocol 1) by its body."""
    return ("task" in headers and "id" in headers) or (
        body.startswith(b"{") and b'"task"' in body and b'"args"' in body
    )


def _whole(message: Any, body: bytes) -> bytes:
    """Return a message of Celery's in the form it has on Redis: what calls the task stands in its headers."""
    properties = {
        name: value
        for name, value in message.properties.items()
        if isinstance(value, str | int | float | bool) and name != "application_headers"
    }
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": message.content_encoding,
            "content-type": message.content_type,
            "headers": message.headers,
            "properties": {**properties, "body_encoding": "base64"},
        },
        default=str,
    ).encode()


def _bytes(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body or b"")


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
