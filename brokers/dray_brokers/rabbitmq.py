"""The amqp:// broker: RabbitMQ, over pika, with everything that is published confirmed.

A sender has one connection. A worker has two, because a server that is short of memory stops reading from whoever
publishes, and what has been done must get through all the same. Each has a thread of its own (rabbitmq_connection.py).

    rabbitmq_topology.py    which queues, exchanges and delays there are     rabbitmq_wire.py        a message in AMQP
    rabbitmq_publisher.py   how messages get there, and what is known of it  rabbitmq_channel.py     what pika lacks
    rabbitmq_intake.py      how they get out                                 rabbitmq_frames.py      the same in bytes
    rabbitmq_tags.py        which of them an ack may stand for               rabbitmq_errors.py      errors in words
    rabbitmq_consumer.py    who holds them, and how often they were held     rabbitmq_management.py  the other API
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from dray import (
    Broker,
    BrokerError,
    BrokerUnavailable,
    Capabilities,
    Consumer,
    Envelope,
    PublishError,
    Queue,
    Url,
)

from .rabbitmq_advice import advice
from .rabbitmq_connection import Link, RabbitOptions, vhost_of
from .rabbitmq_consumer import RabbitConsumer
from .rabbitmq_errors import reply
from .rabbitmq_intake import Intake
from .rabbitmq_management import Management
from .rabbitmq_publisher import REFUSED, SAFE, UNROUTED, UNSURE, Post, Publisher
from .rabbitmq_topology import DIFFERENT, LONGEST, MISSING, PRIORITIES, STEPS, WITH_PRIORITIES, Server, Topology
from .rabbitmq_wire import properties_of

__all__ = ["RabbitBroker", "RabbitConsumer"]

#: Most envelopes in one publish, and deliveries in one receive.
MOST = 1000
#: How often a message is published before it is given up, and seconds to wait after the first time; then twice that.
TRIES, PAUSE = 4, 0.05
_TOO_LARGE = re.compile(r"larger than (?:configured )?max(?:imum)? (?:size )?(\d+)")


class RabbitBroker(Broker):
    """`amqp://user:password@host1:5672,host2/vhost?option=value` or `amqps://`; options: see `RabbitOptions`."""

    #: There are no priorities: RabbitMQ's make a classic queue cost the server three times as much for each message.
    #: And no order: what is given back unstarted can go to the end of its queue only, for RabbitMQ's own way back to
    #: the head is that of what was lost with a worker, and counted.
    capabilities = Capabilities(
        max_delay=LONGEST,
        delivery_count=True,
        release_uncharged=True,
        requeue_delay=True,
        max_publish_batch=MOST,
        max_receive_batch=MOST,
        purge=True,
        size="approximate",
        exchanges=True,
        broadcast=True,
    )

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self.options = RabbitOptions.of(url)
        self.topology = Topology(url, self.options)
        self.management = Management(url, self.options)
        self.capabilities = msgspec.structs.replace(
            RabbitBroker.capabilities, max_message_bytes=self.options.max_message_bytes
        )
        #: One at a time connects: the others use what it got.
        self._lock = threading.Lock()
        self._opened = False
        self._sending: Link | None = None
        self._receiving: Link | None = None
        self._publisher: Publisher | None = None

    # Life

    def open(self) -> None:
        self._opened = True
        link = self._link("sending")
        clustered = (self.management.nodes() or 1) > 1 if self.options.queue_type == "auto" else False
        self.topology.server = Server.of(link.server, self.options, clustered)
        cluster = link.server.get("cluster_name", "")
        cluster = cluster.decode(errors="replace") if isinstance(cluster, bytes) else cluster
        self.place = f"rabbitmq:{cluster}/{vhost_of(self.url)}/{self.options.prefix}"

    def close(self) -> None:
        self._opened = False
        with self._lock:
            links, self._sending, self._receiving = (self._receiving, self._sending), None, None
            self._publisher = None
        for link in links:
            if link is not None:
                link.close()

    def _link(self, purpose: str) -> Link:
        """Return the open connection for "sending" or "receiving", made anew if it is lost."""
        if not self._opened:
            raise BrokerUnavailable(f"{self.url}: not open")
        with self._lock:
            link: Link | None = getattr(self, f"_{purpose}")
            if link is None or not link.is_open:
                if link is not None:
                    # The server may be another, or may have lost what was there.
                    self.topology.forget()
                link = Link(self.url, self.options, purpose)
                link.open()
                setattr(self, f"_{purpose}", link)
                if purpose == "sending":
                    self._publisher = Publisher(link)
            return link

    def _asking(self) -> Link:
        """Return a connection for questions: rather the one that is read when the server is short of memory."""
        receiving = self._receiving
        return receiving if receiving is not None and receiving.is_open else self._link("sending")

    # Publishing

    def publish(self, envelopes: Sequence[Envelope]) -> None:
        most = self.options.max_message_bytes
        rejected = {
            each.id: f"{len(each.body):,} bytes are more than max_message_bytes={most:,}"
            for each in envelopes
            if len(each.body) > most
        }
        envelopes = [each for each in envelopes if len(each.body) <= most]
        things: dict[str, None] = {}
        posts = [self._post(envelope, things) for envelope in envelopes]
        for number, reason in self._publish(posts, list(things)).items():
            rejected[envelopes[number].id] = reason
        if rejected:
            raise PublishError(rejected)

    def _post(self, envelope: Envelope, things: dict[str, None]) -> Post:
        """Return how an envelope is published, and add to `things` what has to be there before."""
        topology = self.topology
        properties = properties_of(envelope, self.clock.time())
        broadcast = topology.broadcast(envelope.queue) if envelope.queue else None
        if envelope.queue and broadcast is None:
            things[f"queue:{envelope.queue}"] = None
            if envelope.delay <= 0:
                return Post("", topology.name(envelope.queue), properties, envelope.body)
            things[f"due:{envelope.queue}"] = None
            return topology.delayed(topology.name(envelope.queue), envelope.delay, properties, envelope.body)
        exchange = topology.exchange_of(broadcast) if broadcast else topology.name(envelope.exchange)
        key = broadcast.routing_key if broadcast else envelope.routing_key
        things[f"exchange:{exchange}"] = None
        if envelope.delay > 0:
            things[f"relay:{exchange}\n{key}"] = None
            return topology.delayed(f"{exchange}\n{key}", envelope.delay, properties, envelope.body)
        # Who is not there misses a broadcast; that is no error.
        return Post(exchange, key, properties, envelope.body, not topology.is_broadcast(exchange))

    def put(self, posts: Sequence[Post], delayed: Iterable[str], ladder: bool) -> Mapping[int, str]:
        """Publish copies and return which were refused, and why; `delayed` are queues that some reach by the ladder."""
        things = [thing for queue in delayed for thing in (f"queue:{queue}", f"due:{queue}")]
        return self._publish(posts, [*things, *(["ladder:"] if ladder else [])])

    def _publish(self, posts: Sequence[Post], things: Sequence[str]) -> dict[int, str]:
        """Publish each until it is safe or refused for good; return which were refused, and why."""
        left = dict(enumerate(posts))
        refused: dict[int, str] = {}
        for attempt in range(TRIES):
            if not left:
                break
            link = self._link("sending")
            if self.topology.lacks(things):
                with self._asking().session() as session:
                    self.topology.ensure(session, things)
            publisher = self._publisher
            assert publisher is not None
            numbers = list(left)
            fates, broken = publisher.send([left[number] for number in numbers])
            reasons = {n: self._why(posts[n], fate) for n, fate in zip(numbers, fates, strict=True) if fate != SAFE}
            left = {number: left[number] for number in reasons}
            if broken is not None:
                self._learn(broken, left, refused, publisher)
            if UNROUTED in fates or broken is not None:
                # Somebody has deleted what we declared.
                self.topology.forget()
            if left and attempt < TRIES - 1:
                self.clock.wait(threading.Event(), PAUSE * 2**attempt)
            elif UNSURE in fates and left:
                raise BrokerUnavailable(f"{link.url}: publishing: the channel was closed again and again: {broken}")
            else:
                refused |= {number: reasons[number] for number in left}
        return refused

    def _learn(
        self, broken: BaseException, left: dict[int, Post], refused: dict[int, str], publisher: Publisher
    ) -> None:
        """See why the server has closed the channel: take out what it does not take, or raise what repeating would."""
        code, text = reply(broken)
        if code == DIFFERENT and (found := _TOO_LARGE.search(text)):
            for number in [n for n, post in left.items() if len(post.body) > int(found[1])]:
                size = len(left.pop(number).body)
                refused[number] = f"{size:,} bytes are more than the server's max_message_size={int(found[1]):,}"
        elif code not in (0, MISSING):
            raise publisher.why(broken)

    def _why(self, post: Post, fate: str) -> str:
        where = f"queue {post.key!r}" if not post.exchange else f"exchange {post.exchange!r} with the key {post.key!r}"
        if fate == REFUSED:
            return (
                f"refused by the {where}: it is full (x-max-length with x-overflow=reject-publish), or its leader is "
                "changing"
            )
        return f"the {where} leads nowhere: no queue is bound to it" if post.exchange else f"there is no {where}"

    # Consuming

    def consumer(self, queues: Sequence[str], lease: float) -> Consumer:
        link = self._link("receiving")
        names, own = {queue: self.topology.name(queue) for queue in queues}, {}
        with link.session() as session:
            for queue in queues:
                if (broadcast := self.topology.broadcast(queue)) is not None:
                    own[queue] = self.topology.own_queue(session, broadcast)
            self.topology.ensure(session, [f"queue:{queue}" for queue in queues if queue not in own])
        quorum = [queue for queue in queues if queue not in own and self.topology.is_quorum(queue)]
        return RabbitConsumer(self, queues, Intake(link, names | own, quorum), own)

    def drop(self, name: str) -> None:
        """Delete a consumer's own queue."""
        receiving = self._receiving
        if receiving is not None and receiving.is_open:
            try:
                with receiving.session() as session:
                    session.ask("queue_delete", f"deleting the queue {name}", queue=name)
            except BrokerError:
                # It goes when the connection goes.
                pass

    def declare(self, queues: Sequence[Queue]) -> None:
        self.topology.declared = {queue.name: queue for queue in queues}
        self.topology.forget()
        things = [
            f"exchange:{self.topology.exchange_of(queue)}" if queue.broadcast else f"queue:{queue.name}"
            for queue in queues
        ]
        with self._asking().session() as session:
            self.topology.ensure(session, things)

    def setup(self, queues: Sequence[str]) -> Sequence[str]:
        topology = self.topology
        plain = [queue for queue in queues if topology.broadcast(queue) is None]
        exchanges = [topology.exchange_of(queue) for queue in topology.declared.values()]
        missing = [name for queue in plain if self._ready(name := topology.name(queue)) is None]
        made = [f"created the queue {name}" for name in missing]
        if self._ready(f"{topology.ladder}.00") is None:
            made.append(f"created {STEPS} queues and exchanges {topology.ladder}.*, which keep delays")
        with self._asking().session() as session:
            topology.ensure(session, [thing for queue in plain for thing in (f"queue:{queue}", f"due:{queue}")])
            topology.ensure(session, [f"exchange:{exchange}" for exchange in exchanges])
        return made

    # Looking

    def advice(self, queues: Sequence[str]) -> Sequence[str]:
        hosts, topology = [host for host, _ in self.url.hosts], self.topology
        said = advice(topology.server, self.options, self.management, hosts, self.url.username or "guest")
        ours = {topology.name(queue) for queue in queues if not topology.asks_for_priorities(queue)}
        listed = {
            str(each["name"]) for each in self.management.queues() or () if PRIORITIES in each.get("arguments", {})
        }
        return [*said, *(WITH_PRIORITIES % name for name in sorted(ours & listed))]

    def queues(self) -> Sequence[str]:
        listed, topology = self.management.queues(), self.topology
        if listed is None:
            return sorted(topology.used)
        names = {str(each["name"]): each for each in listed if topology.is_ours(str(each["name"]))}
        # Its numbers are some seconds old; what is ready is asked of the queue itself.
        held = [name for name, each in names.items() if each.get("messages") or self._ready(name)]
        return sorted(name.removeprefix(self.options.prefix) for name in held)

    def sizes(self, queues: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        listed = {each.get("name"): each for each in self.management.queues() or ()}
        sizes = {}
        for queue in queues:
            name = self.topology.name(queue)
            leased = int(listed.get(name, {}).get("messages_unacknowledged") or 0)
            sizes[queue] = {"ready": self._ready(name) or 0, "delayed": 0, "leased": leased, "dead": 0}
        return sizes

    def _ready(self, name: str) -> int | None:
        """Return how many messages wait in what the server calls `name`; None when there is no such queue."""
        try:
            with self._asking().session() as session:
                asked = f"looking at the queue {name}"
                return int(session.ask("queue_declare", asked, queue=name, passive=True).message_count)
        except BrokerError as error:
            if reply(error.__cause__ or error)[0] == MISSING:
                return None
            raise

    def purge(self, queue: str) -> int:
        name = self.topology.name(queue)
        try:
            with self._asking().session() as session:
                return int(session.ask("queue_purge", f"emptying the queue {name}", queue=name).message_count)
        except BrokerError as error:
            if reply(error.__cause__ or error)[0] == MISSING:
                return 0
            raise
