"""The stream of events: what is told, what is kept of it in the store, and how it is read and followed."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest

from dray import Dray, Event, ManualClock, NotSupported, Reject, StoreUnavailable, Task, hookimpl
from dray import event_ring as ring_module
from dray import recorder as recorder_module
from dray.cli import cli
from dray.event_ring import Ring, encoded
from dray.heart import Heart
from dray.presence import MISSED_AFTER, Presence
from dray.testing import Driver, memory_app

KEPT = {"worker_send_task_events": True, "task_send_sent_event": True}


def happened(number: int) -> Event:
    return Event(type="task-sent", at=float(number), details={"n": number})


def numbers(events: Sequence[Event]) -> list[int]:
    return [event.details["n"] for event in events]


# What is told


class Listener:
    """A plugin that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    @hookimpl
    def event(self, event: Event) -> None:
        self.events.append(event)

    def types(self) -> list[str]:
        return [event.type for event in self.events]


@pytest.fixture
def listener(dray_app: Dray) -> Listener:
    found = Listener()
    dray_app.plugins.register(found)
    return found


def test_a_task_is_told_of_from_its_sending_to_its_end(dray_app: Dray, dray_worker: Driver, listener: Listener) -> None:
    @dray_app.task(name="work", bind=True)
    def work(self: Task[Any, Any]) -> None:
        self.update_state(state="HALF", meta={"done": 1})

    work.delay()
    dray_worker.run_until_idle()
    told = [type for type in listener.types() if type.startswith("task-")]
    assert told == ["task-sent", "task-received", "task-started", "task-progress", "task-succeeded"]
    (progress,) = [event for event in listener.events if event.type == "task-progress"]
    assert progress.details == {"state": "HALF", "meta": {"done": 1}}


@pytest.mark.parametrize("how", ["rejected", "failed"])
def test_what_goes_to_the_dead_letters_is_told_as_buried_once_it_is_there(
    dray_app: Dray, dray_worker: Driver, listener: Listener, how: str
) -> None:
    @dray_app.task(name="work", dead_letter=True)
    def work() -> None:
        raise Reject("not today") if how == "rejected" else ValueError("no")

    id = work.delay().id
    dray_worker.run_until_idle()
    (buried,) = [event for event in listener.events if event.type == "task-buried"]
    assert buried.message is not None
    assert buried.message.id == id
    assert buried.details["reason"] == {"rejected": "not today", "failed": "ValueError: no"}[how]
    assert [letter.id for letter in dray_app.dead_letters.find()] == [id]


def test_callbacks_are_told_as_sent_when_they_are_and_retries_are_not(
    dray_app: Dray, dray_worker: Driver, listener: Listener
) -> None:
    then = dray_app.task(name="then")(lambda value: None)

    @dray_app.task(name="first", bind=True, max_retries=1, default_retry_delay=0)
    def first(self: Task[Any, Any]) -> int:
        if not self.request.retries:
            raise self.retry()
        return 1

    first.apply_async(link=then.s())
    dray_worker.run_until_idle()
    sent = [event.message for event in listener.events if event.type == "task-sent"]
    assert [message.task for message in sent if message is not None] == ["first", "then"]


def test_a_heart_beats_only_when_somebody_listens(dray_app: Dray) -> None:
    with dray_app.worker():
        assert "dray-heart" not in {thread.name for thread in threading.enumerate()}
    beats: list[Event] = []
    first = threading.Event()

    @dray_app.on("worker-heartbeat")
    def beat(event: Event) -> None:
        beats.append(event)
        first.set()

    with dray_app.worker(name="w1@here"):
        assert first.wait(10)
    assert beats[0].worker == "w1@here"
    assert {"pid", "queues", "slots", "running", "waiting", "received"} == {*beats[0].details}


# What is kept


