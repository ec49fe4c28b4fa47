"""What only RabbitMQ's management API tells: the list of queues, how much is lent, and how many nodes there are.

Asked for when the URL names it (`management=http://host:15672`). What it does not tell, for want of rights or because
it is away, is None: it is a help, and nothing depends on it.
"""

from __future__ import annotations

import base64
import json
import urllib.request
from typing import Any
from urllib.parse import quote, urlsplit

from dray import Url

from .rabbitmq_connection import RabbitOptions, vhost_of

#: Seconds to wait for an answer.
PATIENCE = 5.0


class Management:
    """Asks the management API. Thread-safe."""

    def __init__(self, url: Url, options: RabbitOptions) -> None:
        parts = urlsplit(options.management)
        credentials, _, host = parts.netloc.rpartition("@")
        self._base = f"{parts.scheme}://{host}{parts.path.rstrip('/')}" if options.management else ""
        credentials = credentials or f"{url.username or 'guest'}:{url.password or 'guest'}"
        self._authorization = "Basic " + base64.b64encode(credentials.encode()).decode()
        self._vhost = quote(vhost_of(url), safe="")

    @property
    def is_given(self) -> bool:
        """Whether the URL names it."""
        return bool(self._base)

    def queues(self) -> list[dict[str, Any]] | None:
        """Return what is known of each queue of the virtual host; its numbers are some seconds old."""
        found = self._ask(f"/api/queues/{self._vhost}")
        return found if isinstance(found, list) else None

    def nodes(self) -> int | None:
        """Return how many nodes the cluster has."""
        found = self._ask("/api/nodes?columns=name")
        return len(found) if isinstance(found, list) else None

    def alarms(self) -> list[str] | None:
        """Return which nodes are short of what."""
        found = self._ask("/api/nodes?columns=name,mem_alarm,disk_free_alarm")
        if not isinstance(found, list):
            return None
        short = {"mem_alarm": "memory", "disk_free_alarm": "disk"}
        return [f"{node.get('name')}: {what}" for node in found for key, what in short.items() if node.get(key)]

    def _ask(self, path: str) -> Any:
        if not self._base:
            return None
        request = urllib.request.Request(self._base + path, headers={"Authorization": self._authorization})
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return json.load(answer)
        except (OSError, ValueError):
            return None
