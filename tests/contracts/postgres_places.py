"""Places on a PostgreSQL for one test each: a schema that nobody else uses, and ways to it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from dray import Url
from tests.servers.choosing import find_program
from tests.servers.ports import free_port
from tests.servers.postgres import PostgresServer
from tests.servers.process import Process, new_folder, remove_folder, replies


@contextmanager
def own_schema(server: PostgresServer) -> Iterator[str]:
    """Give the name of a schema that nobody else uses, and drop it afterwards."""
    name = f"test_{secrets.token_hex(6)}"
    yield name
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f'DROP SCHEMA IF EXISTS "{name}" CASCADE')


def url_of(server: str, schema: str, options: str = "") -> Url:
    return Url.parse(f"{server}?schema={schema}&application_name={schema}{options}")


class PgBouncer:
    """A pooler that gives each transaction another connection."""

    def __init__(self, server: PostgresServer) -> None:
        program = find_program("pgbouncer")
        if program is None:
            give_up = pytest.fail if os.environ.get("DRAY_TEST_SERVICES") == "require" else pytest.skip
            give_up("no pgbouncer: apt-get install --no-install-recommends pgbouncer")
        target = Url.parse(server.url)
        self.port = free_port()
        user = "postgres" if os.geteuid() == 0 else None
        self.folder = new_folder("pgbouncer", user)
        self.url = server.url.replace(f":{target.port}", f":{self.port}")
        (self.folder / "users").write_text(f'"{target.username}" "{target.password}"\n')
        (self.folder / "ini").write_text(
            f"[databases]\n* = host={target.host} port={target.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\nunix_socket_dir =\nauth_type = plain\nauth_file = {self.folder}/users\n"
            "pool_mode = transaction\ndefault_pool_size = 3\n"
        )
        self._process = Process([program, f"{self.folder}/ini"], self.folder, self._answers, user=user)
        self._process.start()

    def close(self) -> None:
        self._process.kill()
        remove_folder(self.folder)

    def _answers(self) -> bool:
        # What PostgreSQL says to the question whether it speaks TLS.
        return replies(self.port, b"\0\0\0\x08\x04\xd2\x16\x2f", b"N")
