"""MariaDB for tests: a server of its own, with a password, on a port of its own."""

from __future__ import annotations

import pymysql

from .choosing import Service
from .hosts import Host, Part
from .ports import free_port
from .server import Server

_PASSWORD = "s3cret"
_MAKE_ONCE = """
[ -d data/mysql ] || "$1" --no-defaults --datadir="$PWD/data" --auth-root-authentication-method=normal \
    --skip-test-db >/dev/null || exit 1
shift
exec "$@"
"""
_FIRST = f"""
CREATE DATABASE IF NOT EXISTS dray CHARACTER SET latin1;
CREATE USER IF NOT EXISTS dray@'%' IDENTIFIED BY '{_PASSWORD}';
CREATE USER IF NOT EXISTS dray@localhost IDENTIFIED BY '{_PASSWORD}';
GRANT ALL ON dray.* TO dray@'%';
GRANT ALL ON dray.* TO dray@localhost;
"""


class MariaDbServer(Server):
    """One MariaDB, whose database has an old-fashioned character set; a durable one waits for its disk."""

    service = Service(
        "mariadb",
        ("mariadbd", "mariadb-install-db"),
        "mariadb:11",
        "`make servers`, or apt-get install --no-install-recommends mariadb-server",
    )
    # It refuses to be root.
    runs_as = "mysql"

    def build(self, host: Host) -> list[Part]:
        self.port = free_port()
        self.url = f"db+mariadb://dray:{_PASSWORD}@127.0.0.1:{self.port}/dray"
        (self.folder / "first.sql").write_text(_FIRST)
        settings = {
            "datadir": str(self.folder / "data"),
            "bind-address": "127.0.0.1",
            "port": f"{self.port}",
            # Short names: a Unix socket's path has at most 107 characters.
            "socket": "s",
            "pid-file": "pid",
            "init-file": str(self.folder / "first.sql"),
            "innodb-buffer-pool-size": "32M",
            "innodb-flush-log-at-trx-commit": "1" if self.durable else "0",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        make = ["sh", "-c", _MAKE_ONCE, "sh", host.path("mariadb-install-db")]
        serve = [host.path("mariadbd"), "--no-defaults", *options]
        return [host.run([*make, *serve], self.folder, self._answers, user=self.user)]

    def _answers(self) -> bool:
        try:
            pymysql.connect(
                host="127.0.0.1", port=self.port, user="dray", password=_PASSWORD, database="dray", connect_timeout=2
            ).close()
        except pymysql.err.OperationalError as error:
            raise OSError(str(error)) from error
        return True