@pytest.mark.dray(**KEPT)
def test_events_are_kept_in_order_for_whoever_reads_them(dray_app: Dray, dray_worker: Driver) -> None:
    @dray_app.task(name="pay")
    def pay(card: str, amount: int) -> None: ...

    id = pay.delay("1234", amount=5).id
    dray_worker.run_until_idle()
    dray_app.events.recorder.stop()
    found = dray_app.events.read()
    of_task = [event for event in found if event.message is not None]
    assert {event.message.id for event in of_task if event.message is not None} == {id}
    assert [event.type for event in of_task if event.type != "task-sent"] == [
        "task-received",
        "task-started",
        "task-succeeded",
    ]
    assert {"task-sent", "worker-online", "worker-offline"} <= {event.type for event in found}
    assert dray_app.events.read(after=found[2].cursor) == found[3:]
    assert dray_app.events.read(after=found[-1].cursor) == []


@pytest.mark.dray(worker_send_task_events=True)
def test_what_is_sent_is_kept_only_when_that_was_asked_for(dray_app: Dray, dray_worker: Driver) -> None:
    dray_app.task(name="pay")(lambda: None).delay()
    dray_worker.run_until_idle()
    assert "task-sent" not in {event.type for event in dray_app.events.read()}


@pytest.mark.dray(**KEPT)
def test_arguments_are_kept_as_they_are_shown(dray_app: Dray, dray_worker: Driver) -> None:
    dray_app.task(name="login", sensitive=["password"])(lambda user, password: None).delay("ada", "secret!")
    dray_app.task(name="big")(lambda text: None).delay("x" * 5000)
    dray_worker.run_until_idle()
    dray_app.events.recorder.stop()
    kept = msgspec.msgpack.encode(dray_app.events.read())
    assert b"ada" in kept
    assert b"secret!" not in kept
    assert b"xxxxx" not in kept


@pytest.mark.dray(**KEPT, message_security="hmac", message_keys={"k1": "a secret of thirty-two letters!!"})
def test_kept_events_are_sealed_where_messages_are(dray_app: Dray, dray_worker: Driver) -> None:
    dray_app.task(name="pay")(lambda: None).delay()
    dray_worker.run_until_idle()
    assert "task-succeeded" in {event.type for event in dray_app.events.read()}
    store = dray_app.store("test")
    block = store.get("events:test", "0")["0"]
    assert block[:4] != msgspec.msgpack.encode((0, []))[:4]
    with pytest.raises(msgspec.DecodeError):
        msgspec.msgpack.decode(block)


@pytest.mark.parametrize("setting", KEPT)
def test_events_without_a_store_are_refused_with_what_to_set(dray_clock: ManualClock, setting: str) -> None:
    with memory_app(dray_clock, store_url="disabled", **{setting: True}) as app:
        task = app.task(name="pay")(lambda: None)
        with pytest.raises(NotSupported, match=r"keeping events .* needs a store, .* set store_url"):
            app.worker().start() if setting == "worker_send_task_events" else task.delay()


# The ring


@pytest.fixture
def ring(dray_app: Dray) -> Ring:
    return Ring(dray_app)


def test_only_the_latest_blocks_are_kept(ring: Ring, monkeypatch: pytest.MonkeyPatch, dray_app: Dray) -> None:
    monkeypatch.setattr(ring_module, "SLOTS", 4)
    for number in range(10):
        assert ring.append([encoded(happened(number))])
    assert ring.head == 10
    assert numbers(dray_app.events.read()) == [6, 7, 8, 9]
    assert numbers(dray_app.events.read(limit=2)) == [6, 7]
    assert numbers(dray_app.events.read(after="7.1")) == [8, 9]


def test_many_writers_lose_nothing(dray_app: Dray) -> None:
    def write(first: int) -> None:
        own = Ring(dray_app)
        for number in range(first, first + 20):
            while not own.append([encoded(happened(number))]):
                pass

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers(dray_app.events.read())) == [n for first in (0, 100, 200) for n in range(first, first + 20)]


