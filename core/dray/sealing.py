"""Seals messages and results, where the settings ask for it, and opens them again.

A sealed body is, byte by byte (docs/envelope.md):

    D7 44 31    magic and wire version, as of every body
    10          flags: sealed
    length      of the head in bytes, as an unsigned LEB128 varint
    head        a msgpack array of two texts: the seal's name and the key's id
    sealed      the rest: what the seal made of the content

The content of a message is its whole unsealed body, so that nothing of its metadata can be changed either. What it is
(a message or a result), its id, and the bytes before `sealed` are bound into the seal: it does not open elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from .codec import MAGIC, read_varint, unpack, varint
from .errors import ConfigurationError, DecodeError, SettingError
from .foreign import foreign
from .message import Message

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .plugins import Plugins
    from .seal import Seal
    from .settings import Settings

_SEALED = MAGIC + b"\x10"
#: In `message_security_accept`: what is not sealed.
UNSEALED = "none"
#: Longest head that is read (bytes): two names of at most 64 characters, and room.
_MAX_HEAD = 1024

_write = msgspec.msgpack.Encoder().encode
_read_head = msgspec.msgpack.Decoder(tuple[str, str]).decode


class Sealing:
    """The seals of one app. Immutable, and safe to share between threads and with forked children.

    Made only where `message_security` or `message_security_accept` is set (`sealing_of`).
    """

    def __init__(self, plugins: Plugins, conf: Settings) -> None:
        self._security = conf.message_security
        self._keys = tuple(conf.message_keys)
        self._accepted = tuple(dict.fromkeys([self._security or UNSEALED, *conf.message_security_accept]))
        names = [name for name in self._accepted if name != UNSEALED]
        self._seals = _seals(conf, {name: plugins.find("seals", name) for name in names})
        self._own = self._chosen()

    def seal(self, content: bytes, *bound: Any) -> bytes:
        """Return `content` sealed with the first key that can, or as it is where nothing is sealed (yet).

        `bound` are plain values that say what it is; it can be opened only by who says the same.
        """
        if self._own is None:
            return content
        head, seal = self._own
        return head + seal.seal(content, _write(bound) + head)

    def open(self, body: bytes, *bound: Any) -> bytes:
        """Return what `seal` was given, or raise `DecodeError` saying why this is not to be trusted."""
        if body[:4] != _SEALED:
            if UNSEALED in self._accepted:
                return body
            raise DecodeError(
                f"it is not sealed, and only what is sealed with {_listed(self._accepted)} is read here "
                "(message_security, message_security_accept)"
            )
        length, start = read_varint(body)
        end = start + length
        try:
            if length > _MAX_HEAD or end > len(body):
                raise ValueError
            name, key = _read_head(body[start:end])
        except (msgspec.DecodeError, ValueError):
            raise DecodeError("it is sealed, and says not readably how: truncated or changed on its way") from None
        try:
            return self._opener(name, key).open(body[end:], _write(bound) + body[:end])
        except DecodeError as error:
            raise DecodeError(f"sealed with {name!r} and the key {key!r}: {error}") from None

    def message(self, body: bytes, id: str) -> Message:
        """Return the message in a body that a broker gave out under `id`, or raise `DecodeError`."""
        if body[: len(MAGIC)] != MAGIC:
            raise DecodeError(foreign(body))
        return unpack(self.open(body, "message", id))

    def _opener(self, name: str, key: str) -> Seal:
        if name not in self._accepted:
            raise DecodeError(
                f"only {_listed(self._accepted)} is accepted here (message_security, message_security_accept)"
            )
        if key not in self._keys:
            raise DecodeError(f"there is no such key in message_keys; there is {_listed(self._keys)}")
        if (name, key) not in self._seals:
            raise DecodeError("that key is for another seal")
        return self._seals[name, key]

    def _chosen(self) -> tuple[bytes, Seal] | None:
        """Return the seal in use and the head of what it seals; None when nothing is sealed."""
        if self._security is None:
            return None
        for key in self._keys:
            seal = self._seals.get((self._security, key))
            if seal is not None and seal.can_seal:
                head = _write((self._security, key))
                return _SEALED + varint(len(head)) + head, seal
        raise ConfigurationError(
            f"message_security = {self._security!r} needs a key in message_keys that seals; found "
            f"{_listed(self._keys) if self._keys else 'no key'}. To read only, set message_security_accept = "
            f"[{self._security!r}] instead"
        )


def sealing_of(plugins: Plugins, conf: Settings) -> Sealing | None:
    """Return what seals and opens as the settings say; None where they do not ask for any of it."""
    if conf.message_security is not None or conf.message_security_accept:
        return Sealing(plugins, conf)
    if conf.message_keys:
        raise ConfigurationError(
            "message_keys is set and message_security is not, so nothing would be protected: set it to 'hmac', say, "
            "or remove the keys"
        )
    return None


def message_in(sealing: Sealing | None, body: bytes, id: str) -> Message:
    """Return the message in a body that a broker shows or gives out under `id`; raise `DecodeError` if that fails."""
    return unpack(body) if sealing is None else sealing.message(body, id)


def _seals(conf: Settings, kinds: dict[str, type[Seal]]) -> dict[tuple[str, str], Seal]:
    """Return every key as every seal that it is a key for; raise `ConfigurationError` for one that is for none."""
    made: dict[tuple[str, str], Seal] = {}
    for key, reference in conf.message_keys.items():
        own = secret("message_keys", key, reference)
        refused: SettingError | None = None
        for name, kind in kinds.items():
            try:
                made[name, key] = kind(own)
            except SettingError as error:
                refused = error
        if refused is not None and not any((name, key) in made for name in kinds):
            raise SettingError(f"message_keys[{key!r}]: {refused}") from None
    return made


def secret(setting: str, key: str, reference: str) -> str:
    """Return the secret that a value of a setting, a table by `key`, is or points to, without the blanks around it."""
    kind, colon, place = reference.partition(":")
    if colon and kind == "env":
        found = os.environ.get(place, "")
        if not found:
            raise SettingError(f"{setting}[{key!r}]: the environment variable {place} is not set, or empty")
    elif colon and kind == "file":
        try:
            found = Path(place).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingError(f"{setting}[{key!r}]: cannot read {place!r}: {_reason(error)}") from None
    else:
        found = reference
    return found.strip()


def _reason(error: Exception) -> str:
    # Not the whole of a UnicodeDecodeError: it holds what was read.
    return error.strerror or "it is not there" if isinstance(error, OSError) else "it is not text in UTF-8"


def _listed(names: Iterable[str]) -> str:
    return ", ".join("what is not sealed" if name == UNSEALED else repr(name) for name in names)
