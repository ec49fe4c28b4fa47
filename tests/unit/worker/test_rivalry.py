"""Whether one thread shall run the short jobs alone, judged from how much gets done."""

from __future__ import annotations

from dray.executors.rivalry import FIRST_PAUSE, LONGEST_PAUSE, Rivalry

#: Seconds from one look to the next.
STEP = 0.002


class Pool:
    """A pool of threads as `Rivalry` sees it: what one thread, and what all of them, get done and keep busy."""

    def __init__(self, *, alone: tuple[float, float], together: tuple[float, float]) -> None:
        #: Jobs a second, and processors kept busy.
        self.alone, self.together = alone, together
        self._busy, self._now, self._begun = 0.0, 100.0, 0.0
        self.rivalry = Rivalry()

    def work(self, seconds: float) -> float:
        """Work for so long; return the part of it that one thread worked alone."""
        steps = round(seconds / STEP)
        alone = 0
        for _ in range(steps):
            rate, share = self.alone if self.rivalry.alone else self.together
            alone += self.rivalry.alone
            self._now += STEP
            self._busy += share * STEP
            self._begun += rate * STEP
            self.rivalry.look(self._busy, self._now, round(self._begun))
        return alone / steps


def test_threads_that_keep_one_processor_busy_leave_the_work_to_one() -> None:
    pool = Pool(alone=(60_000, 1.0), together=(45_000, 1.0))
    assert pool.work(1.0) > 0.99


def test_threads_that_wait_for_something_outside_all_work() -> None:
    pool = Pool(alone=(8_000, 0.3), together=(30_000, 0.9 - 0.1))
    pool.work(0.1)
    assert pool.work(1.0) < 0.05


def test_threads_whose_processors_others_have_leave_the_work_to_one() -> None:
    pool = Pool(alone=(30_000, 0.5), together=(22_000, 0.5))
    pool.work(2.0)
    assert pool.work(5.0) > 0.98


def test_threads_that_use_several_processors_all_work() -> None:
    pool = Pool(alone=(5_000, 1.3), together=(9_000, 1.9))
    pool.work(0.1)
    assert pool.work(1.0) < 0.05


def test_what_has_changed_is_found_out() -> None:
    pool = Pool(alone=(30_000, 0.5), together=(22_000, 0.5))
    pool.work(5.0)
    pool.alone, pool.together = (8_000, 0.3), (30_000, 0.8)
    pool.work(LONGEST_PAUSE + 10 * STEP)
    assert pool.work(1.0) < 0.05
    pool.alone, pool.together = (60_000, 1.0), (45_000, 1.0)
    pool.work(FIRST_PAUSE)
    assert pool.work(1.0) > 0.98


def test_looks_that_follow_each_other_at_once_say_nothing_new() -> None:
    rivalry = Rivalry()
    assert not rivalry.look(0.0, 100.0, 0) or rivalry.alone
    before = rivalry.alone
    for number in range(20):
        assert rivalry.look(5.0, 100.0 + number * 1e-5, 1000) is before
