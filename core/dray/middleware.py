"""The middleware port: an onion around a publish and around an execution. The first one added is outermost.

A middleware may look, change (messages are changed by copy), wrap in try/except or a context manager, or not call on
at all. What it raises is raised: from `publish` to the sender, from `execute` as if the task had raised it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from .message import Message


class Middleware:
    """Override what you need; the defaults pass through. Called from many threads: keep no message state on self."""

    def publish(self, message: Message, call_next: Callable[[Message], Message]) -> Message:
        """Wrap the sending of one message. `call_next` encodes it and returns it as it will travel.

        A changed copy may have another queue, priority, eta, headers or arguments.
        """
        return call_next(message)

    def execute(self, message: Message, call_next: Callable[[Message], Any]) -> Any:
        """Wrap one run of a `def` task, in its own thread; return what the task shall be taken to have returned."""
        return call_next(message)

    async def aexecute(self, message: Message, call_next: Callable[[Message], Awaitable[Any]]) -> Any:
        """Wrap one run of an `async def` task, on the event loop."""
        return await call_next(message)
