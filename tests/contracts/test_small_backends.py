"""The small result backends against the contract, and what each does beside it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import mongomock
import pytest
from mongomock.collection import BulkOperationBuilder
from mongomock.store import ServerStore

from dray import BackendError, BackendUnavailable, ManualClock, Record, ResultBackend, SystemClock, Url, UrlError
from dray.testing import ResultBackendContract
from dray.testing.background import Background
from dray.testing.faults import wait_until
from dray_backends import mongodb
from dray_backends.filesystem import FileBackend
from dray_backends.memcached import MemcachedBackend
from dray_backends.mongodb import MongoBackend
from dray_backends.null import NullBackend
from dray_backends.s3 import S3Backend


def opened(backend: ResultBackend) -> Iterator[ResultBackend]:
    backend.open()
    yield backend
    backend.close()


class TestMemcachedBackend(ResultBackendContract):
    @pytest.fixture
    def backend(self, memcached_server: Any) -> Iterator[ResultBackend]:
        yield from opened(MemcachedBackend(Url.parse(f"{memcached_server.url}?prefix={uuid4().hex}:")))

    def test_a_megabyte_survives(self, backend: ResultBackend) -> None:
        # A million bytes: a whole MiB is more than memcached takes unless it is told otherwise.
        body = bytes(range(250)) * 4000
        backend.store([Record(id="a", state="SUCCESS", final=True, body=body)], 300.0)
        assert backend.fetch(["a"])["a"].body == body


class TestFileBackend(ResultBackendContract):
    def make_backend(self, tmp_path: Path) -> ResultBackend:
        return FileBackend(Url.parse(f"file://{tmp_path}/results"))


@pytest.fixture
def mongo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all clients of a test talk to one imitation of MongoDB."""
    add_update = BulkOperationBuilder.add_update

    def without_sort(self: Any, *what: Any, sort: Any = None, **options: Any) -> Any:
        # pymongo 4.11 and later says that there is none; mongomock 4.3 does not listen.
        assert sort is None
        return add_update(self, *what, **options)

    monkeypatch.setattr(BulkOperationBuilder, "add_update", without_sort)
    monkeypatch.setattr(mongodb, "MongoClient", partial(mongomock.MongoClient, _store=ServerStore()))


class TestMongoBackend(ResultBackendContract):
    @pytest.fixture
    def backend(self, mongo: None) -> Iterator[ResultBackend]:
        yield from opened(MongoBackend(Url.parse("mongodb://localhost/dray")))


def bucket_at(server: Any) -> str:
    """Make a bucket and return the URL of a place of one's own in it."""
    endpoint = Url.parse(server.url).options["endpoint"]
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
    )
    name = f"dray-{uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    client.close()
    return f"s3://k:s@{name}/some/place?region=us-east-1&endpoint={endpoint}"


@pytest.mark.timeout(300)  # A server in Python takes its time over two thousand objects.
class TestS3Backend(ResultBackendContract):
    @pytest.fixture
    def backend(self, moto_server: Any) -> Iterator[ResultBackend]:
        yield from opened(S3Backend(Url.parse(bucket_at(moto_server))))


def done(id: str = "a", body: bytes = b"value", rank: int = 0) -> Record:
    return Record(id=id, state="SUCCESS", final=True, body=body, rank=rank)


# memcached


@pytest.fixture
def memcached(memcached_server: Any) -> Iterator[MemcachedBackend]:
    backend = MemcachedBackend(Url.parse(f"{memcached_server.url}?prefix={uuid4().hex}:"))
    yield from opened(backend)  # type: ignore[misc]


def test_memcached_refuses_what_is_too_large_in_words_and_keeps_the_connection(memcached: MemcachedBackend) -> None:
    with pytest.raises(
        BackendError, match=r"stored for a \(2,000,0\d\d bytes\): .*item size.*Return a reference"
    ) as caught:
        memcached.store([done(body=b"x" * 2_000_000)], 300.0)
    assert not isinstance(caught.value, BackendUnavailable)
    memcached.store([done()], 300.0)
    assert memcached.fetch(["a"]) == {"a": done()}


def test_memcached_itself_drops_what_has_expired(memcached: MemcachedBackend) -> None:
    memcached.store([done()], 0.1)
    # Memory is given back by the server: nothing of ours has to run for it.
    wait_until(lambda: memcached._clients[0].get(memcached._key("a")) is None, timeout=15)


def test_memcached_keeps_what_may_stay_longer_than_a_month(memcached: MemcachedBackend) -> None:
    # More than 30 days is an instant to memcached, and an instant of 1970 if one forgets that.
    memcached.store([done()], 400 * 86_400.0)
    assert memcached.fetch(["a"]) == {"a": done()}


def test_memcached_that_is_away_is_an_outage_and_heals(memcached_server: Any, memcached: MemcachedBackend) -> None:
    memcached_server.kill()
    try:
        with pytest.raises(BackendUnavailable, match="cannot be fetched"):
            memcached.fetch(["a"])
        with pytest.raises(BackendUnavailable, match="cannot be reached"):
            memcached.open()
    finally:
        memcached_server.start()
    memcached.open()
    memcached.store([done()], 300.0)
    assert memcached.fetch(["a"]) == {"a": done()}


