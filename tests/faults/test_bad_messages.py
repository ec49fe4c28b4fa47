"""Messages that nobody can run, or that should not be read: kept whole, and the worker goes on. F11, F12."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
from pathlib import Path

import pytest

from dray import Envelope, Message, NotSupported
from dray.clock import SYSTEM_CLOCK
from dray.codec import pack
from dray.errors import PublishError
from dray.testing.faults import wait_until

from .site import Site, Worker

#: Seconds within which a message that cannot be run has become a dead letter.
BURIED_WITHIN = 60.0


def forged(site: Site, id: str, task: str, payload: bytes, content_type: str = "application/json") -> bytes:
    """Return the bytes of a message as a sender would make them that has gone wrong."""
    return pack(Message(id=id, task=task, queue=site.queue, payload=payload, content_type=content_type))


def plant(site: Site, bodies: dict[str, bytes]) -> dict[str, bytes]:
    """Put bytes into the queue; return those that the broker takes at all."""
    planted = {}
    for id, body in bodies.items():
        try:
            site.app.broker.publish([Envelope(id=id, queue=site.queue, body=body)])
        except (PublishError, NotSupported):
            continue
        planted[id] = body
    return planted


def outlast(site: Site, planted: dict[str, bytes]) -> tuple[Worker, dict[str, str]]:
    """Have a worker meet what was planted, between tasks that are well; return the reasons of the dead letters."""
    worker = site.worker()
    for n in range(20):
        site.send("work", n)
    letters: dict[str, bytes] = {}
    reasons: dict[str, str] = {}

    def all_buried() -> bool:
        for letter in site.dead():
            letters[letter.id], reasons[letter.id] = letter.body, letter.reason
        return letters.keys() >= planted.keys()

    wait_until(all_buried, timeout=BURIED_WITHIN, look=1.0)
    assert {id: letters[id] == body for id, body in planted.items()} == dict.fromkeys(planted, True)
    return worker, reasons


@pytest.mark.fault(
    "F11", "garbage, a wrong schema, an unknown task, bad arguments, depth, size", quick=("sqlite", "rabbitmq", "sqs")
)
def test_what_cannot_be_run_is_kept_whole_and_harms_nobody(site: Site) -> None:
    # How unknown tasks wait for a deploy is seen below, on the default; here it is said that nobody will know them.
    site.environment["DRAY_TASK_UNKNOWN_GRACE"] = "0"
    bodies = {
        "garbage": os.urandom(300),
        "nothing": b"",
        "schema": b'{"some": "other", "system": [1, 2, 3]}',
        "unknown": forged(site, "unknown", "besieged.nobody", b"[[],{}]"),
        "arguments": forged(site, "arguments", "besieged.work", b"[[1,2,3,4,5],{}]"),
        "no-arguments": forged(site, "no-arguments", "besieged.work", b"17"),
        "deep": forged(site, "deep", "besieged.work", b"[" * 100_000 + b"]" * 100_000),
        "deep-body": b"[" * 100_000 + b"]" * 100_000,
        "large": forged(site, "large", "besieged.work", b'[["' + b"x" * 20_000_000 + b'"],{}]'),
    }
    for n in range(20):
        site.send("work", n)
    planted = plant(site, bodies)
    began = SYSTEM_CLOCK.monotonic()
    worker, reasons = outlast(site, planted)
    seconds = SYSTEM_CLOCK.monotonic() - began
    site.settled(20)
    assert worker.alive
    refused = sorted(bodies.keys() - planted.keys())
    assert all(reasons.values()), reasons
    site.account(seconds, note=f"not taken by the broker: {', '.join(refused)}" if refused else "")


@pytest.mark.fault("F11", "a task that only workers of the next release know", quick=("redis",))
def test_an_unknown_task_waits_for_the_worker_that_knows_it(site: Site) -> None:
    old = site.ready_worker()
    for n in range(3):
        site.send("newcomer", n)
    wait_until(lambda: old.said("handedback") >= 3, timeout=20)
    deployed = SYSTEM_CLOCK.monotonic()
    site.ready_worker(BESIEGED_DEPLOYED="1")
    # Both are there for a while, and the old one goes on handing back what it happens to get.
    old.send(signal.SIGTERM)
    assert old.ended() == 0
    seconds = site.settled(30) - deployed
    site.account(seconds)


class Planted:
    """What leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return shutil.copy, (os.devnull, str(self.mark))


@pytest.mark.fault("F12", "a planted pickle", quick=("redis",))
def test_a_pickle_is_never_opened(site: Site) -> None:
    mark = site.folder / "opened"
    assert pickle.loads(pickle.dumps(Planted(mark))) and mark.exists(), "the pickle is a dud"
    mark.unlink()
    evil = pickle.dumps([[Planted(mark)], {}])
    kinds = ["application/x-python-serialize", "application/x-python-pickle", "application/pickle", "application/json"]
    bodies = {f"p{n}": forged(site, f"p{n}", "besieged.work", evil, kind) for n, kind in enumerate(kinds)}
    bodies["raw"] = evil
    planted = plant(site, bodies)
    assert planted.keys() == bodies.keys()
    began = SYSTEM_CLOCK.monotonic()
    worker, _ = outlast(site, planted)
    seconds = SYSTEM_CLOCK.monotonic() - began
    site.settled(20)
    assert not mark.exists()
    assert worker.alive
    site.account(seconds)
