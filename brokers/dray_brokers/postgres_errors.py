"""Say PostgreSQL's errors in words, and tell those that pass by themselves from those that stay."""

from __future__ import annotations

import psycopg
from psycopg import errors

#: The server undid the statement to let another one through; the same statement again can succeed.
ROLLED_BACK = (errors.SerializationFailure, errors.DeadlockDetected)

#: How it says which character it is that no encoding has for it.
NUL = ": 0x00"

#: SQLSTATEs, or their first two characters, of what passes by itself, and what to tell people.
PASSING = {
    "08": "has lost the connection",
    "40": "was too busy with transactions that met on the same rows",
    "53": "is short of something",
    "53100": "cannot grow, disk full; free some space",
    "53300": "takes no more connections; raise max_connections, or let processes open fewer with ?pool=NUMBER",
    "55": "is not ready for this",
    "55P03": "is locked by somebody else",
    "57": "has ended the connection",
    "57014": "stopped the statement, which took too long",
    "57P03": "is starting up or shutting down",
    "58": "cannot read or write its files",
    "25006": "is read-only: a standby, or default_transaction_read_only is on",
    # Dropped while we were connected: open() makes them again, or says that it may not.
    "3F000": "has lost dray's schema while it was in use",
    "42P01": "has lost dray's tables while they were in use",
}
#: The same for what stays until a person does something.
LASTING = {
    "22": "does not take such a value",
    "22021": "has an encoding that lacks one of these characters; create the database with encoding UTF8",
    "28": "does not let this user in",
    "3D000": "has no such database",
    "42501": "does not give this role a right that it needs; grant it, or let an owner run `dray setup`",
    "54": "has a limit that this is beyond",
    "26000": "forgot a prepared statement, as poolers do; add ?prepare=no&listen=no",
    "42P05": "mixed up prepared statements, as poolers do; add ?prepare=no&listen=no",
}
#: What a refused connection says in English: libpq hands on no SQLSTATE for it. A server that speaks another language
#: is taken to be away, which is told with its own words and tried again.
LASTING_REFUSALS = {
    "password authentication failed": "does not take this user and password",
    "no password supplied": "wants a password, and the URL has none",
    "authentication failed": "does not let this user in",
    "no pg_hba.conf entry": "does not let this user in from here (pg_hba.conf)",
    "is not permitted to log in": "does not let this user in",
    "permission denied": "does not let this user in",
    "does not exist": "has no such user or database, or a file named in the URL is missing",
    "no such database": "has no such database",
    "no such user": "has no such user",
    "does not support SSL": "speaks no TLS, and sslmode demands it",
    "certificate verify failed": "has a certificate that sslrootcert does not vouch for",
    "server certificate for": "has a certificate for another name",
    "sslmode": "was asked for with TLS options that do not fit",
    "channel binding": "was asked for with TLS options that do not fit",
}


def in_words(error: psycopg.Error) -> tuple[bool, str]:
    """Return whether trying again can help, and what has happened, as the rest of a sentence about the server."""
    said = " ".join(str(error).split()) or type(error).__name__
    passing, what = _judge(error, said)
    return passing, f"{what} ({said})"


def _judge(error: psycopg.Error, said: str) -> tuple[bool, str]:
    if isinstance(error, errors.CharacterNotInRepertoire) and NUL in said:
        return False, "takes no text that contains a NUL character"
    if error.sqlstate:
        for table, passing in ((PASSING, True), (LASTING, False)):
            for code in (error.sqlstate, error.sqlstate[:2]):
                if code in table:
                    return passing, table[code]
        return False, "refused"
    if not isinstance(error, psycopg.OperationalError):
        return False, "was asked for something that psycopg refused"
    for fragment, what in LASTING_REFUSALS.items():
        if fragment in said:
            return False, what
    return True, "cannot be reached, or has gone away"
