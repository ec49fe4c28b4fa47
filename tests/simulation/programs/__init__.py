"""Programs: what is sent in a simulated world, and what must hold of it. One file for each family.

To add one: a file here with a subclass of `Program`. It is found by itself, and every seed may draw it from then on.

    class Sums(Program):
        name = "sums"                                   # its tasks are called "sums.…"

        def declare(self, site):                        # in every process: workers and clients
            site.task("sums.add", lambda request, a, b: a + b)

        def act(self, client):                          # one client; its calls may fail as everybody's
            for n in range(self.plan.randint(2, 6)):
                client.send("sums", "sums.add", n, n, id=f"sums-{n}")
                client.rest(2.0)

        def check(self):                                # once everything has ended
            for sent in self.accepted():
                if (end := self.end_of(sent.id)).state == "SUCCESS" and end.value % 2:
                    self.complain("a sum is even", sent.id)

What holds for every call of every program is checked without a word (invariants.py).
"""

from __future__ import annotations

import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from dray import Message
from dray.report import _decode

if TYPE_CHECKING:
    from ..history import Sent
    from ..site import Site
    from ..stage import Stage


class End(NamedTuple):
    """What a call has come to: the state that is stored (or "" and "DEAD"), its value, and why it is a dead letter."""

    state: str
    value: Any = None
    reason: str = ""


class Program(ABC):
    """What is sent, and what must hold of it. One object for each world."""

    name: ClassVar[str]
    #: Settings of all apps of the world, and queues beside "default".
    settings: ClassVar[Mapping[str, Any]] = {}
    queues: ClassVar[Sequence[str]] = ()

    def __init__(self, stage: Stage) -> None:
        self.stage, self.history = stage, stage.history
        #: To be drawn from in `act` and `__init__`.
        self.plan = stage.plan

    @abstractmethod
    def declare(self, site: Site) -> None:
        """Declare the tasks in one process."""

    @abstractmethod
    def act(self, client: Site) -> None:
        """Be a client. What raises here is a broken rule."""

    def crew(self) -> Mapping[str, Callable[[Site], None]]:
        """Return the processes that it needs beside workers and its client: by name what each does until it is stopped.

        They go wrong as workers do, and another one comes in the place of one that has died.
        """
        return {}

    def check(self) -> None:
        """Complain of what is wrong, once everything has ended."""

    def unsettled(self) -> int:
        """Return how much of what the engine has begun for it waits outside of the broker: the world goes on then."""
        return 0

    def may_be_doubled(self, message: Message) -> bool:
        """Return whether the broker may store this twice: all but what may only run once."""
        return True

    def may_be_lost(self, message: Message) -> bool:
        """Return whether the broker may lose this, because somebody sends it again (a sweeper)."""
        return False

    # For `act` and `check`

    def accepted(self) -> Iterator[Sent]:
        """Yield the calls of this program that the engine has accepted."""
        return (sent for sent in self.history.sent.values() if sent.program == self.name and sent.accepted)

    def end_of(self, id: str) -> End:
        """Return what a call has come to."""
        record, reason = self.history.final(id), self.stage.ends.get(id, "")
        if record is None:
            return End("DEAD" if reason else "", None, reason)
        report = _decode(record.body)
        return End(report.state, json.loads(report.value) if report.value else None, reason)

    def complain(self, rule: str, what: str) -> None:
        """Note that a rule was broken."""
        self.stage.world.complain(rule, what)


def all_programs() -> list[type[Program]]:
    """Return the programs of all files here, by name."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return sorted(Program.__subclasses__(), key=lambda kind: kind.name)
