"""What went wrong between this process and Redis, in words: whether it passes by itself, and what would help."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from redis import exceptions as redis
from redis.sentinel import MasterNotFoundError

from dray import DrayError, Url, mask

#: Replies after which trying again can help: how they begin, and what they mean.
PASSING = {
    "LOADING": "is still loading its data",
    "BUSY ": "is busy with somebody's script",
    "READONLY": "is a replica; a failover is under way, or the URL names the wrong host",
    "UNBLOCKED": "has become a replica; a failover is under way",
    "MASTERDOWN": "is a replica that has lost its master",
    "CLUSTERDOWN": "is a cluster of which a part is down",
    "TRYAGAIN": "is moving these keys to another node of the cluster",
    # In a script, which stops there.
    "access a non local key": "is moving these keys to another node of the cluster",
    "NOREPLICAS": "does not write while it has too few replicas (min-replicas-to-write)",
    "MISCONF": "does not write while it cannot save its data to disk; look into its log",
    "max number of clients reached": "takes no more connections; raise its maxclients",
}
#: Replies that stay until a person does something.
LASTING = {
    "WRONGPASS": "refuses the user name or password",
    "invalid username-password": "refuses the user name or password",
    "invalid password": "refuses the password",
    "NOAUTH": "wants a password; write redis://:PASSWORD@host, or redis://USER:PASSWORD@host",
    "Authentication required": "wants a password; write redis://:PASSWORD@host, or redis://USER:PASSWORD@host",
    "without any password configured": "has no password, and the URL has one; leave it out",
    "DB index is out of range": "has no database of that number; see `databases` in its configuration",
    "SELECT is not allowed in cluster mode": "is a cluster, which has no numbered databases; leave the number out",
    "MOVED": "is part of a cluster; write redis+cluster:// instead",
    "CROSSSLOT": "is part of a cluster; write redis+cluster:// instead",
    "Cluster mode is not enabled": "is not a cluster; write redis:// instead",
    "cluster support disabled": "is not a cluster; write redis:// instead",
    "WRONGTYPE": "has keys of that name that are not ours; choose another prefix with ?prefix=NAME",
    "unknown command": "does not know a command; Redis 6.2 or newer, or Valkey, is needed",
    "Unknown Redis command": "does not know a command; Redis 6.2 or newer, or Valkey, is needed",
    "wrong number of arg": "does not know a command; Redis 6.2 or newer, or Valkey, is needed",
    "CERTIFICATE_VERIFY_FAILED": "shows a certificate that is not trusted; name its authority with "
    "?ssl_ca_certs=FILE, and connect by a name that is in it",
    "WRONG_VERSION_NUMBER": "speaks no TLS; write redis:// instead of rediss://",
    "RECORD_LAYER_FAILURE": "speaks no TLS; write redis:// instead of rediss://",
    "CERTIFICATE_REQUIRED": "wants a certificate of ours; name it with ?ssl_certfile=FILE&ssl_keyfile=FILE",
}
#: How the replies begin that redis-py shows without their beginning.
CODES: dict[type[BaseException], str] = {
    redis.BusyLoadingError: "LOADING ",
    redis.ClusterCrossSlotError: "CROSSSLOT ",
    redis.ClusterDownError: "CLUSTERDOWN ",
    redis.MasterDownError: "MASTERDOWN ",
    redis.MovedError: "MOVED ",
    redis.NoPermissionError: "NOPERM ",
    redis.OutOfMemoryError: "OOM ",
    redis.ReadOnlyError: "READONLY ",
    redis.TryAgainError: "TRYAGAIN ",
}
#: How a reply begins when there is no room, and what it means.
NO_ROOM = "OOM command not allowed"
FULL = "is full: its maxmemory is reached and its policy is noeviction; raise maxmemory, or let workers catch up"
#: All that redis-py raises when something is wrong outside of this process.
TROUBLE = (redis.RedisError, redis.RedisClusterException, OSError)
#: How redis-py and the system call a connection that was there and is not any more, or that never was.
UNREACHABLE = (redis.ConnectionError, redis.TimeoutError, OSError)


class Words(NamedTuple):
    """Turns errors of the driver into those of one port: a broker's or a result backend's."""

    url: Url
    prefix: str
    refused: type[DrayError]
    unavailable: type[DrayError]

    def of(self, error: Exception) -> DrayError:
        """Return the error to raise in place of the driver's."""
        text = mask(_whole_text(error))
        if "NOPERM" in text:
            return self.refused(
                f"{self.url}: the user {self.url.username or 'default'!r} lacks a permission ({text}); dray needs the "
                f"rights ~{self.prefix}:* &{self.prefix}:* +@all -@admin -@dangerous"
            )
        if NO_ROOM in text:
            # It passes when workers catch up; until then a worker's own messages wait, as they do for a lost server.
            return self.unavailable(f"{self.url} {FULL}")
        for sign, meaning in LASTING.items():
            if sign in text:
                return self.refused(f"{self.url} {meaning} ({text})")
        for sign, meaning in PASSING.items():
            if sign in text:
                return self.unavailable(f"{self.url} {meaning} ({text})")
        if isinstance(error, redis.AuthenticationError | redis.AuthorizationError):
            return self.refused(f"{self.url} does not let us in: {text}")
        if any(isinstance(each, UNREACHABLE) for each in _chain(error)):
            return self.unavailable(f"{self.url} cannot be reached: {text}")
        if isinstance(error, redis.ClusterError | redis.RedisClusterException):
            return self.unavailable(f"{self.url} is a cluster that is not in order: {text}")
        return self.refused(f"{self.url} refused: {text}")

    def of_first_contact(
        self, error: Exception, hosts: Sequence[tuple[str, int]], tls: bool, timeout: float
    ) -> DrayError:
        """The same for the first command: with TLS on one side only, neither side understands a word of the other."""
        speaks, signs = (speaks_plainly, ("handshake", "SSL")) if tls else (speaks_tls, ("closed by server", "reset"))
        if any(sign in _whole_text(error) for sign in signs):
            for host, port in hosts:
                if speaks(host, port, timeout):
                    found = "speaks no TLS; write redis://" if tls else "speaks TLS; write rediss://"
                    return self.refused(f"{self.url}: {host}:{port} {found} instead")
        return self.of(error)


def speaks_tls(host: str, port: int, timeout: float) -> bool:
    """Whether a TLS handshake with that server gets anywhere; nothing else is sent to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), timeout) as plain, context.wrap_socket(plain):
            return True
    except OSError:
        return False


def speaks_plainly(host: str, port: int, timeout: float) -> bool:
    """Whether that server answers a PING as Redis does without TLS."""
    try:
        with socket.create_connection((host, port), timeout) as plain:
            plain.sendall(b"PING\r\n")
            return plain.recv(1) in (b"+", b"-")
    except OSError:
        return False


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Give an error and what led to it: what redis-py raises about a cluster says less than its cause."""
    cause: BaseException | None = error
    for _ in range(4):
        if cause is not None:
            yield cause
            cause = cause.__cause__ or cause.__context__


def _whole_text(error: BaseException) -> str:
    texts: list[str] = []
    for each in _chain(error):
        text = CODES.get(type(each), "") + _own_text(each)
        if not any(str(each) in other for other in texts):
            texts.append(text)
    return "; ".join(texts)


def _own_text(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MasterNotFoundError):
        # Between the service and the errors it has the insides of each connection to a Sentinel.
        service, *errors = text.split(" - ")
        return "; ".join([service.split(" : ")[0], *(each.split(", Redis<")[0].split(", <")[0] for each in errors)])
    return text
