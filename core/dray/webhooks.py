"""Webhooks: what `@app.task(webhook=...)` means, and the task `dray.webhook` that calls a URL.

A call is a message like any callback: it is sent before the run that led to it is acked, under an id that follows from
that run's, so that a crash loses none; and its retries, pauses and dead letters are the engine's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from . import __version__, followups
from .errors import Reject, SoftTimeLimitExceeded
from .message import Message
from .outcome import Done, Failed, Outcome, Rejected
from .report import Failure
from .webhook_options import Refused, place, secrets

if TYPE_CHECKING:
    from .app import Dray
    from .task import Task
    from .webhook_post import Answer

#: The name of the task that calls URLs.
TASK = "dray.webhook"
#: Most bytes of a body; a result that would make it larger is left out.
LONGEST = 128 * 1024
#: Seconds for a whole call, however slowly the other side answers.
LIMIT = 60.0
#: The status of what is gone for good.
_GONE = 410


class WebhookFailed(Exception):
    """A URL could not be called, or has not answered with success."""


def register(app: Dray) -> Task[..., Any]:
    """Return the task that calls URLs, registered with an app."""
    known = app.tasks.get(TASK)
    if known is not None:
        return known
    pauses = app.conf.webhook_retries
    made: Task[..., Any] = app.task(
        bind=True,
        name=TASK,
        ignore_result=True,
        dead_letter=True,
        max_retries=len(pauses),
        retry_backoff=list(pauses) or False,
        soft_time_limit=LIMIT,
        sensitive=("url", "body"),
    )(deliver)
    return made


def wanted(app: Dray) -> bool:
    """Tell whether any task of an app has a webhook."""
    return any({**task.options, **app.annotations(name)}.get("webhook") for name, task in app.tasks.items())


# When a task has ended


def calls(app: Dray, message: Message, outcome: Outcome) -> tuple[Message, ...]:
    """Return the messages that call the webhooks of a task which has come to something for good."""
    task = app.tasks.get(message.task)
    on = "success" if isinstance(outcome, Done) else "failure"
    hooks = () if task is None else [(n, hook) for n, hook in enumerate(task.resolved.webhooks) if on in hook.on]
    if not hooks:
        return ()
    body, call = told(app, message, outcome), register(app)
    return tuple(
        followups.callback(app, message, call.si(hook.url, body, hook.timeout).to_step(app), f"{message.id}-w{n}")
        for n, hook in hooks
    )


def told(app: Dray, message: Message, outcome: Outcome) -> str:
    """Return the body of a webhook: JSON, as text."""
    now = app.clock.time()
    facts: dict[str, Any] = {
        "type": "task.succeeded" if isinstance(outcome, Done) else "task.failed",
        "timestamp": iso(now),
        "task_id": message.id,
        "task": message.task,
        "status": "success" if isinstance(outcome, Done) else "failed",
        "queue": message.queue,
        "retries": message.retries,
        "sent": iso(message.created),
        "ended": iso(now),
    }
    match outcome:
        case Done(value):
            try:
                body = written({**facts, "result": value})
            except (TypeError, ValueError, RecursionError) as error:
                return written({**facts, "result_left_out": f"JSON does not know it: {error}"})
            return body if len(body) <= LONGEST else written({**facts, "result_left_out": f"{len(body)} bytes"})
        case Failed(error):
            failure = Failure.of(error)
            facts.update(error=failure.text[:LONGEST], exception=f"{failure.module}.{failure.qualname}")
        case Rejected(reason):
            facts.update(error=reason[:LONGEST], exception=None)
    return written(facts)


def written(facts: Mapping[str, Any]) -> str:
    """Return JSON; what JSON does not know is written as `str` shows it."""
    return msgspec.json.encode(facts, enc_hook=str).decode()


def iso(instant: float) -> str:
    """Return an instant as text."""
    return datetime.fromtimestamp(instant, UTC).isoformat().replace("+00:00", "Z")


# The task


def deliver(task: Task[..., Any], url: str, body: str, timeout: float | None = None) -> int:
    """Call a URL; return the status that it answered with. Tried again as `webhook_retries` says."""
    from http.client import HTTPException  # with TLS it takes longer to load than all of dray

    from .webhook_post import post

    app, request = task.app, task.request
    content, conf = body.encode(), app.conf
    headers = {
        "content-type": "application/json",
        "user-agent": f"dray-webhook/{__version__}",
        "webhook-id": request.id,
        "webhook-timestamp": str(int(app.clock.time())),
    }
    if keys := secrets(conf):
        from .webhook_signatures import sign  # only an app whose webhooks are signed loads it

        headers["webhook-signature"] = sign(keys, request.id, int(headers["webhook-timestamp"]), content)
    try:
        answer = post(url, content, headers, timeout or conf.webhook_timeout, conf.webhook_allow_private)
    except Refused as error:
        raise Reject(f"not called: {error}") from None
    except (OSError, HTTPException, SoftTimeLimitExceeded) as error:
        raise task.retry(exc=WebhookFailed(f"{place(url)}: {type(error).__name__}: {error}")) from None
    if 200 <= answer.status < 300:
        return answer.status
    if answer.status == _GONE:
        raise Reject(f"{place(url)} answered 410: it wants no more of these")
    raise task.retry(exc=WebhookFailed(f"{place(url)} {_words(answer)}"), countdown=answer.retry_after)


def _words(answer: Answer) -> str:
    if 300 <= answer.status < 400:
        return f"answered {answer.status}: redirections are not followed"
    return f"answered {answer.status}: {answer.text}"
