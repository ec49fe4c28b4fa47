"""The db+...:// result backend: records in one table of any database that SQLAlchemy speaks to.

PostgreSQL has a backend of its own (`postgresql://`) that is told of results instead of looking for them, and so has
SQLite (`sqlite://`). The rule of the first final writer is part of the statement that stores a record.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy
from sqlalchemy import exc
from sqlalchemy.dialects import mysql, postgresql, sqlite

from dray import BackendError, BackendUnavailable, Record, ResultBackend, Url, UrlError

from .batches import cut, last_words
from .sql_errors import in_words, rolled_back

#: What begins every scheme of this backend.
PREFIX = "db+"
#: The driver for a scheme that names none.
DRIVERS = {"postgresql": "psycopg", "postgres": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
#: Drivers that take `connect_timeout`.
PATIENT = ("psycopg", "psycopg2", "pymysql", "mysqldb")
#: Times a statement is tried that the server rolled back to let another one through.
TRIES = 5
#: Seconds from one sweep of expired records to the next, and the most records one sweep deletes: a part of `store`,
#: it must not make anyone wait.
SWEEP_EVERY, SWEEP = 5.0, 1000
#: Most records, and most bytes of them, that one statement stores; most ids one asks for. MySQL takes 16 MB at a time.
STORE, STORE_BYTES, ASK = 500, 4 * 1024 * 1024, 500


class SqlOptions(msgspec.Struct, frozen=True):
    """What may follow the `?` of a db+...:// URL. All other options are handed to SQLAlchemy and the driver."""

    #: Name of the table.
    table: str = "dray_result"
    #: "no": the table is there already (`dray setup`), and this user need not be able to create it.
    create: Literal["yes", "no"] = "yes"
    #: Most connections of one process.
    pool: Annotated[int, msgspec.Meta(ge=1)] = 5
    #: Seconds after which connecting is given up, where the driver can be told that: PostgreSQL's and MySQL's can.
    connect_timeout: Annotated[int, msgspec.Meta(ge=1)] = 5
    #: Seconds to wait for a free connection of the pool.
    pool_timeout: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    #: Seconds after which an idle connection is replaced, for servers that end them.
    pool_recycle: int = 3600


class _Id(sqlalchemy.types.TypeDecorator[str]):
    """An id that is equal to itself only: MySQL would take "a", "A", "ä" and "a " for one where it compares text."""

    impl = sqlalchemy.String(128)
    cache_ok = True

    def load_dialect_impl(self, dialect: sqlalchemy.Dialect) -> sqlalchemy.types.TypeEngine[Any]:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.VARBINARY(512))
        return dialect.type_descriptor(sqlalchemy.String(128))

    def process_bind_param(self, value: str | None, dialect: sqlalchemy.Dialect) -> Any:
        return value.encode() if value is not None and dialect.name in ("mysql", "mariadb") else value

    def process_result_value(self, value: Any, dialect: sqlalchemy.Dialect) -> str:
        return bytes(value).decode() if dialect.name in ("mysql", "mariadb") else str(value)


