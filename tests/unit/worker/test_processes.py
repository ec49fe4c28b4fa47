"""The pool of processes: what runs in children, what ends them, and what becomes of everybody else then."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dray import (
    ConfigurationError,
    Dray,
    SoftTimeLimitExceeded,
    TaskFailed,
    TaskRevoked,
    TimeLimitExceeded,
    WorkerLost,
)
from dray.clock import SYSTEM_CLOCK
from dray.processes.birth import place_of
from dray.testing import memory_app
from dray.testing.faults import wait_until

from .pool_shop import Shop, is_there, shops, value

TEMPLATE = Path(__file__).with_name("process_tasks.py")


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Shop]]:
    """`make(**settings)`: a shop."""
    with shops(TEMPLATE, "processes", tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def shop(make: Callable[..., Shop]) -> Shop:
    return make()


# What runs


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_tasks_run_in_another_process_however_that_begins(make: Callable[..., Shop], method: str) -> None:
    shop = make(worker_start_method=method)
    with shop.worker(concurrency=1):
        child = shop.got("pid")
        assert child != os.getpid()
        assert shop.got("apid") == child
        assert shop.got("add", 1, 2) == 3
        assert shop.got("third_time") == child
        assert shop.got("url") == shop.app.conf.broker_url
    assert not is_there(child)


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_a_program_that_is_its_own_module_works_too(tmp_path: Path, method: str) -> None:
    """`python shop.py`, with the app in it: tasks have the same names wherever it is imported."""
    program = tmp_path / "alone.py"
    program.write_text(
        "from dray import Dray\n"
        f"app = Dray('alone', broker='sqlite:///{tmp_path}/q.db', set_as_current=False)\n"
        f"app.conf.worker_start_method = '{method}'\n"
        "@app.task\n"
        "def add(a, b): return a + b\n"
        "if __name__ == '__main__':\n"
        "    with app.worker(pool='processes', concurrency=1):\n"
        "        print(add.name, add.delay(1, 2).get(timeout=20))\n"
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "alone.add 3\n", done.stderr


def test_so_many_children_run_at_the_same_time(shop: Shop) -> None:
    with shop.worker(concurrency=3):
        results = [shop.held.delay() for _ in range(3)]
        assert len({shop.process_of(result.id) for result in results}) == 3
        shop.let_go()
        assert len({value(result) for result in results}) == 3


def test_many_short_tasks_are_all_run_once(shop: Shop) -> None:
    with shop.worker(concurrency=2):
        results = [shop.add.delay(n, 1) for n in range(300)]
        assert [value(result) for result in results] == list(range(1, 301))


def test_an_exception_that_cannot_be_pickled_comes_back(shop: Shop) -> None:
    with shop.worker():
        error = shop.got("fail")
    assert (type(error), str(error)) == (shop.NeedsTwo, "1 and a lock")
    assert "raise NeedsTwo(1, None)" in error.__notes__[0]


def test_large_arguments_and_results_pass(shop: Shop) -> None:
    with shop.worker():
        assert shop.got("length", "z" * 3_000_000) == 3_000_000
        assert len(shop.got("huge", 5_000_000)) == 5_000_000


def test_a_task_reports_its_progress_while_it_runs(shop: Shop) -> None:
    with shop.worker():
        result = shop.progress.delay()
        wait_until(lambda: result.state == "HALF")
        assert result.info["done"] == 0.5
        (shop.folder / "go-on").touch()
        value(result)
        assert result.state == "SUCCESS"


def test_a_task_sends_another_one(shop: Shop) -> None:
    with shop.worker():
        result = shop.send.delay()
        assert value(shop.app.AsyncResult(value(result))) == 42
        assert [sent.id for sent in result.children] == [value(result)]


# What ends a child, and what becomes of its task


@pytest.mark.parametrize("how", ["exit", "SIGSEGV", "SIGKILL"])
def test_a_task_that_kills_its_process_is_buried_and_no_other_is_charged(shop: Shop, how: str) -> None:
    with shop.worker(concurrency=1) as worker:
        killer = shop.die.delay(how)
        others = [shop.add.delay(n, 0) for n in range(20)]
        assert [value(other) for other in others] == list(range(20))
        wait_until(lambda: killer.ready())
        assert worker.concurrency == 1
    assert shop.ledger().count(killer.id) == 3
    (letter,) = shop.app.broker.dead("default", 10)
    said = {"exit": "exited with code 3"}.get(how, f"({how})")
    assert letter.id == killer.id and "worker died" in letter.reason and said in letter.reason


def test_a_task_that_must_not_run_again_has_failed_when_its_process_died(shop: Shop) -> None:
    shop.app.conf.update(task_reject_on_worker_lost=False)
    with shop.worker():
        assert isinstance(shop.got("die", "SIGSEGV"), WorkerLost)
    assert len([line for line in shop.ledger() if not line.startswith("closed-")]) == 1


def test_sys_exit_is_a_failure_of_the_task_alone(shop: Shop) -> None:
    with shop.worker():
        before = shop.got("pid")
        assert isinstance(shop.got("die", "system-exit"), TaskFailed | SystemExit)
        assert shop.got("exits_on_the_loop") == "still here, True"
        assert shop.got("pid") == before


def test_a_child_that_is_killed_is_replaced_and_its_sibling_goes_on(shop: Shop) -> None:
    with shop.worker(concurrency=2):
        results = [shop.held.delay() for _ in range(2)]
        victim, _ = (shop.process_of(result.id) for result in results)
        os.kill(victim, signal.SIGKILL)
        shop.let_go()
        first, second = (value(result) for result in results)
        assert victim not in (first, second)
    assert shop.ledger().count(results[0].id) == 2
    assert shop.ledger().count(results[1].id) == 1


def test_what_a_dead_child_had_not_begun_is_not_charged(shop: Shop) -> None:
    with shop.worker(concurrency=1):
        # Short ones first: then the child is handed several at a time.
        assert [value(shop.add.delay(n, 1)) for n in range(50)]
        killer = shop.die.delay("SIGKILL")
        others = [shop.counted.delay() for _ in range(30)]
        assert [value(other) for other in others] == [1] * 30
        assert isinstance(value(killer), Exception)
    assert shop.app.broker.sizes(["default"])["default"]["dead"] == 1


# Limits


def test_a_hard_limit_ends_one_child_and_no_other(shop: Shop) -> None:
    with shop.worker(concurrency=2):
        other = shop.sleep.delay(1.5)
        shop.wait_for(other.id)
        error = shop.got("too_long")
        assert isinstance(error, TimeLimitExceeded) and "0.5 s" in str(error)
        assert value(other) in children_of_the_pool()
    assert shop.ledger().count("too-long") == 1


def test_a_hard_limit_holds_for_a_task_that_keeps_the_interpreter_lock(shop: Shop) -> None:
    with shop.worker():
        assert isinstance(shop.got("too_long_in_c"), TimeLimitExceeded)
        assert shop.got("add", 1, 1) == 2


def test_a_soft_limit_is_raised_inside_of_a_blocking_call(shop: Shop) -> None:
    with shop.worker():
        child = shop.got("pid")
        assert shop.got("softly").startswith("cleaned up: SoftTimeLimitExceeded(")
        assert shop.got("asoftly") == "cleaned up"
        assert shop.got("pid") == child


def test_a_hard_limit_takes_along_what_the_task_has_started(shop: Shop) -> None:
    with shop.worker():
        # Enough to start the program on a busy machine.
        result = shop.with_a_program.apply_async(time_limit=2.0)
        assert isinstance(value(result), TimeLimitExceeded)
        program = int(shop.ledger()[0].partition("-")[2])
        wait_until(lambda: not is_there(program))


# Cancellation


def test_orders_that_find_the_pipe_full_are_given_when_there_is_room_again(shop: Shop) -> None:
    with shop.worker(concurrency=1) as worker:
        child = shop.got("pid")
        result = shop.sleep.apply_async((30,), soft_time_limit=25)
        shop.wait_for(f"{result.id}@{child}")
        (job,) = worker._jobs.values()
        executor = worker._crew._executors[job.kind]
        os.kill(child, signal.SIGSTOP)
        try:
            for _ in range(20_000):
                executor.cancel(job)
            executor.interrupt(job, SoftTimeLimitExceeded)
            (each,) = executor._at_work._children
            wait_until(lambda: each.orders.blocked and not executor._at_work._wishes)
        finally:
            os.kill(child, signal.SIGCONT)
        assert isinstance(value(result), TaskRevoked)


def test_a_revoked_task_sees_it(shop: Shop) -> None:
    with shop.worker():
        result = shop.until_cancelled.delay()
        shop.wait_for(result.id)
        shop.app.revoke(result.id)
        assert isinstance(value(result), TaskRevoked)
        assert "cancelled" in shop.ledger()


def test_a_revoked_coroutine_is_cancelled(shop: Shop) -> None:
    with shop.worker():
        child = shop.got("pid")
        result = shop.asleep.delay()
        shop.wait_for(result.id)
        shop.app.revoke(result.id)
        assert isinstance(value(result), TaskRevoked)
        assert "cleaned-up" in shop.ledger()
        assert shop.got("pid") == child


@pytest.mark.parametrize("task", ["terminable", "asleep"])
def test_a_terminated_task_cleans_up_and_its_process_lives(shop: Shop, task: str) -> None:
    with shop.worker():
        child = shop.got("pid")
        result = getattr(shop, task).delay()
        shop.wait_for(result.id)
        shop.app.revoke(result.id, terminate=True)
        error = value(result)
        assert isinstance(error, TaskRevoked) and "SIGTERM" in str(error)
        assert "cleaned-up" in shop.ledger()
        assert shop.got("pid") == child


def test_terminating_with_sigkill_ends_the_process(shop: Shop) -> None:
    with shop.worker():
        child = shop.got("pid")
        result = shop.terminable.delay()
        shop.wait_for(result.id)
        shop.app.revoke(result.id, terminate=True, signal="SIGKILL")
        error = value(result)
        assert isinstance(error, TaskRevoked) and "SIGKILL" in str(error)
        assert "cleaned-up" not in shop.ledger()
        assert shop.got("pid") != child


def test_a_task_with_a_handler_of_its_own_hears_the_signal(shop: Shop) -> None:
    with shop.worker():
        result = shop.knows_sigusr2.delay()
        shop.wait_for(result.id)
        shop.app.revoke(result.id, terminate=True, signal="SIGUSR2")
        assert isinstance(value(result), TaskRevoked)
        assert "told" in shop.ledger()


def test_a_task_that_heeds_nothing_is_killed_all_the_same(shop: Shop) -> None:
    with shop.worker():
        result = shop.hold_the_lock.delay(20)
        shop.wait_for(result.id)
        shop.app.revoke(result.id, terminate=True)
        assert isinstance(value(result), TaskRevoked)
        assert shop.got("add", 1, 1) == 2


# Giving back, resizing, replacing


def test_drain_takes_back_what_children_have_not_begun(shop: Shop) -> None:
    with shop.worker(concurrency=1) as worker:
        running = shop.held.delay()
        shop.wait_for(running.id)
        for _ in range(5):
            shop.add.delay(1, 1)
        wait_until(lambda: len(worker.jobs()) > 1 or shop.app.broker.sizes(["default"])["default"]["ready"])
        worker.pause()
        wait_until(lambda: len(worker.jobs()) == 1)
        assert shop.app.broker.sizes(["default"])["default"]["ready"] == 5
        worker.resume()
        shop.let_go()
        assert isinstance(value(running), int)


def test_short_tasks_do_not_wait_behind_a_long_one(shop: Shop) -> None:
    with shop.worker(concurrency=2):
        for n in range(50):
            shop.add.delay(n, 1)
        assert shop.got("add", 1, 1) == 2
        # Sent with others that are short: it is handed to a child among them.
        long = shop.held.delay()
        others = [shop.add.delay(n, 1) for n in range(50)]
        assert [value(other) for other in others] == list(range(1, 51))
        assert not long.ready()
        shop.let_go()


def test_a_task_that_keeps_the_interpreter_lock_for_three_leases_runs_once(shop: Shop) -> None:
    with shop.worker(lease=1.0):
        result = shop.hold_the_lock.delay(3)
        assert value(result) == "held"
    assert shop.ledger().count(result.id) == 1


def test_the_pool_is_resized_while_it_runs(shop: Shop) -> None:
    with shop.worker(concurrency=1) as worker:
        worker.resize(3)
        wait_until(lambda: len(children_of_the_pool()) == 3)

        def each_has_one() -> bool:
            results = [shop.sleep.delay(0.5) for _ in range(3)]
            return len({value(result) for result in results}) == 3

        wait_until(each_has_one, timeout=60)  # those that are there are not all ready to work yet
        worker.resize(1)
        wait_until(lambda: len(children_of_the_pool()) == 1)
        assert shop.got("add", 1, 1) == 2


def test_a_child_is_replaced_after_so_many_tasks(make: Callable[..., Shop]) -> None:
    shop = make(worker_max_tasks_per_child=2)
    with shop.worker():
        pids = [shop.got("pid") for _ in range(6)]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [2, 2, 2]
    assert {f"closed-{pid}" for pid in pids} <= set(shop.ledger())


def test_a_child_that_has_grown_is_replaced_when_its_task_has_ended(make: Callable[..., Shop]) -> None:
    shop = make(worker_max_memory_per_child=256 * 2**20)
    with shop.worker():
        small = shop.got("pid")
        assert shop.got("grow", 10) == small
        assert shop.got("grow", 300) == small
        assert shop.got("pid") != small
    assert f"closed-{small}" in shop.ledger()


# Where databases are opened and closed


def test_functions_for_the_life_of_a_process_are_called_in_it(shop: Shop) -> None:
    with shop.worker():
        pid, opened = shop.got("what_was_opened")
        assert opened == [pid]
        assert f"closed-{pid}" not in shop.ledger()
    assert shop.ledger() == [f"closed-{pid}"]


def test_a_process_that_cannot_get_ready_is_an_error_of_the_worker(shop: Shop) -> None:
    (shop.folder / "nothing-to-open").touch()
    with pytest.raises(ConfigurationError, match="the database is not there"):
        shop.worker().start()
    assert children_of_the_pool() == []


# What the pool cannot do


def test_an_app_that_no_other_process_finds_is_refused(tmp_path: Path) -> None:
    app = Dray("lonely", broker=f"sqlite:///{tmp_path}/q.db", set_as_current=False)
    with app, pytest.raises(ConfigurationError, match="attribute of no module"):
        app.worker(pool="processes").start()


def test_a_broker_that_other_processes_do_not_see_is_refused() -> None:
    with memory_app(SYSTEM_CLOCK) as app, pytest.raises(ConfigurationError, match="other processes"):
        app.worker(pool="processes").start()


def test_an_app_is_found_by_the_module_it_is_in(shop: Shop) -> None:
    assert place_of(shop.app) == f"{shop.module.__name__}:app"


# What tasks should not do


def test_a_task_that_closes_the_files_of_its_process_ends(shop: Shop) -> None:
    with shop.worker():
        assert shop.got("close_everything") == "closed"
        assert shop.got("add", 1, 1) == 2


def test_a_task_that_cuts_its_process_off_is_charged_with_it(shop: Shop) -> None:
    with shop.worker():
        result = shop.close_really_everything.delay()
        assert isinstance(value(result), Exception)
        assert shop.ledger().count(result.id) == 3
        assert shop.got("add", 1, 1) == 2


def test_a_task_that_forks_leaves_one_worker(shop: Shop) -> None:
    with shop.worker():
        child = shop.got("fork_and_return")
        assert shop.got("pid") == child
        assert shop.got("add", 1, 1) == 2


def test_a_dead_child_is_noticed_though_a_fork_of_it_lives_on(shop: Shop) -> None:
    with shop.worker():
        assert isinstance(shop.got("leave_a_fork_behind"), Exception)
        assert shop.got("add", 1, 1) == 2
    for line in shop.ledger():
        if line.startswith("fork-"):
            os.kill(int(line.removeprefix("fork-")), signal.SIGKILL)


def test_a_program_that_a_task_starts_can_be_terminated(shop: Shop) -> None:
    with shop.worker():
        assert shop.got("terminates_a_program") == -signal.SIGTERM


def test_a_thread_that_never_ends_does_not_keep_the_worker(make: Callable[..., Shop]) -> None:
    shop = make(worker_max_tasks_per_child=1)
    with shop.worker():
        first = shop.got("start_a_thread")
        assert shop.got("pid") != first
        wait_until(lambda: not is_there(first))


def test_a_task_that_changes_signal_handlers_harms_itself_at_most(shop: Shop) -> None:
    with shop.worker():
        child = shop.got("change_signal_handlers")
        assert shop.got("softly").startswith("cleaned up")
        assert isinstance(shop.got("too_long"), TimeLimitExceeded)
        assert shop.got("pid") != child


def test_an_alarm_that_a_task_left_behind_ends_its_process_at_most(shop: Shop) -> None:
    with shop.worker():
        child = shop.got("leave_an_alarm_behind")
        wait_until(lambda: not is_there(child))
        assert shop.got("add", 1, 1) == 2


# For people


def test_stacks_show_where_tasks_are(shop: Shop) -> None:
    with shop.worker(concurrency=2) as worker:
        results = [shop.sleep.delay(30), shop.asleep.delay()]
        for result in results:
            shop.wait_for(result.id)

        def shown() -> bool:
            # A task says that it is there some moments before it sleeps; the next look finds it there.
            stacks = "".join(worker.stacks())
            assert all(result.id in stacks for result in results)
            return "time.sleep(seconds)" in stacks and "await asyncio.sleep(30)" in stacks

        wait_until(shown)
        for result in results:
            shop.app.revoke(result.id, terminate=True)


def children_of_the_pool() -> list[int]:
    """Return the processes that run tasks for a worker of this one."""
    return [process.pid for process in multiprocessing.active_children() if process.pid is not None]