def test_each_id_belongs_to_the_same_host_however_the_hosts_are_listed() -> None:
    one = MemcachedBackend(Url.parse("cache+memcached://a,b,c:11212"))
    other = MemcachedBackend(Url.parse("cache+memcached://c:11212,a:11211,b"))
    one._clients = other._clients = [None] * 3
    keys = {f"k{n}": None for n in range(300)}

    def hosts(backend: MemcachedBackend) -> dict[str, tuple[str, int]]:
        return {key: backend._addresses[n] for n, some in backend._by_server(keys).items() for key, _ in some}

    assert hosts(one) == hosts(other)
    assert len(set(hosts(one).values())) == 3
    fewer = MemcachedBackend(Url.parse("cache+memcached://a,c:11212"))
    fewer._clients = [None] * 2
    moved = {key for key, host in hosts(fewer).items() if host != hosts(one)[key]}
    assert moved == {key for key, host in hosts(one).items() if host == ("b", 11211)}


# Files


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[FileBackend]:
    backend = FileBackend(Url.parse(f"file://{tmp_path}/results?timeout=0.2"))
    backend.clock = ManualClock()
    yield from opened(backend)  # type: ignore[misc]


def records_in(folder: FileBackend) -> list[Path]:
    return [path for path in folder.path.rglob("*") if path.is_file() and path.name != ".lock"]


def test_expired_files_are_deleted_by_later_stores(folder: FileBackend) -> None:
    assert isinstance(folder.clock, ManualClock)
    folder.store([done(f"old{n}") for n in range(50)], 10.0)
    folder.clock.advance(20.0)
    for _ in range(300):
        folder.store([done("new")], None)
        folder.clock.advance(5.0)
    assert [path.name for path in records_in(folder)] == ["new"]


def test_what_a_killed_writer_left_half_written_is_never_read_and_tidied_up(folder: FileBackend) -> None:
    assert isinstance(folder.clock, ManualClock)
    folder.store([done()], None)
    (kept,) = records_in(folder)
    half = kept.with_name("0123.part")
    half.write_bytes(b"half a rec")
    os.utime(half, (0, folder.clock.time()))
    assert (folder.fetch(["a"]), folder.purge()) == ({"a": done()}, 0)
    assert half.exists()
    folder.clock.advance(4000.0)
    folder.purge()
    assert records_in(folder) == [kept]


def test_bytes_that_are_no_record_are_as_good_as_nothing(folder: FileBackend) -> None:
    folder.store([done(rank=5)], None)
    (kept,) = records_in(folder)
    kept.write_bytes(b"not ours")
    assert folder.fetch(["a"]) == {}
    folder.store([done()], None)
    assert folder.fetch(["a"]) == {"a": done()}


def test_a_lock_that_nobody_lets_go_is_an_outage(folder: FileBackend) -> None:
    folder.clock = SystemClock()
    folder.store([done()], None)
    (kept,) = records_in(folder)
    holder = [sys.executable, "-c", "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, 2); print(); input()"]
    with subprocess.Popen([*holder, kept.with_name(".lock")], stdin=-1, stdout=-1) as frozen:
        assert frozen.stdout is not None
        frozen.stdout.readline()
        with pytest.raises(BackendUnavailable, match=r"was held by another process for 0.2 s"):
            folder.store([done(rank=1)], None)
        assert folder.fetch(["a"]) == {"a": done()}
        # The kernel lets go of what a killed process held.
        frozen.kill()
    folder.store([done(rank=1)], None)
    assert folder.fetch(["a"])["a"].rank == 1


def test_processes_that_write_one_id_leave_the_highest_rank(folder: FileBackend, tmp_path: Path) -> None:
    code = """
import sys
from dray import Record, Url
from dray_backends.filesystem import FileBackend
backend = FileBackend(Url.parse(sys.argv[1]))
backend.open()
for rank in range(200, 0, -3):
    backend.store([Record(id="a", state="SUCCESS", final=True, body=b"", rank=rank + int(sys.argv[2]))], None)
"""
    url = f"file://{tmp_path}/results"
    writers = [subprocess.Popen([sys.executable, "-c", code, url, str(n)]) for n in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert folder.fetch(["a"])["a"].rank == 202


def test_a_folder_that_cannot_be_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BackendError, match="cannot be opened: .*Not a directory") as caught:
        FileBackend(Url.parse(f"file://{tmp_path}/file/results")).open()
    assert not isinstance(caught.value, BackendUnavailable)


def test_records_that_survive_a_power_cut_are_records_too(tmp_path: Path) -> None:
    backend = FileBackend(Url.parse(f"file://{tmp_path}/results?sync=true"))
    backend.open()
    backend.store([done()], None)
    assert backend.fetch(["a"]) == {"a": done()}


# MongoDB


