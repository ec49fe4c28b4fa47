"""memcached for tests."""

from __future__ import annotations

from functools import partial

from .choosing import Service
from .hosts import Host, Part
from .ports import free_port
from .process import replies
from .server import Server


class MemcachedServer(Server):
    """One memcached. `kill` and `start` give an empty one."""

    service = Service("memcached", ("memcached",), "memcached:1.6", "`make servers`, or apt-get install memcached")
    # It refuses to be root.
    runs_as = "memcache"

    def build(self, host: Host) -> list[Part]:
        self.port = free_port()
        self.url = f"cache+memcached://127.0.0.1:{self.port}"
        command = [host.path("memcached"), "-l", "127.0.0.1", "-p", f"{self.port}", "-U", "0", "-m", "64"]
        return [host.run(command, self.folder, partial(replies, self.port, b"version\r\n", b"VERSION"), user=self.user)]
