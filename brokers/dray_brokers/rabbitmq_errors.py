"""What went wrong between this process and RabbitMQ, in words: what passes by itself, and what helps otherwise."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator

from pika import exceptions

from dray import BrokerError, BrokerUnavailable, Url, mask

#: Reply codes of AMQP after which trying again cannot help.
LASTING = {
    402,  # INVALID_PATH
    403,  # ACCESS_REFUSED
    404,  # NOT_FOUND
    406,  # PRECONDITION_FAILED
    503,  # COMMAND_INVALID
    530,  # NOT_ALLOWED
    540,  # NOT_IMPLEMENTED
}
#: Words in the server's text that say that a refusal of that kind passes all the same.
PASSING = ("is down", "limit", "being recovered", "is locked", "timed out", "not reachable")
#: What can be done about it, by words in the server's or the system's text.
HINTS = {
    "Login was refused": "check the user name and password in the URL",
    "can only login via localhost": "the user guest may only come from the server's own host; use another user",
    "vhost .* not found": "create it (rabbitmqctl add_vhost NAME), or name another: amqp://host/NAME, where / is %2F",
    "access to vhost .* refused": "grant it: rabbitmqctl set_permissions -p VHOST USER '.*' '.*' '.*'",
    "CERTIFICATE_VERIFY_FAILED": "name the authority that signed its certificate with ?ca_certs=FILE, and connect by a "
    "name that is in the certificate",
    "WRONG_VERSION_NUMBER": "the port speaks no TLS; write amqp:// or use the port for TLS (5671)",
    "RECORD_LAYER_FAILURE": "the port speaks no TLS; write amqp:// or use the port for TLS (5671)",
    "CERTIFICATE_REQUIRED": "the server wants a certificate of ours: ?certfile=FILE&keyfile=FILE",
    "timeout on consumer": "a task ran longer than the server's consumer_timeout (30 minutes unless configured), so "
    "its message was taken back; raise it on the server, or with ?consumer_timeout=SECONDS from RabbitMQ 3.12 on",
    "delivery acknowledgement on channel .* timed out": "a task ran longer than the server's consumer_timeout (30 "
    "minutes unless configured), so its message was taken back; raise it on the server, or with "
    "?consumer_timeout=SECONDS from RabbitMQ 3.12 on",
    "Connection reset": "if this port is the one for TLS, write amqps://",
    "Transport indicated EOF": "if this port is the one for TLS, write amqps://",
}
_QUOTED_REPLY = re.compile(r"\((\d{3})\) ['\"](.*?)['\"]\)?$", re.S)


def reply(error: BaseException) -> tuple[int, str]:
    """Return the reply code and text with which the server closed a connection or channel; 0 when it was not that."""
    for cause in _causes(error):
        if isinstance(cause, exceptions.ConnectionClosed | exceptions.ChannelClosed):
            return int(cause.reply_code), str(cause.reply_text)
        # pika guesses at the meaning of a refusal, and keeps what the server said as the repr of another error.
        if isinstance(cause, exceptions.ProbableAuthenticationError | exceptions.ProbableAccessDeniedError):
            found = _QUOTED_REPLY.search(str(cause.args[0]) if cause.args else "")
            if found:
                return int(found[1]), found[2]
    return 0, ""


def translated(error: BaseException, url: Url | str, doing: str) -> BrokerError:
    """Return what to raise instead of `error`, which came up while `doing` something at `url`."""
    if isinstance(error, BrokerError):
        return error
    code, text = reply(error)
    text = text or _plain(error)
    kind: type[BrokerError] = BrokerUnavailable
    if code:
        lasts = code in LASTING and not any(word in text for word in PASSING)
        # A consumer that was too slow is told so by a refusal; the next one is as good as new.
        kind = BrokerError if lasts and "timed out" not in text and "timeout on" not in text else BrokerUnavailable
    elif any(isinstance(each, ssl.SSLError) for each in _causes(error)):
        kind = BrokerError
    hint = next((hint for words, hint in HINTS.items() if re.search(words, text)), "")
    return kind(mask(f"{url}: {doing}: {text}{f' ({hint})' if hint else ''}"))


def _plain(error: BaseException) -> str:
    """Return the innermost cause in words."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, socket.gaierror):
            return f"the host is not known ({cause.strerror})"
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused: nothing listens there"
        if "Timeout" in type(cause).__name__ or isinstance(cause, TimeoutError):
            return "no answer in time"
    inner = causes[-1]
    text = str(inner) or repr(inner)
    return f"the connection is lost: {text}" if isinstance(inner, OSError | exceptions.StreamLostError) else text


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what is wrapped in it, outermost first."""
    yield error
    inner = [getattr(error, "exception", None), *getattr(error, "exceptions", ())[-1:], *error.args]
    for each in inner:
        if isinstance(each, BaseException) and each is not error:
            yield from _causes(each)
