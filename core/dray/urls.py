"""Read the URL that chooses a broker or a backend, and never show its password.

    scheme://user:password@host1:port1,host2:port2/path?option=value

Hosts may be several, separated by commas. Options are typed by the adapter (`Url.options_as`): an unknown option
or a bad value is an error that names the nearest right word.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar
from urllib.parse import parse_qsl, quote, unquote

import msgspec

from .errors import UrlError

T = TypeVar("T")

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*)://(?P<rest>.*)", re.S)
#: A password may hold anything, "/" too: all before the last "@" is hidden, rather too much than too little.
_CREDENTIALS = re.compile(r"(?P<before>[A-Za-z][A-Za-z0-9+.\-]*://[^/?#:@]*):[^\s'\"]*@")
#: Options whose value is a secret wherever they stand.
_SECRET_OPTION = re.compile(
    r"(?i)([?&;][^=&\s]*(?:password|passwd|secret|token|access_key|api_key|credential)[^=&\s]*=)[^&\s]*"
)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint such as `; did you mean 'redis'?`, or an empty string when nothing is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def mask(text: str) -> str:
    """Return `text` with the password of every URL in it, and every secret-looking option, replaced by ***.

    Safe on any text: log lines, driver errors, reprs.
    """
    return _SECRET_OPTION.sub(r"\1***", _CREDENTIALS.sub(r"\g<before>:***@", text))


class Url(msgspec.Struct, frozen=True, kw_only=True):
    """A URL taken apart. `str()` and `repr()` mask the password; `reveal()` does not."""

    scheme: str
    username: str | None = None
    password: str | None = None
    #: (host, port) pairs in the order given; empty for file-like URLs.
    hosts: tuple[tuple[str, int | None], ...] = ()
    #: What follows the authority, percent-decoded, with its leading slash.
    path: str = ""
    #: Query options as written, percent-decoded.
    options: Mapping[str, str] = {}

    @classmethod
    def parse(cls, text: str) -> Url:
        """Take a URL apart, or raise `UrlError` saying what is wrong with it."""
        found = _URL.fullmatch(text.strip())
        if found is None:
            raise UrlError(
                f"{mask(text)!r} is not a URL; a broker or backend is written scheme://..., "
                "for example sqlite:///tasks.db or redis://localhost:6379/0"
            )
        rest, _, query = found["rest"].partition("?")
        authority, slash, path = rest.partition("/")
        if "@" in path and ":" in authority and "@" not in authority:
            # Nothing of the text is repeated: it holds a password, and nobody can say where that ends.
            raise UrlError(
                f"the {found['scheme']}:// URL has a '/' before its '@': in user and password write / as %2F, "
                "+ as %2B, @ as %40"
            )
        credentials, at, hosts = authority.rpartition("@")
        username, colon, password = credentials.partition(":")
        return cls(
            scheme=found["scheme"].lower(),
            username=unquote(username) if at and username else None,
            password=unquote(password) if colon else None,
            hosts=tuple(_host(part, text) for part in hosts.split(",") if part),
            path=unquote(slash + path),
            options=dict(parse_qsl(query, keep_blank_values=True)),
        )

    @property
    def host(self) -> str | None:
        """The first host, or None."""
        return self.hosts[0][0] if self.hosts else None

    @property
    def port(self) -> int | None:
        """The port of the first host, or None."""
        return self.hosts[0][1] if self.hosts else None

    def options_as(self, kind: type[T]) -> T:
        """Return the options as an instance of `kind`, a dataclass or msgspec Struct whose fields are the options.

        Raises `UrlError` for an unknown option (naming the nearest known one) or a value that does not fit.
        """
        known = [field.name for field in msgspec.structs.fields(kind)]  # type: ignore[arg-type]
        for name in self.options:
            if name not in known:
                raise UrlError(
                    f"{self.scheme}:// has no option {name!r}{nearest(name, known) or '.'} "
                    f"It knows: {', '.join(sorted(known)) or 'none'}."
                )
        try:
            return msgspec.convert(dict(self.options), kind, strict=False)
        except msgspec.ValidationError as error:
            raise UrlError(f"{self}: {error}") from None

    def reveal(self) -> str:
        """Return the URL as text, password included: for drivers, never for people."""
        return self._text(self.password, self.options)

    def __str__(self) -> str:
        # A URL within an option has credentials of its own, to be masked before their "@" is quoted.
        options = {name: mask(value) for name, value in self.options.items()}
        return mask(self._text("***" if self.password is not None else None, options))

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    def _text(self, password: str | None, options: Mapping[str, str]) -> str:
        credentials = ""
        if self.username is not None or password is not None:
            secret = "" if password is None else ":" + (password if password == "***" else quote(password, safe=""))
            credentials = quote(self.username or "", safe="") + secret + "@"
        hosts = ",".join(_bracketed(host) + (f":{port}" if port is not None else "") for host, port in self.hosts)
        query = "&".join(f"{quote(k)}={quote(v, safe='/:,*')}" for k, v in options.items())
        return f"{self.scheme}://{credentials}{hosts}{quote(self.path, safe='/')}" + (f"?{query}" if query else "")


def _host(part: str, text: str) -> tuple[str, int | None]:
    found = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::(.*))?", part)
    if found is None:
        raise UrlError(f"{mask(text)!r}: {part!r} is not a host; write host:port, or [ipv6]:port")
    host, port = found[1].strip("[]"), found[2]
    if port is None:
        return host, None
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise UrlError(f"{mask(text)!r}: the port is not a number from 1 to 65535")
    return host, int(port)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
