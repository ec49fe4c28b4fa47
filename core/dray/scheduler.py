"""The scheduler: sends tasks when their schedules say so. Any number of them may run; each tick is sent once.

look at what is due next -> decide (ticking.py) -> one change per entry: next instant, history, parcels -> send -> clear

The change is made under the condition that nobody has dealt with the entry since it was read, so of many schedulers
one makes it. Killed before it, another makes it; killed after it, the parcels are in the store and in the index, and
another sends them when `RESEND` is over. A tick's id follows from schedule and instant: a broker that still has the
first copy drops the second, and a worker recognises it when the first has succeeded. Nobody is the leader, and nothing
is decided by this process's clock where the store has one of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from . import signals
from .errors import (
    BackendError,
    BackendUnavailable,
    BrokerError,
    BrokerUnavailable,
    ConfigurationError,
    NotSupported,
    StoreError,
    StoreUnavailable,
    TaskOptionError,
)
from .schedule_book import RESEND, Book, Leaf, Parcel, Tick
from .schedule_entries import Entry, call_of, check_overlap, gather
from .store import Change, Due
from .ticking import Decision, decide

if TYPE_CHECKING:
    from .app import Dray

logger = logging.getLogger("dray.scheduler")

#: How many entries are looked at at once.
PAGE = 100
#: Seconds by which the store's clock may go back without any thought being given to it.
STEADY = 60.0
#: How often a tick is tried that cannot be sent for another reason than a broker that is away.
TRIES = 3
#: Seconds within which the main thread hears a signal that came at an unlucky moment.
HEARS = 0.5
#: Seconds until the next look when others have dealt with all that was due.
BEATEN = 0.05
#: Seconds between two tries while the store is away: the first pause, and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0


class Scheduler:
    """Sends an app's tasks on their schedules: in a process of its own (`run`), or inside any other.

        with app.scheduler(): ...      async with app.scheduler(): ...      app.scheduler().run()

    Touches no signal handler. Needs a store (`store_url`), in which all schedulers of the app meet.
    """

    def __init__(self, app: Dray, *, name: str | None = None, look: float | None = None) -> None:
        self.app = app
        self.name = name or f"{app.name}-{os.getpid()}@{socket.gethostname()}"
        #: Seconds after which it looks for changes, if nothing is due before.
        self.look = look if look is not None else app.conf.beat_max_loop_interval
        #: How many ticks it has sent.
        self.sent = 0
        self._entries: dict[str, Entry] = {}
        self._started = 0.0
        self._declared = False
        #: The last instant that the store's clock has told; and until when (monotonic) nobody else sends what was
        #: decided then: who is frozen, or busy, for longer leaves it to others.
        self._now = self._sure_until = 0.0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    # Life

    def start(self, *, embedded: bool = True) -> Scheduler:
        """Begin; return at once. Raises what is wrong with the schedules, and what keeps a store from ever being there.

        A store or broker that is away is waited for. `embedded`: the process is not there for it alone.
        """
        if self._thread is not None:
            raise ConfigurationError("this scheduler is running already")
        self.prepare()
        self.begin(embedded=embedded)
        return self

    def prepare(self) -> None:
        """Import the app's tasks, and check its schedules and its store."""
        self.app.load_tasks()
        self._entries, self._declared = gather(self.app), False
        self._started = self.app.clock.time()
        try:
            self.app.store("the scheduler")
            check_overlap(self.app, self._entries.values())
        except (StoreUnavailable, BrokerUnavailable, BackendUnavailable) as error:
            logger.warning("%s; the scheduler waits for it", error)

    def begin(self, *, embedded: bool = True) -> None:
        """Begin, prepared."""
        self._stopping.clear()
        (signals.beat_embedded_init if embedded else signals.beat_init).send(sender=self)
        self._thread = threading.Thread(target=self._work, name="dray-scheduler", daemon=True)
        self._thread.start()

    def request_stop(self) -> None:
        """Ask it to stop. Safe in a signal handler."""
        self._stopping.set()

    def stop(self, timeout: float | None = None) -> None:
        """Stop when what is being sent just now is sent. Safe twice."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout)
            self._thread = None

    def run(self) -> None:
        """Start, and work until `request_stop` is called."""
        self.start(embedded=False)
        try:
            self.wait()
        finally:
            self.stop()

    def wait(self) -> None:
        """Return when it has been asked to stop and is done."""
        # A signal that comes on the way into a wait wakes nobody: its handler runs when the wait is over.
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(HEARS)

    @property
    def declared(self) -> int:
        """How many schedules the code declares."""
        return len(self._entries)

    @property
    def running(self) -> bool:
        """Whether it is at work."""
        return self._thread is not None and self._thread.is_alive()

    def __enter__(self) -> Scheduler:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    async def __aenter__(self) -> Scheduler:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.to_thread(self.stop)

    # Work

    def _work(self) -> None:
        app, pause = self.app, FIRST_PAUSE
        app.notify("scheduler-online", worker=self.name, schedules=len(self._entries))
        while not self._stopping.is_set():
            try:
                wait, pause = self.tick(), FIRST_PAUSE
            except (StoreError, ConfigurationError) as error:
                logger.warning("%s; the scheduler tries again", error)
                wait, pause = pause, min(pause * 2, LONGEST_PAUSE)
                self._reopen()
            except Exception:
                logger.exception("the scheduler failed; it goes on")
                wait, pause = pause, min(pause * 2, LONGEST_PAUSE)
            app.clock.wait(self._stopping, wait)
        app.notify("scheduler-offline", worker=self.name)

    def _reopen(self) -> None:
        try:
            self.app.store("the scheduler").open()
        except StoreError:
            pass  # the next try says so

    def tick(self) -> float:
        """Do what is due now; return the seconds until there is something to do again. Called by its own thread.

        For tests and simulations that move a clock: after `prepare()`, instead of `start()`.
        """
        book = Book(self.app, self.app.store("the scheduler"))
        now = self._look_at_the_clock(book)
        if not self._declared:
            book.rewind(now)
            book.declare(self._entries, self._started, now)
            self._declared = True
        coming = book.coming(PAGE)
        due = [entry for entry in coming if entry.at <= now]
        dealt = self._deal_with(book, [book.name_of(entry.part) for entry in due if entry.key == "next"], now)
        dealt += sum(self._send_again(book, entry, now) for entry in due if entry.key != "next")
        if due:
            return 0.0 if dealt else BEATEN
        return min(max(coming[0].at - now, 0.0), self.look) if coming else self.look

    def _look_at_the_clock(self, book: Book) -> float:
        self._sure_until = self.app.clock.monotonic() + RESEND / 2
        now = book.store.now()
        if now < self._now - STEADY:
            names = book.rewind(now)
            logger.warning(
                "the clock went back by %.0f s; planned anew: %s", self._now - now, ", ".join(names) or "nothing"
            )
        self._now = now
        return now

    def _deal_with(self, book: Book, names: Sequence[str], now: float) -> int:
        """Decide about entries that are due, and send what is to be sent; return how many others had not dealt with."""
        if not names:
            return 0
        found = book.leaves(names)
        leaves = list(found.values())
        decided = [self._decision(book, leaf, now) for leaf in leaves]
        parcels = [[book.parcel(leaf, due) for due in d.send] for leaf, d in zip(leaves, decided, strict=True)]
        changes = [self._change(book, *each, now) for each in zip(leaves, decided, parcels, strict=True)]
        # From here on whoever is killed has decided, and what is decided is sent: by us, or by whoever finds it.
        done = book.store.commit([*changes, *(book.struck(name) for name in names if name not in found)])
        settled = []
        for leaf, d, some, answer in zip(leaves, decided, parcels, done[: len(leaves)], strict=True):
            if not answer.applied:
                continue  # somebody else was first
            for tick in d.passed:
                logger.warning("%s: the tick of %s was %s: %s", leaf.name, _shown(tick.due), tick.what, tick.note)
                self._tell(leaf.name, tick)
            if some:
                settled.append(book.delivered(leaf.name, self._send(book, leaf.name, some)))
        if settled:
            book.store.commit(settled)
        return sum(answer.applied for answer in done)

    def _decision(self, book: Book, leaf: Leaf, now: float) -> Decision:
        entry = leaf.kept.entry
        running = entry.overlap != "allow" and self._runs(book, leaf)
        try:
            return decide(leaf, entry.when(self.app), now, running, self.name)
        except Exception:
            # A plugin's mistake, or a plugin that is not there: the others are not to wait for it.
            logger.exception("%s: its schedule cannot be worked out; it is left alone for a minute", leaf.name)
            return Decision((), (), look=now + STEADY)

    def _runs(self, book: Book, leaf: Leaf) -> bool | None:
        """Tell whether the last run of an entry has not ended; None: that cannot be told now.

        One whose worker has died has not ended: it will go on. Where the broker can look for the message it is asked,
        and otherwise where results are kept.
        """
        id, app = leaf.standing.id, self.app
        if not id:
            return False
        if book.is_posted(leaf.name, id):
            return True
        try:
            if app.broker.capabilities.find:
                return app.broker.find([id]).get(id, "dead") != "dead"
            task = app.tasks.get(leaf.kept.entry.call.task)
            found = app.backend_for_reading("" if task is None else task.resolved.backend).fetch([id]).get(id)
            return found is not None and not found.final
        except NotSupported:
            return False  # as the scheduler that took it on would have said
        except (BrokerError, BackendError) as error:
            logger.warning("%s: whether %s has ended cannot be told now: %s", leaf.name, id, error)
            return None

    def _change(self, book: Book, leaf: Leaf, decision: Decision, parcels: Sequence[Parcel], now: float) -> Change:
        standing = leaf.standing
        if decision.last is None:
            return book.change(leaf, standing, look=decision.look)
        id = parcels[-1].id if parcels else standing.id
        standing = msgspec.structs.replace(standing, next=decision.next, last=decision.last, id=id)
        history = [*leaf.history, *decision.passed]
        history += [Tick(due=parcel.due, at=now, what="sent", id=parcel.id, by=self.name) for parcel in parcels]
        return book.change(leaf, standing, history, *book.posted(parcels, now))

    # Sending

    def _send_again(self, book: Book, entry: Due, now: float) -> bool:
        """Send what somebody has decided and has perhaps not sent; return False when somebody else does."""
        parcel = book.taken(entry.part, entry.key, now) if self._sure else None
        if parcel is None:
            return False
        name = book.name_of(entry.part)
        logger.warning("%s: the tick of %s is perhaps not sent yet: it is now", name, _shown(parcel.due))
        book.store.commit([book.delivered(name, self._send(book, name, [parcel]))])
        return True

    @property
    def _sure(self) -> bool:
        return self.app.clock.monotonic() <= self._sure_until

    def _send(self, book: Book, name: str, parcels: Sequence[Parcel]) -> list[str]:
        """Send ticks; return the ids of those that are with the broker, or can never be."""
        return [parcel.id for parcel in parcels if self._sure and self._is_settled(book, name, parcel)]

    def _is_settled(self, book: Book, name: str, parcel: Parcel) -> bool:
        try:
            self._publish(name, parcel)
        except (BrokerUnavailable, BackendUnavailable) as error:
            logger.warning("%s: %s; its tick is sent when that is over", name, error)
            return False
        except Exception as error:
            # A mistake in the call, or in somebody's middleware: it may be over soon, and may never be.
            logger.exception("%s: its tick of %s cannot be sent", name, _shown(parcel.due))
            if parcel.tries < TRIES:
                return False
            failed = Tick(due=parcel.due, at=self._now, what="failed", id=parcel.id, by=self.name, note=str(error))
            book.note(name, failed)
            self._tell(name, failed)
            return True
        self.sent += 1
        logger.info("%s: sent %s[%s], due %s", name, parcel.call.task, parcel.id, _shown(parcel.due))
        self._tell(name, Tick(due=parcel.due, at=self._now, what="sent", id=parcel.id, by=self.name))
        return True

    def _publish(self, name: str, parcel: Parcel) -> None:
        app, call = self.app, call_of(self.app, parcel.call)
        call = call.set(headers={**call.options.get("headers", {}), "schedule": name, "due": _shown(parcel.due)})
        if not call.options.get("ignore_result") and not app.reply_to(call.task):
            try:
                # By its key the worker recognises it when it comes a second time.
                call.apply_async(idempotency_key=parcel.key)
                return
            except TaskOptionError:
                pass  # several queues are to have it: each of them runs it
        call.apply_async(task_id=parcel.id)

    def _tell(self, name: str, tick: Tick) -> None:
        if self.app.listening:
            details = {key: value for key, value in msgspec.to_builtins(tick).items() if key != "at"}
            self.app.notify("scheduler-tick", worker=self.name, schedule=name, **details)

    def __repr__(self) -> str:
        return f"<Scheduler {self.name}: {'running' if self.running else 'not running'}>"


def _shown(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).isoformat()
