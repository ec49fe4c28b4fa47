"""When a failed task runs again: how long to wait, and when to stop trying."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from .errors import TaskOptionError

#: Longest time an exponential backoff grows to (seconds), as in Celery.
BACKOFF_MAX = 600.0


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a task's retry options come to, taken together and checked when the task is declared."""

    #: Most retries after the first run; None: no limit.
    max_retries: int | None = 3
    #: Seconds before a retry that says nothing else.
    delay: float = 180.0
    autoretry_for: tuple[type[BaseException], ...] = ()
    dont_autoretry_for: tuple[type[BaseException], ...] = ()
    #: () : no backoff. One number: that doubles each time. Several: the delays themselves, the last one repeated.
    backoff: tuple[float, ...] = ()
    backoff_max: float = BACKOFF_MAX
    #: True: the backoff is only the most it can be; the delay is drawn evenly from 0 to that ("full jitter").
    jitter: bool = True
    #: Seconds after the first sending beyond which nothing is retried, or an instant; None: no such limit.
    until: float | datetime | None = None

    def wants(self, error: BaseException) -> bool:
        """Return whether `error` is one to retry without being asked."""
        return isinstance(error, self.autoretry_for) and not isinstance(error, self.dont_autoretry_for)

    def wait(self, retries: int) -> float:
        """Return the seconds to wait before the retry that follows `retries` earlier ones, unasked."""
        if not self.backoff:
            return self.delay
        if len(self.backoff) > 1:
            return self.backoff[min(retries, len(self.backoff) - 1)]
        # The exponent is bounded so that the thousandth retry does not overflow a float.
        longest = min(self.backoff[0] * 2.0 ** min(retries, 60), self.backoff_max)
        return random.uniform(0, longest) if self.jitter else longest

    def allows(self, retries: int, max_retries: int | None, created: float, at: float) -> bool:
        """Return whether one more retry may start at the instant `at`, after `retries` earlier ones."""
        if max_retries is not None and retries >= max_retries:
            return False
        if self.until is None:
            return True
        end = self.until.timestamp() if isinstance(self.until, datetime) else created + self.until
        return at <= end


def read_policy(options: dict[str, Any], *, default_max: int | None, default_delay: float, task: str) -> RetryPolicy:
    """Build the policy from a task's retry options, in Celery's words; raise `TaskOptionError` for a bad value."""
    extra = dict(options.get("retry_kwargs") or {})
    unknown = set(extra) - {"max_retries", "countdown"}
    if unknown:
        raise TaskOptionError(
            f"{task}: retry_kwargs takes max_retries and countdown, not {', '.join(sorted(map(repr, unknown)))}"
        )
    max_retries = extra.get("max_retries", options.get("max_retries", default_max))
    if max_retries is not None and (not isinstance(max_retries, int) or max_retries < 0):
        raise TaskOptionError(f"{task}: max_retries is a whole number >= 0, or None for no limit; got {max_retries!r}")
    delay = seconds(
        extra.get("countdown", options.get("default_retry_delay", default_delay)), "default_retry_delay", task
    )
    return RetryPolicy(
        max_retries=max_retries,
        delay=delay,
        autoretry_for=_classes(options.get("autoretry_for", ()), "autoretry_for", task),
        dont_autoretry_for=_classes(options.get("dont_autoretry_for", ()), "dont_autoretry_for", task),
        backoff=_backoff(options.get("retry_backoff", False), delay if "countdown" in extra else 1.0, task),
        backoff_max=seconds(options.get("retry_backoff_max", BACKOFF_MAX), "retry_backoff_max", task),
        jitter=bool(options.get("retry_jitter", True)),
        until=_until(options.get("retry_until"), task),
    )


def seconds(value: Any, option: str, task: str) -> float:
    """Return a duration option as seconds; it may be a number or a timedelta."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise TaskOptionError(f"{task}: {option} is a number of seconds >= 0 or a timedelta; got {value!r}")
    return float(value)


def _classes(value: Any, option: str, task: str) -> tuple[type[BaseException], ...]:
    found = (value,) if isinstance(value, type) else tuple(value)
    for kind in found:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TaskOptionError(f"{task}: {option} is a tuple of exception classes; got {kind!r} in it")
    return found


def _backoff(value: Any, base: float, task: str) -> tuple[float, ...]:
    if value is False or value is None:
        return ()
    if value is True:
        return (base,)
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not value:
            raise TaskOptionError(
                f"{task}: retry_backoff is an empty list; give the delays in seconds, e.g. [10, 30, 60]"
            )
        delays = tuple(seconds(item, "retry_backoff", task) for item in value)
        return delays if len(delays) > 1 else delays * 2
    return (seconds(value, "retry_backoff", task),)


def _until(value: Any, task: str) -> float | datetime | None:
    if value is None:
        return None
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return seconds(value, "retry_until", task)
