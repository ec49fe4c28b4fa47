"""What the broker contract cannot say of sqlite://: processes, kill -9, broken files, locks, query plans."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import dray_brokers.sqlite as adapter
from dray import BrokerError, BrokerUnavailable, Envelope, ManualClock, Url, UrlError
from dray.testing import wait_until
from dray_brokers.sqlite import SqliteBroker
from dray_brokers.sqlite_pool import Gate, Pool


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def broker(path: Path) -> Iterator[SqliteBroker]:
    broker = at(path)
    broker.clock = ManualClock()
    broker.open()
    yield broker
    broker.close()


def at(path: Path, options: str = "") -> SqliteBroker:
    return SqliteBroker(Url.parse(f"sqlite:///{path}{options}"))


def envelopes(*ids: str, **fields: object) -> list[Envelope]:
    return [Envelope(**({"id": id, "queue": "q", "body": b"body"} | fields)) for id in ids]  # type: ignore[arg-type]


def received(broker: SqliteBroker, limit: int = 100, lease: float = 30.0) -> list[str]:
    """Receive and leave lent, as a worker that dies does."""
    return [delivery.id for delivery in broker.consumer(["q"], lease).receive(limit, 0)]


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a script in a Python process of its own."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def output_of(process: subprocess.Popen[str]) -> str:
    """Return what a process printed by the time of its good end."""
    try:
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, output
    return output


# Order, beyond what the port promises


def test_a_message_whose_lease_ran_out_stands_behind_those_that_wait(broker: SqliteBroker) -> None:
    broker.publish(envelopes("poison", "a", "b"))
    assert received(broker, 1, lease=5) == ["poison"]
    broker.clock.advance(6)  # type: ignore[attr-defined]
    assert received(broker) == ["a", "b", "poison"]


def test_delayed_messages_stand_in_line_in_the_order_they_come_due(broker: SqliteBroker) -> None:
    for id, delay in (("c", 30.0), ("a", 10.0), ("b", 20.0)):
        broker.publish(envelopes(id, delay=delay))
    broker.clock.advance(31)  # type: ignore[attr-defined]
    assert received(broker) == ["a", "b", "c"]


def test_many_that_come_due_together_come_out_one_portion_after_the_other(
    broker: SqliteBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "PROMOTE", 2)
    broker.publish(envelopes(*"abcde", delay=1.0))
    broker.clock.advance(2)  # type: ignore[attr-defined]
    assert [received(broker) for _ in range(4)] == [["a", "b"], ["c", "d"], ["e"], []]


def test_one_fetch_brings_no_more_bytes_than_fit_into_memory_and_never_nothing(
    broker: SqliteBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.publish(envelopes(*"abcd", body=b"x" * 100))
    broker.publish(envelopes("e", queue="p"))
    consumer = broker.consumer(["q", "p"], lease=5)
    monkeypatch.setattr(adapter, "FETCH_BYTES", 150)
    assert [[one.id for one in consumer.receive(10, 0)] for _ in range(2)] == [["a", "b"], ["c", "d"]]
    monkeypatch.setattr(adapter, "FETCH_BYTES", 1)
    broker.publish(envelopes("f", body=b"x" * 100))
    assert [[one.id for one in consumer.receive(10, 0)] for _ in range(3)] == [["f"], ["e"], []]


def test_a_purge_goes_on_until_nothing_waits(broker: SqliteBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "PURGE", 2)
    broker.publish(envelopes(*"abcde"))
    assert broker.purge("q") == 5
    assert broker.sizes(["q"])["q"]["ready"] == 0


def test_a_late_ack_counts_while_nobody_else_has_the_message(broker: SqliteBroker) -> None:
    broker.publish(envelopes("a"))
    consumer = broker.consumer(["q"], lease=5)
    lent = consumer.receive(1, 0)
    broker.clock.advance(6)  # type: ignore[attr-defined]
    assert broker.sizes(["q"])["q"]["ready"] == 1
    assert list(consumer.ack(lent)) == []
    assert broker.queues() == []


def test_a_letter_whose_message_was_published_again_stays_dead(broker: SqliteBroker) -> None:
    broker.publish(envelopes("a", "b"))
    consumer = broker.consumer(["q"], 30)
    consumer.bury(consumer.receive(2, 0), "for the test")
    broker.publish(envelopes("a"))
    assert broker.replay("q") == 1
    assert [letter.id for letter in broker.dead("q", 10)] == ["a"]


def test_what_was_cancelled_is_forgotten_when_its_time_is_up(broker: SqliteBroker, path: Path) -> None:
    broker.cancel(["old"], ttl=5)
    broker.clock.advance(6)  # type: ignore[attr-defined]
    assert broker.cancelled(["old"]) == set()
    broker.cancel(["new"], ttl=5)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT id FROM dray_cancelled").fetchall() == [("new",)]


# Locks and connections


def test_an_idle_receive_takes_no_lock(broker: SqliteBroker, path: Path) -> None:
    broker.publish(envelopes("later", delay=60.0))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert received(broker) == []


def test_a_file_locked_for_longer_than_the_timeout_is_unavailable(broker: SqliteBroker, path: Path) -> None:
    impatient = at(path, "?timeout=0.05")
    impatient.open()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BrokerUnavailable, match=r"queue\.db is locked .*\?timeout=SECONDS"):
            impatient.publish(envelopes("a"))
        with pytest.raises(BrokerUnavailable, match="locked"):
            at(path, "?timeout=0.05").open()
    impatient.publish(envelopes("b"))
    assert received(impatient) == ["b"]
    impatient.close()


def test_a_thread_of_this_process_waits_for_its_turn_no_longer_than_the_timeout(path: Path) -> None:
    broker = at(path, "?timeout=0.05")
    broker.open()
    with broker._file.writing(), pytest.raises(BrokerUnavailable, match="locked"):
        broker.publish(envelopes("a"))
    broker.close()


def test_close_lets_go_of_the_connections_of_all_threads(broker: SqliteBroker, path: Path) -> None:
    together = threading.Barrier(3)

    def look() -> None:
        with broker._file.reading() as db:
            together.wait(10)
            db.execute("SELECT count(*) FROM dray_message").fetchone()

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    broker.close()
    # SQLite removes the write-ahead log when the last connection goes.
    assert [file.name for file in path.parent.iterdir()] == ["queue.db"]


def test_closing_ends_a_waiting_receive(broker: SqliteBroker) -> None:
    consumer = broker.consumer(["q"], 30)

    def receive() -> None:
        with pytest.raises(BrokerUnavailable, match="is not open"):
            consumer.receive(1, 60)

    waiting = threading.Thread(target=receive)
    waiting.start()
    broker.close()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_broker_that_is_not_open_says_so(path: Path) -> None:
    with pytest.raises(BrokerUnavailable, match="is not open"):
        at(path).publish(envelopes("a"))


@pytest.mark.parametrize(("options", "level"), [("", 1), ("?synchronous=normal", 1), ("?synchronous=full", 2)])
def test_the_url_says_what_survives_a_power_cut(path: Path, options: str, level: int) -> None:
    broker = at(path, options)
    broker.open()
    with broker._file.writing() as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (level,)
    broker.close()


def test_a_file_deleted_while_it_is_open_is_noticed_and_made_anew(broker: SqliteBroker, path: Path) -> None:
    path.unlink()
    for call in (lambda: broker.publish(envelopes("a")), lambda: received(broker), lambda: broker.find(["a"])):
        with pytest.raises(BrokerUnavailable, match="was moved or deleted"):
            call()
    broker.open()
    broker.publish(envelopes("b"))
    other = at(path)
    other.open()
    assert received(other) == ["b"]
    other.close()


# URLs and files that cannot be used


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://tasks.db", "three slashes"),
        ("sqlite:///", "does not name a file"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///tasks.db?synchronus=full", "did you mean 'synchronous'"),
        ("sqlite:///tasks.db?synchronous=off", "synchronous"),
        ("sqlite:///tasks.db?timeout=soon", "timeout"),
    ],
)
def test_a_bad_url_is_refused_in_words(url: str, words: str) -> None:
    with pytest.raises(UrlError, match=re.escape(words)):
        SqliteBroker(Url.parse(url))


def test_three_slashes_are_relative_and_four_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite:///relative.db", f"sqlite:///{tmp_path}/absolute.db"):
        broker = SqliteBroker(Url.parse(url))
        broker.open()
        broker.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["absolute.db", "relative.db"]


def test_a_file_that_is_not_a_database_is_refused_and_left_as_it_is(path: Path) -> None:
    path.write_text("dear diary, " * 100)
    with pytest.raises(BrokerError, match="is not an SQLite database") as caught:
        at(path).open()
    assert not isinstance(caught.value, BrokerUnavailable)
    assert path.read_text() == "dear diary, " * 100


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=r"there is no folder .*nowhere; create it"):
        at(tmp_path / "nowhere" / "queue.db").open()


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="is a folder"):
        at(tmp_path).open()


def test_a_damaged_file_is_refused(broker: SqliteBroker, path: Path) -> None:
    broker.publish(envelopes(*(f"m{n}" for n in range(1000))))
    broker.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(BrokerError, match="is damaged; restore a copy"):
        broker.open()


def test_tables_of_a_newer_dray_are_refused(broker: SqliteBroker, path: Path) -> None:
    broker.close()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE dray_schema SET version = 99")
    with pytest.raises(BrokerError, match=r"made by a newer dray: .* version 99, .* knows up to 1"):
        broker.open()
    with pytest.raises(BrokerUnavailable, match="not open"):
        broker.publish(envelopes("a"))


def test_a_full_disk_is_unavailable_and_loses_nothing(broker: SqliteBroker) -> None:
    broker.publish(envelopes("before"))
    with broker._file.alone() as db:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(BrokerUnavailable, match="disk full; free some space"):
        broker.publish([Envelope(id="big", queue="q", body=b"x" * 100_000)])
    broker.publish(envelopes("after"))
    assert received(broker) == ["before", "after"]


READ_ONLY = """
import os, sys
from dray import BrokerError, BrokerUnavailable, Envelope, Url
from dray_brokers.sqlite import SqliteBroker
if os.geteuid() == 0:
    os.setuid(65534)    # root may write everything; nobody may not