def test_mongodb_is_told_to_delete_what_has_expired(mongo: None) -> None:
    backend = MongoBackend(Url.parse("mongodb://localhost/somewhere?collection=results"))
    assert "somewhere.results" in backend_sentences(backend)
    (index,) = [one for one in backend._records.index_information().values() if "expireAfterSeconds" in one]
    assert (index["key"], index["expireAfterSeconds"]) == ([("expires", 1)], 0)
    backend.store([done()], 60.0)
    assert isinstance(backend._records.find_one({"_id": "a"})["expires"], datetime)
    backend.close()


def backend_sentences(backend: ResultBackend) -> str:
    backend.open()
    return " ".join(backend.setup())


def test_a_mongodb_that_is_not_there_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    backend = MongoBackend(Url.parse(f"mongodb://u:hunter2@127.0.0.1:{port}/dray?connect_timeout=0.3"))
    with pytest.raises(BackendUnavailable, match="cannot be opened") as caught:
        Background(backend.open).result()
    assert "hunter2" not in str(caught.value)
    backend.close()


# S3


@pytest.fixture
def bucket(moto_server: Any) -> Iterator[S3Backend]:
    backend = S3Backend(Url.parse(bucket_at(moto_server)))
    backend.clock = ManualClock()
    yield from opened(backend)  # type: ignore[misc]


def test_purging_deletes_expired_objects_and_leaves_what_others_keep_in_the_bucket(bucket: S3Backend) -> None:
    assert isinstance(bucket.clock, ManualClock)
    bucket._client.put_object(Bucket=bucket._bucket, Key="some/place/theirs", Body=b"theirs")
    bucket.store([done("old")], 10.0)
    bucket.store([done("good")], 100.0)
    bucket.clock.advance(20.0)
    assert bucket.purge() == 1
    keys = [each["Key"] for each in bucket._client.list_objects_v2(Bucket=bucket._bucket)["Contents"]]
    assert keys == ["some/place/good", "some/place/theirs"]


def test_a_server_that_heeds_no_conditions_is_found_out(bucket: S3Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    put = bucket._client.put_object

    def heedless(IfMatch: str = "", IfNoneMatch: str = "", **what: Any) -> Any:
        return put(**what)

    monkeypatch.setattr(bucket._client, "put_object", heedless)
    bucket.store([done(rank=2)], None)
    bucket.store([done(rank=1), Record(id="b", state="STARTED", final=False, body=b"")], None)
    assert bucket._conditional is False
    assert {id: one.rank for id, one in bucket.fetch(["a", "b"]).items()} == {"a": 2, "b": 0}
    assert "Contents" not in bucket._client.list_objects_v2(Bucket=bucket._bucket, Prefix="some/place/.dray")


def test_a_bucket_that_is_missing_is_an_error_and_no_outage(moto_server: Any) -> None:
    text = bucket_at(moto_server).replace("@dray-", "@missing-")
    with pytest.raises(BackendError, match="cannot be opened: .*404") as caught:
        S3Backend(Url.parse(text)).open()
    assert not isinstance(caught.value, BackendUnavailable)
    assert ":s@" not in str(caught.value)


def test_an_s3_that_is_not_there_is_an_outage() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    backend = S3Backend(Url.parse(f"s3://k:s@bucket?region=us-east-1&endpoint=http://127.0.0.1:{port}"))
    with pytest.raises(BackendUnavailable, match="cannot be opened"):
        Background(backend.open).result()
    backend.close()


# Nothing


def test_null_takes_everything_and_has_nothing() -> None:
    backend = NullBackend(Url.parse("null://"))
    backend.clock = ManualClock()
    backend.open()
    backend.store([done()], None)
    assert (backend.fetch(["a"]), backend.purge()) == ({}, 0)
    backend.forget(["a"])
    waiting = Background(lambda: backend.wait(["a"], 5.0))
    assert waiting.result(meanwhile=partial(backend.clock.advance, 5.0)) == {}
    backend.close()


# URLs


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cache+memcached://localhost/db", "no databases; to share a server, set prefix="),
        ("cache+memcached://u:hunter2@localhost", "passwords of memcached are not supported"),
        ("cache+memcached://localhost?prefix=a%20b", "printable"),
        ("cache+memcached://localhost?prefix=a%0Ab", "printable"),
        ("cache+memcached://localhost?timeuot=3", "did you mean 'timeout'"),
        ("file://results", "write file:///path/to/folder"),
        ("file:///", "write file:///path/to/folder"),
        ("mongodb://localhost/dray?connectTimeout=3", "Unknown option: connectTimeout"),
        ("mongodb://localhost/dray?connect_timeout=soon", "Expected `float`"),
        ("s3://bucket:80/prefix", "as endpoint=http://"),
        ("s3:///prefix", "write s3://bucket/prefix"),
        ("s3://bucket?regoin=x", "did you mean 'region'"),
        ("null://somewhere", "write null://"),
        ("null://?x=1", "has no option 'x'"),
    ],
)
def test_a_url_that_cannot_be_read_is_an_error_in_words(text: str, said: str) -> None:
    kind = {
        "cache+memcached": MemcachedBackend,
        "file": FileBackend,
        "mongodb": MongoBackend,
        "null": NullBackend,
        "s3": S3Backend,
    }
    url = Url.parse(text)
    with pytest.raises(UrlError) as caught:
        kind[url.scheme](url)
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)
