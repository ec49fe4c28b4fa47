"""Queues that are declared: what `task_queues` may say, which of them need the broker's help, and which a key reaches.

A declared queue is a name, or a name and a binding: the exchange it listens to, and the keys it wants. Which queues a
message with an exchange and a routing key reaches follows from the declarations alone, the same on every broker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from .capabilities import Capabilities
from .errors import NotSupported, SettingError
from .lanes import lanes_of
from .message import Queue
from .urls import nearest

if TYPE_CHECKING:
    from .settings import Settings

#: Longest exchange or routing key (bytes): what AMQP's short strings hold.
LONGEST_KEY = 255
#: What a table in `task_queues` may say.
FIELDS = tuple(field.name for field in msgspec.structs.fields(Queue))
TYPES = ("direct", "topic", "fanout")
#: Arguments about how a server keeps a queue, or about priorities, which every queue has: elsewhere nothing is missed.
_HOW = {"x-queue-type", "x-queue-mode", "x-max-priority", "x-queue-leader-locator", "x-quorum-initial-group-size"}


# Reading what the setting says


def read_queue(value: Any) -> Queue:
    """Return a queue from a name, a table, a `Queue`, or kombu's `Queue` or `Broadcast`; ValueError says what is wrong.

    kombu is not needed for that: such an object is known by its attributes.
    """
    if isinstance(value, str):
        queue = Queue(name=value)
    elif isinstance(value, Queue):
        queue = value
    elif isinstance(value, Mapping):
        queue = _from_table(value)
    elif hasattr(value, "queue_arguments") and hasattr(value, "exchange"):
        queue = _from_kombu(value)
    else:
        raise ValueError(f"a queue is a name, a table or a dray.Queue, and {value!r} is none of them")
    _check(queue)
    return queue


def _from_table(table: Mapping[Any, Any]) -> Queue:
    for key in table:
        if key not in FIELDS:
            raise ValueError(f"a queue has no {key!r}{nearest(str(key), FIELDS)}")
    if "name" not in table:
        raise ValueError(f"the queue {dict(table)!r} has no name")
    try:
        return msgspec.convert(dict(table), Queue, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"queue {table['name']!r}: {error}") from None


def _check(queue: Queue) -> None:
    name = queue.name
    if not isinstance(name, str) or not 0 < len(name) <= 128 or any(c.isspace() for c in name):
        raise ValueError(f"a queue is named by 1 to 128 characters without whitespace, and {name!r} is not")
    if queue.type not in TYPES:
        raise ValueError(
            f"queue {name!r}: type is {', '.join(map(repr, TYPES[:-1]))} or {TYPES[-1]!r}, and not {queue.type!r}"
        )
    for word, text in (("exchange", queue.exchange), ("routing_key", queue.routing_key)):
        if not isinstance(text, str) or len(text.encode(errors="replace")) > LONGEST_KEY:
            raise ValueError(f"queue {name!r}: {word} is a text of up to {LONGEST_KEY} bytes")
    if not isinstance(queue.arguments, dict) or not all(isinstance(key, str) for key in queue.arguments):
        raise ValueError(f"queue {name!r}: arguments is a table whose keys are texts")


#: What a queue of kombu's may say that dray does in another way, or not at all: attribute, and what to do instead.
_NOT_OURS = {
    "bindings": "a queue has one binding here; declare a topic, or a second queue",
    "exclusive": "a queue belongs to all workers; for a copy in each worker say broadcast",
    "auto_delete": "a queue outlives its workers, and what waits in it too; leave it out",
    "no_ack": "say acks_late=False at the task, for at-most-once",
    "binding_arguments": "bindings have no arguments, and exchanges of the type 'headers' are not known",
    "consumer_arguments": "consumers have no arguments",
    "on_declared": "nothing is called back",
    "no_declare": "it is declared when it is not there; leave it out, or name the queue only",
}
_NOT_OURS_EITHER = {
    "auto_delete": "an exchange outlives its queues; leave it out",
    "arguments": "exchanges have no arguments",
    "passive": "it is declared when it is not there; leave it out",
    "no_declare": "it is declared when it is not there; leave it out",
}
#: Attributes of kombu's queues, the argument of the broker that each stands for, and how many of its units make one.
_ARGUMENTS = {
    "expires": ("x-expires", 1000),
    "message_ttl": ("x-message-ttl", 1000),
    "max_length": ("x-max-length", 1),
    "max_length_bytes": ("x-max-length-bytes", 1),
    "max_priority": ("x-max-priority", 1),
}


def _from_kombu(value: Any) -> Queue:
    """Read a queue of kombu's, or refuse in words what dray would have to leave out."""
    broadcast = any(kind.__name__ == "Broadcast" for kind in type(value).__mro__)
    # A broadcast of kombu's has a random name in each process, and its own under `alias`.
    name = value.alias if broadcast and value.alias else value.name
    for attribute, instead in _NOT_OURS.items():
        if getattr(value, attribute, None) and not (broadcast and attribute == "auto_delete"):
            raise ValueError(f"queue {name!r}: kombu's {attribute} has no counterpart: {instead}")
    exchange = value.exchange
    for attribute, instead in _NOT_OURS_EITHER.items():
        if getattr(exchange, attribute, None):
            raise ValueError(f"queue {name!r}: the exchange's {attribute} has no counterpart: {instead}")
    if not value.durable or getattr(exchange, "durable", True) is False or _is_transient(exchange):
        raise ValueError(f"queue {name!r}: queues, exchanges and messages survive a restart here; leave durable out")
    arguments = dict(value.queue_arguments or {})
    for attribute, (argument, units) in _ARGUMENTS.items():
        if (number := getattr(value, attribute, None)) is not None:
            arguments[argument] = int(number * units)
    return Queue(
        name=name,
        exchange=getattr(exchange, "name", None) or "",
        type=getattr(exchange, "type", None) or "direct",
        routing_key=value.routing_key or "",
        broadcast=broadcast,
        arguments=arguments,
    )


