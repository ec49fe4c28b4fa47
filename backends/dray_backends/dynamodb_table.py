"""One DynamoDB table of the store: its items, how they are named, the driver's calls and what its errors mean.

Items, by partition key and sort key, both binary, so that they are ordered by code points:

    p<part>  -                      head of a partition: version v, generation g, size n, expiry x
    r<generation>  k<key>           a record: value d
    r<generation>  e<digest>        what it has in an index: index i, key k, instant t
    i<shard><index>  <instant><part>0<key>   the entry itself: part p, key k, instant t, generation g
    x<shard>  <expiry><part>        a partition that will be forgotten: part p
    z<shard>  <generation>          what a forgotten partition has left behind
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, Literal
from zlib import crc32

import boto3
import msgspec
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

from dray import StoreError, StoreUnavailable, Url, UrlError

#: Entries of one index are spread over so many places, each of which takes 1000 writes a second.
SHARDS = 4
#: Most items that one transaction writes or reads, and most bytes.
MOST_ITEMS, MOST_BYTES = 100, 3 * 1024 * 1024
#: Most items that are deleted by one call that is no transaction.
MOST_DROPPED = 25
#: Most bytes of a sort key.
SORT_KEY = 1024
#: Why a transaction was cancelled when others were at the same items: it is made anew, from what they have left.
MET = {"ConditionalCheckFailed", "TransactionConflict", "DuplicateItem"}
#: What passes by itself, beside all of 500 and above.
PASSING = {
    "InternalServerError",
    "LimitExceededException",
    "ProvisionedThroughputExceeded",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ResourceInUseException",
    "ServiceUnavailable",
    "ThrottlingError",
    "ThrottlingException",
    "TransactionInProgressException",
}

Key = tuple[bytes, bytes]
Item = dict[str, Any]


class DynamoOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL `dynamodb://[key:secret@]?option=value&...` may say. Without a key boto3 looks for credentials."""

    #: The table; several in one account do not know of each other.
    table: str = "dray"
    #: "no": the table is there already (`dray setup`), and these credentials need not be able to create it.
    create: Literal["yes", "no"] = "yes"
    #: Region, such as eu-west-1; else what boto3 finds (AWS_REGION, the profile).
    region: str = ""
    #: Where DynamoDB is, if it is not Amazon's: http://127.0.0.1:4566
    endpoint: str = ""
    #: A profile of ~/.aws/config.
    profile: str = ""
    #: Seconds in which the server must be reached, and in which it must answer.
    connect_timeout: float = 5.0
    timeout: float = 10.0

    @classmethod
    def of(cls, url: Url) -> DynamoOptions:
        """Return the options of a URL, or raise `UrlError`."""
        if url.hosts or url.path.strip("/"):
            raise UrlError(f"{url}: dynamodb:// takes no host; write dynamodb://?region=eu-west-1&table=dray")
        if (url.username is None) != (url.password is None):
            raise UrlError(f"{url}: a key needs its secret: dynamodb://key:secret@?region=...")
        return url.options_as(cls)


class Met(Exception):
    """Somebody else was at the same items, and nothing was written."""


