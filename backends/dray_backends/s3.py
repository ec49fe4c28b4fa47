"""The s3:// result backend: an object for each record, on S3 and on servers that speak its protocol.

The rule of the first final writer is kept by conditional writes (`If-None-Match`, `If-Match`), so it holds between
processes. A server that does not know them is found out by the first `store`: on it the rule holds between the threads
of this process only, and two processes that end one task at the same instant may leave the lower rank.

Every look costs a request. Expired records are not shown any more; they are deleted by `dray results purge`, which asks
for the head of every object, or more cheaply by a lifecycle rule of the bucket for the prefix.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar
from zlib import crc32

import boto3
import msgspec
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
)

from dray import BackendError, BackendUnavailable, Record, ResultBackend, Url, UrlError, mask

from .stored_record import Stored, merged, name_of, read, write

T = TypeVar("T")
R = TypeVar("R")

#: Most keys of one deletion.
CHUNK = 1000
#: Seconds between two looks while waiting for a result: the first, and the longest. Looks are paid for.
FIRST_LOOK, LONGEST_LOOK = 0.05, 1.0
#: Where an object keeps the instant at which it expires, among its metadata.
EXPIRES = "dray-expires"
#: An object that is never there: writing it on the condition that it is tells whether conditions are heeded.
PROBE, IMPOSSIBLE = ".dray-probe", '"00000000000000000000000000000000"'
#: What S3 says when a condition does not hold, when two such writes met, and when the server knows no conditions.
UNMET, MET, UNKNOWN = {412, 404}, {409}, {501}
#: Error codes that pass, beside all of 500 and above.
PASSING = {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "RequestTimeTooSkewed"}


class S3Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the URL. What is missing comes from the environment, as in all programs that use boto3."""

    #: Region of the bucket; else what boto3 finds (`AWS_REGION`, the profile).
    region: str | None = None
    #: URL of a server other than AWS.
    endpoint: str | None = None
    #: Seconds in which a server must be reached, and in which it must answer.
    connect_timeout: float = 5.0
    timeout: float = 20.0
    #: Requests that are under way at once.
    concurrency: int = 10


