"""Says what an app has sent and nobody has run yet: assertions for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..app import Dray
from ..errors import DecodeError, SerializationError
from ..message import Message, Waiting
from ..redaction import hide
from ..sealing import message_in

#: More messages than a test has waiting.
ALL = 1_000_000


class Enqueued:
    """The fixture `dray_enqueued`: looks at the messages that wait, due or delayed, and leaves them where they are.

    A task is given as itself or by name. Arguments are compared as the task would get them, so it does not matter that
    a tuple travels as a list.
    """

    def __init__(self, app: Dray) -> None:
        self._app = app

    def all(self, task: Any = None, *, queue: str | None = None) -> list[Message]:
        """Return the waiting messages, arguments decoded, in the order in which each queue will give them out.

        Only those of `task`, or in `queue`, when given. Messages that cannot be read are passed over.
        """
        broker, name = self._app.broker, None if task is None else _name(task)
        queues = broker.queues() if queue is None else [queue]
        waiting = [one for each in queues for one in broker.peek(each, ALL)]
        found = [message for one in waiting if (message := self._read(one)) is not None]
        return [message for message in found if name is None or message.task == name]

    def assert_enqueued(
        self,
        task: Any,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        queue: str | None = None,
        count: int | None = None,
    ) -> list[Message]:
        """Fail unless such a call waits: at least one, or exactly `count`. Return the messages that fit.

        What is left out may be anything.
        """
        found = self._fitting(task, args, kwargs, queue)
        if (not found) if count is None else (len(found) != count):
            wanted = "at least one" if count is None else f"exactly {count}"
            raise AssertionError(
                f"{wanted} of {_call(_name(task), args, kwargs)}{_in(queue)} should wait, found {len(found)}; "
                + self._waiting()
            )
        return found

    def refute_enqueued(
        self,
        task: Any,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        queue: str | None = None,
    ) -> None:
        """Fail if such a call waits. What is left out may be anything."""
        found = self._fitting(task, args, kwargs, queue)
        if found:
            raise AssertionError(
                f"no {_call(_name(task), args, kwargs)}{_in(queue)} should wait, found {len(found)}; {self._waiting()}"
            )

    def drain(self) -> list[Message]:
        """Take away everything that waits, unrun, and return it."""
        found = self.all()
        for queue in self._app.broker.queues():
            self._app.broker.purge(queue)
        return found

    def __len__(self) -> int:
        return len(self.all())

    def _read(self, waiting: Waiting) -> Message | None:
        try:
            message = message_in(self._app.sealing, waiting.body, waiting.id)
            args, kwargs, serializer = self._app.payloads.arguments(message)
            task = self._app.tasks.get(message.task)
            if task is None:
                return message.but(args=tuple(args), kwargs=kwargs)
            typed, named = task.parameters.decode(args, kwargs, serializer)
            return message.but(args=typed, kwargs=named)
        except DecodeError:
            return None

    def _fitting(
        self, task: Any, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, queue: str | None
    ) -> list[Message]:
        return [message for message in self.all(task, queue=queue) if self._fits(message, args, kwargs)]

    def _fits(self, message: Message, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None) -> bool:
        wanted = message.but(
            args=message.args if args is None else tuple(args),
            kwargs=message.kwargs if kwargs is None else dict(kwargs),
        )
        if (message.args, message.kwargs) == (wanted.args, wanted.kwargs):
            return True
        try:
            serializer = self._app.payloads.reader(message.content_type).name
            wanted = self._app.payloads.encode(wanted, serializer, message.content_encoding or None)
        except SerializationError:
            return False  # what was wanted can never have been sent
        return wanted.payload == message.payload

    def _waiting(self) -> str:
        lines = [
            f"  {_call(m.task, *hide(m.args, m.kwargs, m.sensitive))}{_in(m.queue)}{_delay(m)}" for m in self.all()
        ]
        return "waiting are:\n" + "\n".join(lines) if lines else "nothing is waiting"


def _name(task: Any) -> str:
    name = task if isinstance(task, str) else getattr(task, "name", None)
    if not isinstance(name, str):
        raise TypeError(f"a task, or the name of one, is asked for; got {task!r}")
    return name


def _call(name: str, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None) -> str:
    if args is None and kwargs is None:
        return f"{name}(...)"
    shown = ["..."] if args is None else [repr(value) for value in args]
    shown += ["..."] if kwargs is None else [f"{key}={value!r}" for key, value in kwargs.items()]
    return f"{name}({', '.join(shown)})"


def _in(queue: str | None) -> str:
    return "" if queue is None else f" in {queue!r}"


def _delay(message: Message) -> str:
    return "" if message.eta is None else f", due {message.eta - message.created:g} s after it was sent"
