"""One SQLite file, safely used by many threads and processes: connections, write transactions, errors, wake-ups.

Used by the SQLite broker and, from the other package, by the SQLite result backend
(docs/decisions/0009-one-connection-file-per-server.md).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import msgspec

from dray import DrayError, Url, UrlError

#: Seconds between two tries to switch a new file to WAL, which SQLite refuses at once while others look at it.
WAL_RETRY = 0.01
#: Memory for the pages each connection keeps, in KiB.
CACHE_KIB = 8000

CREATE_PARTS = """
CREATE TABLE IF NOT EXISTS dray_schema (
    part TEXT PRIMARY KEY,          -- 'broker' or 'backend': they may share one file
    version INTEGER NOT NULL        -- of that part's tables
) STRICT"""
FIND_VERSION = "SELECT version FROM dray_schema WHERE part = ?"
SAVE_VERSION = "INSERT INTO dray_schema (part, version) VALUES (?, ?)"

#: Primary result codes after which trying again can help, and what to tell people.
PASSING = {
    sqlite3.SQLITE_BUSY: "is locked by another connection; try again, or wait longer with ?timeout=SECONDS",
    sqlite3.SQLITE_LOCKED: "is locked by another connection; try again, or wait longer with ?timeout=SECONDS",
    sqlite3.SQLITE_FULL: "cannot grow, disk full; free some space",
    sqlite3.SQLITE_IOERR: "cannot be read or written, disk I/O error",
    sqlite3.SQLITE_NOMEM: "cannot be used, out of memory",
    sqlite3.SQLITE_PROTOCOL: "is busy with recovering its write-ahead log",
    sqlite3.SQLITE_INTERRUPT: "was closed in the middle of a call",
}
#: Primary result codes that stay until a person does something.
LASTING = {
    sqlite3.SQLITE_READONLY: "is read-only; this process needs to write to the file and to its folder",
    sqlite3.SQLITE_PERM: "may not be opened; this process needs to read and write the file and its folder",
    sqlite3.SQLITE_NOTADB: "is not an SQLite database and was left as it is; choose another path",
    sqlite3.SQLITE_TOOBIG: "takes no row of more than 1 GB",
    sqlite3.SQLITE_CORRUPT: "is damaged; restore a copy, or rescue what is left with `sqlite3 FILE .recover`",
}


class SqliteOptions(msgspec.Struct, frozen=True):
    """What may follow the `?` of a sqlite:// URL."""

    #: "full": what was promised survives a power cut. "normal": it survives every crash of a process, but a power cut
    #: can take back the last moments; several times faster.
    synchronous: Literal["normal", "full"] = "normal"
    #: Seconds to wait for another connection's write to end before giving up.
    timeout: float = 10.0


