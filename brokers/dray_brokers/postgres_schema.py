"""The PostgreSQL schema: which versions of dray's tables are there, and how to make or upgrade them.

The broker, the result backend and the store may share a schema; each has its own tables and its own version.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg
from psycopg import errors


class Part(NamedTuple):
    """The tables of one adapter: the statements that lead from each version to the next, in which {schema} stands
    for the schema. A version that was released is never changed: a further one is added."""

    name: str
    versions: tuple[tuple[str, ...], ...]


class Found(NamedTuple):
    """What is in the database: the version of a part's tables (0: none), and the schema's own name ("": no schema)."""

    version: int
    place: str


CREATE_VERSIONS = """
CREATE TABLE {schema}.version (
    part text PRIMARY KEY,                  -- 'schema', 'broker', 'backend' or 'store'
    version integer NOT NULL,               -- of that part's tables
    place text NOT NULL DEFAULT ''          -- of 'schema': a name that no other schema anywhere has
)"""
NAME_SCHEMA = """
INSERT INTO {schema}.version (part, version, place)
VALUES ('schema', 1, md5(random()::text || clock_timestamp()::text))"""
FIND = """
SELECT coalesce((SELECT version FROM {schema}.version WHERE part = %(part)s), 0), place
FROM {schema}.version WHERE part = 'schema'"""
SAVE = """
INSERT INTO {schema}.version (part, version) VALUES (%(part)s, %(version)s)
ON CONFLICT (part) DO UPDATE SET version = excluded.version"""
SCHEMA_EXISTS = "SELECT to_regnamespace(%(schema)s) IS NOT NULL"
VERSIONS_EXIST = "SELECT to_regclass(%(schema)s::text || '.version') IS NOT NULL"
# Held until the end of the transaction, so that of several processes that start together one makes the tables and the
# others find them.
ALONE = "SELECT pg_advisory_xact_lock(hashtextextended('dray ' || %(schema)s::text, 0))"


def quoted(name: str) -> str:
    """Return a schema name as it is written in SQL, whatever it contains."""
    return '"' + name.replace('"', '""') + '"'


def filled(sql: str, schema: str) -> str:
    """Return a statement for psycopg, with the quoted `schema` put in."""
    return sql.replace("{schema}", schema.replace("%", "%%"))


def found(connection: psycopg.Connection[Any], schema: str, part: Part) -> Found:
    """Return what is there of `part`. Needs no right but to read."""
    try:
        row = connection.execute(filled(FIND, schema), {"part": part.name}).fetchone()
    except (errors.UndefinedTable, errors.InvalidSchemaName):
        row = None
    return Found(*row) if row else Found(0, "")


def upgrade(connection: psycopg.Connection[Any], schema: str, part: Part) -> list[str]:
    """Make what is missing of `part`, all or nothing, and return a sentence for each thing made.

    Other processes that do the same wait for it. Those that have the tables open already are not disturbed by versions
    that only add.
    """

    def run(sql: str, **parameters: object) -> psycopg.Cursor[Any]:
        return connection.execute(filled(sql, schema), parameters)

    def says(question: str) -> bool:
        row = run(question, schema=schema).fetchone()
        return row is not None and bool(row[0])

    done = []
    with connection.transaction():
        # Or what others have made while we waited for the lock would not be seen.
        run("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        run(ALONE, schema=schema)
        # Not IF NOT EXISTS: that takes the right to create schemas even where there is nothing to create.
        if not says(SCHEMA_EXISTS):
            run("CREATE SCHEMA {schema}")
            done.append(f"created the schema {schema}")
        if not says(VERSIONS_EXIST):
            run(CREATE_VERSIONS)
            run(NAME_SCHEMA)
        version = found(connection, schema, part).version
        for number, statements in enumerate(part.versions[version:], version + 1):
            for statement in statements:
                run(statement)
            run(SAVE, part=part.name, version=number)
            what = "created" if number == 1 else "upgraded"
            done.append(f"{what} the tables of the {part.name}, version {number}")
    return done
