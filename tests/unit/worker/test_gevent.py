"""The pool of greenlets: what runs side by side in one patched child, what ends there, what becomes of the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dray import ConfigurationError, Dray, TaskRevoked, TimeLimitExceeded, WorkerLost
from dray.clock import SYSTEM_CLOCK
from dray.testing import memory_app
from dray.testing.faults import wait_until

from .pool_shop import Shop, is_there, shops, value

TEMPLATE = Path(__file__).with_name("gevent_tasks.py")


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Shop]]:
    """`make(**settings)`: a shop."""
    with shops(TEMPLATE, "gevent", tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def shop(make: Callable[..., Shop]) -> Shop:
    return make()


# What runs


def test_tasks_run_in_one_process_that_was_patched_before_anything_was_imported(shop: Shop) -> None:
    with shop.worker(concurrency=10):
        child = shop.got("pid")
        assert child != os.getpid()
        assert shop.got("pid") == child
        assert shop.got("patched") == [True] * 5
        assert shop.got("url") == shop.app.conf.broker_url
    assert not is_there(child)
    assert "gevent" not in sys.modules


def test_coroutines_run_in_the_worker_as_ever(shop: Shop) -> None:
    with shop.worker(concurrency=10) as worker:
        assert worker.async_pool == "loop"
        assert shop.got("apid") == os.getpid()


def test_two_hundred_tasks_that_wait_run_at_the_same_time(shop: Shop) -> None:
    with shop.worker(concurrency=200):
        results = [shop.together.delay(0.0, 151) for _ in range(200)]
        assert max(value(result) for result in results) > 150


def test_no_more_than_so_many_run_at_the_same_time(shop: Shop) -> None:
    with shop.worker(concurrency=5):
        results = [shop.together.delay(0.05, 5) for _ in range(30)]
        assert max(value(result) for result in results) == 5


def test_many_short_tasks_are_all_run_once(shop: Shop) -> None:
    with shop.worker(concurrency=20):
        results = [shop.add.delay(n, 1) for n in range(300)]
        assert [value(result) for result in results] == list(range(1, 301))


def test_retries_failures_and_what_tasks_send_are_as_everywhere(shop: Shop) -> None:
    with shop.worker(concurrency=10):
        child = shop.got("pid")
        assert shop.got("third_time") == child
        error = shop.got("fail")
        assert isinstance(error, ValueError) and "raise ValueError" in error.__notes__[0]
        assert shop.got("send_and_wait") == 42
        first = shop.linked.apply_async(("none",), link=shop.linked.si("first"))
        wait_until(lambda: any(line.startswith("first<-") for line in shop.ledger()))
        assert value(first) == first.id


def test_large_arguments_and_results_pass(shop: Shop) -> None:
    with shop.worker(concurrency=3):
        assert shop.got("length", "z" * 3_000_000) == 3_000_000
        assert len(shop.got("huge", 5_000_000)) == 5_000_000


def test_a_task_reports_its_progress_while_it_runs(shop: Shop) -> None:
    with shop.worker(concurrency=3):
        result = shop.progress.delay()
        wait_until(lambda: result.state == "HALF")
        (shop.folder / "go-on").touch()
        value(result)
        assert result.state == "SUCCESS"


def test_no_task_sees_what_another_one_has_set(shop: Shop) -> None:
    with shop.worker(concurrency=10):
        results = [shop.whose.delay(f"m{n}") for n in range(40)]
        for n, result in enumerate(results):
            mark, id = f"m{n}", result.id
            assert value(result) == ["nothing", "nothing", id, mark, mark, id, id]


# Limits


def test_a_soft_limit_is_raised_where_a_task_waits(shop: Shop) -> None:
    with shop.worker(concurrency=10):
        child = shop.got("pid")
        other = shop.sleep.delay(1.0)
        assert shop.got("softly").startswith("cleaned up: SoftTimeLimitExceeded(")
        assert shop.got("softly_for_a_lock") == "free"
        assert value(other) == shop.got("pid") == child


def test_a_soft_limit_is_raised_in_a_task_that_computes(shop: Shop) -> None:
    with shop.worker(concurrency=10):
        child = shop.got("pid")
        assert shop.got("softly_computing") == "cleaned up"
        assert shop.got("pid") == child


def test_what_is_thrown_at_many_moments_hits_those_alone_whom_it_is_meant_for(shop: Shop) -> None:
    with shop.worker(concurrency=30):
        child = shop.got("pid")
        restless = [shop.restless.delay() for _ in range(300)]
        steady = [shop.steady.delay() for _ in range(60)]
        assert {value(result, 60) for result in steady} == {40}
        assert all(isinstance(value(result, 60), int) for result in restless)
        # No lock was left behind.
        assert shop.got("softly_for_a_lock") == "free"
        assert shop.got("pid") == child


@pytest.mark.parametrize("task", ["too_long", "computes_too_long"])
def test_a_hard_limit_ends_one_task_and_no_other(shop: Shop, task: str) -> None:
    with shop.worker(concurrency=10):
        child = shop.got("pid")
        other = shop.sleep.delay(1.5)
        shop.wait_for(other.id)
        error = shop.got(task)
        assert isinstance(error, TimeLimitExceeded) and "0.5 s" in str(error)
        assert f", in {task}\n" in error.__notes__[0]
        assert value(other) == shop.got("pid") == child
    assert shop.ledger().count("too-long") == shop.ledger().count(other.id) == 1
    assert shop.ledger().count("cleaned-up") == (task == "too_long")


@pytest.mark.parametrize("task", ["heeds_nothing", "keeps_the_interpreter"])
def test_a_task_that_does_not_end_takes_its_process_along_and_charges_nobody_else(shop: Shop, task: str) -> None:
    with shop.worker(concurrency=10):
        child = shop.got("pid")
        others = [shop.counted.delay() for _ in range(3)]
        for other in others:
            shop.wait_for(other.id)
        # Two at the same moment.
        guilty = [getattr(shop, task).delay() for _ in range(2 if task == "heeds_nothing" else 1)]
        for result in guilty:
            error = value(result)
            assert isinstance(error, TimeLimitExceeded) and "0.5 s" in str(error)
        assert shop.got("pid") != child
        wait_until(lambda: not is_there(child))
        shop.let_go()
        # Run again from the start, and not counted as delivered twice.
        assert [value(other) for other in others] == [1, 1, 1]
    assert [shop.ledger().count(result.id) for result in guilty] == [1] * len(guilty)
    assert [shop.ledger().count(other.id) for other in others] == [2, 2, 2]


def test_what_must_not_run_again_has_failed_when_its_process_was_killed(shop: Shop) -> None:
    shop.app.conf.update(task_reject_on_worker_lost=False)
    with shop.worker(concurrency=10):
        once = shop.sleep.delay(20)
        shop.wait_for(once.id)
        guilty = shop.heeds_nothing.delay()
        assert isinstance(value(guilty), TimeLimitExceeded)
        assert isinstance(value(once), WorkerLost)
    assert shop.ledger().count(once.id) == 1


# Cancellation


def test_a_revoked_task_sees_it(shop: Shop) -> None:
    with shop.worker(concurrency=3):
        result = shop.until_cancelled.delay()
        shop.wait_for(result.id)
        shop.app.revoke(result.id)
        assert isinstance(value(result), TaskRevoked)
        assert "cancelled" in shop.ledger()


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGKILL"])
def test_a_terminated_task_cleans_up_and_no_other_is_touched(shop: Shop, signal_name: str) -> None:
    with shop.worker(concurrency=3):
        other = shop.sleep.delay(1.0)
        result = shop.terminable.delay()
        shop.wait_for(result.id)
        shop.app.revoke(result.id, terminate=True, signal=signal_name)
        error = value(result)
        assert isinstance(error, TaskRevoked) and signal_name in str(error)
        assert "cleaned-up" in shop.ledger()
        assert value(other) == shop.got("pid")
    assert shop.ledger().count(other.id) == 1


# When the child dies


@pytest.mark.parametrize("how", ["exit", "SIGSEGV", "SIGKILL"])
def test_a_task_that_kills_its_process_is_buried_and_its_neighbours_are_not(shop: Shop, how: str) -> None:
    with shop.worker(concurrency=10):
        killer = shop.die.delay(how)
        others = [shop.sleep.delay(0.5) for _ in range(5)]
        assert all(isinstance(value(other, 60), int) for other in others)
        wait_until(killer.ready, timeout=30)
    assert shop.ledger().count(killer.id) == 3
    (letter,) = shop.app.broker.dead("default", 10)
    said = {"exit": "exited with code 3"}.get(how, f"({how})")
    assert letter.id == killer.id and "worker died" in letter.reason and said in letter.reason


def test_a_child_that_is_killed_is_replaced_and_what_it_ran_runs_again(shop: Shop) -> None:
    with shop.worker(concurrency=10):
        child = shop.got("pid")
        results = [shop.held.delay() for _ in range(5)]
        for result in results:
            shop.wait_for(result.id)
        os.kill(child, signal.SIGKILL)
        shop.let_go()
        pids = {value(result) for result in results}
        assert len(pids) == 1 and child not in pids
    assert [shop.ledger().count(result.id) for result in results] == [2] * 5


def test_a_child_that_is_frozen_and_begins_nothing_is_replaced(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dray.greenlets.herd.IDLE", 0.2)
    monkeypatch.setattr("dray.greenlets.herd.SICK", 0.3)
    with shop.worker(concurrency=3):
        child = shop.got("pid")
        os.kill(child, signal.SIGSTOP)
        assert shop.got("pid") != child
        assert not is_there(child)


def test_a_task_starts_a_program_and_hears_of_its_end(shop: Shop) -> None:
    with shop.worker(concurrency=3):
        assert shop.got("runs_a_program") == "said\n"


def test_sys_exit_is_a_failure_of_the_task_alone(shop: Shop) -> None:
    with shop.worker(concurrency=3):
        child = shop.got("pid")
        assert isinstance(shop.got("die", "system-exit"), BaseException)
        assert shop.got("exits_in_a_greenlet") == "still here"
        assert shop.got("pid") == child


def test_a_task_that_forks_leaves_one_worker(shop: Shop) -> None:
    with shop.worker(concurrency=3):
        child = shop.got("fork_and_return")
        assert shop.got("pid") == child


def test_a_task_that_changes_signal_handlers_harms_itself_at_most(shop: Shop) -> None:
    with shop.worker(concurrency=3):
        shop.got("change_signal_handlers")
        assert shop.got("softly_computing") == "cleaned up"
        assert isinstance(shop.got("too_long"), TimeLimitExceeded)


# Giving back, resizing, replacing


def test_drain_takes_back_what_has_not_begun_even_while_a_task_lets_no_other_run(shop: Shop) -> None:
    with shop.worker(concurrency=2) as worker:
        for n in range(50):
            shop.add.delay(n, 1)
        assert shop.got("add", 1, 1) == 2
        blocking = shop.blocks_all.delay()
        shop.wait_for(blocking.id)
        for _ in range(5):
            shop.add.delay(1, 1)
        wait_until(lambda: len(worker.jobs()) > 1)
        worker.pause()
        wait_until(lambda: len(worker.jobs()) == 1)
        assert shop.app.broker.sizes(["default"])["default"]["ready"] == 5
        assert not blocking.ready()
        worker.resume()
        shop.let_go()
        assert value(blocking) == "done"


def test_a_worker_that_stops_lets_tasks_end_for_a_while_and_gives_the_rest_back(shop: Shop) -> None:
    with shop.worker(concurrency=10, shutdown_timeout=1.5):
        child = shop.got("pid")
        short, long = shop.sleep.delay(0.5), shop.sleep.delay(30)
        shop.wait_for(short.id)
        shop.wait_for(long.id)
    assert value(short) == child
    assert not long.ready()
    assert not is_there(child)
    assert shop.ledger().count(f"{short.id}/end") == 1
    (waiting,) = shop.app.broker.peek("default", 10)
    assert (waiting.id, waiting.delivery_count) == (long.id, 0)


def test_the_pool_is_resized_while_it_runs(shop: Shop) -> None:
    with shop.worker(concurrency=1) as worker:
        assert value(shop.together.delay(0.01)) == 1
        worker.resize(8)
        results = [shop.together.delay(0.05, 8) for _ in range(16)]
        assert max(value(result) for result in results) == 8
        worker.resize(2)
        before = [shop.sleep.delay(0.3) for _ in range(6)]
        wait_until(lambda: any(result.id in shop.ledger() for result in before))
        assert worker.running <= 2
        assert {value(result) for result in before} == {shop.got("pid")}


def test_a_child_is_replaced_after_so_many_tasks_and_ends_what_it_runs(make: Callable[..., Shop]) -> None:
    shop = make(worker_max_tasks_per_child=3)
    with shop.worker(concurrency=2):
        long = shop.sleep.delay(3.0)
        shop.wait_for(long.id)
        pids = [shop.got("pid") for _ in range(5)]
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [2, 3]
        assert value(long) == pids[0]
    assert {f"closed-{pid}" for pid in pids} <= set(shop.ledger())
    assert shop.ledger().count(long.id) == 1


def test_a_child_that_has_grown_is_replaced_and_ends_what_it_runs(make: Callable[..., Shop]) -> None:
    shop = make(worker_max_memory_per_child=256 * 2**20)
    with shop.worker(concurrency=3):
        long = shop.sleep.delay(2.0)
        small = shop.got("grow", 300)
        wait_until(lambda: shop.got("pid") != small)
        assert value(long) == small
    assert f"closed-{small}" in shop.ledger()
    assert shop.ledger().count(long.id) == 1


def test_functions_for_the_life_of_a_process_are_called_in_it(shop: Shop) -> None:
    with shop.worker(concurrency=3):
        child = shop.got("pid")
        assert shop.got("what_was_opened") == [child]
    assert shop.ledger() == [f"closed-{child}"]


# What cannot be


def test_a_process_that_cannot_get_ready_is_an_error_of_the_worker(shop: Shop) -> None:
    (shop.folder / "nothing-to-open").touch()
    with pytest.raises(ConfigurationError, match="the database is not there"):
        shop.worker().start()


def test_without_gevent_there_is_one_sentence(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gevent", None)
    with pytest.raises(ConfigurationError) as raised:
        shop.worker().start()
    said = "the pool 'gevent' needs gevent, which is not installed: pip install 'dray[gevent]'"
    assert str(raised.value) == said


def test_an_app_that_no_other_process_finds_is_refused(tmp_path: Path) -> None:
    app = Dray("lonely", broker=f"sqlite:///{tmp_path}/q.db", set_as_current=False)
    with app, pytest.raises(ConfigurationError, match=r"'gevent' cannot run .* attribute of no module.*\(.*\)$"):
        app.worker(pool="gevent").start()


def test_a_broker_that_other_processes_do_not_see_is_refused() -> None:
    with memory_app(SYSTEM_CLOCK) as app, pytest.raises(ConfigurationError, match="'gevent' needs a broker that other"):
        app.worker(pool="gevent").start()


def test_a_program_that_is_its_own_module_works_too(tmp_path: Path) -> None:
    """`python shop.py`, with the app in it: it is imported once more, patched, and not as what was started."""
    program = tmp_path / "alone.py"
    program.write_text(
        "import socket\n"
        "from dray import Dray\n"
        f"app = Dray('alone', broker='sqlite:///{tmp_path}/q.db', set_as_current=False)\n"
        "PATCHED = socket.socket.__module__.startswith('gevent')\n"
        "@app.task\n"
        "def patched(): return PATCHED\n"
        "if __name__ == '__main__':\n"
        "    with app.worker(pool='gevent'):\n"
        "        print(PATCHED, patched.delay().get(timeout=20))\n"
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "False True\n", done.stderr


# For people


def test_stacks_show_where_tasks_are(shop: Shop) -> None:
    with shop.worker(concurrency=5) as worker:
        results = [shop.sleep.delay(30), shop.terminable.delay()]
        for result in results:
            shop.wait_for(result.id)

        def shown() -> bool:
            # A task says that it is there some moments before it sleeps; the next look finds it there.
            stacks = "".join(worker.stacks())
            assert all(result.id in stacks for result in results)
            return "time.sleep(seconds)" in stacks and "time.sleep(30)" in stacks

        wait_until(shown)
        for result in results:
            shop.app.revoke(result.id, terminate=True)


def test_stacks_show_who_lets_no_other_task_run(shop: Shop) -> None:
    with shop.worker(concurrency=5) as worker:
        result = shop.blocks_all.delay()
        shop.wait_for(result.id)

        def shown() -> bool:
            stacks = "".join(worker.stacks())
            return "lets no other one run" in stacks and "while time.monotonic() < end" in stacks

        wait_until(shown)
        shop.let_go()
        assert value(result) == "done"