def _is_transient(exchange: Any) -> bool:
    return getattr(exchange, "delivery_mode", None) in (1, "transient")


# What the declarations come to


def bound(conf: Settings) -> list[Queue]:
    """Return the declared queues, each with the exchange that it is bound to; raise `SettingError` for contradictions.

    A queue with a routing key and no exchange is bound to the default one: `task_default_exchange`, or as in Celery
    the exchange called like the default queue.
    """
    kinds: dict[str, Queue] = {}
    names: dict[str, Queue] = {}
    for queue in conf.task_queues or ():
        if queue.routing_key and not queue.exchange:
            queue = msgspec.structs.replace(
                queue, exchange=default_exchange(conf), type=conf.task_default_exchange_type
            )
        if (other := names.setdefault(queue.name, queue)) != queue:
            raise SettingError(f"task_queues: two queues are called {queue.name!r}: {other!r} and {queue!r}")
        if queue.exchange and (other := kinds.setdefault(queue.exchange, queue)).type != queue.type:
            raise SettingError(
                f"task_queues: the exchange {queue.exchange!r} is {other.type} for the queue {other.name!r} and "
                f"{queue.type} for {queue.name!r}; an exchange has one type"
            )
    return list(names.values())


def default_exchange(conf: Settings) -> str:
    """Return the exchange of queues and sendings that say a routing key only."""
    return conf.task_default_exchange or conf.task_default_queue


def declared(conf: Settings) -> list[Queue]:
    """Return the declared queues that need more than their name: a binding, a copy for each worker, or arguments."""
    queues, lanes = bound(conf), lanes_of(conf)
    # Kept like the queue itself.
    inner = [
        Queue(name=lane, arguments=queue.arguments)
        for queue in queues
        if queue.arguments
        for lane in lanes.get(queue.name, ())
    ]
    return [*(queue for queue in queues if queue.exchange or queue.broadcast or queue.arguments), *inner]


def check_declared(queues: Iterable[Queue], can: Capabilities) -> list[Queue]:
    """Return those of `declared` that have to be declared to a broker with these capabilities.

    Raises `NotSupported` for what it would leave undone: copies for each worker, and arguments that say what becomes
    of messages. Bindings are no reason: where exactly one queue fits, messages are sent to that by its name.
    """
    told = []
    for queue in queues:
        if queue.broadcast and not can.broadcast:
            raise NotSupported(
                f"task_queues: {queue.name!r} is a broadcast queue, and this broker cannot give each worker a copy: "
                "take a broker that can (`dray plugins brokers`), or leave `broadcast` out"
            )
        lost = sorted(queue.arguments.keys() - _HOW)
        if lost and not can.exchanges:
            raise NotSupported(
                f"task_queues: {queue.name!r} has arguments that this broker does not know ({', '.join(lost)}): "
                "leave them out, or take the broker they were written for"
            )
        if can.exchanges or queue.broadcast:
            told.append(queue)
    return told


# Which queues a key reaches


def reached(queues: Sequence[Queue], exchange: str, routing_key: str) -> list[Queue]:
    """Return those of `queues` that get what is sent to `exchange` with `routing_key`."""
    return [queue for queue in queues if exchange and queue.exchange == exchange and fits(queue, routing_key)]


def fits(queue: Queue, routing_key: str) -> bool:
    """Tell whether the exchange of `queue` passes a message with this key on to it."""
    match queue.type:
        case "fanout":
            return True
        case "topic":
            return topic_fits(queue.routing_key, routing_key)
        case _:
            return queue.routing_key == routing_key


def topic_fits(pattern: str, key: str) -> bool:
    """Tell whether `key` fits `pattern`: words between dots; `*` is any one word, `#` any number of them, even none."""
    words = key.split(".") if key else []
    # How many of the words the parts so far can have taken.
    taken = {0}
    for part in pattern.split(".") if pattern else ():
        if part == "#":
            taken = set(range(min(taken), len(words) + 1))
        else:
            taken = {n + 1 for n in taken if n < len(words) and part in ("*", words[n])}
        if not taken:
            return False
    return len(words) in taken


def described(queues: Iterable[Queue]) -> str:
    """Return the bindings of `queues` in words, for errors."""
    return "; ".join(_binding(queue) for queue in queues) or "none"


def _binding(queue: Queue) -> str:
    if not queue.exchange:
        return f"{queue.name} (by its name only)"
    key = "" if queue.type == "fanout" else f", routing_key {queue.routing_key!r}"
    return f"{queue.name} (exchange {queue.exchange!r}, {queue.type}{key})"
