"""What `@app.task(webhook=...)` says, which URLs may be called, and with which secrets calls are signed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from .errors import SettingError, TaskOptionError
from .sealing import secret
from .urls import nearest

if TYPE_CHECKING:
    from .settings import Settings

#: What a webhook can be called for.
ON = ("success", "failure")
#: Networks whose addresses stand for others.
_NAT64 = ip_network("64:ff9b::/96")


class Webhook(msgspec.Struct, frozen=True):
    """A URL to call when a task has ended."""

    url: str
    on: tuple[str, ...] = ON
    #: Seconds to wait for an answer; None: as `webhook_timeout` says.
    timeout: float | None = None


class Refused(Exception):
    """The URL is one that is never called; the text says why."""


# Reading


def read_webhooks(value: Any, task: str) -> tuple[Webhook, ...]:
    """Return what the option `webhook` of a task says; raise `TaskOptionError` for what is none."""
    if value is None:
        return ()
    several = value if isinstance(value, Iterable) and not isinstance(value, str | Mapping) else [value]
    try:
        return tuple(_read(one) for one in several)
    except (ValueError, msgspec.ValidationError) as error:
        raise TaskOptionError(f"{task}: webhook: {error}") from None


def _read(value: Any) -> Webhook:
    if not isinstance(value, Mapping):
        check_url(value)
        return Webhook(value)
    for word in value:
        if word not in Webhook.__struct_fields__:
            raise ValueError(f"it has no {word!r}{nearest(str(word), Webhook.__struct_fields__)}")
    check_url(value.get("url"))
    said = {**value, "on": [value["on"]] if isinstance(value.get("on"), str) else value.get("on", ON)}
    hook = msgspec.convert(said, Webhook)
    if not hook.on or not {*hook.on} <= {*ON}:
        raise ValueError(f"on is 'success', 'failure' or both; got {said['on']!r}")
    if hook.timeout is not None and not hook.timeout > 0:
        raise ValueError(f"timeout is a number of seconds > 0; got {hook.timeout!r}")
    return hook


def check_places(webhooks: Iterable[Webhook], conf: Settings, task: str) -> None:
    """Raise `TaskOptionError` for a URL that would never be called, as far as its text tells."""
    for hook in webhooks:
        try:
            check_literal(check_url(hook.url).hostname or "", conf.webhook_allow_private)
        except Refused as error:
            raise TaskOptionError(f"{task}: webhook: {error}") from None


def secrets(conf: Settings) -> list[str]:
    """Return the secrets that webhooks are signed with; raise `SettingError` for one that is none."""
    if not conf.webhook_secrets:
        return []
    from .webhook_signatures import read_secret  # only an app whose webhooks are signed loads it

    found = []
    for key, reference in conf.webhook_secrets.items():
        text = secret("webhook_secrets", key, reference)
        try:
            read_secret(text)
        except ValueError as error:
            raise SettingError(f"webhook_secrets[{key!r}]: {error}") from None
        found.append(text)
    return found


# Which URLs


def check_url(url: object) -> SplitResult:
    """Return the parts of a URL that can be called; ValueError says what is wrong with another one."""
    if not isinstance(url, str):
        raise ValueError(f"a webhook is a URL as text; got {url!r}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"it is no URL: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"a webhook is an http:// or https:// URL; got {parts.scheme or 'no scheme'}")
    if not parts.hostname or port == 0 or any(c.isspace() or not c.isprintable() for c in url):
        raise ValueError("a webhook names a host: https://example.com/hook")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a webhook's URL carries no user and password: sign it (webhook_secrets)")
    return parts


def place(url: str) -> str:
    """Return where a URL leads, without what in it may be secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


def check_literal(host: str, allowed: Sequence[str]) -> None:
    """Raise `Refused` for a host that is written as an address that is not to be called."""
    try:
        address = ip_address(host)
    except ValueError:
        if host.lower() == "localhost" and not _named(host, allowed):
            raise refusal(host, host) from None
        return
    if not may_be_called(address, host, allowed):
        raise refusal(host, host)


def may_be_called(address: IPv4Address | IPv6Address, host: str, allowed: Sequence[str]) -> bool:
    """Tell whether an address of a host is public, or one of those that may be called all the same."""
    if _named(host, allowed):
        return True
    if isinstance(address, IPv6Address):
        # An address of the other kind inside: that is where it leads.
        address = address.ipv4_mapped or address.sixtofour or address
    for text in allowed:
        try:
            if address in ip_network(text, strict=False):
                return True
        except ValueError:
            continue  # the name of a host
    return address.is_global and not address.is_multicast and address not in _NAT64


def _named(host: str, allowed: Sequence[str]) -> bool:
    return host.lower() in {text.lower() for text in allowed}


def refusal(host: str, address: str) -> Refused:
    """Return the error for a host at an address that is not to be called."""
    where = host if host == address else f"{host} ({address})"
    return Refused(f"{where} is not public: to call it all the same, name it in webhook_allow_private")
