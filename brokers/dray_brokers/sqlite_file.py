"""One SQLite file, safely used by many threads and processes: connections, write transactions, errors, wake-ups.

Used by the SQLite broker and, from the other package, by the SQLite result backend and store
(docs/decisions/0009-one-connection-file-per-server.md).
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from dray import DrayError, Url, UrlError

from .sqlite_pool import Pool, gate
from .sqlite_watch import Pace, Version, Watch

#: Seconds between two tries to switch a new file to WAL, which SQLite refuses at once while others look at it.
WAL_RETRY = 0.01
#: Memory for the pages each connection keeps, in KiB.
CACHE_KIB = 8000

CREATE_PARTS = """
CREATE TABLE IF NOT EXISTS dray_schema (
    part TEXT PRIMARY KEY,          -- 'broker', 'backend' or 'store': they may share one file
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
        self._name = str(self.path)
        self._refused, self._unavailable = refused, unavailable
        self._pool: Pool | None = None

    def open(self, part: str, version: int, tables: Sequence[str]) -> None:
        """Connect anew, and make the file and the tables of `part` where they are missing.

        Tables of a newer version are refused. Whatever the error, the file is then closed.
        """
        # In one step: to whoever waits for a commit meanwhile the file was never closed.
        before, self._pool = self._pool, Pool(self._name)
        if before is not None:
            before.close()
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
            pool.close()

    def reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """Lend a connection. Each statement sees what is committed when it starts, and waits for no one."""
        pool = self._own_pool()
        return _Loan(self, pool, pool.idle)

    def alone(self) -> AbstractContextManager[sqlite3.Connection]:
        """Lend the connection that writes, to one thread at a time."""
        return _Turn(self, self._own_pool())

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection that writes, inside a transaction: all that the block writes, or nothing if it raises."""
        with self.alone() as db:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")

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
            raise self.in_words(error) from error

    def watch(self, longest: float) -> Watch:
        """Return a watch for commits by anyone, from now on.

        Where other processes are not heard, it misses theirs for `longest` seconds at most.
        """
        pool = self._own_pool()
        return Watch(self._version, pool.doorbell, pool.ear, Pace(longest))

    def ring(self) -> None:
        """Wake the watches of this process at once: something has been committed."""
        pool = self._pool
        if pool is not None:
            pool.doorbell.ring()

    @property
    def survives_power_cuts(self) -> bool:
        """Whether what was committed survives the death of the machine too."""
        return self._options.synchronous == "full"

    @property
    def is_open(self) -> bool:
        """Whether `open` has been called, and `close` has not."""
        return self._pool is not None

    def _version(self) -> Version:
        with self.reading() as db:
            return db, int(db.execute("PRAGMA data_version").fetchone()[0])

    def _own_pool(self) -> Pool:
        pool = self._pool
        if pool is None:
            raise self._unavailable(f"{self.path} is not open; call open() first")
        if pool.pid != os.getpid():
            pool = self._pool = Pool(self._name)
        return pool

    def await_turn(self, pool: Pool) -> None:
        """Wait until this thread may use the connection that writes."""
        if not pool.turn.acquire(timeout=self._options.timeout):
            raise self._unavailable(f"{self.path} {PASSING[sqlite3.SQLITE_BUSY]}")

    def take(self, pool: Pool, shelf: list[sqlite3.Connection]) -> sqlite3.Connection:
        """Take a connection off its shelf, or make one."""
        if pool.file not in (None, self._on_disk()):
            raise self._unavailable(f"{self.path} was moved or deleted while it was open; open it again")
        try:
            connection = shelf.pop()
        except IndexError:
            connection = self._connect()
        pool.file = pool.file or self._on_disk()
        return connection

    def put_back(self, pool: Pool, shelf: list[sqlite3.Connection], connection: sqlite3.Connection) -> None:
        """Keep a connection for the next call, unless the file was closed meanwhile."""
        shelf.append(connection)
        if pool is not self._pool:
            pool.let_all_go()

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
            found = os.stat(self._name)
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

    def in_words(self, error: sqlite3.Error) -> DrayError:
        """Return what SQLite complains of, as people should read it."""
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


class _Loan:
    """A connection in the hands of one call, by `with`. A class because it is entered for every message sent."""

    def __init__(self, file: SqliteFile, pool: Pool, shelf: list[sqlite3.Connection]) -> None:
        self._file, self._pool, self._shelf = file, pool, shelf

    def __enter__(self) -> sqlite3.Connection:
        gate.enter()
        try:
            self._connection = self._file.take(self._pool, self._shelf)
        except BaseException as error:
            gate.leave()
            self._say(error)
            raise
        return self._connection

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            if error is None:
                self._file.put_back(self._pool, self._shelf, self._connection)
            else:
                # In whatever state it is, nobody meets it again; closing rolls back.
                self._pool.let_go(self._connection)
        finally:
            gate.leave()
        self._say(error)

    def _say(self, error: BaseException | None) -> None:
        if isinstance(error, sqlite3.Error):
            raise self._file.in_words(error) from error


class _Turn(_Loan):
    """The connection that writes, in the hands of one call."""

    # SQLite has one writer per file and lets the others sleep in growing steps; the threads of this process take
    # turns here instead, where the next one starts at once. As they share a connection, they share its page
    # cache too, which SQLite drops whenever another connection has written.

    def __init__(self, file: SqliteFile, pool: Pool) -> None:
        super().__init__(file, pool, pool.writer)

    def __enter__(self) -> sqlite3.Connection:
        self._file.await_turn(self._pool)
        try:
            return super().__enter__()
        except BaseException:
            self._pool.turn.release()
            raise

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            super().__exit__(kind, error, traceback)
        finally:
            self._pool.turn.release()


def _commits_by_itself(connection: sqlite3.Connection) -> bool:
    # `autocommit` came with Python 3.12; -1 there means that `isolation_level` decides, as it always did.
    autocommit = getattr(connection, "autocommit", -1)
    return autocommit is True or (autocommit == -1 and connection.isolation_level is None)


def _primary(error: sqlite3.Error) -> int:
    # Extended result codes carry the primary one in their lowest byte. Errors of the Python module have none.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
