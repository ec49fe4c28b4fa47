"""One POST to a URL that somebody else has written: to public addresses only, and never led on to another place.

The name is resolved once, and the connection goes to the very address that was looked at: a name server that says
something else a moment later leads nowhere. Proxies of the environment are not used, for the same reason.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from .webhook_options import Refused, check_url, may_be_called, refusal

#: Most bytes of an answer that are looked at: for people, in errors.
SHOWN = 200


class Answer(NamedTuple):
    """What a server answered."""

    status: int
    #: Seconds after which it wants to be asked again; None: it does not say.
    retry_after: float | None
    #: How the answer begins.
    text: str


def post(url: str, body: bytes, headers: Mapping[str, str], timeout: float, allowed: Sequence[str]) -> Answer:
    """Send one POST; return what was answered, be it a redirection.

    Raises `Refused` for what is never called, and OSError or HTTPException when nobody answers. `allowed` are names of
    hosts and networks that may be called although they are not public.
    """
    try:
        parts = check_url(url)
    except ValueError as error:
        raise Refused(str(error)) from None
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    address = _address(host, port, allowed)
    connection = (
        _Https(host, port, address, timeout) if parts.scheme == "https" else _Http(host, port, address, timeout)
    )
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body, dict(headers))
        response = connection.getresponse()
        text = response.read(SHOWN).decode("utf-8", "replace")
        return Answer(response.status, _seconds(response.getheader("retry-after")), text)
    finally:
        connection.close()


class _Http(http.client.HTTPConnection):
    """A connection to an address that was looked at."""

    def __init__(self, host: str, port: int, address: str, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self._place, self._patience = (address, port), timeout

    def connect(self) -> None:
        self.sock = socket.create_connection(self._place, self._patience)


class _Https(_Http):
    """The same with TLS, for the name that was asked for."""

    default_port = http.client.HTTPS_PORT

    def connect(self) -> None:
        super().connect()
        self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


def _address(host: str, port: int, allowed: Sequence[str]) -> str:
    """Return the first address of a host that may be called. Raises OSError when there is none at all."""
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for text in found:
        if may_be_called(ip_address(text.partition("%")[0]), host, allowed):
            return text
    raise refusal(host, found[0])


def _seconds(value: str | None) -> float | None:
    return float(value) if value is not None and value.isascii() and value.isdigit() else None
