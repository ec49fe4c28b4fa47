"""Locks and semaphores: one at a time, for as long as it is renewed, and known by a token that only grows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence

import pytest

from dray import ConfigurationError, Dray, Hold, LockLost, LockTaken, ManualClock, Store, StoreUnavailable
from dray.testing import memory_app, wait_until


@pytest.fixture
def clock() -> ManualClock:
    tried.clear()
    return ManualClock()


@pytest.fixture
def app(clock: ManualClock) -> Iterator[Dray]:
    with memory_app(clock) as made:
        yield made


def store(app: Dray) -> Store:
    found = app.connections.records
    assert found is not None
    return found


def test_one_has_it_at_a_time_and_the_next_one_gets_a_higher_token(app: Dray) -> None:
    with app.lock("invoices") as first:
        token = first.token
        assert not app.lock("invoices").acquire(wait=0)
        with app.lock("other"):
            pass
    with app.lock("invoices") as second:
        assert second.token > token


def test_whoever_does_not_want_to_wait_is_told(app: Dray) -> None:
    taken = pytest.raises(LockTaken, match=r"the lock 'invoices' was not to be had within 0 s")
    with app.lock("invoices"), taken, app.lock("invoices", wait=0):
        pytest.fail("two have it")


def test_a_waiter_gets_it_when_it_is_released(app: Dray, clock: ManualClock) -> None:
    got = threading.Event()
    lock = app.lock("invoices")
    lock.acquire()

    def wait() -> None:
        with app.lock("invoices"):
            got.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not got.is_set()
    lock.release()

    def there() -> bool:
        clock.advance(0.1)
        return got.is_set()

    wait_until(there)
    thread.join()


def test_eight_threads_never_have_it_together(app: Dray) -> None:
    inside, most = [0], [0]
    done: list[bool] = []

    def work() -> None:
        for _ in range(25):
            lock = app.lock("counter")
            while not lock.acquire(wait=0):
                pass
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            inside[0] -= 1
            lock.release()
        done.append(True)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most[0], len(done)) == (1, 8)


def test_it_is_renewed_while_it_is_held(app: Dray, clock: ManualClock) -> None:
    lock = app.lock("invoices", ttl=30)
    with lock:
        token = lock.token
        for _ in range(10):
            before = _until(lock)
            clock.advance(15)
            wait_until(lambda before=before: _until(lock) > before)
            lock.check()
        assert not app.lock("invoices").acquire(wait=0)
        assert lock.token == token


def _until(lock: object) -> float:
    return lock._kept.until  # type: ignore[attr-defined, no-any-return]


def test_the_lock_of_a_process_that_died_is_free_when_its_time_is_over(app: Dray, clock: ManualClock) -> None:
    part = app.lock("invoices")._part
    assert store(app).hold([Hold(part, "a process that is dead by now", 30.0)])[0]
    assert not app.lock("invoices").acquire(wait=0)
    clock.advance(30)
    assert app.lock("invoices").acquire(wait=0)


def test_who_was_frozen_for_longer_than_its_time_learns_that_it_is_lost(
    app: Dray, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = app.lock("invoices", ttl=30)
    with pytest.raises(LockLost, match="was lost before its block ended"), lock:
        monkeypatch.setattr(store(app), "hold", _away)
        clock.advance(31)
        assert lock.lost
        with pytest.raises(LockLost, match="was not renewed in time"):
            lock.check()
        wait_until(lambda: tried)
        monkeypatch.undo()
        other = app.lock("invoices")
        assert other.acquire(wait=0)
        assert other.token > lock.token
    # What was released is not the lock of whoever has it now.
    assert not app.lock("invoices").acquire(wait=0)
    other.release()


def test_an_error_in_the_block_comes_first(app: Dray, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError), app.lock("invoices", ttl=30) as lock:
        monkeypatch.setattr(store(app), "hold", _away)
        clock.advance(31)
        assert lock.lost
        raise ZeroDivisionError


def test_a_store_that_is_away_for_a_moment_costs_nothing(
    app: Dray, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with app.lock("invoices", ttl=30) as lock:
        monkeypatch.setattr(store(app), "hold", _away)
        clock.advance(15)
        wait_until(lambda: tried)
        monkeypatch.undo()
        before = _until(lock)
        clock.advance(1)
        wait_until(lambda: _until(lock) > before)
        lock.check()


#: What a store that is away was asked to renew.
tried: list[Sequence[Hold]] = []


def _away(holds: Sequence[Hold]) -> Sequence[int]:
    tried.append(holds)
    raise StoreUnavailable("away")


def test_a_place_that_was_taken_although_the_answer_was_lost_is_given_back(
    app: Dray, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = store(app).hold

    def lose_the_answer(holds: Sequence[Hold]) -> Sequence[int]:
        hold(holds)
        raise StoreUnavailable("the reply got lost")

    monkeypatch.setattr(store(app), "hold", lose_the_answer)
    with pytest.raises(StoreUnavailable):
        app.lock("invoices").acquire(wait=0)
    monkeypatch.undo()
    other = app.lock("invoices")
    wait_until(lambda: other.acquire(wait=0))
    other.release()


def test_a_semaphore_has_so_many_places(app: Dray) -> None:
    held = [app.semaphore("api", 3) for _ in range(3)]
    assert all(one.acquire(wait=0) for one in held)
    assert len({one.token for one in held}) == 3
    assert not app.semaphore("api", 3).acquire(wait=0)
    held[1].release()
    with app.semaphore("api", 3, wait=0):
        pass
    for one in (held[0], held[2]):
        one.release()


def test_coroutines_use_it_with_async_with(app: Dray) -> None:
    async def run() -> list[str]:
        order: list[str] = []

        async def work(name: str) -> None:
            async with app.lock("invoices", wait=30):
                order.append(f"{name} in")
                await asyncio.sleep(0)
                order.append(f"{name} out")

        await asyncio.gather(work("a"), work("b"), work("c"))
        return order

    found = asyncio.run(run())
    assert [one[0] for one in found[::2]] == [one[0] for one in found[1::2]]
    assert len(found) == 6


def test_a_coroutine_that_is_cancelled_while_it_waits_keeps_nothing(app: Dray) -> None:
    async def run() -> None:
        first = app.lock("invoices")
        await first.aacquire()
        waiting = asyncio.create_task(app.lock("invoices").aacquire())
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await first.arelease()
        other = app.lock("invoices")
        assert await other.aacquire()
        await other.arelease()

    asyncio.run(run())


def test_what_cannot_be_is_refused_in_words(app: Dray) -> None:
    for wrong, words in (
        (lambda: app.lock(""), "called by a text that is not empty"),
        (lambda: app.lock("x", ttl=0), "ttl is a number of seconds >= 0.1; got 0"),
        (lambda: app.lock("x", wait="soon"), "wait is a number of seconds >= 0; got 'soon'"),
        (lambda: app.semaphore("x", 0), "places is a whole number >= 1; got 0"),
        (lambda: app.lock("x").release(), "the lock 'x' is not held"),
        (lambda: app.lock("x").token, "the lock 'x' is not held"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            wrong()
    with app.lock("x") as lock, pytest.raises(ConfigurationError, match="held already through this object"):
        lock.acquire()


def test_a_lock_is_not_deleted_by_whoever_does_not_own_it(app: Dray, clock: ManualClock) -> None:
    """The guide's lock on Redis: it deletes the key when it is done, whoever has it by then."""
    late, held = app.lock("task_lock:7", ttl=30), []
    late.acquire()
    app.connections.holds.stop()  # its process is frozen
    clock.advance(31)
    app.connections.__dict__.pop("holds")
    held.append(app.lock("task_lock:7"))
    assert held[0].acquire(wait=0)
    late.release()
    assert not app.lock("task_lock:7").acquire(wait=0)
    held[0].release()
