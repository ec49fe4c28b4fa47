"""The dead letters of an app, `app.dead_letters`: look at what could not be run, replay it, edit it, delete it.

find -> replay (as it is) | edit (with other arguments, or to another queue) | purge
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack

from . import states
from .epitaphs import epitaph, read_epitaph
from .errors import ArgumentsError, ConfigurationError, DecodeError, DrayError, NotSupported, UnknownPlugin
from .message import Message, Waiting
from .options import by_name, check_queue, positional
from .redaction import HIDDEN, redacted
from .report import about, read, record
from .result import AsyncResult
from .sealing import message_in

if TYPE_CHECKING:
    from .app import Dray
    from .clock import Clock

#: How many letters are moved at once, and how many are looked at where the broker cannot count them.
BATCH, UNCOUNTED = 500, 10_000
#: With a rate: how many times a second some are moved, if the rate allows it.
STEPS = 4


class Which(TypedDict, total=False):
    """Which dead letters are meant: those that fit all that is said."""

    #: Name of the task, or a pattern (`shop.*`). A letter that cannot be read has none.
    task: str | None
    #: A text that stands in the reason, in upper or lower case.
    reason: str | None
    #: Buried longer ago, or not so long ago, than so many seconds.
    older_than: float | None
    younger_than: float | None
    #: Delivered so many times at most.
    max_deliveries: int | None


class DeadLetter(NamedTuple):
    """A message that could not be run, as it came, and what is known about that."""

    #: What the broker keeps: id, queue, body (the original bytes), `delivery_count`, when it was sent and buried.
    letter: Waiting
    #: The message in it; None when it cannot be read, or is sealed with a key that is not known here.
    message: Message | None

    @property
    def id(self) -> str:
        """The id of the call."""
        return self.letter.id

    @property
    def queue(self) -> str:
        """The queue it was buried in."""
        return self.letter.queue

    @property
    def task(self) -> str | None:
        """The name of the task."""
        return self.message.task if self.message else None

    @property
    def reason(self) -> str:
        """Why it is here."""
        return read_epitaph(self.letter.reason)[0]

    @property
    def traceback(self) -> str:
        """The end of the traceback of a task that has failed, as text; "" for what failed otherwise, or never ran."""
        return read_epitaph(self.letter.reason)[1]

    @property
    def deliveries(self) -> int:
        """How many times it was handed to a worker."""
        return self.letter.delivery_count

    @property
    def retries(self) -> int:
        """How many times it was retried."""
        return self.message.retries if self.message else 0

    @property
    def releases(self) -> int:
        """How many times a worker sent it again as it was: the task was not known there, or the worker stopped."""
        return self.message.handed_back if self.message else 0


class DeadLetters:
    """The dead letters of one app. Thread-safe.

    Every method takes `queues` (None: all that the broker knows). Raises NotSupported where the broker keeps no dead
    letters, and ConfigurationError where it cannot list its queues and none are named.
    """

    def __init__(self, app: Dray) -> None:
        self._app = app

    def find(
        self,
        ids: Iterable[str] | None = None,
        queues: Sequence[str] | None = None,
        *,
        limit: int | None = None,
        **which: Unpack[Which],
    ) -> list[DeadLetter]:
        """Return the letters that fit, of each queue the oldest first, `limit` at most."""
        found: list[DeadLetter] = []
        for queue in self.queues(queues):
            found += self._found(queue, ids, which, None if limit is None else limit - len(found))
            if limit is not None and len(found) >= limit:
                break
        return found[:limit]

    def replay(
        self,
        ids: Iterable[str] | None = None,
        queues: Sequence[str] | None = None,
        *,
        rate: float | None = None,
        **which: Unpack[Which],
    ) -> dict[str, int]:
        """Put the letters that fit back into their queues, as if never delivered; return how many, by queue.

        `rate` is how many a second at most (None: at once). Their state is PENDING again. Killed in the middle, each
        letter is dead or waiting; where the engine keeps the dead letters itself one may be both, and never none.
        """
        return self._each(ids, queues, which, rate, self._app.sender.replay)

    def purge(
        self, ids: Iterable[str] | None = None, queues: Sequence[str] | None = None, **which: Unpack[Which]
    ) -> dict[str, int]:
        """Delete the letters that fit for good; return how many, by queue."""
        return self._each(ids, queues, which, None, self._app.broker.discard)

    def edit(
        self,
        id: str,
        queues: Sequence[str] | None = None,
        *,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
    ) -> AsyncResult[Any]:
        """Send a letter's message again with other arguments, to another task or queue; return the handle on it.

        What is not given stays as it is, an argument given as it is shown (`"***"`) too: nobody has to know what is
        hidden. The message keeps its id, is the next attempt of it, and is sealed anew if messages are. An `expires`
        that is over is dropped. Raises LookupError when there is no such letter, DecodeError when it cannot be read,
        ArgumentsError when the task does not take the arguments.
        """
        letter = self._one(id, queues)
        message = letter.message
        assert message is not None
        now = self._app.clock.time()
        again = message.but(
            task=task or message.task,
            queue=check_queue(queue or letter.queue, message.task),
            exchange="",
            routing_key="",
            priority=message.priority if priority is None else priority,
            expires=None if message.expires is not None and message.expires <= now else message.expires,
            # The next attempt: brokers do not take it for the one in the letter.
            handed_back=message.handed_back + 1,
        )
        if args is not None or kwargs is not None:
            again = self._with_arguments(again, args, kwargs)
        envelope = self._app.sender.enclose(again)
        # In this order: killed before the publish, the letter is still there; killed before the discard, there are two
        # of it, and whoever says the same once more sends nothing new where the broker recognises an (id, attempt).
        self._make_pending(again)
        self._app.broker.publish([envelope])
        self._app.broker.discard(letter.queue, [id])
        return AsyncResult(id, self._app, backend=self._app.backend_url_of(again.task), ignored=again.ignore_result)

    def shown_arguments(self, letter: DeadLetter) -> tuple[list[Any], dict[str, Any]] | None:
        """Return the arguments of a letter, those that are not to be shown as `"***"`; None when none may be shown.

        Nothing is decoded that `accept_content` does not allow.
        """
        return None if letter.message is None else self._shown(letter.message)

    def traceback(self, letter: DeadLetter) -> str:
        """Return the traceback of a failed task: the whole if its result is still kept, else what the letter has."""
        try:
            backend = self._app.backend_for_reading(self._app.backend_url_of(letter.task or ""))
            found = backend.fetch([letter.id])
            failures = [read(self._app, record).failure for record in found.values()]
        except DrayError:
            failures = []
        # What is stored may be of a later call under the same id: then that failed for another reason.
        ours = [failure for failure in failures if failure and read_epitaph(epitaph(failure))[0] == letter.reason]
        return ours[0].traceback if ours else letter.traceback

    def queues(self, queues: Sequence[str] | None = None) -> list[str]:
        """Return the queues to look at: those given, else all that hold anything."""
        broker = self._app.broker
        if not broker.capabilities.dead_letters:
            raise NotSupported(
                f"{broker.url.scheme}:// keeps no dead letters: what cannot be run is logged and dropped"
            )
        if queues:
            return list(queues)
        if not broker.capabilities.size:
            raise ConfigurationError(f"{broker.url.scheme}:// cannot list its queues: name them")
        return list(broker.queues())

    # Which of them

    def _found(self, queue: str, ids: Iterable[str] | None, which: Which, limit: int | None) -> list[DeadLetter]:
        """Return those letters of a queue that fit, looked at once."""
        broker = self._app.broker
        if ids is not None:
            wanted = list(dict.fromkeys(ids))
            return self._fitting(broker.dead(queue, max(UNCOUNTED, len(wanted)), wanted) if wanted else (), which)
        # Those that do not fit may stand in front, so all are looked at.
        few = limit is not None and not _says_anything(which)
        return self._fitting(
            broker.dead(queue, min(self._count(queue), limit or 0) if few else self._count(queue)), which
        )

    def _in_turn(self, queue: str, ids: Iterable[str] | None, which: Which) -> Iterator[list[DeadLetter]]:
        """Yield those letters of a queue that fit, some at a time; the caller takes them away before it goes on."""
        if ids is not None or _says_anything(which):
            yield self._found(queue, ids, which, None)
            return
        # Counted beforehand: what dies again while we are at it comes after these, and must not keep us for ever.
        left = self._count(queue)
        while left > 0 and (letters := self._app.broker.dead(queue, min(left, BATCH))):
            yield self._fitting(letters, which)
            left -= len(letters)

    def _count(self, queue: str) -> int:
        broker = self._app.broker
        exact = broker.capabilities.size == "exact"
        return broker.sizes([queue])[queue].get("dead", 0) if exact else UNCOUNTED

    def _fitting(self, letters: Sequence[Waiting], which: Which) -> list[DeadLetter]:
        now = self._app.clock.time()
        read = (DeadLetter(letter, self._message(letter)) for letter in letters)
        return [letter for letter in read if _fits(letter, which, now)]

    def _message(self, letter: Waiting) -> Message | None:
        try:
            return message_in(self._app.sealing, letter.body, letter.id)
        except DecodeError:
            return None

    def _one(self, id: str, queues: Sequence[str] | None) -> DeadLetter:
        found = self.find([id], queues)
        if not found:
            raise LookupError(f"no dead letter {id}")
        if len(found) > 1:
            # They would all be discarded, and one of them sent.
            where = ", ".join(letter.queue for letter in found)
            raise LookupError(f"{len(found)} dead letters have the id {id} (in {where}): replay or purge them first")
        if found[0].message is None:
            message_in(self._app.sealing, found[0].letter.body, id)  # raises what says why
        return found[0]

    # What is done to them

    def _each(
        self,
        ids: Iterable[str] | None,
        queues: Sequence[str] | None,
        which: Which,
        rate: float | None,
        verb: Callable[[str, list[str]], int],
    ) -> dict[str, int]:
        done: dict[str, int] = {}
        wanted, pace = None if ids is None else list(ids), _Pace(self._app.clock, rate)
        for queue in self.queues(queues):
            for letters in self._in_turn(queue, wanted, which):
                for some in pace.steps(list(dict.fromkeys(letter.id for letter in letters))):
                    done[queue] = done.get(queue, 0) + verb(queue, some)
        return done

    def _with_arguments(
        self, message: Message, args: Iterable[Any] | None, kwargs: Mapping[str, Any] | None
    ) -> Message:
        payloads, task = self._app.payloads, self._app.tasks.get(message.task)
        old_args, old_kwargs, serializer = payloads.arguments(message)
        shown = self._shown(message)
        seen_args, seen_kwargs = shown or ([], {})
        new_args = (
            old_args
            if args is None
            else _restored(
                dict(enumerate(positional(args, message.task))), dict(enumerate(seen_args)), dict(enumerate(old_args))
            ).values()
        )
        new_kwargs = old_kwargs if kwargs is None else _restored(by_name(kwargs, message.task), seen_kwargs, old_kwargs)
        hiding = shown is None or (seen_args, seen_kwargs) != (old_args, old_kwargs)
        if hiding and any(value is HIDDEN or value == HIDDEN for value in (*new_args, *new_kwargs.values())):
            raise ArgumentsError(
                f"{message.task}: {HIDDEN} stands for an argument that is not shown, and at that place none was: "
                "give its value"
            )
        if task is not None:
            task.parameters.check(tuple(new_args), new_kwargs)
        call = message.but(args=tuple(new_args), kwargs=new_kwargs)
        return payloads.encode(call, serializer.name, message.content_encoding or None)

    def _shown(self, message: Message) -> tuple[list[Any], dict[str, Any]] | None:
        try:
            visible = redacted(self._app, message)
            args, kwargs, _ = self._app.payloads.arguments(visible)
        except (DecodeError, UnknownPlugin):  # nothing is left to be shown, or it may not be decoded here
            return None
        return args, kwargs

    def _make_pending(self, message: Message) -> None:
        """Have nothing stored about a call but, where the broker cannot tell, that it waits."""
        app = self._app
        if app.backend is not None:
            app.backend_for_writing(app.backend_url_of(message.task)).forget([message.id])
        if not app.broker.capabilities.find and not message.ignore_result:
            pending = record(app, message.id, about(message, states.PENDING), 0, reply_to=message.reply_to)
            app.connections.store([pending], app.conf.result_expires)


class _Pace:
    """Lets through so many ids a second."""

    def __init__(self, clock: Clock, rate: float | None) -> None:
        if rate is not None and not rate > 0:
            raise ValueError(f"rate is a number of letters a second, above 0; got {rate!r}")
        self._clock, self._rate = clock, rate
        self._next = clock.monotonic()
        self._never = threading.Event()

    def steps(self, ids: list[str]) -> Iterator[list[str]]:
        """Yield the ids some at a time, each when its time has come."""
        size = BATCH if self._rate is None else min(BATCH, max(1, int(self._rate / STEPS)))
        for start in range(0, len(ids), size):
            some = ids[start : start + size]
            if self._rate is not None:
                self._clock.wait(self._never, self._next - self._clock.monotonic())
                # From now, not from when it was due: what was late is not made up for by a burst.
                self._next = self._clock.monotonic() + len(some) / self._rate
            yield some


def _says_anything(which: Which) -> bool:
    return any(value is not None for value in which.values())


def _fits(letter: DeadLetter, which: Which, now: float) -> bool:
    task, reason, most = which.get("task"), which.get("reason"), which.get("max_deliveries")
    older, younger = which.get("older_than"), which.get("younger_than")
    # Nobody knows how old it is: then it is taken to be old.
    age = float("inf") if letter.letter.buried is None else now - letter.letter.buried
    return (
        (task is None or (letter.task is not None and fnmatchcase(letter.task, task)))
        and (reason is None or reason.casefold() in letter.reason.casefold())
        and (older is None or age > older)
        and (younger is None or age < younger)
        and (most is None or letter.deliveries <= most)
    )


def _restored(given: dict[Any, Any], shown: Mapping[Any, Any], sent: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the arguments given, those that are left as they were shown being what was sent."""
    return {
        place: sent[place] if place in shown and _same(value, shown[place]) else value for place, value in given.items()
    }


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)