broker = SqliteBroker(Url.parse(f"sqlite:///{sys.argv[1]}"))
try:
    broker.open()
except BrokerUnavailable as error:
    sys.exit(f"trying again does not help: {error}")
except BrokerError as error:
    sys.exit(0 if sys.argv[2] in str(error) else str(error))
sys.exit("it was opened")
"""


@pytest.mark.parametrize(("mode", "words"), [(0o444, "is read-only"), (0o000, "may not be opened")])
def test_a_file_that_may_not_be_written_is_refused(mode: int, words: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "queue.db")
        broker = at(path)
        broker.open()
        broker.close()
        os.chmod(path, mode)
        os.chmod(folder, 0o755)
        output_of(start(READ_ONLY, path, words))


# Many processes


def test_the_first_start_waits_while_another_process_makes_the_file(path: Path) -> None:
    broker = at(path)
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute("CREATE TABLE other (x)")
        finish = threading.Timer(0.2, lambda: other.execute("COMMIT"))
        finish.start()
        broker.open()
        finish.join()
    broker.publish(envelopes("a"))
    assert received(broker) == ["a"]
    broker.close()


FIRST_START = """
import sys
from dray import Envelope, Url
from dray_backends.sqlite import SqliteBackend
from dray_brokers.sqlite import SqliteBroker
url, name = Url.parse(f"sqlite:///{sys.argv[1]}"), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
broker, backend = SqliteBroker(url), SqliteBackend(url)
backend.open()
broker.open()
broker.publish([Envelope(id=f"{name}-{n}", queue="q", body=b"") for n in range(20)])
broker.close()
backend.close()
"""


def test_eight_processes_may_make_the_file_at_the_same_moment(path: Path) -> None:
    starters = [start(FIRST_START, path, name) for name in range(8)]
    for starter in starters:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "ready\n"
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.write("\n")
        starter.stdin.flush()
    for starter in starters:
        output_of(starter)
    broker = at(path)
    broker.open()
    assert broker.sizes(["q"])["q"]["ready"] == 160
    broker.close()


FORK = """
import gc, os, sys
from dray import Envelope, Url
from dray_brokers import sqlite_pool
from dray_brokers.sqlite import SqliteBroker

