"""Find the driver's own connection in whatever the caller's transaction is held by: a session, a wrapper, a cursor.

Nothing is imported for it: what an object is, is read off what it has.
"""

from __future__ import annotations

import inspect
from typing import Any

from .errors import NotSupported

#: Deepest nesting that is unwrapped: an asyncio session holds a session holds a connection holds the driver's.
DEEPEST = 6


def driver_connection(connection: object) -> Any:
    """Return the connection of the database driver on which `connection` stands, in its running transaction.

    Takes connections of drivers (psycopg, sqlite3) and their cursors; SQLAlchemy's sessions, scoped sessions and
    connections; Django's `django.db.connection`. Anything else is returned as it is, for the broker to judge.

    A transaction is begun where the wrapper would have begun one for its own first statement, so that its `commit()`
    covers what is sent. Raises `NotSupported` for connections of asyncio drivers: sending is a blocking call.
    """
    found: Any = connection
    for _ in range(DEEPEST):
        inner = _inside(found)
        if inner is found:
            break
        found = inner
    if _is_asynchronous(found):
        kind = type(found)
        raise NotSupported(
            f"connection= is of an asyncio driver ({kind.__module__}.{kind.__qualname__}), which a blocking send "
            "cannot use: send within a transaction of a synchronous connection or session to the same database"
        )
    return found


def _inside(holder: Any) -> Any:
    """Return what `holder` holds, one layer down; `holder` itself when that is the last."""
    # SQLAlchemy's asyncio session and connection stand before synchronous ones.
    for name in ("sync_session", "sync_connection"):
        if (synchronous := getattr(holder, name, None)) is not None:
            return synchronous
    # Django's wrapper connects when it is first used.
    if callable(connect := getattr(holder, "ensure_connection", None)):
        connect()
    held = getattr(holder, "connection", None)
    if held is None:
        return holder
    # A session: asking it for its connection begins its transaction. (`callable` would be no test: SQLite's own
    # connection, which a cursor holds, is callable.)
    if inspect.isroutine(held):
        return held()
    begun = getattr(holder, "in_transaction", None)
    if callable(begun) and not begun():
        # A connection of SQLAlchemy's, which would otherwise not know that there is something to commit.
        holder.begin()
    # The connection of a pool stands before the driver's.
    return getattr(held, "driver_connection", None) or held


def _is_asynchronous(connection: Any) -> bool:
    return any(inspect.iscoroutinefunction(getattr(connection, verb, None)) for verb in ("execute", "commit", "close"))
