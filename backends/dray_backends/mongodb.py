"""The mongodb:// result backend: one document for each record.

The rule of the first final writer is part of the one update that stores a record, so it holds between processes. A TTL
index has the server delete what has expired, within a minute or two of its time; until then it is not shown.

Tested against mongomock, an imitation of MongoDB, because no server was at hand: treat it as less proven than the
others, and tell us of what a real one does otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
from pymongo import MongoClient, UpdateOne
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    ExecutionTimeout,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    WTimeoutError,
)
from pymongo.uri_parser import validate_options

from dray import BackendError, BackendUnavailable, Record, ResultBackend, Url, UrlError, mask

from .stored_record import merged

#: The database when the URL names none.
DATABASE = "dray"
#: Most ids in one request.
CHUNK = 1000
#: MongoDB's error codes: a document of that id is there already; the user may not do this.
DUPLICATE, UNAUTHORIZED = 11000, 13
PASSING = (AutoReconnect, ConnectionFailure, ExecutionTimeout, WTimeoutError)


class MongoOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of our own; all others (`replicaSet`, `authSource`, `tls` ...) are MongoDB's, in its spelling."""

    #: The collection that the records are kept in.
    collection: str = "dray_result"
    #: Seconds in which a server must be found.
    connect_timeout: float = 5.0


class MongoBackend(ResultBackend):
    """`mongodb://h1,h2/database` or `mongodb+srv://cluster.example.com/database`. Options: `MongoOptions`."""

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        own = {name: value for name, value in url.options.items() if name in MongoOptions.__struct_fields__}
        theirs = {name: value for name, value in url.options.items() if name not in own}
        self._options = msgspec.structs.replace(url, options=own).options_as(MongoOptions)
        try:
            # Otherwise pymongo warns of an option it does not know, and goes on without it.
            validate_options(theirs, warn=False)
        except (ConfigurationError, ValueError, TypeError) as error:
            raise UrlError(f"{url}: {error}") from None
        self._database = url.path.strip("/") or DATABASE
        self._address = msgspec.structs.replace(url, options=theirs)
        self._client: Any = None
        self._records: Any = None

    # Life

    def open(self) -> None:
        if self._client is None:
            try:
                client: Any = MongoClient(
                    self._address.reveal(),
                    serverSelectionTimeoutMS=int(self._options.connect_timeout * 1000),
                    connectTimeoutMS=int(self._options.connect_timeout * 1000),
                    tz_aware=True,
                )
            except (ConfigurationError, InvalidURI, ValueError, TypeError) as error:
                raise UrlError(f"{self.url}: {mask(str(error))}") from error
            self._client = client
            self._records = client[self._database][self._options.collection]
        with self._translated("opened"):
            try:
                self._index()
            except OperationFailure as error:
                # Who may not create indexes finds the one that somebody who may has made: `dray setup`.
                if error.code != UNAUTHORIZED:
                    raise

    def close(self) -> None:
        client, self._client, self._records = self._client, None, None
        if client is not None:
            client.close()

    def setup(self) -> Sequence[str]:
        with self._translated("set up"):
            self._index()
        return [f"the index of {self._database}.{self._options.collection} that has expired results deleted"]

    def _index(self) -> None:
        self._records.create_index("expires", expireAfterSeconds=0)

    # Records

    def store(self, records: Sequence[Record], ttl: float | None) -> None:
        now = self.clock.time()
        expires = None if ttl is None else _instant(now + ttl)
        left = merged(records)
        # First as if nothing were there. What cannot be inserted then is there, and may have to stay.
        for upsert in (True, False):
            refused: list[Record] = []
            for start in range(0, len(left), CHUNK):
                chunk = left[start : start + CHUNK]
                refused += self._write(chunk, expires, _instant(now), upsert)
            left = refused

    def _write(
        self, records: Sequence[Record], expires: datetime | None, now: datetime, upsert: bool
    ) -> Sequence[Record]:
        """Store records where they may be stored; return those whose id was there and could not be replaced."""
        updates = [UpdateOne(_yields_to(one, now), {"$set": _document(one, expires)}, upsert=upsert) for one in records]
        with self._translated("stored"):
            try:
                self._open().bulk_write(updates, ordered=False)
            except BulkWriteError as error:
                wrong = error.details["writeErrors"]
                if any(each["code"] != DUPLICATE for each in wrong) or error.details.get("writeConcernErrors"):
                    raise
                return [records[each["index"]] for each in wrong]
        return []

    def fetch(self, ids: Sequence[str]) -> Mapping[str, Record]:
        now = _instant(self.clock.time())
        found: dict[str, Record] = {}
        for start in range(0, len(ids), CHUNK):
            wanted = {
                "_id": {"$in": list(ids[start : start + CHUNK])},
                "$or": [{"expires": None}, {"expires": {"$gt": now}}],
            }
            with self._translated("fetched"):
                found.update((each["_id"], _record(each)) for each in self._open().find(wanted))
        return found

    def forget(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), CHUNK):
            with self._translated("forgotten"):
                self._open().delete_many({"_id": {"$in": list(ids[start : start + CHUNK])}})

    def purge(self) -> int:
        with self._translated("purged"):
            gone: int = self._open().delete_many({"expires": {"$lte": _instant(self.clock.time())}}).deleted_count
        return gone

    # Inside

    def _open(self) -> Any:
        if self._records is None:
            raise BackendUnavailable(f"{self.url} is closed")
        return self._records

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except PyMongoError as error:
            kind = BackendUnavailable if isinstance(error, PASSING) else BackendError
            said = mask(" ".join(str(error).split()))[:500]
            raise kind(f"{self.url} cannot be {doing}: {type(error).__name__}: {said}") from error


def _yields_to(new: Record, now: datetime) -> dict[str, Any]:
    """Return what the kept document is like if it yields to `new`; what is like nothing of this stays."""
    yields: list[dict[str, Any]] = [{"final": False}, {"expires": {"$lte": now}}]
    if new.final:
        yields.append({"rank": {"$lte": new.rank}})
    return {"_id": new.id, "$or": yields}


def _document(record: Record, expires: datetime | None) -> dict[str, Any]:
    return {
        "state": record.state,
        "final": record.final,
        "rank": record.rank,
        "expires": expires,
        "body": record.body,
    }


def _record(document: Mapping[str, Any]) -> Record:
    return Record(
        id=document["_id"],
        state=document["state"],
        final=document["final"],
        rank=document["rank"],
        body=bytes(document["body"]),
    )


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
