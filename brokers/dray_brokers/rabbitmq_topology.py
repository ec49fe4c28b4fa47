"""What is declared on the server: queues and their arguments, exchanges and bindings, and the ladder of delays.

The ladder is a row of queues in which a message waits for 0.1, 0.2, 0.4, ... seconds, and an exchange above each that
sends it in or past. A delay is a number of tenths, and its binary digits are the routing key: a message waits at each
step that its number has. At the end stands an exchange that knows the queues by the last word of the key.

    key 1.0.1.orders  ->  0.4 s  ->  (past 0.2 s)  ->  0.1 s  ->  exchange `due`  ->  queue orders

Each step's queue is first in, first out, because all wait equally long there: nothing waits behind something longer.

What may be new is sealed (`Topology._seal`) before anything is put into it.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable
from hashlib import sha256
from math import ceil
from typing import Any, NamedTuple
from uuid import uuid4

from pika import BasicProperties

from dray import BrokerError, Queue, Url

from .rabbitmq_connection import MOST_NAME, RabbitOptions, Session
from .rabbitmq_errors import reply
from .rabbitmq_publisher import Post

logger = logging.getLogger("dray.rabbitmq")

#: Seconds in the shortest step, and number of steps, each twice as long as the one before.
UNIT, STEPS = 0.1, 20
#: Longest delay that the ladder keeps (seconds): 29 hours.
LONGEST = UNIT * (2**STEPS - 1)
#: Milliseconds for which delayed messages are kept whose queue was deleted before they were due, and how many at most.
KEEP_LOST, MOST_LOST = 7 * 86_400_000, 100_000
#: Most bytes of a queue's name that goes into a routing key as it is; signs of patterns need three each there.
LONGEST_WORD = (MOST_NAME - 2 * STEPS) // 3
#: Milliseconds for which a seal is kept that could not be deleted.
KEEP_SEAL = 60_000
#: The argument that gives a queue priorities.
PRIORITIES = "x-max-priority"
WITH_PRIORITIES = (
    "the queue %r was made with x-max-priority, which costs the server three times as much for each message and is not "
    "needed any more: delete it when it is empty, and it is made anew; to keep it, say so in task_queues"
)
#: Reply codes.
REFUSED, MISSING, DIFFERENT = 403, 404, 406
_DIFFERENT = re.compile(r"inequivalent arg '([^']+)' for .*? in vhost .*?received (.*?) but current is (.*)", re.S)
_VALUE = re.compile(r"(?:the value )?'?(.*?)'?(?: of type .*)?", re.S)


class Different(BrokerError):
    """Something exists, but otherwise than we want it; `text` is how the server says so."""

    def __init__(self, message: str, text: str) -> None:
        super().__init__(message)
        self.text = text


class Server(NamedTuple):
    """What decides how things are declared."""

    version: tuple[int, ...]
    quorum: bool

    @classmethod
    def of(cls, properties: dict[str, Any], options: RabbitOptions, clustered: bool) -> Server:
        """Read what the server says of itself."""
        text = properties.get("version", "")
        text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        version = tuple(int(part) for part in re.findall(r"\d+", text)[:3])
        if options.queue_type == "auto":
            return cls(version, version >= (4,) or clustered)
        return cls(version, options.queue_type == "quorum")

    @property
    def quorum_ladder(self) -> bool:
        """Whether the steps of the ladder are quorum queues, whatever the others are: from 3.10 on they can be.

        They pass on with a confirm. Classic ones do not: killed with -9, RabbitMQ 3.10.8 lost what had passed from one
        to the next within the last half second.
        """
        return self.version >= (3, 10)

    def queue_arguments(self, options: RabbitOptions) -> dict[str, Any]:
        """Return the arguments of a plain queue."""
        # Said in any case: a virtual host may have another default.
        arguments: dict[str, Any] = {"x-queue-type": "quorum" if self.quorum else "classic"}
        if self.quorum and self.version >= (4,):
            # The engine counts and buries with a reason; by itself, RabbitMQ would drop at the 20th delivery.
            arguments["x-delivery-limit"] = -1
        if options.consumer_timeout and self.version >= (3, 12):
            arguments["x-consumer-timeout"] = int(options.consumer_timeout * 1000)
        return arguments


class Topology:
    """Declares what is missing, once. `open` is told of each new connection; thread-safe."""

    def __init__(self, url: Url, options: RabbitOptions) -> None:
        self.url = url
        self.options = options
        self.server = Server((), False)
        self.declared: dict[str, Queue] = {}
        #: One at a time declares: the others find it done.
        self._lock = threading.Lock()
        self._known: set[str] = set()
        #: What the server may just have made that is to outlive it: "quorum" or "classic" queues, or "other" things.
        self._fresh: set[str] = set()
        #: The steps of the ladder that are declared.
        self._rungs: set[int] = set()
        #: Queues that have been declared here, or used.
        self.used: set[str] = set()
        #: Queues of which it was said that they have priorities nobody asked for.
        self._told: set[str] = set()

    # Names on the server

    def name(self, queue: str) -> str:
        """Return what a queue or exchange is called on the server."""
        return self.options.prefix + queue

    def is_ours(self, name: str) -> bool:
        """Whether what the server calls `name` is one of our queues, and no part of the ladder."""
        prefix = self.options.prefix
        others = (f"{prefix}dray.reply.", f"{prefix}dray.seal.", "dray.delay.", "amq.")
        return name.startswith(prefix) and not name.startswith(others)

    @property
    def ladder(self) -> str:
        """The beginning of the names of the ladder's queues and exchanges. All of a virtual host share one."""
        return f"dray.delay.{'quorum' if self.server.quorum_ladder else 'classic'}"

    def broadcast(self, queue: str) -> Queue | None:
        """Return the declaration of a queue of which every consumer has its own copy; None when it is none."""
        found = self.declared.get(queue)
        return found if found is not None and found.broadcast else None

    def is_broadcast(self, exchange: str) -> bool:
        """Whether consumers' own queues are bound to an exchange: then it is no error when there is none just now."""
        return any(each.broadcast and self.exchange_of(each) == exchange for each in self.declared.values())

    def is_quorum(self, queue: str) -> bool:
        """Whether a queue is a quorum queue, as far as we have declared it."""
        declared = self.declared.get(queue)
        kind = declared.arguments.get("x-queue-type") if declared else None
        return self.server.quorum if kind is None else kind == "quorum"

    def asks_for_priorities(self, queue: str) -> bool:
        """Whether `task_queues` says that a queue has RabbitMQ's own priorities."""
        declared = self.declared.get(queue)
        return declared is not None and PRIORITIES in declared.arguments

    def exchange_of(self, queue: Queue) -> str:
        """Return what the exchange of a declared queue is called on the server."""
        return self.name(queue.exchange or queue.name)

    # Declaring

    def forget(self) -> None:
        """Take nothing for granted any more: something turned out to be missing, or the server is another."""
        with self._lock:
            if "ladder:" in self._known:
                # A ladder that broke off halfway goes on where it was: on a bad network the eighty round trips of all
                # of it would never come to an end in one connection.
                self._rungs.clear()
            self._known.clear()

    def lacks(self, things: Iterable[str]) -> bool:
        """Whether any of these (`queue:name`, `due:queue`, `exchange:name`) is not known to be there."""
        return not self._known.issuperset(things)

    def ensure(self, session: Session, things: Iterable[str]) -> None:
        """Declare what is not known to be there. Safe when repeated or raced."""
        with self._lock:
            missing = [thing for thing in dict.fromkeys(things) if thing not in self._known]
            for thing in missing:
                kind, _, name = thing.partition(":")
                getattr(self, f"_ensure_{kind}")(session, name)
            if self._fresh:
                self._seal(session)
                self._fresh.clear()
            self._known.update(missing)

    def own_queue(self, session: Session, queue: Queue) -> str:
        """Declare a queue for one consumer of a broadcast queue, gone with its connection; return its name."""
        answer = session.ask(
            "queue_declare",
            f"declaring a queue for {queue.name}",
            queue="",
            exclusive=True,
            arguments=queue.arguments | {"x-queue-type": "classic"},
        )
        exchange, name = self.exchange_of(queue), str(answer.queue)
        self.ensure(session, [f"exchange:{exchange}"])
        self._bind(session, name, exchange, queue.routing_key)
        # Only who owns it may bind it, and somebody may have to give a message back for a while.
        self.ensure(session, ["end:"])
        self._bind(session, name, f"{self.ladder}.due", f"#.{_word(name)}")
        return name

    def _ensure_queue(self, session: Session, queue: str) -> None:
        declared, name = self.declared.get(queue), self.name(queue)
        arguments = self.server.queue_arguments(self.options) | (declared.arguments if declared else {})
        try:
            self._declare_queue(session, name, arguments)
        except Different as different:
            found = _DIFFERENT.search(different.text)
            if found is None or found[1] != PRIORITIES or PRIORITIES in arguments:
                raise
            # Made for Celery, or by an older dray: it keeps what we put into it as any other.
            if name not in self._told:
                self._told.add(name)
                logger.warning(WITH_PRIORITIES, name)
            session.renew()
            self._declare_queue(session, name, arguments | {PRIORITIES: int(_value(found[3]))})
        self.used.add(queue)
        if declared is not None and declared.exchange:
            self._declare_exchange(session, self.exchange_of(declared), declared.type)
            self._bind(session, name, self.exchange_of(declared), declared.routing_key)

    def _ensure_exchange(self, session: Session, name: str) -> None:
        """Declare an exchange that a queue of ours is declared with; any other must be there."""
        declared = next((each for each in self.declared.values() if self.exchange_of(each) == name), None)
        kind = None if declared is None else "fanout" if declared.broadcast and not declared.exchange else declared.type
        if kind is None:
            session.ask("exchange_declare", f"looking for the exchange {name}", exchange=name, passive=True)
        else:
            self._declare_exchange(session, name, kind)

    def _ensure_due(self, session: Session, queue: str) -> None:
        """Bind a queue to the end of the ladder."""
        self._ensure_ladder(session, "")
        self._bind(session, self.name(queue), f"{self.ladder}.due", f"#.{_word(self.name(queue))}")

    def _ensure_relay(self, session: Session, target: str) -> None:
        """Put a queue to the end of the ladder that passes on at once, to an exchange and with a key of its own."""
        self._ensure_ladder(session, "")
        exchange, key = target.split("\n", 1)
        name = f"{self.ladder}.to.{_word(target)}"
        self._declare_queue(session, name, self._step(0, exchange) | {"x-dead-letter-routing-key": key})
        self._bind(session, name, f"{self.ladder}.due", f"#.{_word(target)}")

    def _ensure_ladder(self, session: Session, _: str) -> None:
        if "ladder:" in self._known:
            return
        ladder = self.ladder
        self._ensure_end(session, "")
        for step in sorted(set(range(STEPS)) - self._rungs):
            name, below = f"{ladder}.{step:02}", f"{ladder}.{step - 1:02}" if step else f"{ladder}.due"
            self._declare_exchange(session, name, "topic")
            self._declare_queue(session, name, self._step(UNIT * 2**step, below))
            words = "*." * (STEPS - 1 - step)
            self._bind(session, name, name, f"{words}1.#")
            session.ask(
                "exchange_bind",
                f"binding {below} to {name}",
                destination=below,
                source=name,
                routing_key=f"{words}0.#",
            )
            self._rungs.add(step)
        self._known.add("ladder:")

    def _ensure_end(self, session: Session, _: str) -> None:
        """Declare the end of the ladder, and where messages go whose queue has been deleted meanwhile.

        They have to go somewhere. A step keeps 32 on their way; so many that lead nowhere would stop all others.
        """
        lost = f"{self.ladder}.lost"
        self._declare_exchange(session, lost, "fanout")
        kind = "quorum" if self.server.quorum_ladder else "classic"
        arguments = {"x-queue-type": kind, "x-message-ttl": KEEP_LOST, "x-max-length": MOST_LOST}
        self._declare_queue(session, lost, arguments)
        self._bind(session, lost, lost, "")
        self._declare_exchange(session, f"{self.ladder}.due", "topic", {"alternate-exchange": lost})

    def _step(self, seconds: float, exchange: str) -> dict[str, Any]:
        """Return the arguments of a queue in which everything waits so long, and is then passed on to an exchange."""
        arguments = {"x-message-ttl": round(seconds * 1000), "x-dead-letter-exchange": exchange}
        if not self.server.quorum_ladder:
            return {"x-queue-type": "classic", **arguments}
        # A queue of this kind lets go of a message when the next has confirmed it, and only if it may refuse others.
        sure = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
        return {"x-queue-type": "quorum", **arguments, **sure}

    def delayed(self, target: str, delay: float, properties: BasicProperties, body: bytes) -> Post:
        """Return the post that leaves the ladder for `target` after `delay` seconds, never before.

        `target` is the server's name of a queue, or an exchange and a key with a newline between.
        """
        tenths = min(max(1, ceil(round(delay / UNIT, 6))), 2**STEPS - 1)
        digits = f"{tenths:0{STEPS}b}"
        key = ".".join([*digits, _word(target)])
        # In at the highest step that it has to wait at.
        return Post(f"{self.ladder}.{tenths.bit_length() - 1:02}", key, properties, body)

    # One thing each

    def _seal(self, session: Session) -> None:
        """Have the server write down for good what it has said to have declared.

        Killed with -9 before it has, RabbitMQ (3.10.8) takes a classic queue back with all that it has confirmed in it,
        and finds a quorum queue again that never answers. A queue of the same kind that comes later takes along what is
        not written yet (docs/decisions/0020); it is deleted at once.
        """
        name = f"{self.options.prefix}dray.seal.{uuid4().hex}"
        kind = "quorum" if "quorum" in self._fresh else "classic"
        try:
            session.ask(
                "queue_declare",
                f"declaring {name}, so that what was declared before is written down",
                queue=name,
                durable=True,
                arguments={"x-queue-type": kind, "x-expires": KEEP_SEAL},
            )
            session.ask("queue_delete", f"deleting {name}", queue=name)
        except BrokerError as error:
            if not (session.link.is_open and reply(error.__cause__ or error)[0]):
                raise
            # Refused: this user may create queues of certain names only, or the virtual host takes no more of them.
            logger.debug("%s: not made sure at once that what was declared survives a crash: %s", self.url, error)
            session.renew()

    def _declare_queue(self, session: Session, name: str, arguments: dict[str, Any]) -> None:
        if len(name.encode()) > MOST_NAME:
            raise BrokerError(f"{self.url}: the queue {name!r} has more than {MOST_NAME} bytes, RabbitMQ's limit")
        answer = self._declare(
            session, "queue", name, "queue_declare", {"queue": name}, {"durable": True, "arguments": arguments}
        )
        if answer is not None and not answer.message_count and not answer.consumer_count:
            self._fresh.add(arguments["x-queue-type"])

    def _declare_exchange(
        self, session: Session, name: str, kind: str, arguments: dict[str, Any] | None = None
    ) -> None:
        self._fresh.add("other")
        self._declare(
            session,
            "exchange",
            name,
            "exchange_declare",
            {"exchange": name},
            {"durable": True, "exchange_type": kind, "arguments": arguments},
        )

    def _declare(
        self, session: Session, what: str, name: str, verb: str, named: dict[str, Any], arguments: dict[str, Any]
    ) -> Any:
        """Declare something and return the server's answer; None when somebody else has declared it, and we may not."""
        try:
            return session.ask(verb, f"declaring the {what} {name}", **named, **arguments)
        except BrokerError as error:
            code, text = reply(error.__cause__ or error)
            if code == DIFFERENT and "inequivalent" in text:
                raise Different(f"{self.url}: {_told_apart(what, name, text)}", text) from error
            if code != REFUSED:
                raise
            self._look(session, what, name, verb, named, error)
            return None

    def _look(
        self, session: Session, what: str, name: str, verb: str, named: dict[str, Any], error: BrokerError
    ) -> None:
        """Use what somebody else has declared, when we may not."""
        with session.link.session() as another:
            try:
                another.ask(verb, f"looking for the {what} {name}", **named, passive=True)
            except BrokerError as missing:
                if reply(missing.__cause__ or missing)[0] != MISSING:
                    raise
                raise BrokerError(
                    f"{self.url}: the {what} {name!r} is not there, and this user may not create it: have it created "
                    "by `dray setup` under a user who may, or grant this one the right to configure it"
                ) from error
        session.renew()

    def _bind(self, session: Session, queue: str, exchange: str, key: str) -> None:
        self._fresh.add("other")
        session.ask(
            "queue_bind",
            f"binding the queue {queue} to the exchange {exchange}",
            queue=queue,
            exchange=exchange,
            routing_key=key,
        )


def _word(text: str) -> str:
    """Return a text as a single word of a routing key: readable when it is short enough."""
    if "\n" in text or len(text.encode()) > LONGEST_WORD:
        return "~" + sha256(text.encode()).hexdigest()[:40]
    return text.replace("%", "%25").replace(".", "%2E").replace("*", "%2A").replace("#", "%23")


def _told_apart(what: str, name: str, text: str) -> str:
    """Return in words how something that exists differs from what we want."""
    found = _DIFFERENT.search(text)
    if found is None:
        return f"the {what} {name!r} exists, but otherwise than we want it: {text}"
    argument, wanted, current = found[1], _value(found[2]), _value(found[3])
    cure = f"delete the {what} when it is empty, or use another prefix (?prefix=NAME)"
    if what == "queue":
        cure = (
            f"say so (task_queues with arguments {{{argument!r}: ...}}, or ?queue_type=classic or quorum if it is of "
            f"that kind), {cure}"
        )
    return f"the {what} {name!r} exists with {argument} = {current}, and here it is {wanted}: {cure}"


def _value(text: str) -> str:
    found = _VALUE.fullmatch(text.strip())
    return found[1] if found else text