class Cut:
    """Has a store lose the reply to one commit, made or not."""

    def __init__(self, app: Dray, monkeypatch: pytest.MonkeyPatch, applied: bool) -> None:
        store = app.store("test")
        commit = store.commit

        def once(changes: Any) -> Any:
            monkeypatch.setattr(store, "commit", commit)
            if applied:
                commit(changes)
            raise StoreUnavailable("cut")

        monkeypatch.setattr(store, "commit", once)


@pytest.mark.parametrize("applied", [True, False])
def test_a_reply_that_is_lost_neither_loses_nor_doubles_events(
    ring: Ring, dray_app: Dray, monkeypatch: pytest.MonkeyPatch, applied: bool
) -> None:
    assert ring.append([encoded(happened(0))])
    Cut(dray_app, monkeypatch, applied)
    block = [encoded(happened(1))]
    with pytest.raises(StoreUnavailable):
        ring.append(block)
    assert ring.append(block)
    assert ring.append([encoded(happened(2))])
    assert numbers(dray_app.events.read()) == [0, 1, 2]


def test_a_block_that_cannot_be_read_is_passed_over(
    ring: Ring, dray_app: Dray, caplog: pytest.LogCaptureFixture
) -> None:
    from dray import Change, Put

    for number in range(3):
        ring.append([encoded(happened(number))])
    dray_app.store("test").commit([Change(ring.part, writes=(Put("1", b"\xc1"),))])
    assert numbers(dray_app.events.read()) == [0, 2]
    assert "is passed over" in caplog.text


def test_a_reader_of_a_ring_that_was_forgotten_begins_anew(ring: Ring, dray_app: Dray) -> None:
    ring.append([encoded(happened(0))])
    assert numbers(dray_app.events.read(after="50.3")) == [0]
    with pytest.raises(ValueError, match="after= is the cursor of an event"):
        dray_app.events.read(after="yesterday")


# The recorder


def test_what_cannot_be_taken_is_dropped_and_counted(dray_app: Dray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "MOST", 5)
    recorder = dray_app.events.recorder
    dray_app.events.record(sent=True)
    monkeypatch.setattr(recorder, "_start", lambda: None)
    for number in range(8):
        recorder.put(happened(number))
    recorder._write()
    found = dray_app.events.read()
    assert numbers(found[:-1]) == [0, 1, 2, 3, 4]
    assert (found[-1].type, found[-1].details) == ("events-dropped", {"count": 3})