def _table(name: str) -> sqlalchemy.Table:
    """Return the table of the records. Instants are seconds since 1970, by the clocks of dray's hosts."""
    return sqlalchemy.Table(
        name,
        sqlalchemy.MetaData(),
        sqlalchemy.Column("id", _Id(), primary_key=True),
        sqlalchemy.Column("state", sqlalchemy.String(255), nullable=False),
        sqlalchemy.Column("final", sqlalchemy.SmallInteger, nullable=False),
        sqlalchemy.Column("rank", sqlalchemy.BigInteger, nullable=False),
        sqlalchemy.Column("expires", sqlalchemy.Double, index=True),
        sqlalchemy.Column("body", sqlalchemy.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")),
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
    )


class SqlBackend(ResultBackend):
    """`db+postgresql://user:password@host/database`, `db+mysql://...`, `db+mariadb://...`, `db+sqlite:///file.db`, or
    any other dialect of SQLAlchemy, with or without its driver (`db+mysql+mysqldb://`).

    Options: `SqlOptions`; all others go to the driver.
    """

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self.options, self._target = _read(url)
        self._table = _table(self.options.table)
        self._engine: sqlalchemy.Engine | None = None
        #: When the next sweep is due, on the clock that never jumps.
        self._next_sweep = 0.0

    def open(self) -> None:
        self.close()
        self._engine = self._made()
        try:
            self._prepare(create=self.options.create == "yes")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

    def setup(self) -> Sequence[str]:
        engine = self._made()
        try:
            with self._in_words(), self._connected(engine) as connection:
                if _has_table(connection, self._table):
                    return ()
                self._create(connection)
                return (f"created the table {self.options.table}",)
        finally:
            engine.dispose()

    def store(self, records: Sequence[Record], ttl: float | None) -> None:
        now = self.clock.time()
        expires = None if ttl is None else now + ttl
        for batch in cut(last_words(records), STORE, STORE_BYTES):
            rows = [_row(record, expires) for record in batch]
            self._run(partial(self._store, rows=rows, now=now))
        if records and self.clock.monotonic() >= self._next_sweep:
            self._next_sweep = self.clock.monotonic() + SWEEP_EVERY
            self._run(self._purge_some)

    def fetch(self, ids: Sequence[str]) -> Mapping[str, Record]:
        t, now = self._table.c, self.clock.time()
        good = sqlalchemy.or_(t.expires.is_(None), t.expires > now)
        asked = sqlalchemy.select(t.id, t.state, t.final, t.rank, t.body).where(good)
        found = {}
        for some in _slices(list(dict.fromkeys(ids)), ASK):
            for id, state, final, rank, body in self._run(partial(_all, statement=asked.where(t.id.in_(some)))):
                found[id] = Record(id=id, state=state, final=bool(final), rank=rank, body=bytes(body))
        return found

    def forget(self, ids: Sequence[str]) -> None:
        for some in _slices(sorted(set(ids)), ASK):
            delete = sqlalchemy.delete(self._table).where(self._table.c.id.in_(some))
            self._run(partial(sqlalchemy.Connection.execute, statement=delete))

    def purge(self) -> int:
        total = 0
        while some := self._run(self._purge_some):
            total += some
        return total

    def _store(self, connection: sqlalchemy.Connection, rows: Sequence[dict[str, Any]], now: float) -> None:
        upsert = _UPSERTS.get(connection.dialect.name)
        if upsert is not None:
            connection.execute(upsert(self._table, rows, now))
        else:
            for row in rows:
                _store_one(connection, self._table, row, now)

    def _purge_some(self, connection: sqlalchemy.Connection) -> int:
        t = self._table.c
        # Looked up first: MySQL deletes by no subquery on the same table. Deleted by id and time: it may have been
        # stored anew in between.
        over = t.expires <= self.clock.time()
        ids = connection.execute(sqlalchemy.select(t.id).where(over).limit(SWEEP)).scalars().all()
        if ids:
            connection.execute(sqlalchemy.delete(self._table).where(t.id.in_(sorted(ids)), over))
        return len(ids)

    def _run(self, work: Callable[[sqlalchemy.Connection], Any]) -> Any:
        """Do `work` in a transaction, again if the server rolled it back to let another one through."""
        engine = self._engine
        if engine is None:
            raise BackendUnavailable(f"{self.url} is not open; call open() first")
        with self._in_words():
            for _ in range(TRIES - 1):
                try:
                    with engine.begin() as connection:
                        return work(connection)
                except exc.DBAPIError as error:
                    if not rolled_back(error):
                        raise
            with engine.begin() as connection:
                return work(connection)

    def _made(self) -> sqlalchemy.Engine:
        # Looks at a connection before it is used, so that a restart of the server is not seen at all by the next call.
        options: dict[str, Any] = {"pool_pre_ping": True, "pool_recycle": self.options.pool_recycle}
        if self._target.get_backend_name() != "sqlite":
            options |= {"pool_size": self.options.pool, "max_overflow": 0, "pool_timeout": self.options.pool_timeout}
        if self._target.get_driver_name() in PATIENT:
            options["connect_args"] = {"connect_timeout": self.options.connect_timeout}
        with warnings.catch_warnings():
            # What it does not know of the URL it would leave out, with a warning.
            warnings.simplefilter("error", exc.SAWarning)
            try:
                return sqlalchemy.create_engine(self._target, **options)
            except (exc.SAWarning, exc.SQLAlchemyError, ValueError) as error:
                raise UrlError(f"{self.url} cannot be understood by SQLAlchemy: {error}") from error

    @contextmanager
    def _connected(self, engine: sqlalchemy.Engine) -> Iterator[sqlalchemy.Connection]:
        try:
            connection = engine.connect()
        except TypeError as error:
            raise UrlError(f"{self.url} has an option that the driver does not take ({error})") from error
        with connection:
            yield connection

    def _prepare(self, create: bool) -> None:
        assert self._engine is not None
        with self._in_words(), self._connected(self._engine) as connection:
            if _has_table(connection, self._table):
                return
            if not create:
                raise BackendError(
                    f"{self.url} has no table {self.options.table!r}, and create=no forbids to make it: run "
                    "`dray setup` with a user who may create it"
                )
            self._create(connection)

    def _create(self, connection: sqlalchemy.Connection) -> None:
        try:
            self._table.create(connection, checkfirst=True)
            connection.commit()
        except exc.DBAPIError:
            # Somebody else may have made it in between: not every database waits with the second one.
            connection.rollback()
            if not _has_table(connection, self._table):
                raise

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except (exc.SQLAlchemyError, UnicodeError) as error:
            passing, text = in_words(error)
            raise (BackendUnavailable if passing else BackendError)(f"{self.url} {text}") from error


def _read(url: Url) -> tuple[SqlOptions, sqlalchemy.URL]:
    """Return dray's own options, and the URL with all others as SQLAlchemy knows it."""
    ours = {field.name for field in msgspec.structs.fields(SqlOptions)}
    own = {name: value for name, value in url.options.items() if name in ours}
    try:
        options = msgspec.convert(own, SqlOptions, strict=False)
    except msgspec.ValidationError as error:
        raise UrlError(f"{url}: {error}") from None
    dialect, _, driver = url.scheme.removeprefix(PREFIX).partition("+")
    driver = driver or DRIVERS.get(dialect, "")
    if driver and importlib.util.find_spec(driver) is None and driver in DRIVERS.values():
        raise UrlError(f"{url} needs the driver {driver!r}; pip install {driver}")
    name = "postgresql" if dialect == "postgres" else dialect
    target = sqlalchemy.URL.create(
        f"{name}+{driver}" if driver else name,
        username=url.username,
        password=url.password,
        host=url.host or None,
        port=url.port,
        database=url.path[1:] or None,
        query={name: value for name, value in url.options.items() if name not in ours},
    )
    try:
        target.get_dialect()
    except (exc.ArgumentError, ImportError) as error:
        raise UrlError(f"{url}: SQLAlchemy has no dialect {dialect!r} or not its driver ({error})") from None
    return options, target


def _has_table(connection: sqlalchemy.Connection, table: sqlalchemy.Table) -> bool:
    return sqlalchemy.inspect(connection).has_table(table.name)


def _all(connection: sqlalchemy.Connection, statement: sqlalchemy.Select[Any]) -> Sequence[sqlalchemy.Row[Any]]:
    return connection.execute(statement).all()


def _row(record: Record, expires: float | None) -> dict[str, Any]:
    return {
        "id": record.id,
        "state": record.state,
        "final": int(record.final),
        "rank": record.rank,
        "expires": expires,
        "body": record.body,
    }


def _slices(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))


