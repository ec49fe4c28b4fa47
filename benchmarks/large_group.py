"""A chord of 100,000 calls: what it takes of sender and workers, and how large what they write is.

    python benchmarks/large_group.py                                    all shapes on SQLite, Redis and PostgreSQL
    python benchmarks/large_group.py --places redis --shapes streamed --members 1000000

Broker, result backend and store are one server, which is started for it; the workers are processes of `dray worker`.
The shapes: `streamed` - `Group.stream(...) | body`; `listed` - `chord([...], body)`; `later` - `first | group | body`,
whose members lie in the store until `first` has run. Memory is what the peak (VmHWM) is above what sender and workers
held after a chord of a thousand calls; of the workers it is the one that grew most.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
from command_line import positive, say, some_of
from contender import Spot
from formats import number
from gathering import Body, Largest, weigh
from places import PLACES
from services import running
from watched import Watched, watching

from dray import Canvas, Dray, Group, Signature, chord

HERE = Path(__file__).parent
AT = ("sqlite", "redis", "postgresql")
#: Members of the chord before which nothing is measured.
WARMING = 1000
#: Seconds that a body may keep one waiting.
PATIENCE = 1800.0


class Found(NamedTuple):
    """What one chord took."""

    sent: float
    ended: float
    sender: int
    worker: int
    message: int
    record: int
    commit: int


class Calls:
    """The tasks of the app `gathering`, from outside, as canvases of so many calls."""

    def __init__(self, app: Dray) -> None:
        self._app = app

    def _call(self, task: str, *args: Any) -> Signature:
        return self._app.signature(f"gathering.{task}", args)

    def _members(self, count: int) -> Iterator[Signature]:
        return (self._call("member", number).set(immutable=True) for number in range(count))

    def streamed(self, count: int, flow: str) -> Canvas:
        """Return a group that is made while it is sent, and its body."""
        return Group.stream(self._members(count), app=self._app) | self._call("body", flow)

    def listed(self, count: int, flow: str) -> Canvas:
        """Return a group that is there as a list, and its body."""
        return chord(list(self._members(count)), self._call("body", flow))

    def later(self, count: int, flow: str) -> Canvas:
        """Return a group that comes after another call, and its body."""
        return self._call("first", 0) | Group(self._members(count)) | self._call("body", flow)


SHAPES: dict[str, Callable[[Calls, int, str], Canvas]] = {
    "streamed": Calls.streamed,
    "listed": Calls.listed,
    "later": Calls.later,
}


class Peak:
    """How far the memory of some processes rises above what they hold now."""

    def __init__(self, processes: Sequence[int]) -> None:
        self._before = {process: _status(process, "VmRSS") for process in processes}
        for process in processes:
            # The kernel's mark of the highest begins anew.
            Path(f"/proc/{process}/clear_refs").write_text("5")

    def growth(self) -> int:
        """Return by how many bytes the one rose that rose most."""
        return max(_status(process, "VmHWM") - before for process, before in self._before.items())


class Site:
    """An empty server, workers on it, and an app that sends to them. Close it, or use `with`."""

    def __init__(self, place: str, spot: Spot, workers: int) -> None:
        self._open, self._folder = ExitStack(), spot.folder
        url = spot.url(PLACES[place].url)
        self._app = Dray("gathering", broker=url, backend=url, set_as_current=False)
        self._written = Largest()
        weigh(self._app, self._written)
        folders = [spot.folder / f"worker-{number}" for number in range(workers)]
        self._workers = [self._open.enter_context(_worker(folder, url)) for folder in folders]
        for worker in self._workers:
            worker.hear("is ready")
        self.send("streamed", WARMING)

    def send(self, shape: str, count: int) -> Found:
        """Send a chord, wait for its body, and tell what that took; raise SystemExit if it was not as it should be."""
        flow, made = uuid4().hex, SHAPES[shape]
        for name in self._written.__struct_fields__:
            setattr(self._written, name, 0)
        canvas = made(Calls(self._app), count, flow)
        sender, worker = Peak([os.getpid()]), Peak([one.pid for one in self._workers])
        began = time.time()
        canvas.delay()
        sent = time.time() - began
        grown = sender.growth()
        bodies = self._bodies(flow)
        if [(body.count, body.in_order) for body in bodies] != [(count, True)]:
            raise SystemExit(f"{shape}: the body should have run once for {count} results in order; it was {bodies}")
        written = [self._written, bodies[0].largest]
        sizes = (max(getattr(one, name) for one in written) for name in ("message", "record", "commit"))
        return Found(sent, bodies[0].ended - began, grown, worker.growth(), *sizes)

    def _bodies(self, flow: str) -> list[Body]:
        """Wait until nothing is left to do; return what runs of the body said."""
        gives_up = time.monotonic() + PATIENCE
        while not self._of(flow) or any(
            self._app.broker.sizes(["default"])["default"][state] for state in ("ready", "delayed", "leased")
        ):
            if time.monotonic() > gives_up:
                raise SystemExit(f"the body has not run within {PATIENCE:g} s")
            time.sleep(0.05)
        return self._of(flow)

    def _of(self, flow: str) -> list[Body]:
        lines = [line for told in self._folder.glob("*/told") for line in told.read_bytes().splitlines()]
        bodies = [msgspec.json.decode(line, type=Body) for line in lines]
        return [body for body in bodies if body.flow == flow]

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *raised: object) -> None:
        self._open.close()
        self._app.close()


def _worker(folder: Path, url: str) -> AbstractContextManager[Watched]:
    folder.mkdir()
    command = [sys.executable, "-m", "dray", "-A", "gathering", "worker", "-l", "info"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DRAY_")}
    path = os.pathsep.join(filter(None, (str(HERE), inherited.get("PYTHONPATH"))))
    settings = {"PYTHONPATH": path, "DRAY_BROKER_URL": url, "DRAY_RESULT_BACKEND": url}
    return watching(command, folder, inherited | settings)


def _status(process: int, name: str) -> int:
    """Return what the kernel says of the memory of a process, in bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    """Measure what the options say, and print it as a table."""
    options = argparse.ArgumentParser(description="A chord of 100,000 calls: what it takes.")
    options.add_argument("--members", type=positive, default=100_000)
    options.add_argument("--workers", type=positive, default=2)
    for name, known in (("places", AT), ("shapes", tuple(SHAPES))):
        options.add_argument(f"--{name}", type=lambda text, known=known: some_of(text, known), default=list(known))  # type: ignore[misc]
    chosen = options.parse_args()
    print(
        "| server | shape | sent, s | body had run, s | sender, MB | worker, MB | message, B | record, B | request, B |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with running(say) as servers:
        for place in chosen.places:
            servers.start(PLACES[place].servers)
            for shape in chosen.shapes:
                say(f"{place}: {shape}")
                found = _measured(place, shape, servers.urls, chosen)
                servers.wipe(PLACES[place].servers)
                say("")
                print(_row(place, shape, found), flush=True)


def _measured(place: str, shape: str, servers: Mapping[str, str], chosen: argparse.Namespace) -> Found:
    with tempfile.TemporaryDirectory() as folder, Site(place, Spot(Path(folder), servers), chosen.workers) as site:
        return site.send(shape, chosen.members)


def _row(place: str, shape: str, found: Found) -> str:
    figures = [number(found.sent), number(found.ended), number(found.sender / 1e6), number(found.worker / 1e6)]
    sizes = [f"{size:,}" for size in (found.message, found.record, found.commit)]
    return f"| {' | '.join([place, shape, *figures, *sizes])} |"


if __name__ == "__main__":
    main()
