"""A broker in a folder: `Dray("shop", broker="folder:///var/spool/shop")`. One file per message, moved by renames:

    <queue>/ready/<9 - priority>-<when put there>.<delivery count>.<token>     in the order in which they come out
    <queue>/dead/<the same name>                                               its reason is in reasons/<the same name>

A file's mtime is the time before which it must not come out: the end of its delay, or of its loan. Lending renames the
file, with a token of its own; a second rename of the old name fails, and that is all the locking there is.
"""

from __future__ import annotations

import itertools
import os
import secrets
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import msgspec

from dray import FOREVER, Broker, BrokerUnavailable, Capabilities, Consumer, Delivery, Envelope, Waiting, hookimpl

dray_api = (1, 0)


@hookimpl
def register_brokers(register):
    register("folder", "dray_folder:FolderBroker")


@contextmanager
def translated():
    try:
        yield
    except OSError as error:
        raise BrokerUnavailable(f"the folder cannot be used now: {error}") from error


class FolderBroker(Broker):
    capabilities = Capabilities(
        max_delay=FOREVER, priority_levels=10, lease=True, delivery_count=True, requeue_delay=True, dead_letters=True
    )

    def open(self):
        self.folder("default", "ready")

    def close(self): ...

    def consumer(self, queues, lease):
        return FolderConsumer(self, queues, lease)

    @translated()
    def folder(self, queue, part):
        folder = Path(self.url.path, quote(queue, safe="@").replace(".", "%2E"), part)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @translated()
    def publish(self, envelopes):
        for each in envelopes:
            draft = self.folder(each.queue, "drafts") / secrets.token_hex(8)
            draft.write_bytes(msgspec.msgpack.encode(each))
            self.put(draft, each, 0, each.delay)

    def put(self, file, envelope, count=0, delay=0.0):
        now = self.clock.time()
        os.utime(file, (now + delay,) * 2)
        name = f"{9 - envelope.priority}-{now:.6f}-{next(SERIALS):09}.{count}.{secrets.token_hex(8)}"
        file.rename(self.folder(envelope.queue, "ready") / name)

    @translated()
    def letters(self, queue, ids, act):
        """Do `act(file, envelope, reason)` with the dead letters, oldest first, and return what it returned."""
        files = sorted(self.folder(queue, "dead").iterdir())
        letters = [(file, read(file), self.folder(queue, "reasons").joinpath(file.name).read_text()) for file in files]
        return [act(*letter) for letter in letters if ids is None or letter[1].id in ids]

    def dead(self, queue, limit, ids=None):
        return self.letters(queue, ids, lambda file, envelope, reason: Waiting(id=envelope.id, queue=queue, body=envelope.body, attempt=envelope.attempt, state="dead", reason=reason))[:limit]

    def replay(self, queue, ids=None):
        return len(self.letters(queue, ids, lambda file, envelope, reason: self.put(file, envelope)))

    def discard(self, queue, ids=None):
        return len(self.letters(queue, ids, lambda file, envelope, reason: file.unlink()))


class FolderConsumer(Consumer):
    def __init__(self, broker, queues, lease):
        self.broker, self.queues, self.lease, self.mark = broker, queues, lease, secrets.token_hex(4)

    def receive(self, limit, wait, queues=None):
        clock = self.broker.clock
        end = clock.monotonic() + wait
        looked_at = self.queues if queues is None else queues
        while not (taken := list(itertools.islice(self.lend(looked_at), limit))) and clock.monotonic() < end:
            clock.wait(threading.Event(), 0.02)
        return taken

    def lend(self, queues):
        now = self.broker.clock.time()
        for file in (file for queue in queues for file in sorted(self.broker.folder(queue, "ready").iterdir())):
            with suppress(FileNotFoundError):  # another consumer was faster
                if file.stat().st_mtime <= now:
                    place, count, _ = file.name.rsplit(".", 2)
                    loan = file.with_name(f"{place}.{int(count) + 1}.{self.mark}{secrets.token_hex(4)}")
                    os.utime(file, (now + self.lease,) * 2)
                    file.rename(loan)
                    yield self.delivery(loan, count+1)

    @translated()
    def settle(self, deliveries, act):
        over = []
        for each in deliveries:
            try:
                act(each.receipt)
            except FileNotFoundError:  # the loan was over, and the file has another name now
                over.append(each)
        return over

    def ack(self, deliveries):
        return self.settle(deliveries, os.unlink)

    def requeue(self, deliveries, delay=0.0):
        return self.settle(deliveries, lambda loan: self.broker.put(loan, read(loan), count(loan), delay))

    def bury(self, deliveries, reason):
        def lay_down(loan):
            (loan.parents[1] / "reasons" / loan.name).write_text(reason)
            loan.rename(loan.parents[1] / "dead" / loan.name)

        return self.settle(deliveries, lay_down)

    def extend(self, deliveries, seconds):
        end = self.broker.clock.time() + seconds
        return self.settle(deliveries, lambda loan: os.utime(loan, (end, end)))

    def close(self):
        for file in (file for queue in self.queues for file in self.broker.folder(queue, "ready").iterdir()):
            with suppress(FileNotFoundError):
               if self.mark in file.name: os.utime(file, (0, 0))
