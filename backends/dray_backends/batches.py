"""What a batch of records comes to before it is written to a database, and how it is cut for its statements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dray import Record


def last_words(records: Iterable[Record]) -> list[Record]:
    """Return one record for each id: what the rule of the first final writer makes of several in one batch.

    One statement cannot write a row twice. In one order, so that two who store the same ids do not wait for each other.
    """
    kept: dict[str, Record] = {}
    for record in records:
        before = kept.get(record.id)
        if before is None or not before.final or (record.final and record.rank >= before.rank):
            kept[record.id] = record
    return [kept[id] for id in sorted(kept)]


def cut(records: Sequence[Record], most: int, most_bytes: int) -> Iterator[list[Record]]:
    """Cut records into what one statement takes: `most`, with bodies of `most_bytes`, unless one alone has more."""
    batch: list[Record] = []
    size = 0
    for record in records:
        if batch and (len(batch) == most or size + len(record.body) > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += len(record.body)
    if batch:
        yield batch
