"""Idempotency keys: the id that a task's name and a key always come to, and what such a call must not say as well."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from .errors import TaskOptionError
from .message import Message

#: What the ids begin with, so that people see where they come from.
PREFIX = "key-"


def call_id(task: str, key: str) -> str:
    """Return the id of the call of `task` for `key`: the same in every process, on every host, in every language.

    It is "key-" and the first 32 hexadecimal digits of the SHA-256 of the task's name, a zero byte and the key, both
    texts in UTF-8.
    """
    told = f"{task}\0{key}".encode(errors="surrogatepass")
    return PREFIX + sha256(told).hexdigest()[:32]


def given_id(task: str, options: Mapping[str, Any]) -> str | None:
    """Return the id that the options of a sending give to the call, themselves or by a key; None: it gets a new one."""
    if (key := options.get("idempotency_key")) is not None:
        return call_id(task, key)
    found: str | None = options.get("task_id")
    return found


def check_idempotency_key(options: Mapping[str, Any], task: str) -> None:
    """Raise `TaskOptionError` when the key of a sending is none, or another option contradicts it."""
    key = options.get("idempotency_key")
    if key is None:
        return
    if not isinstance(key, str) or not key:
        raise TaskOptionError(f"sending {task}: idempotency_key is a text that is not empty; got {key!r}")
    if options.get("task_id") is not None:
        raise TaskOptionError(
            f"sending {task}: idempotency_key makes the id of the call, and task_id is another one: say one of them"
        )
    if options.get("ignore_result"):
        raise TaskOptionError(
            f"sending {task}: what has succeeded for an idempotency_key is known by its result; leave out "
            "ignore_result=True, or the key"
        )


def check_one_queue(message: Message) -> None:
    """Raise `TaskOptionError` when a call with a key would go to several queues, each of which has to run it."""
    if message.exchange and not message.queue:
        raise TaskOptionError(
            f"sending {message.task}: idempotency_key stands for one run, and the exchange {message.exchange!r} with "
            f"the routing key {message.routing_key!r} leads to several queues: say queue=..., or leave out the key"
        )
