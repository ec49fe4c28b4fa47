"""The states a task can be in, as strings: Celery's names, plus the ones it lacks.

A state is open vocabulary: `update_state(state="PROGRESS")` may use any name that is not one of the engine's
own. Only the engine writes a final state, and a final state is never replaced by one that is not.
"""

from __future__ import annotations

#: Neither the result backend nor the broker has heard of the id.
UNKNOWN = "UNKNOWN"
#: Accepted by the broker, not started: waiting, delayed, or in a worker's hands.
PENDING = "PENDING"
#: Running (stored only with `task_track_started`).
STARTED = "STARTED"
#: The customary name for a task that reports how far it is, with `update_state(state=PROGRESS, meta=...)`.
PROGRESS = "PROGRESS"
#: Failed, and waiting to be tried again.
RETRY = "RETRY"
#: It has put another call, or several, in its place (`replace`); what these come to is stored under its id.
REPLACED = "REPLACED"
#: Ended with a value.
SUCCESS = "SUCCESS"
#: Ended with an exception, after the last retry.
FAILURE = "FAILURE"
#: Cancelled, before or while it ran.
REVOKED = "REVOKED"
#: Not started before its `expires`.
EXPIRED = "EXPIRED"
#: Moved to the dead letters without a result: unreadable, unknown, rejected, or delivered too often.
REJECTED = "REJECTED"

#: States after which nothing more happens to this id.
FINAL_STATES = frozenset({SUCCESS, FAILURE, REVOKED, EXPIRED, REJECTED})
#: Final states in which `get()` raises.
EXCEPTION_STATES = frozenset({FAILURE, REVOKED, EXPIRED, REJECTED})
