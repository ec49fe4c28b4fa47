"""The result backend port as a test suite: what an adapter must do, in sentences. Subclass it in three lines.

    class TestMyBackend(ResultBackendContract):
        def make_backend(self, tmp_path):
            return MyBackend(Url.parse(f"mine://{tmp_path}/results"))

Each class below is a section of the grade card.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from ..backend import Record, ResultBackend
from ..clock import SYSTEM_CLOCK, ManualClock
from .background import HANGS, Background

#: A time to live that no test outlives (seconds).
LONG = 300.0


def record(id: str, body: bytes = b"value", *, final: bool = True, rank: int = 0, state: str = "") -> Record:
    return Record(id=id, state=state or ("SUCCESS" if final else "STARTED"), final=final, body=body, rank=rank)


class BackendKit:
    """How a subclass describes its backend. Only `make_backend` is required."""

    #: Seconds of a short time to live, in tests that let one run out. At least the backend's own grain.
    ttl: float = 0.4

    def make_backend(self, tmp_path: Path) -> ResultBackend:
        """Return a backend, not yet opened, onto an empty place of its own; or override the fixture `backend`."""
        raise NotImplementedError("say how to make the backend: def make_backend(self, tmp_path): return ...")

    def second(self, backend: ResultBackend) -> ResultBackend:
        """Return another open connection to the same place; `backend` itself when it is not shared."""
        if not backend.shared:
            return backend
        other = type(backend)(backend.url)
        other.clock = backend.clock
        other.open()
        return other

    def pass_time(self, backend: ResultBackend, seconds: float) -> None:
        """Let `seconds` pass on the clock the backend goes by."""
        if isinstance(backend.clock, ManualClock):
            backend.clock.advance(seconds)
        else:
            SYSTEM_CLOCK.wait(threading.Event(), seconds)

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[ResultBackend]:
        """The backend under test, open."""
        backend = self.make_backend(tmp_path)
        backend.open()
        yield backend
        backend.close()

    @contextmanager
    def another(self, backend: ResultBackend) -> Iterator[ResultBackend]:
        """Give a second connection, closed at the end."""
        other = self.second(backend)
        try:
            yield other
        finally:
            if other is not backend:
                other.close()


class Keeping(BackendKit):
    """keeping"""

    def test_what_is_stored_is_fetched_as_it_was(self, backend: ResultBackend) -> None:
        stored = record("a", b"\x00bytes", final=False, rank=3, state="PROGRESS")
        backend.store([stored], LONG)
        assert backend.fetch(["a"]) == {"a": stored}

    def test_unknown_ids_are_missing(self, backend: ResultBackend) -> None:
        backend.store([record("a")], LONG)
        assert set(backend.fetch(["a", "unknown"])) == {"a"}
        assert backend.fetch(["unknown"]) == {}

    def test_nothing_asked_nothing_done(self, backend: ResultBackend) -> None:
        backend.store([], LONG)
        backend.forget([])
        assert backend.fetch([]) == {}

    def test_what_is_forgotten_is_gone(self, backend: ResultBackend) -> None:
        backend.store([record("a"), record("b")], LONG)
        backend.forget(["a", "unknown"])
        assert set(backend.fetch(["a", "b"])) == {"b"}

    def test_what_was_forgotten_can_be_stored_again(self, backend: ResultBackend) -> None:
        backend.store([record("a", b"old", rank=9)], LONG)
        backend.forget(["a"])
        backend.store([record("a", b"new", final=False)], LONG)
        assert backend.fetch(["a"])["a"].body == b"new"

    def test_fetching_twice_gives_the_same(self, backend: ResultBackend) -> None:
        backend.store([record("a")], LONG)
        assert backend.fetch(["a", "a"]) == backend.fetch(["a"])

    def test_two_thousand_records_are_stored_and_fetched_in_one_call_each(self, backend: ResultBackend) -> None:
        records = {f"r{n}": record(f"r{n}", str(n).encode()) for n in range(2000)}
        backend.store(list(records.values()), LONG)
        assert backend.fetch(list(records)) == records
        backend.forget(list(records))
        assert backend.fetch(list(records)) == {}


class Bytes(BackendKit):
    """bodies and ids"""

    @pytest.mark.parametrize("body", [b"", b"\x00", b"null", bytes(range(256))], ids=["empty", "nul", "null", "all"])
    def test_any_bytes_survive(self, backend: ResultBackend, body: bytes) -> None:
        backend.store([record("a", body)], LONG)
        assert backend.fetch(["a"])["a"].body == body

    def test_a_megabyte_survives(self, backend: ResultBackend) -> None:
        body = bytes(range(256)) * 4096
        backend.store([record("a", body)], LONG)
        assert backend.fetch(["a"])["a"].body == body

    def test_odd_ids_survive(self, backend: ResultBackend) -> None:
        odd = [
            "naïve-鍵-🛒",
            "a b\tc",
            "a:b,c;d|e",
            "../../etc",
            "%s{0}",
            "'; drop table x; --",
            "*?[a]",
            "x" * 128,
            "X" * 128,
        ]
        backend.store([record(id, id.encode()) for id in odd], LONG)
        assert {id: found.body for id, found in backend.fetch(odd).items()} == {id: id.encode() for id in odd}

    def test_states_of_ones_own_survive(self, backend: ResultBackend) -> None:
        backend.store([record("a", final=False, state="half wäy")], LONG)
        assert backend.fetch(["a"])["a"].state == "half wäy"


class Expiry(BackendKit):
    """expiry"""

    def test_a_record_is_gone_when_its_time_is_up(self, backend: ResultBackend) -> None:
        backend.store([record("a")], self.ttl)
        backend.store([record("b")], LONG)
        self.pass_time(backend, self.ttl * 1.5)
        assert set(backend.fetch(["a", "b"])) == {"b"}

    def test_without_a_time_to_live_a_record_stays(self, backend: ResultBackend) -> None:
        backend.store([record("a")], None)
        self.pass_time(backend, self.ttl * 1.5)
        assert set(backend.fetch(["a"])) == {"a"}

    def test_storing_again_begins_a_new_time_to_live(self, backend: ResultBackend) -> None:
        backend.store([record("longer", final=False), record("for-ever", final=False)], self.ttl)
        backend.store([record("longer")], LONG)
        backend.store([record("for-ever")], None)
        backend.store([record("shorter", final=False)], LONG)
        backend.store([record("shorter")], self.ttl)
        self.pass_time(backend, self.ttl * 1.5)
        assert set(backend.fetch(["longer", "for-ever", "shorter"])) == {"longer", "for-ever"}

    def test_what_has_expired_does_not_stand_in_the_way(self, backend: ResultBackend) -> None:
        backend.store([record("a", b"old", rank=9)], self.ttl)
        self.pass_time(backend, self.ttl * 1.5)
        backend.store([record("a", b"new", final=False)], LONG)
        assert backend.fetch(["a"])["a"].body == b"new"

    def test_purging_leaves_what_is_still_good(self, backend: ResultBackend) -> None:
        backend.store([record(f"old{n}") for n in range(100)], self.ttl)
        backend.store([record("good")], LONG)
        backend.store([record("for-ever")], None)
        self.pass_time(backend, self.ttl * 1.5)
        # A server that expires records by itself has nothing left to purge.
        assert backend.purge() in (0, 100)
        assert backend.purge() == 0
        assert set(backend.fetch(["old0", "good", "for-ever"])) == {"good", "for-ever"}


class FirstFinalWriter(BackendKit):
    """first final writer"""

    def test_progress_replaces_progress(self, backend: ResultBackend) -> None:
        backend.store([record("a", b"10%", final=False)], LONG)
        backend.store([record("a", b"20%", final=False)], LONG)
        assert backend.fetch(["a"])["a"].body == b"20%"

    def test_a_result_replaces_progress_of_any_rank(self, backend: ResultBackend) -> None:
        backend.store([record("a", b"20%", final=False, rank=5)], LONG)
        backend.store([record("a", b"result", rank=1)], LONG)
        assert backend.fetch(["a"])["a"].body == b"result"

    def test_progress_never_replaces_a_result(self, backend: ResultBackend) -> None:
        result = record("a", b"result", rank=1)
        backend.store([result], LONG)
        backend.store([record("a", b"20%", final=False, rank=9)], LONG)
        assert backend.fetch(["a"]) == {"a": result}

    def test_a_result_of_lower_rank_never_replaces_one_of_higher_rank(self, backend: ResultBackend) -> None:
        result = record("a", b"of the one that took over", rank=2)
        backend.store([result], LONG)
        backend.store([record("a", b"of the one that lost its lease", rank=1)], LONG)
        assert backend.fetch(["a"]) == {"a": result}

    @pytest.mark.parametrize("rank", [2, 3], ids=["equal", "higher"])
    def test_a_result_of_equal_or_higher_rank_replaces_a_result(self, backend: ResultBackend, rank: int) -> None:
        backend.store([record("a", b"first", rank=2)], LONG)
        backend.store([record("a", b"second", rank=rank, state="FAILURE")], LONG)
        found = backend.fetch(["a"])["a"]
        assert (found.body, found.state, found.rank) == (b"second", "FAILURE", rank)

    def test_ranks_are_large_numbers_too(self, backend: ResultBackend) -> None:
        backend.store([record("a", b"higher", rank=2**40 + 1)], LONG)
        backend.store([record("a", b"lower", rank=2**40)], LONG)
        assert backend.fetch(["a"])["a"].body == b"higher"

    def test_the_last_of_a_batch_wins(self, backend: ResultBackend) -> None:
        backend.store([record("a", b"first", final=False), record("b"), record("a", b"last", final=False)], LONG)
        assert backend.fetch(["a"])["a"].body == b"last"

    def test_the_rule_holds_within_a_batch(self, backend: ResultBackend) -> None:
        backend.store([record("a", b"result"), record("a", b"late progress", final=False)], LONG)
        assert backend.fetch(["a"])["a"].body == b"result"

    def test_a_refused_record_spoils_nothing_else_of_its_batch(self, backend: ResultBackend) -> None:
        backend.store([record("a", b"result")], LONG)
        backend.store([record("b", b"b"), record("a", b"late", final=False), record("c", b"c")], LONG)
        found = backend.fetch(["a", "b", "c"])
        assert {id: each.body for id, each in found.items()} == {"a": b"result", "b": b"b", "c": b"c"}

    def test_of_racing_writers_the_highest_rank_stays(self, backend: ResultBackend) -> None:
        many = [f"r{n}" for n in range(20)]

        def write(connection: ResultBackend, ranks: range) -> None:
            for rank in ranks:
                connection.store([record(id, str(rank).encode(), rank=rank) for id in many], LONG)

        with self.another(backend) as other:
            writers = [
                # The lowest ranks are written last, so that to write last is not enough.
                Background(partial(write, connection, range(highest, 0, -4)))
                for highest, connection in zip((20, 19, 18, 17), (backend, other, backend, other), strict=True)
            ]
            for writer in writers:
                writer.result()
        assert {id: found.rank for id, found in backend.fetch(many).items()} == dict.fromkeys(many, 20)


class Awaiting(BackendKit):
    """waiting"""

    def test_waiting_for_what_is_final_returns_at_once(self, backend: ResultBackend) -> None:
        result = record("a")
        backend.store([result], LONG)
        assert Background(lambda: backend.wait(["a", "b"], LONG)).result() == {"a": result}

    def test_waiting_wakes_when_a_result_is_stored(self, backend: ResultBackend) -> None:
        waiting = Background(lambda: backend.wait(["a", "b"], HANGS / 2))
        backend.store([record("b")], LONG)
        assert set(waiting.result()) == {"b"}

    def test_waiting_wakes_when_another_connection_stores_a_result(self, backend: ResultBackend) -> None:
        with self.another(backend) as other:
            waiting = Background(lambda: backend.wait(["a"], HANGS / 2))
            other.store([record("a")], LONG)
            assert set(waiting.result()) == {"a"}

    def test_progress_does_not_end_a_wait(self, backend: ResultBackend) -> None:
        backend.store([record("a", b"20%", final=False)], LONG)
        waiting = Background(lambda: backend.wait(["a"], HANGS / 2))
        backend.store([record("a", b"30%", final=False)], LONG)
        backend.store([record("a", b"result")], LONG)
        assert waiting.result()["a"].body == b"result"

    def test_a_wait_that_is_over_returns_what_there_is(self, backend: ResultBackend) -> None:
        progress = record("a", b"20%", final=False)
        backend.store([progress], LONG)
        waiting = Background(lambda: backend.wait(["a", "b"], self.ttl))
        assert waiting.result(meanwhile=lambda: self.pass_time(backend, self.ttl)) == {"a": progress}

    def test_a_wait_of_no_time_only_looks(self, backend: ResultBackend) -> None:
        assert Background(lambda: backend.wait(["a"], 0)).result() == {}

    def test_many_may_wait_for_one_result(self, backend: ResultBackend) -> None:
        waiting = [Background(lambda: backend.wait(["a"], HANGS / 2)) for _ in range(4)]
        backend.store([record("a")], LONG)
        assert [set(each.result()) for each in waiting] == [{"a"}] * 4


class BackendConnections(BackendKit):
    """connections"""

    def test_opening_twice_is_harmless(self, backend: ResultBackend) -> None:
        backend.store([record("a")], LONG)
        backend.open()
        assert set(backend.fetch(["a"])) == {"a"}

    def test_closing_twice_is_harmless(self, backend: ResultBackend) -> None:
        backend.close()
        backend.close()
        backend.open()
        backend.store([record("a")], LONG)
        assert set(backend.fetch(["a"])) == {"a"}

    def test_what_one_connection_stores_another_fetches_and_forgets(self, backend: ResultBackend) -> None:
        backend.store([record("a", b"\x00shared")], LONG)
        with self.another(backend) as other:
            assert other.fetch(["a"])["a"].body == b"\x00shared"
            other.forget(["a"])
        assert backend.fetch(["a"]) == {}

    def test_records_are_there_after_a_restart(self, backend: ResultBackend) -> None:
        if not backend.durable:
            pytest.skip("needs capability: durable")
        backend.store([record("a", b"\x00kept")], LONG)
        backend.store([record("b", b"for ever")], None)
        backend.close()
        with self.another(backend) as other:
            assert {id: each.body for id, each in other.fetch(["a", "b"]).items()} == {
                "a": b"\x00kept",
                "b": b"for ever",
            }


# pytest runs inherited tests from the last base to the first, so this line is read from right to left.
class ResultBackendContract(BackendConnections, Awaiting, FirstFinalWriter, Expiry, Bytes, Keeping):
    """All sections. A backend that passes can be used by every part of dray."""
