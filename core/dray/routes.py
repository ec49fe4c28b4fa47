"""Where a call goes: to which queue, or through which exchange, and with which priority.

What the call says wins over what the task says, that over `task_routes`, that over the defaults. An exchange and a
routing key come to a queue here, at the sender, wherever exactly one of the declared queues wants them: such a program
runs unchanged on brokers without exchanges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from .capabilities import Capabilities
from .errors import NotSupported, SettingError, TaskOptionError
from .lanes import lane_of, lanes_of
from .message import Message
from .queues import bound, default_exchange, described, reached
from .routers import Table, read_answer, router_name, routers
from .settings import Settings
from .urls import nearest

if TYPE_CHECKING:
    from .task import Resolved


class Route(NamedTuple):
    """Where a call goes. With an exchange `queue` is "": every queue that is bound to it with a fitting key gets it."""

    queue: str
    priority: int
    exchange: str = ""
    routing_key: str = ""


#: The place of a call of which only the arguments tell where it goes.
NOWHERE = Route("", 0)


class Routes:
    """`task_routes`, `task_queues` and `task_annotations`, compiled: built once, when the app is first used."""

    def __init__(self, conf: Settings) -> None:
        self._queues = bound(conf)
        self._bound = {queue.name for queue in self._queues if queue.exchange}
        self._default_exchange = default_exchange(conf)
        self._default_key = conf.task_default_routing_key or ""
        self._default = Route(conf.task_default_queue, conf.task_default_priority)
        self._named = {*(queue.name for queue in self._queues), self._default.queue}
        self._known = None if conf.task_create_missing_queues else self._named
        self._routers = routers(conf.task_routes)
        for n, router in enumerate(self._routers):
            if isinstance(router, Table):
                self._routers[n] = Table([(name, self._in_table(name, said)) for name, said in router.entries])
        self._tables = [router for router in self._routers if isinstance(router, Table)]
        #: Whether some router is a function, so that where a call goes depends on its arguments.
        self._by_call = len(self._tables) < len(self._routers)
        self._annotations = Table(conf.task_annotations)
        self._lanes = lanes_of(conf)

    # Asking

    def route(self, task: str) -> Route:
        """Return where `task` goes as far as its name tells; functions in `task_routes` are not asked."""
        for table in self._tables:
            if (found := table.first(task)) is not None:
                return found  # type: ignore[no-any-return]
        return self._default

    def queue_of(self, task: str, own: Resolved) -> str:
        """Return the queue that calls of `task` come to when they say nothing; "" when their arguments decide."""
        to = self.place(task, {}, own)
        return "" if to is None else to.queue

    def place(self, task: str, options: Mapping[str, Any], own: Resolved | None) -> Route | None:
        """Return where a call with these options goes; None when only its arguments tell, and `placed` finds out."""
        to = self._said(task, options.get("queue"), options.get("exchange"), options.get("routing_key"))
        if to is None and own is not None:
            to = self._said(task, own.queue, own.exchange, own.routing_key)
        if to is None and self._by_call:
            return None
        routed = self.route(task)
        return (to or routed)._replace(priority=_priority(options, own, routed))

    def placed(self, message: Message, options: Mapping[str, Any], own: Resolved | None) -> Message:
        """Return a message that has no place yet with the one that the routers choose by its arguments."""
        to = self._asked(message, options)
        return message.but(
            queue=to.queue, exchange=to.exchange, routing_key=to.routing_key, priority=_priority(options, own, to)
        )

    def annotations(self, task: str) -> dict[str, Any]:
        """Return the options that the settings lay over those of `task`, the most specific last."""
        merged: dict[str, Any] = {}
        for options in reversed(self._annotations.all(task)):
            merged.update(options)
        return merged

    def check(self, message: Message, can: Capabilities) -> None:
        """Raise for a message that may not be sent: `TaskOptionError`, or `NotSupported` if only this broker minds."""
        queue, task = message.queue, message.task
        if queue and self._known is not None and queue not in self._known:
            raise TaskOptionError(
                f"sending {task}: no queue {queue!r} in task_queues, and task_create_missing_queues is off"
                f"{nearest(queue, self._known) or '.'} Known: {', '.join(sorted(self._known))}."
            )
        if not queue and not can.exchanges:
            wanted = ", ".join(one.name for one in reached(self._queues, message.exchange, message.routing_key))
            raise NotSupported(
                f"sending {task} to {_words(message.exchange, message.routing_key)}: several queues are bound to that "
                f"({wanted}), and this broker has no exchanges: name one with queue=, or take a broker that has them"
            )
        if message.ordered and can.key != "order":
            raise NotSupported(
                f"sending {task} in the order of its key {message.key!r}: this broker does not keep one; "
                "leave ordered=True out, or take a broker that does"
            )
        if message.fair and can.key != "fair" and queue not in self._lanes:
            raise NotSupported(
                f"sending {task} with tenant={message.key!r}: in this broker's queues keys do not take turns; give the "
                f"queue lanes, in the settings of senders and workers: task_tenant_lanes={{{queue or '...'!r}: 16}}"
            )

    def lane(self, message: Message, can: Capabilities) -> str:
        """Return the queue that a message is put into: where keys take no turns, the lane of its key, if any."""
        lanes = self._lanes.get(message.queue) if message.key is not None and can.key != "fair" else None
        return message.queue if lanes is None else lane_of(lanes, message.key or "")

    # Working it out

    def _said(self, task: str, queue: str | None, exchange: str | None, routing_key: str | None) -> Route | None:
        if exchange is None and routing_key is None:
            return None if queue is None else Route(queue, 0)
        try:
            return self._address(queue, exchange, routing_key)
        except ValueError as error:
            raise TaskOptionError(f"sending {task}: {error}") from None

    def _asked(self, message: Message, options: Mapping[str, Any]) -> Route:
        for router in self._routers:
            if isinstance(router, Table):
                if (found := router.first(message.task)) is not None:
                    return found  # type: ignore[no-any-return]
                continue
            said = router(message.task, message.args, message.kwargs, options)
            if said is not None:
                try:
                    if isinstance(said, Mapping) and "rate_limit" in said:
                        raise ValueError("rate_limit belongs in a table or in task_queue_limits; workers ask no router")
                    return self._read(said)
                except ValueError as error:
                    raise TaskOptionError(f"sending {message.task}: {router_name(router)} says: {error}") from None
        return self._default

    def _in_table(self, name: Any, said: Any) -> Route:
        try:
            return self._read(said)
        except ValueError as error:
            raise SettingError(f"task_routes[{getattr(name, 'pattern', name)!r}]: {error}") from None

    def _read(self, said: Any) -> Route:
        said = read_answer(said)
        table: Mapping[str, Any] = {"queue": said} if isinstance(said, str) else said
        to = Route(self._default.queue, 0)
        if table.keys() & {"queue", "exchange", "routing_key"}:
            to = self._address(table.get("queue"), table.get("exchange"), table.get("routing_key"))
        return to._replace(priority=table.get("priority", self._default.priority))

    def _address(self, queue: str | None, exchange: str | None, routing_key: str | None) -> Route:
        """Return the one queue that wants this, or the exchange when several do; ValueError when none does."""
        if queue is not None and self._is_plain(queue, exchange):
            return Route(queue, 0)
        where = self._default_exchange if exchange is None else exchange
        key = self._default_key if routing_key is None else routing_key
        found = reached(self._queues, where, key)
        if queue is not None:
            if any(one.name == queue for one in found):
                return Route(queue, 0)
            raise ValueError(f"{_words(where, key)} does not reach the queue {queue!r}: say one or the other")
        if len(found) == 1:
            return Route(found[0].name, 0)
        if found:
            return Route("", 0, where, key)
        if key in self._named and self._is_plain(key, exchange):
            # As every queue of AMQP is bound to an exchange without a name by its own.
            return Route(key, 0)
        raise ValueError(f"no queue is bound to {_words(where, key)}. Bound in task_queues: {described(self._queues)}")

    def _is_plain(self, queue: str, exchange: str | None) -> bool:
        """Tell whether a queue has no binding, so that a routing key beside its name means nothing more."""
        return queue not in self._bound and exchange in (None, "", queue)


def _priority(options: Mapping[str, Any], own: Resolved | None, route: Route) -> int:
    said: int | None = options.get("priority")
    if said is None and own is not None:
        said = own.priority
    return route.priority if said is None else said


def _words(exchange: str, routing_key: str) -> str:
    return f"the exchange {exchange!r} with the routing key {routing_key!r}"
