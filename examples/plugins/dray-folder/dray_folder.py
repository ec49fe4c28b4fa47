"""A broker in a folder: `Dray("shop", broker="folder:///var/spool/shop")`. One file per message, moved by renames.

    ready/   <9 - priority>-<due>-<serial>.<count>          sorted by name: most urgent first, then oldest
    leased/  <9 - priority>-<due>-<serial>.<count>.<token>  mtime: when the loan ends; token: names this one loan
    dead/    the same name, and the reason in a file of that name in reasons/

Who renames a file has it, for a second rename of the same file fails: that is all the locking there is.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, unquote

from dray import FOREVER, Broker, BrokerUnavailable, Capabilities, Consumer, Delivery, Waiting, hookimpl

dray_api = (1, 0)
serials = itertools.count()


@hookimpl
def register_brokers(register):
    register("folder", "dray_folder:FolderBroker")


@contextmanager
def translated():
    try:
        yield
    except OSError as error:
        raise BrokerUnavailable(f"the folder cannot be used: {error}") from error


def name(priority, due, count):
    return f"{9 - priority}-{int(due * 1e9):020}-{next(serials):09}{secrets.token_hex(4)}.{count}"


def due(path):
    return int(path.name.split("-")[1]) / 1e9


def read(path):
    head, _, body = path.read_bytes().partition(b"\n")
    count, priority = int(path.name.split(".")[1]), 9 - int(path.name[0])
    return {**json.loads(head), "body": body, "priority": priority, "delivery_count": count}


class FolderBroker(Broker):
    capabilities = Capabilities(
        max_delay=FOREVER, priority_levels=10, fifo=True, lease=True, delivery_count=True, release_uncharged=True,
        requeue_delay=True, peek=True, dead_letters=True, purge=True, size="exact",
    )  # fmt: skip

    def folder(self, queue, state):
        folder = Path(self.url.path) / f"queue-{quote(queue, safe='')}" / state
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @translated()
    def open(self):
        Path(self.url.path).mkdir(parents=True, exist_ok=True)

    def close(self):
        pass

    def consumer(self, queues, lease):
        return FolderConsumer(self, queues, lease)

    @translated()
    def publish(self, envelopes):
        for each in envelopes:
            now = self.clock.time()
            head = json.dumps({"id": each.id, "attempt": each.attempt, "published": now}).encode()
            draft = self.folder(each.queue, "drafts") / secrets.token_hex(8)
            draft.write_bytes(head + b"\n" + each.body)
            draft.rename(self.folder(each.queue, "ready") / name(each.priority, now + each.delay, 0))

    def waiting(self, queue):
        """Return the files in ready/, in order, after moving loans that have run out back to it."""
        for path in self.folder(queue, "leased").iterdir():
            with suppress(FileNotFoundError):  # settled or moved by another meanwhile
                if path.stat().st_mtime <= self.clock.time():
                    path.rename(self.folder(queue, "ready") / path.stem)
        return sorted(self.folder(queue, "ready").iterdir())

    @translated()
    def peek(self, queue, limit):
        now, shown = self.clock.time(), []
        for path in sorted(self.waiting(queue), key=lambda path: (due(path) > now, path))[:limit]:
            with suppress(FileNotFoundError):
                delay = max(0.0, due(path) - now)
                shown.append(Waiting(queue=queue, delay=delay, state="delayed" if delay else "ready", **read(path)))
        return shown

    @translated()
    def purge(self, queue):
        return sum(succeeds(path.unlink) for path in self.waiting(queue))

    @translated()
    def sizes(self, queues):
        found = {}
        for queue in queues:
            now, waiting = self.clock.time(), self.waiting(queue)
            ready = sum(due(path) <= now for path in waiting)
            leased, dead = (len(os.listdir(self.folder(queue, state))) for state in ("leased", "dead"))
            found[queue] = {"ready": ready, "delayed": len(waiting) - ready, "leased": leased, "dead": dead}
        return found

    @translated()
    def queues(self):
        names = [unquote(folder.name.removeprefix("queue-")) for folder in Path(self.url.path).iterdir()]
        return sorted(queue for queue, sizes in self.sizes(names).items() if any(sizes.values()))

    def letters(self, queue, ids):
        """Yield (file, reason file, contents) of dead letters, oldest first."""
        for note in sorted(self.folder(queue, "reasons").iterdir(), key=lambda note: note.stat().st_mtime_ns):
            path = self.folder(queue, "dead") / note.name
            with suppress(FileNotFoundError)