class DynamoTable:
    """One table. Thread-safe, as boto3's clients are."""

    def __init__(self, url: Url) -> None:
        self.url = url
        self.options = DynamoOptions.of(url)
        self._client: Any = None

    def open(self) -> None:
        """Connect, and make the table where that is needed."""
        self.connect()
        if not self._exists():
            if self.options.create == "no":
                raise StoreError(
                    f"{self.url} has no table {self.options.table!r}, and create=no forbids to make it: run "
                    "`dray setup` with credentials that may"
                )
            self.create()

    def connect(self) -> None:
        """Make a client. Nothing is asked yet."""
        options = self.options
        with self._in_words():
            session = boto3.session.Session(
                aws_access_key_id=self.url.username,
                aws_secret_access_key=self.url.password,
                profile_name=options.profile or None,
                region_name=options.region or None,
            )
            self._client = session.client(
                "dynamodb",
                endpoint_url=options.endpoint or None,
                config=Config(
                    connect_timeout=options.connect_timeout,
                    read_timeout=options.timeout,
                    max_pool_connections=64,
                    # With the same token, so that a transaction whose reply was lost is not made twice.
                    retries={"mode": "standard", "total_max_attempts": 3},
                ),
            )

    def create(self) -> bool:
        """Make the table if it is missing; return whether that was done."""
        if self._exists():
            return False
        with self._in_words():
            try:
                self._client.create_table(
                    TableName=self.options.table,
                    BillingMode="PAY_PER_REQUEST",
                    AttributeDefinitions=[{"AttributeName": name, "AttributeType": "B"} for name in ("pk", "sk")],
                    KeySchema=[
                        {"AttributeName": "pk", "KeyType": "HASH"},
                        {"AttributeName": "sk", "KeyType": "RANGE"},
                    ],
                )
            except ClientError as error:
                # Another process makes it at the same time.
                if error.response["Error"]["Code"] != "ResourceInUseException":
                    raise
            self._client.get_waiter("table_exists").wait(
                TableName=self.options.table, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
            )
        return True

    def close(self) -> None:
        """Let go of the client. Safe twice."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def get(self, keys: Sequence[Key]) -> list[Item | None]:
        """Return items as they are at one instant; raise `Met` when some of them are being written."""
        wanted = [{"Get": {"TableName": self.options.table, "Key": _named(key)}} for key in keys]
        with self._in_words():
            answer = self._asked().transact_get_items(TransactItems=wanted)
        return [found.get("Item") for found in answer["Responses"]]

    def write(self, actions: Sequence[Item]) -> None:
        """Make all of these, or raise `Met` and none."""
        with self._in_words():
            self._asked().transact_write_items(TransactItems=list(actions))

    def put(self, key: Key, **attributes: object) -> Item:
        """Return the action that puts an item."""
        return {"Put": {"TableName": self.options.table, "Item": {**_named(key), **attributes}}}

    def delete(self, key: Key) -> Item:
        """Return the action that deletes an item."""
        return {"Delete": {"TableName": self.options.table, "Key": _named(key)}}

    def query(self, partition: bytes, first: bytes, last: bytes, limit: int | None = None) -> Iterator[Item]:
        """Give the items of one partition key from `first` to `last`, in order, as they are when they are read."""
        if first > last:
            return
        asked: Item = {
            "TableName": self.options.table,
            "ConsistentRead": True,
            "KeyConditionExpression": "pk = :p AND sk BETWEEN :f AND :l",
            "ExpressionAttributeValues": {":p": {"B": partition}, ":f": {"B": first}, ":l": {"B": last}},
        }
        if limit is not None:
            asked["Limit"] = limit
        while True:
            with self._in_words():
                answer = self._asked().query(**asked)
            yield from answer["Items"]
            if not answer.get("LastEvaluatedKey"):
                return
            asked["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def drop(self, key: Key, generation: bytes | None = None) -> None:
        """Delete one item; with `generation`, only if it is of that one."""
        when = {}
        if generation is not None:
            when = {"ConditionExpression": "g = :g", "ExpressionAttributeValues": {":g": {"B": generation}}}
        try:
            with self._in_words():
                self._asked().delete_item(TableName=self.options.table, Key=_named(key), **when)
        except Met:
            pass

    def drop_all(self, keys: Sequence[Key]) -> None:
        """Delete items, whatever they are."""
        name = self.options.table
        for start in range(0, len(keys), MOST_DROPPED):
            left = {name: [{"DeleteRequest": {"Key": _named(key)}} for key in keys[start : start + MOST_DROPPED]]}
            while left:
                with self._in_words():
                    left = self._asked().batch_write_item(RequestItems=left)["UnprocessedItems"]

    def _exists(self) -> bool:
        try:
            with self._in_words():
                return bool(self._asked().describe_table(TableName=self.options.table))
        except TableMissing:
            return False

    def _asked(self) -> Any:
        client = self._client
        if client is None:
            raise StoreUnavailable(f"{self.url} is not open; call open() first")
        return client

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise self._answered(error) from error
        except (ConnectionError, HTTPClientError) as error:
            raise StoreUnavailable(
                f"{self.url}: no answer: {error}; check region=, endpoint= and the network"
            ) from error
        except BotoCoreError as error:
            raise StoreError(f"{self.url}: {error}") from error

    def _answered(self, error: ClientError) -> Exception:
        told: Mapping[str, Any] = error.response
        code, message = told["Error"].get("Code", ""), told["Error"].get("Message", "")
        said = f"{self.url}: {code}: {message}"
        if code == "ConditionalCheckFailedException":
            return Met(said)
        if code == "TransactionCanceledException":
            reasons = {reason.get("Code", "None") for reason in told.get("CancellationReasons", ())} - {"None"}
            if reasons <= MET:
                return Met(said)
            if reasons <= MET | PASSING:
                return StoreUnavailable(f"{said} (it passes by itself)")
        if code == "TransactionConflictException":
            return Met(said)
        if code == "ResourceNotFoundException":
            return TableMissing(f"{said}; open() or `dray setup` makes the table {self.options.table!r}")
        if code in PASSING or told.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
            return StoreUnavailable(f"{said} (it passes by itself)")
        return StoreError(said)


class TableMissing(StoreUnavailable):
    """The table does not exist (any more); open() makes it."""


def when(action: Item, condition: str, **values: object) -> Item:
    """Return an action that is made only if the condition holds."""
    ((_, what),) = action.items()
    what["ConditionExpression"] = condition
    if values:
        what["ExpressionAttributeValues"] = {f":{name}": value for name, value in values.items()}
    return action


def head(part: str) -> Key:
    return b"p" + named(part), b"-"


def record(generation: bytes, key: str) -> Key:
    return b"r" + generation, b"k" + named(key)


def listed(generation: bytes, index: str, key: str) -> Key:
    digest = blake2b(named(index) + b"\0" + named(key), digest_size=32).digest()
    return b"r" + generation, b"e" + digest


def entry(index: str, at: float, part: str, key: str) -> Key:
    place = sortable(at) + named(part) + b"\0" + named(key)
    if len(place) > SORT_KEY:
        raise StoreError(
            f"an index entry of {part[:40]!r} has a longer name than DynamoDB takes: partition and key have "
            f"{SORT_KEY - 9} bytes together at most"
        )
    return index_shard(index, shard_of(part)), place


def index_shard(index: str, shard: int) -> bytes:
    return b"i" + bytes([shard]) + named(index)


def expiry(at: float, part: str) -> Key:
    return b"x" + bytes([shard_of(part)]), sortable(at) + named(part)


def remains(generation: bytes) -> Key:
    return b"z" + bytes([generation[0] % SHARDS]), generation


def shard_of(part: str) -> int:
    return crc32(named(part)) % SHARDS


def sortable(at: float) -> bytes:
    """Return eight bytes that sort as the number does."""
    (bits,) = struct.unpack(">Q", struct.pack(">d", at + 0.0))
    return struct.pack(">Q", bits ^ (0xFFFFFFFFFFFFFFFF if bits >> 63 else 1 << 63))


def number(place: bytes) -> float:
    """Return the number that eight bytes of `sortable` stand for."""
    (bits,) = struct.unpack(">Q", place)
    (at,) = struct.unpack(">d", struct.pack(">Q", bits ^ (1 << 63 if bits >> 63 else 0xFFFFFFFFFFFFFFFF)))
    return float(at)


def named(name: str) -> bytes:
    """Return a name as bytes, or raise `StoreError`."""
    if "\0" in name:
        raise StoreError(f"{name[:40]!r} contains a NUL character, which no name on DynamoDB can")
    try:
        return name.encode()
    except UnicodeEncodeError as error:
        raise StoreError(f"a name cannot be written as UTF-8 ({error})") from error


def _named(key: Key) -> Item:
    return {"pk": {"B": key[0]}, "sk": {"B": key[1]}}
