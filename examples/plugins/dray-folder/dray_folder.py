"""A broker in a folder: `Dray("shop", broker="folder:///var/spool/shop")`. One file per message, moved by renames:

    queue-<name>/live/<9 - priority>-<time>-<serial>.<delivery count>.<token>    in order of coming out

A file's mtime is the time at which it may come out: when its delay, or its loan, is over. To lend it is to rename it
to a new token, and whoever knows only the old name finds nothing to settle. That is all the locking there is.
"""

from __future__ import annotations

import itertools
import os
import secrets
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from msgspec.msgpack import decode, encode

from dray import FOREVER, Broker, BrokerUnavailable, Capabilities, Consumer, Delivery, hookimpl

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
        raise BrokerUnavailable(f"the folder cannot be used now: {error}") from error


class FolderBroker(Broker):
    capabilities = Capabilities(
        max_delay=FOREVER, priority_levels=10, fifo=True, lease=True, delivery_count=True, requeue_delay=True
    )

    @translated()
    def open(self):
        Path(self.url.path).mkdir(parents=True, exist_ok=True)

    def close(self): ...

    def consumer(self, queues, lease):
        return FolderConsumer(self, queues, lease)

    def folder(self, queue, part):
        folder = Path(self.url.path, f"queue-{quote(queue, safe='')}", part)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def put(self, file, message, count, delay):
        now = self.clock.time()
        os.utime(file, (now + delay,) * 2)
        place = f"{9 - message.priority}-{int(now * 1e9):020}-{next(serials):09}"
        file.rename(self.folder(message.queue, "live") / f"{place}.{count}.{secrets.token_hex(8)}")

    @translated()
    def publish(self, envelopes):
        for each in envelopes:
            draft = self.folder(each.queue, "drafts") / secrets.token_hex(8)
            draft.write_bytes(encode({k: getattr(each, k) for k in ("id", "queue", "body", "priority", "attempt")}))
            self.put(draft, each, 0, each.delay)


class FolderConsumer(Consumer):
    def __init__(self, broker, queues, lease):
        self.broker, self.queues, self.lease, self.mark = broker, queues, lease, secrets.token_hex(4)

    @translated()
    def receive(self, limit, wait, queues=None):
        end = self.broker.clock.monotonic() + wait
        while True:
            taken = list(itertools.islice(self.lend(self.queues if queues is None else queues), limit))
            if taken or self.broker.clock.monotonic() >= end:
                return taken
            self.broker.clock.wait(threading.Event(), 0.02)

    def lend(self, queues):
        now = self.broker.clock.time()
        for file in (file for queue in queues for file in sorted(self.broker.folder(queue, "live").iterdir())):
            with suppress(FileNotFoundError):  # another consumer was faster
                if file.stat().st_mtime <= now:
                    place, count, _ = file.name.split(".")
                    os.utime(file, (now + self.lease,) * 2)  # first: or the loan would begin as one that is over
                    loan = file.rename(file.with_name(f"{place}.{int(count) + 1}.{self.mark}{secrets.token_hex(4)}"))
                    yield Delivery(receipt=loan, delivery_count=int(count) + 1, **decode(loan.read_bytes()))

    @translated()
    def settle(self, deliveries, act):
        over = list(deliveries)
        for each in deliveries:
            with suppress(FileNotFoundError):  # the loan was over: the file has another name, or is gone
                act(each)
                over.remove(each)
        return over

    def ack(self, deliveries):
        return self.settle(deliveries, lambda each: each.receipt.unlink())

    def requeue(self, deliveries, delay=0.0):
        return self.settle(deliveries, lambda each: self.broker.put(each.receipt, each, each.delivery_count, delay))

    def bury(self, deliveries, reason):
        return self.ack(deliveries)  # dray has put a copy into the queue of dead letters before

    def extend(self, deliveries, seconds):
        return self.settle(deliveries, lambda d: os.utime(d.receipt, (self.broker.clock.time() + seconds,) * 2))

    @translated()
    def close(self):
        for loan in Path(self.broker.url.path).glob(f"*/live/*.{self.mark}*"):
            os.utime(loan, (0, 0))
