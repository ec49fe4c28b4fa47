"""Find TCP ports on loopback that nobody else will take, not even while their server is down."""

from __future__ import annotations

import random
import socket

#: Below the range from which systems take the ports of outgoing connections. A client that keeps knocking at the port
#: of a dead server would otherwise sooner or later be given that very port to knock from, be connected to itself, and
#: keep the server from coming back.
_FIRST, _LAST = 20_000, 31_999

_claims: list[socket.socket] = []


def free_port() -> int:
    """Return a port that is free on 127.0.0.1, and that no other test process is given while this one lives."""
    for _ in range(1000):
        port = random.randint(_FIRST, _LAST)
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            # The UDP port of the same number says to other test processes: taken. The system forgets it when we end.
            claim.bind(("127.0.0.1", port))
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
    raise RuntimeError(f"no free port from {_FIRST} to {_LAST} on 127.0.0.1")