class S3Backend(ResultBackend):
    """`s3://bucket/prefix`, or `s3://KEY:SECRET@bucket/prefix`. Options: `S3Options`. The bucket must exist."""

    def __init__(self, url: Url) -> None:
        super().__init__(url)
        self._options = url.options_as(S3Options)
        if len(url.hosts) != 1 or url.port is not None:
            raise UrlError(f"{url}: write s3://bucket/prefix, and the server, if it is not AWS, as endpoint=http://...")
        self._bucket = url.host
        self._prefix = url.path.strip("/") + "/" if url.path.strip("/") else ""
        self._client: Any = None
        self._pool: ThreadPoolExecutor | None = None
        #: Whether the server heeds conditions; None: not known yet.
        self._conditional: bool | None = None

    # Life

    def open(self) -> None:
        if self._client is None:
            session = boto3.session.Session(
                aws_access_key_id=self.url.username, aws_secret_access_key=self.url.password
            )
            with self._translated("opened"):
                self._client = session.client(
                    "s3",
                    region_name=self._options.region,
                    endpoint_url=self._options.endpoint,
                    config=Config(
                        connect_timeout=self._options.connect_timeout,
                        read_timeout=self._options.timeout,
                        max_pool_connections=self._options.concurrency,
                        retries={"mode": "standard", "max_attempts": 2},
                    ),
                )
            self._pool = ThreadPoolExecutor(self._options.concurrency, "dray-s3")
        with self._translated("opened"):
            try:
                self._client.head_bucket(Bucket=self._bucket)
            except ClientError as error:
                # Who may read and write objects need not be allowed to look at the bucket.
                if _status(error) != 403:
                    raise

    def close(self) -> None:
        client, self._client = self._client, None
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()
        if client is not None:
            client.close()

    # Records

    def store(self, records: Sequence[Record], ttl: float | None) -> None:
        if not records:
            return
        expires = None if ttl is None else self.clock.time() + ttl
        with self._translated("stored"):
            if self._conditional is None:
                self._conditional = self._heeds_conditions()
            self._each(lambda record: self._store_one(record, expires), merged(records))

    def _store_one(self, record: Record, expires: float | None) -> None:
        key = self._key(record.id)
        new = Stored.of(record, expires)
        if not self._conditional:
            with _turns[crc32(key.encode()) % len(_turns)]:
                kept, _ = self._get(key, record.id)
                if kept is None or not kept.stays(record, self.clock.time()):
                    self._put(key, new)
            return
        # First as if nothing were there, which is so for most; then in the place of what was seen, until that holds.
        condition = {"IfNoneMatch": "*"}
        while not self._put(key, new, **condition):
            kept, version = self._get(key, record.id)
            if kept is not None and kept.stays(record, self.clock.time()):
                return
            condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}

    def fetch(self, ids: Sequence[str]) -> Mapping[str, Record]:
        now = self.clock.time()
        with self._translated("fetched"):
            found = self._each(lambda id: self._get(self._key(id), id)[0], ids)
            return {kept.id: kept.record for kept in found if kept is not None and not kept.is_over(now)}

    def forget(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), CHUNK):
            keys = [{"Key": self._key(id)} for id in ids[start : start + CHUNK]]
            with self._translated("forgotten"):
                self._open().delete_objects(Bucket=self._bucket, Delete={"Objects": keys, "Quiet": True})

    def wait(self, ids: Sequence[str], timeout: float) -> Mapping[str, Record]:
        end = self.clock.monotonic() + timeout
        pause, never = FIRST_LOOK, threading.Event()
        while True:
            found = self.fetch(ids)
            left = end - self.clock.monotonic()
            if left <= 0 or any(record.final for record in found.values()):
                return found
            self.clock.wait(never, min(pause, left))
            pause = min(pause * 1.5, LONGEST_LOOK)

    def purge(self) -> int:
        gone = 0
        with self._translated("purged"):
            for page in (
                self._open().get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            ):
                gone += sum(self._each(self._delete_if_over, [each["Key"] for each in page.get("Contents", ())]))
        return gone

    def _delete_if_over(self, key: str) -> bool:
        try:
            head = self._open().head_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if _status(error) == 404:
                return False
            raise
        expires = head["Metadata"].get(EXPIRES)
        if not expires or float(expires) > self.clock.time():
            return False
        try:
            # What was stored anew in between stays.
            self._open().delete_object(Bucket=self._bucket, Key=key, IfMatch=head["ETag"])
        except ClientError as error:
            if _status(error) in UNMET | MET:
                return False
            raise
        return True

    # Inside

    def _key(self, id: str) -> str:
        return self._prefix + name_of(id)

    def _open(self) -> Any:
        if self._client is None:
            raise BackendUnavailable(f"{self.url} is closed")
        return self._client

    def _each(self, do: Callable[[T], R], these: Iterable[T]) -> list[R]:
        """Do something for each, several at once; raise the first error when all have been tried."""
        self._open()
        assert self._pool is not None
        under_way = [self._pool.submit(do, each) for each in these]
        errors = [error for each in under_way if (error := each.exception()) is not None]
        if errors:
            raise errors[0]
        return [each.result() for each in under_way]

    def _get(self, key: str, id: str) -> tuple[Stored | None, str]:
        """Return what is kept under a key, and its version; None and "" when there is nothing."""
        try:
            found = self._open().get_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                return None, ""
            raise
        with found["Body"] as body:
            return read(body.read(), id), found["ETag"]

    def _put(self, key: str, stored: Stored, **condition: str) -> bool:
        """Write an object; return whether the condition held."""
        try:
            self._open().put_object(
                Bucket=self._bucket,
                Key=key,
                Body=write(stored),
                ContentType="application/octet-stream",
                Metadata={} if stored.expires is None else {EXPIRES: f"{stored.expires:.3f}"},
                **condition,
            )
        except ClientError as error:
            if condition and _status(error) in UNMET | MET and error.response["Error"]["Code"] != "NoSuchBucket":
                return False
            raise
        return True

    def _heeds_conditions(self) -> bool:
        """Ask the server to write an object on a condition that cannot hold; return whether it did not."""
        key = self._prefix + PROBE
        try:
            self._open().put_object(Bucket=self._bucket, Key=key, Body=b"", IfMatch=IMPOSSIBLE)
        except ClientError as error:
            if _status(error) in UNMET | MET and error.response["Error"]["Code"] != "NoSuchBucket":
                return True
            if _status(error) in UNKNOWN:
                return False
            raise
        self._open().delete_object(Bucket=self._bucket, Key=key)
        return False

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            passes = _status(error) >= 500 or error.response["Error"]["Code"] in PASSING
            raise self._error(doing, error, passes) from error
        except (BotoCoreError, ValueError) as error:
            raise self._error(doing, error, isinstance(error, ConnectionError | HTTPClientError)) from error

    def _error(self, doing: str, error: Exception, passes: bool) -> BackendError:
        kind = BackendUnavailable if passes else BackendError
        return kind(f"{self.url} cannot be {doing}: {mask(str(error))}")


#: Where the server heeds no conditions: one writer at a time, for each of so many groups of keys.
_turns = [threading.Lock() for _ in range(64)]


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
