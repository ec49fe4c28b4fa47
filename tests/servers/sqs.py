"""Stand-ins for SQS: moto's server and MiniStack. They err in different places, so tests run on both."""

from __future__ import annotations

import os
import sys
import urllib.request
from pathlib import Path

import pytest

from .choosing import Service
from .hosts import Host, Part, ThisMachine
from .ports import free_port
from .server import Server


class SqsServer(Server):
    """A server that speaks the protocol of SQS. Its queues are in memory: `kill` and `start` give an empty one."""

    health: str
    program: str

    def build(self, host: Host) -> list[Part]:
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.url = f"sqs://test:test@?region=us-east-1&endpoint={self.endpoint}"
        return [host.run(self.command(host), self.folder, self._answers, environment=self.environment())]

    def command(self, host: Host) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {"HOME": f"{self.folder}", "TMPDIR": f"{self.folder}"}

    def _answers(self) -> bool:
        with urllib.request.urlopen(self.endpoint + self.health, timeout=5) as reply:
            return bool(reply.status == 200)


class MotoServer(SqsServer):
    """moto's server: exact about limits and batches; no redrive of dead letters."""

    service = Service("sqs_moto", ("moto_server",), "motoserver/moto:latest", "pip install 'moto[server]'")
    health = "/moto-api/"

    def command(self, host: Host) -> list[str]:
        where = ["-H", "127.0.0.1", "-p", f"{self.port}"]
        if isinstance(host, ThisMachine):
            return [sys.executable, str(Path(__file__).with_name("moto_with_a_lock.py")), *where]
        return [host.path("moto_server"), *where]


class MiniStackServer(SqsServer):
    """MiniStack: strict about receipt handles and characters, and fast; lax about delays."""

    service = Service("sqs_ministack", ("ministack",), "ministackorg/ministack:latest", "pip install ministack")
    health = "/_ministack/health"

    def command(self, host: Host) -> list[str]:
        return [host.path("ministack")]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": f"{self.port}"}


class LiveSqs(Server):
    """SQS itself: only where DRAY_TEST_SQS_URL names an account to use."""

    service = Service("sqs", (), "", "")

    @classmethod
    def given_or_skipped(cls) -> LiveSqs:
        url = os.environ.get(cls.service.variable)
        if not url:
            pytest.skip(f"no SQS account: set {cls.service.variable}, for example to sqs://?region=eu-west-1")
        return cls.given(url)
