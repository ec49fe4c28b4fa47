"""What every server for tests has: a URL, and that it can be killed and started again."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self, TypeVar

import pytest

from .choosing import Given, NoServer, Service, choose
from .hosts import Host, Part
from .process import new_folder, remove_folder


class Server:
    """A server that runs for one test or for the whole session.

    Subclasses say in `build` of which parts it is made. It runs as soon as it is made; `close` ends it and deletes its
    data. One that was given by a URL is never started, killed or ended: a test that wants to is skipped.
    """

    service: ClassVar[Service]
    #: Who it runs as where it would be root and must not.
    runs_as: ClassVar[str | None] = None

    #: dray broker URL, without options that isolate one test from another.
    url: str
    folder: Path

    def __init__(self, host: Host, *, durable: bool = False) -> None:
        self.durable = durable
        self.user = host.user(self.runs_as) if self.runs_as else None
        self.folder = new_folder(self.service.name.replace("_", "-"), self.user)
        self._parts: list[Part] | None = []
        try:
            self._parts = self.build(host)
            self.start()
        except BaseException:
            self.close()
            raise

    @classmethod
    def given(cls, url: str) -> Self:
        """Return one that somebody else runs."""
        made = cls.__new__(cls)
        made.url, made._parts = url, None
        return made

    def build(self, host: Host) -> list[Part]:
        """Return the parts in the order in which they start, and set `url`."""
        raise NotImplementedError

    def start(self) -> None:
        """Start what does not run, on the same ports and data; return when it answers."""
        for part in self._ours():
            part.start()

    def stop(self) -> None:
        """End it in order."""
        for part in reversed(self._ours()):
            part.stop()

    def kill(self) -> None:
        """Kill it with -9. What it had not written down is gone, and clients see nothing but a broken connection."""
        for part in self._ours():
            part.kill()

    def close(self) -> None:
        """End it and delete its data."""
        if self._parts is not None:
            self.end()
            remove_folder(self.folder)

    def end(self) -> None:
        """End it for good. Killed is quickest, where nothing but the data is left behind."""
        self.kill()

    def _ours(self) -> list[Part]:
        if self._parts is None:
            pytest.skip(f"{self.service.variable} was given: that server is not ours to stop")
        return self._parts

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


S = TypeVar("S", bound=Server)


def given_or_started(kind: type[S], *, durable: bool = False) -> S:
    """Return a server of `kind`; skip the test when there is none to be had, or fail it where that is `require`d.

    `durable`: it writes down what it confirms, and belongs to the test, which may kill it.
    """
    try:
        choice = choose(kind.service, own=durable)
    except NoServer as problem:
        (pytest.fail if problem.required else pytest.skip)(str(problem))
    return kind.given(choice.url) if isinstance(choice, Given) else kind(choice, durable=durable)