def say(id):
    return [Envelope(id=id, queue="q", body=b"")]

def state(connections):
    return {id(each): each.total_changes for each in connections}   # raises when one is closed

broker = SqliteBroker(Url.parse(f"sqlite:///{sys.argv[1]}"))
broker.open()
broker.publish(say("before"))
broker.find(["before"])
for name, deed in {
    "used": lambda: broker.publish(say("child")),
    "closed": lambda: broker.close(),
    "forgotten": lambda: globals().pop("broker") and gc.collect(),
}.items():
    parents = state(broker._file._pool.idle + broker._file._pool.writer)
    child = os.fork()
    if child == 0:
        deed()
        kept = state(sqlite_pool.inherited)
        sys.exit(0 if len(parents) == 2 and kept == parents else f"{name}: {parents} became {kept}")
    assert os.waitpid(child, 0)[1] == 0, name
    broker.publish(say("after-" + name))
print(sorted(delivery.id for delivery in broker.consumer(["q"], 30).receive(10, 0)))
broker.close()
"""


def test_what_an_interrupt_leaves_half_made_goes_without_a_word() -> None:
    Pool.__new__(Pool).__del__()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_neither_uses_nor_closes_the_connections_of_its_parent(path: Path) -> None:
    assert output_of(start(FORK, path)) == "['after-closed', 'after-forgotten', 'after-used', 'before', 'child']\n"
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


MASSACRE = '''
"""Senders and workers that are killed at random moments and replaced: 20 kills. Two ledgers say what happened."""
import os, random, signal, sys, time
from dray import Envelope, Url
from dray_brokers.sqlite import SqliteBroker
url, folder = Url.parse(f"sqlite:///{sys.argv[1]}"), sys.argv[2]

def ledger(name):
    return os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def send(run):
    broker, published, n = SqliteBroker(url), ledger("published"), 0
    broker.open()
    while True:
        ids = [f"{run}-{n}-{m}" for m in range(20)]
        broker.publish([Envelope(id=id, queue="q", body=b"x" * 200, delay=0.05 * (m % 2)) for m, id in enumerate(ids)])
        os.write(published, "".join(id + "\\n" for id in ids).encode())
        n += 1

def work(run, until_empty=False):
    broker, done = SqliteBroker(url), ledger("done")
    broker.open()
    consumer = broker.consumer(["q"], lease=0.2)
    while not until_empty or broker.queues():
        deliveries = consumer.receive(50, 0.3)
        time.sleep(0 if until_empty else 0.01)
        os.write(done, "".join(each.id + "\\n" for each in deliveries).encode())
        if len(deliveries) > 10:
            consumer.release(deliveries[:1])
            consumer.requeue(deliveries[1:2], 0.01)
            deliveries = deliveries[2:]
        consumer.extend(deliveries, 0.3)
        consumer.ack(deliveries)
    broker.close()

def start(job, run):
    child = os.fork()
    if child == 0:
        job(run)
    return child

jobs = [send, work, work]
alive = [start(job, run) for run, job in enumerate(jobs)]
for run in range(20):
    time.sleep(random.uniform(0.02, 0.12))
    victim = run % len(jobs)
    os.kill(alive[victim], signal.SIGKILL)
    os.waitpid(alive[victim], 0)
    alive[victim] = start(jobs[victim], 100 + run)
for child in alive:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
work(0, until_empty=True)
'''


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_nothing_published_is_lost_when_processes_are_killed_at_any_moment(path: Path, tmp_path: Path) -> None:
    output_of(start(MASSACRE, path, tmp_path))
    published = (tmp_path / "published").read_text().split()
    done = set((tmp_path / "done").read_text().split())
    assert len(published) > 20
    assert [id for id in published if id not in done] == []
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# What keeps it fast at a large backlog


@pytest.mark.parametrize(
    "sql",
    [
        "LOOK",
        "COME_DUE",
        "PROMOTE_ONE",
        "HEAD",
        "LEND",
        "ACK",
        "ACK_ALL",
        "REQUEUE",
        "EXTEND",
        "BURY",
        "IS_CANCELLED",
        "FIND",
        "QUEUES",
        "SIZES",
        "PEEK",
        "PURGE_SOME",
    ],
)
def test_no_everyday_statement_scans_or_sorts_a_table(broker: SqliteBroker, sql: str) -> None:
    statement = getattr(adapter, sql)
    names = re.findall(r":\w+", statement)
    values: object = {name[1:]: 1 for name in names} or [1] * statement.count("?")
    with broker._file.reading() as db:
        steps = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", values)]  # type: ignore[call-overload]
    assert [step for step in steps if step.startswith("SCAN dray_")] == []
    if sql in ("LOOK", "HEAD", "LEND"):
        assert any("dray_message_ready (queue=?" in step for step in steps)
    if sql in ("LOOK", "COME_DUE"):
        assert any("dray_message_due (queue=?" in step for step in steps)
    if sql in ("LOOK", "HEAD", "LEND", "COME_DUE", "PURGE_SOME"):
        assert [step for step in steps if "TEMP B-TREE" in step] == []
    if sql == "HEAD":
        assert any(step.startswith("SEARCH c USING PRIMARY KEY (id=?") for step in steps)


def test_a_fork_waits_until_nobody_is_inside_sqlite() -> None:
    gate = Gate()
    shut, forked, entered = threading.Event(), threading.Event(), threading.Event()

    def fork() -> None:
        gate.shut()
        shut.set()
        forked.wait(5)
        gate.open()

    def come_later() -> None:
        gate.enter()
        entered.set()
        gate.leave()

    gate.enter()
    gate.enter()
    forking = threading.Thread(target=fork)
    forking.start()
    wait_until(lambda: gate._forking)
    gate.leave()
    later = threading.Thread(target=come_later)
    later.start()
    assert not shut.wait(0.05)
    gate.leave()
    assert shut.wait(5)
    assert not entered.is_set()
    forked.set()
    assert entered.wait(5)


SCRIPT_OF_A_WORKER_THAT_FORKS = """
import os, sys
from dray import Dray
app = Dray("forked", broker=sys.argv[1], set_as_current=False)
add = app.task(name="add")(lambda x: x + 1)
with app.worker():
    for _ in range(5):
        handles = add.delay_many((n,) for n in range(50))
        child = os.fork()
        if child == 0:
            os._exit(0 if add.delay(2).get(timeout=20) == 3 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert [handle.get(timeout=20) for handle in handles] == list(range(1, 51))
print("ok")
"""


def test_children_forked_in_the_middle_of_a_workers_calls_send_and_read(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT_OF_A_WORKER_THAT_FORKS, f"sqlite:///{path}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