#: What a newer record replaces.
_REPLACED = ("state", "body", "rank", "final", "expires")


def _upsert(insert: Any) -> Callable[[sqlalchemy.Table, Sequence[dict[str, Any]], float], Any]:
    """Return the maker of one statement for PostgreSQL or SQLite, by their own `insert`."""

    def make(table: sqlalchemy.Table, rows: Sequence[dict[str, Any]], now: float) -> Any:
        statement = insert(table).values(rows)
        kept, new = table.c, statement.excluded
        return statement.on_conflict_do_update(
            index_elements=[kept.id],
            set_={name: new[name] for name in _REPLACED},
            where=_yields(kept, new, now),
        )

    return make


def _mysql_upsert(table: sqlalchemy.Table, rows: Sequence[dict[str, Any]], now: float) -> Any:
    statement = mysql.insert(table).values(rows)
    kept, new = table.c, statement.inserted
    # MySQL assigns from left to right, and what is assigned already counts for what follows: `rank`, `final` and
    # `expires` come last and in this order, so that the rule holds for all columns or for none. (With the new rank in
    # place the comparison of ranks stays true; with `final` in place too, a new record replaces itself; a kept one that
    # has expired is known by `expires` to the end.)
    yields = _yields(kept, new, now)
    return statement.on_duplicate_key_update(
        [(name, sqlalchemy.func.if_(yields, new[name], kept[name])) for name in _REPLACED]
    )


def _yields(kept: Any, new: Any, now: float) -> Any:
    """Say when a kept record yields: unless it is final, not expired, and the new one not final or of lower rank."""
    return sqlalchemy.or_(
        kept.final == 0,
        sqlalchemy.and_(new.final == 1, new.rank >= kept.rank),
        sqlalchemy.and_(kept.expires.is_not(None), kept.expires <= now),
    )


#: How to store several records in one statement, by dialect.
_UPSERTS: dict[str, Callable[[sqlalchemy.Table, Sequence[dict[str, Any]], float], Any]] = {
    "postgresql": _upsert(postgresql.insert),
    "sqlite": _upsert(sqlite.insert),
    "mysql": _mysql_upsert,
    "mariadb": _mysql_upsert,
}


def _store_one(connection: sqlalchemy.Connection, table: sqlalchemy.Table, row: dict[str, Any], now: float) -> None:
    """Store one record on a database without an upsert known to us: insert it, or lock the kept one and compare."""
    kept = sqlalchemy.select(table.c.final, table.c.rank, table.c.expires).where(table.c.id == row["id"])
    if connection.execute(kept).first() is None:
        try:
            with connection.begin_nested():
                connection.execute(sqlalchemy.insert(table).values(row))
            return
        except exc.IntegrityError:
            pass  # somebody else has stored this id at the same moment
    found = connection.execute(kept.with_for_update()).first()
    if found is None:
        # Forgotten in between.
        connection.execute(sqlalchemy.insert(table).values(row))
    elif (
        not found.final
        or (row["final"] and row["rank"] >= found.rank)
        or (found.expires is not None and found.expires <= now)
    ):
        connection.execute(sqlalchemy.update(table).where(table.c.id == row["id"]).values(row))
