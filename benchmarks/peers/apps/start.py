"""Do one thing with one app: `python start.py celery_app send 500`. Prints what was found as JSON.

about                say what the library is and can do
prepare              make tables, where they are needed
send N, bulk N       send calls, one by one or many at once
ask N SECONDS        send calls to an idle worker one after the other, and wait for each
work                 become the library's own worker
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module


def main(name: str, verb: str, *numbers: str) -> None:
    """Do it."""
    peer = import_module(name).peer
    found = None
    if verb == "work":
        os.execv(sys.executable, [sys.executable, *peer.worker()])
    elif verb == "prepare":
        peer.prepare()
    elif verb == "about":
        found = peer.about()
    elif verb == "ask":
        found = peer.asked(int(numbers[0]), float(numbers[1]))
    else:
        found = peer.sent(int(numbers[0]), bulk=verb == "bulk")
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