def test_while_the_store_is_away_events_wait_and_work_goes_on(
    dray_app: Dray, dray_worker: Driver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = dray_app.store("test")
    commit = store.commit

    def away(*_: Any) -> Any:
        raise StoreUnavailable("the store is not there")

    recorder = dray_app.events.recorder
    monkeypatch.setattr(recorder, "_start", lambda: None)
    dray_app.events.record(sent=True)
    monkeypatch.setattr(store, "commit", away)
    monkeypatch.setattr(store, "get", away)
    for number in range(3):
        recorder.put(happened(number))
        recorder._write()
    assert caplog.text.count("events are not kept just now") == 1
    monkeypatch.undo()
    assert store.commit == commit
    recorder._write()
    assert numbers(dray_app.events.read()) == [0, 1, 2]


def test_an_event_that_cannot_be_written_is_dropped_alone(dray_app: Dray, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = dray_app.events.recorder
    dray_app.events.record(sent=True)
    monkeypatch.setattr(recorder, "_start", lambda: None)
    recorder.put(happened(0))
    recorder.put(Event(type="task-sent", at=0.0, details={"n": 1 << 70}))
    recorder.put(happened(2))
    recorder._write()
    assert numbers(dray_app.events.read()) == [0, 2]


# Following


def test_whoever_follows_gets_what_comes_from_then_on(dray_app: Dray, ring: Ring) -> None:
    ring.append([encoded(happened(0))])
    everything = dray_app.events.follow(after="")
    assert next(everything).details == {"n": 0}
    cursor = dray_app.events.last()
    new = dray_app.events.follow(cursor)
    ring.append([encoded(happened(1)), encoded(happened(2))])
    assert numbers([next(new), next(new)]) == [1, 2]
    ring.append([encoded(happened(3))])
    assert numbers([next(everything), next(everything), next(everything)]) == [1, 2, 3]


async def test_coroutines_read_and_follow_as_well(dray_app: Dray, ring: Ring) -> None:
    ring.append([encoded(happened(0))])
    assert numbers(await dray_app.events.aread()) == [0]
    stream = dray_app.events.afollow(after="")
    assert (await anext(stream)).details == {"n": 0}
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.to_thread(ring.append, [encoded(happened(1))])
    assert (await waiting).details == {"n": 1}


# Workers that are missed


@pytest.mark.dray(worker_send_task_events=True)
def test_a_worker_that_is_gone_without_a_word_is_missed_once(dray_app: Dray, dray_clock: ManualClock) -> None:
    told: list[str] = []
    dray_app.on("worker-lost")(lambda event: told.append(event.worker))
    Presence(dray_app).beat("gone@there", 1)
    hearts = [Heart(dray_app, name, dict) for name in ("one@here", "other@here")]
    for heart in hearts:
        heart.beat()
    assert told == []
    dray_clock.advance(MISSED_AFTER - 1)
    for heart in hearts:
        heart.beat()
    dray_clock.advance(2)
    for heart in [*hearts, *hearts]:
        heart.beat()
    assert told == ["gone@there"]


@pytest.mark.dray(worker_send_task_events=True)
def test_a_worker_that_says_goodbye_is_not_missed(dray_app: Dray, dray_clock: ManualClock) -> None:
    Presence(dray_app).beat("w1@here", 1)
    Presence(dray_app).leave("w1@here")
    dray_clock.advance(MISSED_AFTER + 1)
    assert Presence(dray_app).missed() == []


# On the command line


@pytest.fixture
def shown(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`shown(*arguments)`: what `dray events` prints about an app that has run a task."""
    from click.testing import CliRunner

    (tmp_path / "eventful.py").write_text(
        "from dray import Dray\n"
        f"app = Dray('eventful', broker='sqlite:///{tmp_path}/q.db', store_url='memory://', set_as_current=False,\n"
        "           worker_send_task_events=True)\n"
        "@app.task\n"
        "def add(x, y=0): return x + y\n"
        "@app.task\n"
        "def fail(): raise ValueError('no')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import eventful  # type: ignore[import-not-found]

    monkeypatch.setattr(eventful.app, "close", lambda: None)  # or its memory would be gone
    eventful.add.delay(1, y=2)
    eventful.fail.delay()
    eventful.app.worker(concurrency=1).run_until_idle()

    def show(*arguments: str) -> str:
        done = CliRunner().invoke(cli, ["-A", "eventful", "events", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    yield show
    monkeypatch.undo()
    eventful.app.close()
    del sys.modules["eventful"]


def test_dray_events_prints_one_line_for_each(shown: Any) -> None:
    lines = shown("--kept", "--type", "task-failed,task-succeeded").splitlines()
    assert len(lines) == 2
    assert "task-succeeded" in lines[0]
    assert "eventful.add[" in lines[0]
    assert "reason=ValueError: no" in lines[1]


def test_dray_events_as_json_has_the_arguments(shown: Any) -> None:
    found = [json.loads(line) for line in shown("--kept", "--json", "--type", "task-received").splitlines()]
    assert [one["arguments"] for one in found] == [{"x": 1, "y": 2}, {}]
    last = found[-1]["cursor"]
    assert all(json.loads(line)["cursor"] != last for line in shown("--kept", "--json", "--after", last).splitlines())


def test_dray_events_follows_until_it_has_shown_enough(shown: Any) -> None:
    assert len(shown("--after", "", "--limit", "3").splitlines()) == 3
