"""What works on a PostgreSQL but deserves a thought, for whoever keeps tables in it (`dray doctor`)."""

from __future__ import annotations

from .postgres_connection import PostgresServer

#: Seconds after which a transaction that is still open deserves a word.
LONG_TRANSACTION = 600

# Name and setting; and the oldest transaction that keeps dead rows from being vacuumed.
SETTINGS = """
    SELECT name, setting FROM pg_settings
    WHERE name IN ('fsync', 'synchronous_commit', 'autovacuum', 'default_transaction_isolation')"""
OLDEST_TRANSACTION = """
    SELECT coalesce(max(date_part('epoch', clock_timestamp() - xact_start)), 0)::float8 FROM pg_stat_activity
    WHERE datname = current_database() AND backend_xmin IS NOT NULL"""


def advice(server: PostgresServer) -> list[str]:
    """Return a sentence for each thing that deserves a thought."""
    said = []
    settings: dict[str, str] = dict(server.rows(SETTINGS, {}))
    if settings.get("fsync") == "off":
        said.append("fsync is off: a crash of the host can destroy the whole database")
    if settings.get("synchronous_commit") == "off":
        said.append("synchronous_commit is off: a crash of the server can take back what it confirmed last")
    if settings.get("autovacuum") == "off":
        said.append("autovacuum is off: everything gets slower with every row that was changed; turn it on")
    isolation = settings.get("default_transaction_isolation", "read committed")
    if isolation != "read committed":
        said.append(
            f"default_transaction_isolation is {isolation}: what meets on a row is undone and tried again instead of "
            "waiting; set it to read committed for this role"
        )
    ((oldest,),) = server.rows(OLDEST_TRANSACTION, {})
    if oldest > LONG_TRANSACTION:
        said.append(
            f"a transaction has been open for {oldest / 60:.0f} minutes: rows that were changed or deleted cannot be "
            "removed meanwhile, and everything gets slower; see pg_stat_activity"
        )
    return said
