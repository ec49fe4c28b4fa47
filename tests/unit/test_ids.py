"""Ids: UUIDs of version 7, unique, sorted by time, from a clock and a source of bits that can be given."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable

import pytest

from dray import ManualClock
from dray.ids import id_source


def zeros(bits: int) -> int:
    return 0


def ones(bits: int) -> int:
    return (1 << bits) - 1


@pytest.mark.parametrize("bits", [zeros, ones])
def test_an_id_is_a_uuid_of_version_7_with_the_time_in_front(bits: Callable[[int], int]) -> None:
    text = id_source(ManualClock(1_700_000_000.123), bits)()
    id = uuid.UUID(text)
    assert text == str(id)
    assert (id.version, id.variant) == (7, uuid.RFC_4122)
    assert id.int >> 80 == 1_700_000_000_123


def test_every_bit_is_where_it_belongs() -> None:
    assert id_source(ManualClock(0), zeros)() == "00000000-0000-7000-8000-000000000000"
    assert id_source(ManualClock(0), ones)() == "00000000-0000-7fff-8fff-ffffffffffff"
    assert id_source(ManualClock(2.0**38), zeros)() == "fa000000-0000-7000-8000-000000000000"


def test_the_same_clock_and_bits_give_the_same_ids() -> None:
    import random

    def ids() -> list[str]:
        new_id = id_source(ManualClock(), random.Random(7).getrandbits)
        return [new_id() for _ in range(5)]

    assert ids() == ids()


def test_ids_sort_by_time() -> None:
    clock = ManualClock()
    new_id = id_source(clock)
    made = []
    for _ in range(50):
        made.append(new_id())
        clock.advance(0.01)
    assert made == sorted(made)


def test_a_hundred_thousand_ids_of_one_millisecond_differ() -> None:
    new_id = id_source(ManualClock())
    assert len({new_id() for _ in range(100_000)}) == 100_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_makes_ids_of_its_own() -> None:
    new_id = id_source(ManualClock())
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, new_id().encode())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(reading, 100).decode() != new_id()
    os.close(reading)
    os.close(writing)
