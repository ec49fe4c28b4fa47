"""moto's server, which lends a message once: on its own, two requests that look at a queue at once both get it."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from moto.server import main
from moto.sqs.models import SQSBackend

#: Seconds between two looks of a request that waits.
LOOK = 0.05

_alone = threading.Lock()
_look = SQSBackend.receive_message


def _receive_message(self: Any, queue_name: str, count: int, wait: int, *others: Any, **more: Any) -> Any:
    end = time.monotonic() + wait
    while True:
        # No request waits with the lock in its hand.
        with _alone:
            found = _look(self, queue_name, count, 0, *others, **more)
        if found or time.monotonic() >= end:
            return found
        time.sleep(LOOK)


SQSBackend.receive_message = _receive_message  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
