"""What stands on the store port: members that are counted once, and locks that one has at a time."""

from __future__ import annotations

from itertools import count
from typing import Any, NamedTuple

from dray import Hold, StoreError

from ..site import Site
from . import Program

WAIT = 0.3


def insist(site: Site, ask: Any) -> Any:
    """Ask a store until it answers: what it was asked for may be asked twice."""
    while True:
        try:
            return ask()
        except StoreError:
            site.world.wait(WAIT)


class Members(Program):
    """Tasks that each add a member to a group; whoever is told that the group is complete says so."""

    name = "members"

    def __init__(self, stage: Any) -> None:
        super().__init__(stage)
        self.size = self.plan.randint(2, 5)
        #: What was told to those who added: (member, whether it was new, how many there were).
        self.told: list[tuple[str, bool, int]] = []

    def declare(self, site: Site) -> None:
        def join(request: Any, member: str) -> int:
            store = site.app.store("members")
            added, count = insist(site, lambda: store.add_member("group", "m", member, request.id.encode()))
            self.told.append((member, added, count))
            return int(count)

        site.task("members.join", join)

    def act(self, client: Site) -> None:
        for n in range(self.size):
            while client.send("members", "members.join", f"member{n}", id=f"members-{n}") is None:
                client.rest(1.0)
            client.rest(1.0)

    def check(self) -> None:
        joined = {member for member, _, _ in self.told}
        if len(joined) == self.size and not any(count == self.size for _, _, count in self.told):
            self.complain("one of those who complete a group is told", f"{self.told}")
        for member in sorted(joined):
            if sum(added for name, added, _ in self.told if name == member) > 1:
                self.complain("a member is added once", f"{member}: {self.told}")
        if any(count > self.size for _, _, count in self.told):
            self.complain("a group counts its members", f"{self.told}")


class Held(NamedTuple):
    """That somebody had a lock, as the one who asked for it knows it."""

    holder: str
    token: int
    since: float
    until: float


class Locks(Program):
    """Tasks that ask for the one place of a lock, use it, and give it back or die."""

    name = "locks"
    SECONDS = 3.0

    def __init__(self, stage: Any) -> None:
        super().__init__(stage)
        self.held: list[Held] = []
        self.numbers = count()

    def declare(self, site: Site) -> None:
        def use(request: Any, seconds: float) -> str:
            store, world = site.app.store("locks"), self.stage.world
            # Of this very run: a run that comes back from the dead is another holder.
            wish = Hold("lock", f"{request.id}@{site.process.name}#{next(self.numbers)}", self.SECONDS)
            asked = world.now
            (token,) = insist(site, lambda: store.hold([wish]))
            if not token:
                return "taken"
            entry = Held(wish.holder, token, world.now, asked + self.SECONDS)
            self.held.append(entry)
            site.be_in_user_code("locks.use", seconds)
            # From here on it may be free, whether we hear of it or not.
            self.held[self.held.index(entry)] = entry._replace(until=min(entry.until, world.now))
            insist(site, lambda: store.let_go([wish]))
            return "used"

        site.task("locks.use", use)

    def act(self, client: Site) -> None:
        for n in range(self.plan.randint(3, 7)):
            client.send("locks", "locks.use", self.plan.choice([0.1, 1.0, 4.0]), id=f"locks-{n}")
            client.rest(1.5)

    def check(self) -> None:
        held = sorted(self.held, key=lambda each: each.token)
        for one, next_one in zip(held, held[1:], strict=False):
            if next_one.since < one.until - 1e-6 or next_one.token == one.token:
                self.complain("no lock is held twice", f"{one} and {next_one}")
