"""What can go wrong at a call of a server, or in the middle of a task: one function for each fault.

To add one: write a function that is given the `Call`, does it (`call.perform()`) or not, and returns what the caller
gets; decorate it with how often it strikes beside the others and, if it does not fit everywhere, where. What it has
not really done it says by returning `call.spared()`: then it does not count as having struck.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from .world import Killed

if TYPE_CHECKING:
    from .gates import Call
    from .world import World


class Fault(NamedTuple):
    """A way to go wrong."""

    name: str
    strike: Callable[[Call], Any]
    weight: float
    #: Where it fits: "broker.publish", "broker.", "task." ...; () is everywhere at a server.
    where: tuple[str, ...]
    #: Whether it needs a process that faults may kill, freeze or stop.
    mortal: bool

    def fits(self, call: Call) -> bool:
        if self.mortal and not call.process.mortal:
            return False
        if not self.where:
            return call.server is not None
        return call.name.startswith(self.where)


FAULTS: list[Fault] = []


def fault(weight: float, *where: str, mortal: bool = False) -> Callable[[Callable[[Call], Any]], Callable[[Call], Any]]:
    """Add a fault to those that the seed chooses from."""

    def add(strike: Callable[[Call], Any]) -> Callable[[Call], Any]:
        FAULTS.append(Fault(strike.__name__.replace("_", " "), strike, weight, where, mortal))
        return strike

    return add


ANYWHERE = ("broker.", "shelf.", "backend.", "store.", "task.")


@fault(3, *ANYWHERE, mortal=True)
def killed_before_a_call(call: Call) -> Any:
    call.process.die()


@fault(5, *ANYWHERE, mortal=True)
def killed_after_a_call(call: Call) -> Any:
    call.perform()
    call.process.die()


@fault(2, *ANYWHERE, mortal=True)
def frozen_before_a_call(call: Call) -> Any:
    call.process.freeze(call.faults.beyond_a_lease())
    return call.perform()


@fault(2, *ANYWHERE, mortal=True)
def frozen_after_a_call(call: Call) -> Any:
    result = call.perform()
    call.process.freeze(call.faults.beyond_a_lease())
    return result


@fault(1, *ANYWHERE, mortal=True)
def frozen_for_a_moment(call: Call) -> Any:
    result = call.perform()
    call.process.freeze(call.faults.luck.uniform(0.05, 1.0))
    return result


@fault(1.5, *ANYWHERE, mortal=True)
def told_to_stop(call: Call) -> Any:
    if not call.site.stop():
        return call.spared()
    return call.perform()


@fault(3)
def failed_before_its_effect(call: Call) -> Any:
    raise call.unavailable("the connection was cut before the request")


@fault(5)
def reply_lost(call: Call) -> Any:
    call.perform()
    raise call.unavailable("the connection was cut before the reply")


@fault(1.5)
def slow(call: Call) -> Any:
    call.wait(call.faults.beyond_a_lease() / 2)
    return call.perform()


@fault(1.5)
def slow_to_answer(call: Call) -> Any:
    result = call.perform()
    call.wait(call.faults.beyond_a_lease() / 2)
    return result


@fault(1)
def outage(call: Call) -> Any:
    call.faults.take_away(call.where, call.faults.luck.choice([0.1, 1.0, 5.0]))
    raise call.unavailable("it is away")


@fault(10, "broker.receive")
def lent_to_two(call: Call) -> Any:
    came = call.perform()
    if not came or not call.server.lend_again(call.faults.luck.choice(came)):
        return call.spared()
    return came


@fault(30, "broker.receive")
def out_of_order(call: Call) -> Any:
    struck = call.server.shuffle(call.queues[0])
    return call.perform() if struck else call.spared()


@fault(8, "broker.publish")
def stored_twice(call: Call) -> Any:
    result = call.perform()
    doubled = [each for each in call.envelopes if call.faults.may_double(each)]
    for each in doubled:
        call.server.duplicate(each)
    return result if doubled else call.spared()


@fault(3, "broker.publish")
def lost(call: Call) -> Any:
    result = call.perform()
    gone = [each for each in call.envelopes if call.faults.may_lose(each) and call.server.lose(each)]
    for each in gone:
        call.history.lost.add(each.id)
    return result if gone else call.spared()


class Faults:
    """Decides at each call whether something goes wrong, and what."""

    def __init__(self, world: World, lease: float) -> None:
        self.luck: Random = world.luck
        self.lease = lease
        #: How probable a fault is at one call; 0: they are over.
        self.rate = 0.0
        #: How often each has struck.
        self.struck: Counter[str] = Counter()
        #: Until when a server is away, by its name.
        self._away: dict[str, float] = {}
        self._world = world
        #: Told by the programs: whether what is in an envelope may be doubled or lost by this world's broker.
        self.may_double: Callable[[Any], bool] = lambda envelope: True
        self.may_lose: Callable[[Any], bool] = lambda envelope: False

    def draw(self, call: Call) -> Fault | None:
        if not self.rate or self.luck.random() >= self.rate:
            return None
        fitting = [each for each in FAULTS if each.fits(call)]
        if not fitting:
            return None
        return self.luck.choices(fitting, [each.weight for each in fitting])[0]

    def strike(self, fault: Fault, call: Call) -> Any:
        """Have it happen; count it, unless it says that nothing came of it."""
        call.history.struck(call.process, call.name)
        call.fault = fault.name
        try:
            return fault.strike(call)
        except Killed:
            raise
        finally:
            if not call.was_spared:
                self.struck[fault.name] += 1
                # Whatever it has led to by now.
                call.history.struck(call.process, call.name)

    def over(self) -> None:
        """Let nothing go wrong any more."""
        self.rate = 0.0
        self._away.clear()

    def take_away(self, where: str, seconds: float) -> None:
        self._away[where] = self._world.now + seconds

    def is_away(self, where: str) -> bool:
        return self._away.get(where, 0.0) > self._world.now

    def beyond_a_lease(self) -> float:
        return self.lease * self.luck.uniform(1.1, 3.0)
