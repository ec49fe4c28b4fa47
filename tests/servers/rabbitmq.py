"""RabbitMQ for tests, with its management plugin: a node of its own, beside any other on this machine."""

from __future__ import annotations

import base64
import os
import urllib.error
import urllib.request
from functools import partial
from urllib.parse import urlsplit

from .choosing import Service
from .hosts import Docker, Host, Part
from .ports import free_port
from .process import replies
from .server import Server


class RabbitMqServer(Server):
    """One node. Durable queues and persistent messages survive `kill` and `start`."""

    service = Service(
        "rabbitmq",
        ("rabbitmq-server", "epmd"),
        "rabbitmq:4.1-management",
        "`make servers`, or apt-get install rabbitmq-server",
    )

    def build(self, host: Host) -> list[Part]:
        self.port, self.management_port, self._epmd_port = free_port(), free_port(), free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        (self.folder / "home").mkdir()
        (self.folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "management.tcp.ip = 127.0.0.1\n"
            f"management.tcp.port = {self.management_port}\n"
            "vm_memory_high_watermark.absolute = 1GB\n"
            "disk_free_limit.absolute = 50MB\n"
            "log.console = true\n"
            "log.file = false\n"
        )
        node = host.run([host.path("rabbitmq-server")], self.folder, self._answers, environment=self.environment())
        # The node would start an epmd that outlives it. In a container, it may.
        return [node] if isinstance(host, Docker) else [self._epmd(host), node]

    def _epmd(self, host: Host) -> Part:
        command = [host.path("epmd"), "-port", f"{self._epmd_port}", "-address", "127.0.0.1"]
        names = partial(replies, self._epmd_port, b"\x00\x01n", self._epmd_port.to_bytes(4))
        return host.run(command, self.folder, names)

    def environment(self) -> dict[str, str]:
        """Return what a node and its `rabbitmqctl` need: own ports, own folders, nothing of the system's."""
        folder = self.folder
        cookie = f"-setcookie {folder.name}"
        return {
            "HOME": f"{folder}/home",
            "ERL_EPMD_PORT": f"{self._epmd_port}",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "dray@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": f"{self.port}",
            "RABBITMQ_DIST_PORT": f"{free_port()}",
            "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            # No busy waiting: tests share their cores.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"{cookie} +S 2:2 +sbwt none -kernel inet_dist_use_interface {{127,0,0,1}}"
            ),
            "RABBITMQ_CTL_ERL_ARGS": cookie,
        }

    def _answers(self) -> bool:
        if not replies(self.port, b"AMQP\x00\x00\x09\x01", b"\x01\x00\x00"):
            return False
        ask = urllib.request.Request(f"http://127.0.0.1:{self.management_port}/api/overview")
        ask.add_header("Authorization", "Basic " + base64.b64encode(b"guest:guest").decode())
        with urllib.request.urlopen(ask, timeout=5) as reply:
            return bool(reply.status == 200)

    @property
    def management_url(self) -> str:
        """The management API with its credentials, such as `http://guest:guest@127.0.0.1:1234`: append `/api/...`."""
        if self._parts is not None:
            return f"http://guest:guest@127.0.0.1:{self.management_port}"
        if given := os.environ.get("DRAY_TEST_RABBITMQ_MANAGEMENT_URL"):
            return given.rstrip("/")
        credentials, _, host = urlsplit(self.url).netloc.rpartition("@")
        return f"http://{credentials or 'guest:guest'}@{host.partition(',')[0].partition(':')[0]}:15672"
