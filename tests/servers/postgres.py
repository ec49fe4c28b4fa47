"""PostgreSQL for tests: a cluster of its own, with a password, on a port of its own."""

from __future__ import annotations

from signal import SIGINT

from .choosing import Service
from .hosts import Host, Part
from .ports import free_port
from .server import Server

_PASSWORD = "s3cret"
_MAKE_ONCE = """
[ -f data/PG_VERSION ] || "$1" -D data -U dray --pwfile=password -A scram-sha-256 -E UTF8 --locale=C --no-sync || exit 1
shift
exec "$@"
"""


class PostgresServer(Server):
    """One PostgreSQL; a durable one waits for its disk."""

    service = Service(
        "postgres", ("postgres", "initdb"), "postgres:17", "`make servers`, or apt-get install postgresql"
    )
    # It refuses to be root.
    runs_as = "postgres"

    def build(self, host: Host) -> list[Part]:
        self.port = free_port()
        self.url = f"postgresql://dray:{_PASSWORD}@127.0.0.1:{self.port}/postgres"
        (self.folder / "password").write_text(f"{_PASSWORD}\n")
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "dynamic_shared_memory_type": "mmap",
            "fsync": "on" if self.durable else "off",
            "synchronous_commit": "on" if self.durable else "off",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        make = ["sh", "-c", _MAKE_ONCE, "sh", host.path("initdb")]
        serve = [host.path("postgres"), "-D", "data", "-p", f"{self.port}", *options]
        # The signal means: roll back what runs, and end. SIGTERM would wait for clients to go.
        return [host.run([*make, *serve], self.folder, self._answers, user=self.user, stop_signal=SIGINT)]

    def end(self) -> None:
        # Killed, it would leave shared memory behind.
        self.stop()

    def _answers(self) -> bool:
        # Here, as other drivers in these files: every test run loads them, unit tests too.
        import psycopg

        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError as error:
            raise OSError(str(error)) from error
        return True