class SqliteFile:
    """The connections of this process to one file. Every method may be called from any thread.

    A connection belongs to one call at a time and is kept for the next one. Those made before a fork are never used,
    nor closed, in the child: SQLite forbids both.
    """

    def __init__(self, url: Url, *, refused: type[DrayError], unavailable: type[DrayError]) -> None:
        if url.hosts or not url.path.strip("/") or url.path == "/:memory:":
            raise UrlError(
                f"{url} does not name a file; write sqlite:///tasks.db (three slashes, below the working directory), "
                "sqlite:////var/lib/tasks.db (four, from the root), or memory:// for no file at all"
            )
        self._options = url.options_as(SqliteOptions)
        self.path = Path(url.path[1:]).absolute()
        self._refused, self._unavailable = refused, unavailable
        self._pool: _Pool | None = None

    def open(self, part: str, version: int, tables: Sequence[str]) -> None:
        """Connect anew, and make the file and the tables of `part` where they are missing.

        Tables of a newer version are refused. Whatever the error, the file is then closed.
        """
        self.close()
        self._pool = _Pool()
        try:
            with self.writing() as db:
                self._create(db, part, version, tables)
        except DrayError:
            self.close()
            raise

    def close(self) -> None:
        """Close every connection, those in use as soon as their call ends. Safe twice."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.let_all_go()
            pool.doorbell.ring()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection. Each statement sees what is committed when it starts, and waits for no one."""
        pool = self._own_pool()
        with self._lent(pool, pool.idle) as db:
            yield db

    @contextmanager
    def alone(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection that writes, to one thread at a time."""
        # SQLite has one writer per file and lets the others sleep in growing steps; the threads of this process take
        # turns here instead, where the next one starts at once. As they share a connection, they share its page
        # cache too, which SQLite drops whenever another connection has written.
        pool = self._own_pool()
        if not pool.turn.acquire(timeout=self._options.timeout):
            raise self._unavailable(f"{self.path} {PASSING[sqlite3.SQLITE_BUSY]}")
        try:
            with self._lent(pool, pool.writer) as db:
                yield db
        finally:
            pool.turn.release()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection that writes, inside a transaction: see `transaction`."""
        with self.alone() as db, transaction(db):
            yield db

    @contextmanager
    def within(self, connection: object) -> Iterator[sqlite3.Cursor]:
        """Give a cursor in the transaction of the caller's `connection`, which must be to this very file.

        Begins one where none is open, as Python's sqlite3 does before it writes, and never ends it. What the block has
        written is undone when it raises.
        """
        if not isinstance(connection, sqlite3.Connection):
            raise self._refused(
                f"{self.path} takes part in transactions of a sqlite3.Connection or of what stands on one, such as an "
                f"SQLAlchemy session on sqlite://; got {type(connection).__module__}.{type(connection).__qualname__}"
            )
        try:
            cursor = connection.cursor(sqlite3.Cursor)
            cursor.row_factory = None
            self._check_same_file(cursor)
            if not connection.in_transaction:
                if _commits_by_itself(connection):
                    raise self._refused(
                        f"{self.path}: the connection is in autocommit mode and in no transaction, so there is nothing "
                        "to take part in; begin one, or send without connection="
                    )
                cursor.execute("BEGIN")
            cursor.execute("SAVEPOINT dray")
            try:
                yield cursor
            except BaseException:
                # When the disk was full, SQLite has rolled back everything already.
                if connection.in_transaction:
                    cursor.execute("ROLLBACK TO dray")
                raise
            finally:
                if connection.in_transaction:
                    cursor.execute("RELEASE dray")
        except sqlite3.Error as error:
            raise self._in_words(error) from error

    def watch(self, db: sqlite3.Connection, pace: Pace) -> Watch:
        """Return a watch for commits by anyone but `db`, from now on."""
        return Watch(db, self._own_pool().doorbell, pace)

    def ring(self) -> None:
        """Wake the watches of this process at once: something has been committed."""
        pool = self._pool
        if pool is not None:
            pool.doorbell.ring()

    @property
    def is_open(self) -> bool:
        """Whether `open` has been called, and `close` has not."""
        return self._pool is not None

    def _own_pool(self) -> _Pool:
        pool = self._pool
        if pool is None:
            raise self._unavailable(f"{self.path} is not open; call open() first")
        if pool.pid != os.getpid():
            pool = self._pool = _Pool()
        return pool

    @contextmanager
    def _lent(self, pool: _Pool, shelf: list[sqlite3.Connection]) -> Iterator[sqlite3.Connection]:
        connection = None
        _gate.enter()
        try:
            if pool.file not in (None, self._on_disk()):
                raise self._unavailable(f"{self.path} was moved or deleted while it was open; open it again")
            try:
                connection = shelf.pop()
            except IndexError:
                connection = self._connect()
            pool.file = pool.file or self._on_disk()
            yield connection
        except BaseException as error:
            if connection is not None:
                pool.let_go(connection)  # in whatever state it is, nobody meets it again; closing rolls back
            if isinstance(error, sqlite3.Error):
                raise self._in_words(error) from error
            raise
        else:
            shelf.append(connection)
            if pool is not self._pool:
                pool.let_all_go()
        finally:
            _gate.leave()

    def _check_same_file(self, cursor: sqlite3.Cursor) -> None:
        theirs = next(file for _, name, file in cursor.execute("PRAGMA database_list") if name == "main")
        if not theirs or not os.path.exists(self.path) or not os.path.samefile(theirs, self.path):
            raise self._refused(
                f"{self.path}: the connection is to {os.fsdecode(theirs) or 'a database in memory'}; a transaction "
                "cannot reach from one file into another"
            )

    def _on_disk(self) -> tuple[int, int] | None:
        # SQLite itself goes on writing to a deleted file, and so would publish what no worker ever sees.
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _create(self, db: sqlite3.Connection, part: str, version: int, tables: Sequence[str]) -> None:
        db.execute(CREATE_PARTS)
        found = db.execute(FIND_VERSION, (part,)).fetchone()
        if found is None:
            for table in tables:
                db.execute(table)
            db.execute(SAVE_VERSION, (part, version))
        elif found[0] > version:
            raise self._refused(
                f"{self.path} was made by a newer dray: its {part} tables have version {found[0]}, this dray "
                f"knows up to {version}; upgrade dray, or choose another path"
            )

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self._switch_to_wal(connection)
            for pragma in (
                f"busy_timeout = {int(self._options.timeout * 1000)}",
                f"synchronous = {self._options.synchronous}",
                f"cache_size = -{CACHE_KIB}",
            ):
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _switch_to_wal(self, connection: sqlite3.Connection) -> None:
        # SQLite's own timeout does not cover this step: of ten processes that start together on a new file,
        # nine would be told at once that it is locked.
        patience = self._options.timeout
        while True:
            try:
                (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
                break
            except sqlite3.OperationalError as error:
                if _primary(error) != sqlite3.SQLITE_BUSY or patience <= 0:
                    raise
            patience -= WAL_RETRY
            threading.Event().wait(WAL_RETRY)
        if mode != "wal":
            raise self._refused(f"{self.path} cannot have a write-ahead log; choose a path on a local disk")

    def _in_words(self, error: sqlite3.Error) -> DrayError:
        code = _primary(error)
        if code == sqlite3.SQLITE_CANTOPEN:
            return self._refused(f"{self.path} {self._why_it_cannot_be_opened()}")
        if code in PASSING:
            return self._unavailable(f"{self.path} {PASSING[code]} ({error})")
        return self._refused(f"{self.path} {LASTING.get(code, 'was refused by SQLite')} ({error})")

    def _why_it_cannot_be_opened(self) -> str:
        if self.path.is_dir():
            return "is a folder; add the name of a file to the path"
        if not self.path.parent.is_dir():
            return f"cannot be created, there is no folder {self.path.parent}; create it, or choose another path"
        return "may not be opened; this process needs to read and write the file and its folder"


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Write all or nothing. When the block raises, the connection must be closed, which undoes what was written."""
    db.execute("BEGIN IMMEDIATE")
    yield
    db.execute("COMMIT")


class Doorbell:
    """Wakes the threads of this process that wait for a commit of one of its own."""

    def __init__(self) -> None:
        self._rung = threading.Condition()
        self.rings = 0

    def ring(self) -> None:
        """Wake everyone who waits."""
        with self._rung:
            self.rings += 1
            self._rung.notify_all()

    def wait(self, heard: int, seconds: float) -> int:
        """Wait until there were more rings than `heard`, or `seconds` are over; return how many there were."""
        with self._rung:
            self._rung.wait_for(lambda: self.rings != heard, seconds)
            return self.rings


class Pace:
    """How often to look for commits of other processes: eagerly at first, then less and less often."""

    #: Seconds between the first two looks, and how much longer each pause is than the one before it.
    FIRST, GROWTH = 0.001, 1.25

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self.pause = self.FIRST

    def slow_down(self) -> None:
        self.pause = min(self.pause * self.GROWTH, self._longest)

    def restart(self) -> None:
        self.pause = self.FIRST


class Watch:
    """Waits until somebody commits: told by the doorbell in this process, by looking for all the others.

    Make it before looking at the tables, so that no commit falls between the look and the wait.
    """

    def __init__(self, db: sqlite3.Connection, doorbell: Doorbell, pace: Pace) -> None:
        self._db, self._doorbell, self._pace = db, doorbell, pace
        self._heard, self._seen = doorbell.rings, self._version()

    def wait(self, left: Callable[[], float]) -> None:
        """Return after the next commit, or when `left()`, the seconds left, is no longer above zero.

        `left` is asked again and again, as its clock may be one that a test moves by hand.
        """
        while (seconds := left()) > 0:
            heard = self._doorbell.wait(self._heard, min(self._pace.pause, seconds))
            seen = self._version()
            self._pace.slow_down()
            if (heard, seen) != (self._heard, self._seen):
                self._heard, self._seen = heard, seen
                return

    def _version(self) -> int:
        # Changes when any other connection, of this process or another one, has committed.
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])


class _Pool:
    """What one process has open and is not using just now. A forked child makes its own."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        #: Device and inode of the file they are connected to, once there is one.
        self.file: tuple[int, int] | None = None
        self.idle: list[sqlite3.Connection] = []
        #: The one that writes, and the lock of the thread that uses it.
        self.writer: list[sqlite3.Connection] = []
        self.turn = threading.Lock()
        self.doorbell = Doorbell()

    def let_all_go(self) -> None:
        """Close what is not in use."""
        for shelf in (self.idle, self.writer):
            with suppress(IndexError):  # `while shelf` would be no help: another thread may be doing the same
                while True:
                    self.let_go(shelf.pop())

    def let_go(self, connection: sqlite3.Connection) -> None:
        """Close a connection, unless it belongs to the process this one was forked from."""
        if self.pid == os.getpid():
            connection.close()
        else:
            _inherited.append(connection)

    def __del__(self, getpid: Callable[[], int] = os.getpid) -> None:
        if self.pid != getpid():
            _inherited.extend(self.idle + self.writer)


class _Gate:
    """Keeps the process from forking while a thread is inside SQLite, whose own locks would stay shut in the child."""

    #: Seconds a fork waits for the threads that are inside.
    PATIENCE = 5.0

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._forking = False
        #: How often each thread is inside.
        self._inside: dict[int, int] = {}

    def enter(self) -> None:
        me = threading.get_ident()
        with self._changed:
            # Whoever is inside already must get on, or the fork would wait for them and they for the fork.
            while self._forking and me not in self._inside:
                self._changed.wait(self.PATIENCE)
            self._inside[me] = self._inside.get(me, 0) + 1

    def leave(self) -> None:
        me = threading.get_ident()
        with self._changed:
            self._inside[me] -= 1
            if not self._inside[me]:
                del self._inside[me]
                if self._forking:
                    self._changed.notify_all()

    def shut(self) -> None:
        """Let nobody in, and wait until everybody else is out. The lock stays held across the fork."""
        me = threading.get_ident()
        self._changed.acquire()
        self._forking = True
        self._changed.wait_for(lambda: not self._inside.keys() - {me}, self.PATIENCE)

    def open(self) -> None:
        """Go on in the parent."""
        self._forking = False
        self._changed.notify_all()
        self._changed.release()

    def renew(self) -> None:
        """Start afresh in the child, where the forking thread is the only one left."""
        self.__init__()  # type: ignore[misc]


_gate = _Gate()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_gate.shut, after_in_parent=_gate.open, after_in_child=_gate.renew)

#: Connections made before a fork, kept so that garbage collection does not close them in the child.
_inherited: list[sqlite3.Connection] = []


def _commits_by_itself(connection: sqlite3.Connection) -> bool:
    # `autocommit` came with Python 3.12; -1 there means that `isolation_level` decides, as it always did.
    autocommit = getattr(connection, "autocommit", -1)
    return autocommit is True or (autocommit == -1 and connection.isolation_level is None)


def _primary(error: sqlite3.Error) -> int:
    # Extended result codes carry the primary one in their lowest byte. Errors of the Python module have none.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
