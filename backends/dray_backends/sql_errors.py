"""Say SQLAlchemy's errors in words, and tell those that pass by themselves from those that stay."""

from __future__ import annotations

from sqlalchemy import exc

#: SQLSTATEs of PostgreSQL, or their first two characters, that pass by themselves.
PASSING_STATES = ("08", "40", "53", "55", "57", "58", "25006")
#: Numbers of MySQL and MariaDB that stay until a person does something: access, names, rights, sizes.
LASTING_NUMBERS = {1044, 1045, 1049, 1064, 1142, 1143, 1227, 1153, 1406, 1698, 2026, 2059}
#: A deadlock, and a wait for a lock that was too long.
ROLLED_BACK_NUMBERS = {1205, 1213}
ROLLED_BACK_STATES = ("40001", "40P01")
#: What a connection refused by PostgreSQL says; no SQLSTATE comes with it.
LASTING_REFUSALS = (
    "authentication failed",
    "no password supplied",
    "does not exist",
    "pg_hba.conf",
    "permission denied",
)
#: What SQLite says when another connection writes.
SQLITE_PASSING = ("locked", "disk is full", "disk I/O")


def rolled_back(error: exc.DBAPIError) -> bool:
    """Tell whether the server undid the transaction to let another one through, so that it can be tried again."""
    number, state = _number(error), _state(error)
    return number in ROLLED_BACK_NUMBERS or state in ROLLED_BACK_STATES


def in_words(error: Exception) -> tuple[bool, str]:
    """Return whether trying again can help, and what has happened, as the rest of a sentence about the server."""
    said = " ".join(str(getattr(error, "orig", None) or error).split())
    passing = _passes(error, said)
    return passing, f"{'cannot be used now' if passing else 'refused'} ({said})"


def _passes(error: Exception, said: str) -> bool:
    if isinstance(error, exc.TimeoutError):
        return True  # no connection of the pool was free in time
    if not isinstance(error, exc.DBAPIError):
        return False
    state, number = _state(error), _number(error)
    if state:
        return state.startswith(PASSING_STATES)
    if number:
        return number not in LASTING_NUMBERS and isinstance(error, exc.OperationalError | exc.InterfaceError)
    if error.connection_invalidated:
        return True
    if not isinstance(error, exc.OperationalError):
        return False
    if type(error.orig).__module__.startswith("sqlite3"):
        return any(word in said for word in SQLITE_PASSING)
    return not any(word in said for word in LASTING_REFUSALS)


def _state(error: exc.DBAPIError) -> str:
    """Return the SQLSTATE, where the driver hands one on."""
    for name in ("sqlstate", "pgcode"):
        if state := getattr(error.orig, name, None):
            return str(state)
    return ""


def _number(error: exc.DBAPIError) -> int:
    """Return MySQL's number of the error; 0 when there is none."""
    arguments = getattr(error.orig, "args", ())
    return arguments[0] if arguments and isinstance(arguments[0], int) else 0
