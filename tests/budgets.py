"""Budgets of what a task costs: none is exceeded, and none leaves room for a cost that grows by more than a tenth."""

from __future__ import annotations

#: How much of itself a cost may grow before somebody is told.
ROOM = 1.1


def hold(each: float, budget: float, *, room: float = ROOM) -> None:
    """Fail when a task costs more than its budget; or so much less that the budget would not see it grow again."""
    assert 0 < each <= budget, f"a task costs {each:.4g}, its budget is {budget:g}: what is done for it that was not?"
    assert each >= budget / room, f"a task costs only {each:.4g} now: lower its budget of {budget:g}, so that it holds"
