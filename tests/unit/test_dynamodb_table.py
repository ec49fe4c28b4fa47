"""How the DynamoDB store names its items, what its URL means, and what it makes of DynamoDB's errors."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from dray import StoreError, StoreUnavailable, Url, UrlError
from dray_backends.dynamodb_table import DynamoTable, Met, entry, number, record, sortable

URL = "dynamodb://key:secret@?region=eu-west-1&table=t"


class FailingClient:
    """Answers every question with one error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def fail(**asked: object) -> None:
            raise self._error

        return fail


def failing(error: Exception) -> DynamoTable:
    table = DynamoTable(Url.parse(URL))
    table._client = FailingClient(error)
    return table


def answered(code: str, status: int = 400, reasons: tuple[str, ...] = ()) -> ClientError:
    cancelled: Any = {"CancellationReasons": [{"Code": reason} for reason in reasons]}
    told: Any = {"Error": {"Code": code, "Message": "why"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(told | cancelled, "TransactWriteItems")


def test_numbers_sort_as_bytes_and_come_back_exactly() -> None:
    numbers = [-inf, -1e300, -1.5, -1e-300, 0.0, 5e-324, 1.0, 1_763_757_296.123457, 1_763_757_296.1234572, 1e300, inf]
    assert sorted(map(sortable, numbers)) == [sortable(each) for each in numbers]
    assert [number(sortable(each)) for each in numbers] == numbers
    assert sortable(-0.0) == sortable(0.0)


def test_entries_sort_by_instant_partition_and_key() -> None:
    names = ["", "a", "a b", "aa", "b", "\uffee", "\U0001f40e"]
    entries = [(at, part, key) for at in (1.0, 2.0) for part in names for key in names]
    places = {each: entry("i", *each)[1] for each in entries}
    assert sorted(entries) == sorted(entries, key=lambda each: places[each])
    assert len(set(places.values())) == len(entries)


@pytest.mark.parametrize("name", ["a\0b", "half a \ud83d character"])
def test_what_no_name_can_be_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match=r"NUL|UTF-8"):
        record(b"g", name)


def test_an_entry_of_too_long_a_name_is_refused() -> None:
    assert entry("i", 1.0, "p" * 250, "k" * 250)
    with pytest.raises(StoreError, match="bytes together"):
        entry("i", 1.0, "\U0001f40e" * 250, "k" * 250)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("dynamodb://host?region=x", "takes no host"),
        ("dynamodb://key@?region=x", "needs its secret"),
        ("dynamodb://?tabel=x", "did you mean 'table'"),
        ("dynamodb://?create=perhaps", "create"),
    ],
)
def test_what_a_url_cannot_mean_is_refused(url: str, why: str) -> None:
    with pytest.raises(UrlError, match=why):
        DynamoTable(Url.parse(url))


@pytest.mark.parametrize(
    "error",
    [
        answered("TransactionCanceledException", reasons=("None", "ConditionalCheckFailed")),
        answered("TransactionCanceledException", reasons=("TransactionConflict", "None")),
        answered("TransactionConflictException"),
    ],
)
def test_where_others_were_faster_it_is_made_anew(error: ClientError) -> None:
    with pytest.raises(Met):
        failing(error).write([])


@pytest.mark.parametrize(
    "error",
    [
        answered("ProvisionedThroughputExceededException"),
        answered("TransactionCanceledException", reasons=("ThrottlingError", "TransactionConflict")),
        answered("SomethingNew", status=503),
        answered("ResourceNotFoundException"),
        ReadTimeoutError(endpoint_url="http://x"),
    ],
)
def test_what_passes_by_itself_is_unavailable(error: Exception) -> None:
    with pytest.raises(StoreUnavailable):
        failing(error).write([])


@pytest.mark.parametrize(
    "error",
    [
        answered("AccessDeniedException"),
        answered("ValidationException"),
        answered("TransactionCanceledException", reasons=("ValidationError", "ConditionalCheckFailed")),
    ],
)
def test_what_stays_is_refused(error: ClientError) -> None:
    with pytest.raises(StoreError) as refusal:
        failing(error).write([])
    assert not isinstance(refusal.value, StoreUnavailable)


def test_before_open_and_after_close_it_is_unavailable() -> None:
    table = DynamoTable(Url.parse(URL))
    with pytest.raises(StoreUnavailable, match=r"call open\(\) first") as refusal:
        table.get([(b"p", b"-")])
    assert "secret" not in str(refusal.value)
