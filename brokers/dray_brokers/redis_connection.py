"""Connections to one Redis or Valkey: alone, behind Sentinel or a cluster; scripts; errors in words.

Used by the Redis broker and, from the other package, by the Redis result backend and the Redis store
(docs/decisions/0009-one-connection-file-per-server.md).
"""

from __future__ import annotations

import hashlib
import inspect
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from importlib import resources
from math import inf
from typing import Any, Literal, TypeVar

import msgspec
from redis import Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.exceptions import AskError, NoScriptError
from redis.retry import Retry
from redis.sentinel import Sentinel

from dray import DrayError, Url, UrlError

from .redis_errors import TROUBLE, Words
from .redis_wires import Wire, Wires, packed

PORT, SENTINEL_PORT = 6379, 26379
#: Most connections to one node: as many as there are threads that call. Each is opened when it is first needed.
UNBOUNDED = 2**31

Certificates = Literal["required", "optional", "none"]
L = TypeVar("L", bound="Line")


class RedisOptions(msgspec.Struct, frozen=True):
    """What may follow the `?` of a redis:// URL; the same for broker, backend and store. Times are in seconds."""

    #: What all keys and channels begin with, before a colon: two names on one server know nothing of each other.
    prefix: str = "dray"
    #: Number of the database, for unix://; elsewhere it is the last part of the path.
    db: int | None = None
    #: How long the server may take to answer.
    socket_timeout: float = 5.0
    #: How long connecting may take, all hosts of the URL together.
    connect_timeout: float = 5.0
    #: How long a connection may have been idle before it is tried out first. 0: any time.
    health_check_interval: int = 30
    #: What `CLIENT LIST` calls our connections.
    client_name: str = ""
    #: The Redis protocol: 2 goes through any proxy.
    protocol: Literal[2, 3] = 2
    #: `WAIT`: a send, or a change in the store, is confirmed when so many replicas have it, else it fails after
    #: `wait_timeout`; not for results.
    wait_replicas: int = 0
    wait_timeout: float = 1.0
    #: In how many parts the store keeps its records, each in one slot of a cluster: 16 there, 1 elsewhere; store only.
    shards: int | None = None
    #: Credentials of the Sentinels, where these have their own.
    sentinel_username: str = ""
    sentinel_password: str = ""
    #: For rediss://: files with the authorities we trust, and with our own certificate and key.
    ssl_ca_certs: str = ""
    ssl_certfile: str = ""
    ssl_keyfile: str = ""
    #: For rediss://: whether the server has to prove who it is, and to be the host of the URL.
    ssl_cert_reqs: Certificates = "required"
    ssl_check_hostname: bool = True


class Script:
    """A Lua script, sent whole once to each server and by its digest from then on."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@cache
def load_script(package: str, *names: str) -> Script:
    """Return the files `names` of the folder `redis_scripts` of a package as one script."""
    folder = resources.files(package) / "redis_scripts"
    return Script("\n".join((folder / f"{name}.lua").read_text("utf-8") for name in names))


class RedisPlace:
    """Where a URL points to, and how to make clients for it. Connects to nothing."""

    def __init__(self, url: Url) -> None:
        self.url = url
        self.options = url.options_as(RedisOptions)
        base, _, self.kind = url.scheme.partition("+")
        if base == "unix":
            self.kind = "unix"
        self.tls = base in ("rediss", "valkeys")
        self.service, self.db = self._path()
        self._check()
        port = SENTINEL_PORT if self.kind == "sentinel" else PORT
        self.hosts = [(host or "localhost", number or port) for host, number in url.hosts]
        if not self.hosts and self.kind != "unix":
            self.hosts = [("localhost", port)]

    def settings(self, socket_timeout: float | None = None) -> dict[str, Any]:
        """Return what redis-py is told about each connection to a server that keeps data."""
        options = self.options
        settings: dict[str, Any] = {
            "username": self.url.username,
            "password": self.url.password,
            "client_name": options.client_name or None,
            "health_check_interval": options.health_check_interval,
            "max_connections": UNBOUNDED,
            **self._network(socket_timeout or self._longest_answer()),
        }
        if self.kind == "cluster":
            return settings
        # A command whose reply was lost may have taken effect: who called decides whether to repeat it, not the driver.
        return settings | {"db": self.db, "retry": Retry(NoBackoff(), 0)}

    def client(self, socket_timeout: float | None = None) -> Any:
        """Return a new client. A cluster is asked for its nodes at once; all others connect when first used."""
        settings = self.settings(socket_timeout)
        if self.kind == "unix":
            return Redis(unix_socket_path=self.url.path, **settings)
        if self.kind == "cluster":
            nodes = [ClusterNode(host, port) for host, port in self.hosts]  # type: ignore[no-untyped-call]
            return RedisCluster(startup_nodes=nodes, **_without_repeats(), **settings)
        if self.kind == "sentinel":
            return self._sentinels().master_for(self.service, **settings)  # type: ignore[no-untyped-call]
        (host, port), *_ = self.hosts
        return Redis(host=host, port=port, **settings)

    def _longest_answer(self) -> float:
        waiting = self.options.wait_timeout if self.options.wait_replicas else 0.0
        return self.options.socket_timeout + waiting

    def _sentinels(self) -> Sentinel:
        options = self.options
        own = {
            "username": options.sentinel_username or None,
            "password": options.sentinel_password or None,
            "retry": Retry(NoBackoff(), 0),
            **self._network(options.socket_timeout),
        }
        return Sentinel(self.hosts, sentinel_kwargs=own)  # type: ignore[no-untyped-call]

    def _network(self, socket_timeout: float) -> dict[str, Any]:
        options = self.options
        network: dict[str, Any] = {
            "socket_timeout": socket_timeout,
            "socket_connect_timeout": options.connect_timeout / max(1, len(self.hosts)),
            "protocol": options.protocol,
        }
        if self.kind != "unix":
            network["socket_keepalive"] = True
        if self.tls:
            network |= {
                "ssl": True,
                "ssl_ca_certs": options.ssl_ca_certs or None,
                "ssl_certfile": options.ssl_certfile or None,
                "ssl_keyfile": options.ssl_keyfile or None,
                "ssl_cert_reqs": options.ssl_cert_reqs,
                "ssl_check_hostname": options.ssl_check_hostname and options.ssl_cert_reqs != "none",
            }
        return network

    def _path(self) -> tuple[str, int]:
        """Return the Sentinel service and the number of the database."""
        if self.kind == "unix":
            return "", self.options.db or 0
        service, _, number = self.url.path.strip("/").rpartition("/")
        if self.kind == "sentinel" and not service:
            service, number = number, ""
        if not number:
            return service, self.options.db or 0
        if not number.isdigit() or (service and self.kind != "sentinel"):
            raise UrlError(f"{self.url}: the path is the number of a database, as in redis://localhost:6379/0")
        if self.options.db not in (None, int(number)):
            raise UrlError(f"{self.url} names two databases: {number} in the path and db={self.options.db}")
        return service, int(number)

    def _check(self) -> None:
        url, options = self.url, self.options
        if not options.prefix or any(mark in options.prefix for mark in "*?[]\\ "):
            raise UrlError(f"{url}: the prefix {options.prefix!r} is empty or has a pattern or a blank in it")
        for name in ("socket_timeout", "connect_timeout", "wait_timeout"):
            if not 0 < getattr(options, name) < inf:
                raise UrlError(f"{url}: {name} is a number of seconds above 0")
        if self.kind == "unix" and (url.hosts or not url.path.strip("/")):
            raise UrlError(f"{url} does not name a socket; write unix:///run/redis/redis.sock (three slashes)")
        if self.kind == "" and len(url.hosts) > 1:
            raise UrlError(f"{url} names several hosts; write redis+sentinel:// or redis+cluster:// for those")
        if self.kind == "sentinel" and not self.service:
            raise UrlError(f"{url} does not name the service; write redis+sentinel://host1,host2/SERVICE/0")
        if self.kind == "cluster" and self.db:
            raise UrlError(f"{url}: a cluster has no numbered databases; leave the number out")
        chosen = [name for name in url.options if name.startswith("ssl_")]
        if chosen and not self.tls:
            raise UrlError(
                f"{url}: {chosen[0]} is for TLS; write {'valkeys' if 'valkey' in url.scheme else 'rediss'}://"
            )
        chosen = [name for name in url.options if name.startswith("sentinel_")]
        if chosen and self.kind != "sentinel":
            raise UrlError(f"{url}: {chosen[0]} is for redis+sentinel:// only")


class Line:
    """A client of one place, with errors in words. Every method may be called from any thread."""

    def __init__(self, place: RedisPlace, words: Words, socket_timeout: float | None = None) -> None:
        self._place, self._words = place, words
        self._met = self.closed = False
        try:
            self.client: Any = place.client(socket_timeout)
        except TROUBLE as error:
            raise self._in_words(error) from error
        #: None in a cluster: there the driver knows which node is asked.
        self._wires = None if place.kind == "cluster" else Wires(self.client)
        self._execute = self.client.execute_command if self._wires is None else self._wires.ask

    def command(self, *parts: Any) -> Any:
        """Send one command and return its answer as the server gives it."""
        return self.call(self._execute, *parts)

    def run(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        """Run a script and return its answer."""
        try:
            return self.call(self._execute, "EVALSHA", script.digest, len(keys), *keys, *arguments)
        except _UnknownScript:
            # Also after a restart, a failover, or SCRIPT FLUSH: the server forgets, and learns again.
            return self.call(self._execute, "EVAL", script.text, len(keys), *keys, *arguments)

    def write_each(self, script: Script, keys: Sequence[str], calls: Iterable[Sequence[Any]]) -> list[Any]:
        """Run a script once for each of `calls`, its arguments; return the answers, or what they were refused with.

        While the server is at one call the next is worked out, and it is sent when that one is answered: after an
        outage, which is raised, one call at most is uncertain. With `wait_replicas` so many have what it wrote.
        """
        if self._wires is None or self._place.options.wait_replicas:
            run = self._run_confirmed if self._place.options.wait_replicas else self.run
            return [self._outcome(partial(run, script, keys, *arguments)) for arguments in calls]
        outcomes = []
        with self.call(self._wires.take) as wire:
            answer: Callable[[], Any] | None = None
            for arguments in calls:
                command = packed(("EVALSHA", script.digest, len(keys), *keys, *arguments))
                if answer is not None:
                    outcomes.append(self._outcome(answer))
                self.call(wire.send, command)
                answer = partial(self._answer, wire, script, keys, arguments)
            if answer is not None:
                outcomes.append(self._outcome(answer))
        return outcomes

    def _answer(self, wire: Wire, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        try:
            return self.call(wire.answer)
        except _UnknownScript:
            return self.run(script, keys, *arguments)

    def _outcome(self, answer: Callable[[], Any]) -> Any:
        try:
            return answer()
        except self._words.unavailable:
            raise
        except self._words.refused as error:
            return error

    def _run_confirmed(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        """Run a script and return its answer when `wait_replicas` have what it wrote; unavailable if they have not."""
        parts = (len(keys), *keys, *arguments)
        wanted, within = self._place.options.wait_replicas, self._place.options.wait_timeout
        answer, confirmed = self.call(self._write_and_wait, keys[0], script, parts, wanted, within)
        if confirmed < wanted:
            raise self._words.unavailable(
                f"{self._words.url}: sent, but only {confirmed} of {wanted} replicas had it within {within:g} s "
                "(wait_replicas, wait_timeout)"
            )
        return answer

    def _write_and_wait(
        self, key: str, script: Script, parts: tuple[Any, ...], replicas: int, within: float
    ) -> tuple[Any, int]:
        node = self.client
        if self._place.kind == "cluster":
            node = self.client.get_redis_connection(self.client.get_node_from_key(key))
        # WAIT is about what its own connection has written.
        with node.pipeline(transaction=False) as both:
            for head in (("EVALSHA", script.digest), ("EVAL", script.text)):
                both.execute_command(*head, *parts)
                both.execute_command("WAIT", replicas, max(1, int(within * 1000)))  # 0 would be: for ever
                answer, confirmed = both.execute(raise_on_error=False)
                if not isinstance(answer, NoScriptError):
                    break
        for reply in (answer, confirmed):
            if isinstance(reply, AskError) and self._place.kind == "cluster":
                # Of the next try the client will know where the keys are; this one it did not send itself.
                self.client.nodes_manager.initialize()
                raise self._words.unavailable(f"{self._words.url}: the cluster has moved these keys ({reply})")
            if isinstance(reply, Exception):
                raise reply
        return answer, int(confirmed)

    def close(self) -> None:
        """Close every connection, under those who use them too. Safe twice."""
        self.closed = True
        self._hang_up()

    def call(self, ask: Callable[..., Any], *parts: Any, **options: Any) -> Any:
        """Return what `ask`, given the rest, gets out of the server, its errors in words."""
        if self.closed:
            raise self._words.unavailable(f"{self._words.url} was closed or lost; open it again")
        try:
            answer = ask(*parts, **options)
            self._met = True
            return answer
        except DrayError:
            raise
        except NoScriptError as error:
            raise _UnknownScript from error
        except TROUBLE as error:
            raise self._in_words(error) from error
        except Exception as error:
            if self.closed:
                # Closed by another thread in the middle of a call, the driver stumbles over what is no longer there.
                raise self._words.unavailable(f"{self._words.url} was closed in the middle of a call") from error
            raise
        finally:
            if self.closed:
                self._hang_up()

    def _in_words(self, error: Exception) -> DrayError:
        if self._met or self._place.kind == "unix":
            return self._words.of(error)
        place = self._place
        return self._words.of_first_contact(error, place.hosts, place.tls, place.options.connect_timeout)

    def _hang_up(self) -> None:
        if self._place.kind == "cluster":
            self.client.disconnect_connection_pools()
            return
        pool = self.client.connection_pool
        pool.disconnect()
        manager = getattr(pool, "sentinel_manager", None)
        for sentinel in manager.sentinels if manager else ():
            sentinel.connection_pool.disconnect()


class _UnknownScript(Exception):
    """The server does not know the script by its digest."""


class RedisLink:
    """The connections of one broker, result backend or store. Every method may be called from any thread.

    Not carried across a fork: see `dray.Broker`.
    """

    def __init__(self, url: Url, *, refused: type[DrayError], unavailable: type[DrayError]) -> None:
        self.place = RedisPlace(url)
        self.prefix = self.place.options.prefix
        #: True: a script sees the keys of one slot only.
        self.cluster = self.place.kind == "cluster"
        self.words = Words(url, self.prefix, refused, unavailable)
        self._lock = threading.Lock()
        self._main: Line | None = None
        self._others: set[Line] = set()

    def open(self, probe: Script, keys: Sequence[str], *arguments: Any) -> None:
        """Connect anew, and run `probe` to see whether the rights suffice. Whatever the error, all is then closed."""
        self.close()
        main = Line(self.place, self.words)
        try:
            main.run(probe, keys, *arguments)
        except BaseException:
            main.close()
            raise
        with self._lock:
            self._main, replaced = main, self._main
        if replaced is not None:
            replaced.close()

    def close(self) -> None:
        """Close every connection of every line. Safe twice."""
        with self._lock:
            lines = [*self._others, *([self._main] if self._main else [])]
            self._main, self._others = None, set()
        for line in lines:
            line.close()

    @property
    def is_open(self) -> bool:
        """Whether `open` has been called, and `close` has not."""
        return self._main is not None

    @property
    def main(self) -> Line:
        """The line for everything that does not block."""
        if (main := self._main) is None:
            raise self._closed()
        return main

    def configuration(self, name: str) -> str | None:
        """Return a setting of the server (in a cluster: of one of its nodes), or None when that may not be asked."""
        options = {"target_nodes": "random"} if self.cluster else {}
        main = self.main
        try:
            answer = main.call(main.client.execute_command, "CONFIG GET", name, **options)
        except self.words.unavailable:
            raise
        except self.words.refused:
            return None
        return str(answer.get(name, ""))

    def another(self, kind: Callable[[RedisPlace, Words], L]) -> L:
        """Return a line of its own, of this kind; it is closed with the link at the latest."""
        if self._main is None:
            raise self._closed()
        line = kind(self.place, self.words)
        with self._lock:
            self._others.add(line)
        return line

    def let_go(self, line: Line) -> None:
        """Close a line that `another` returned."""
        with self._lock:
            self._others.discard(line)
        line.close()

    def _closed(self) -> DrayError:
        return self.words.unavailable(f"{self.words.url} is not open; call open() first")


@cache
def _without_repeats() -> dict[str, Any]:
    """Return what keeps a cluster client of the installed redis-py from repeating commands by itself."""
    known = inspect.signature(RedisCluster.__init__).parameters
    settings: dict[str, Any] = {"retry": Retry(NoBackoff(), 0)}
    if known["cluster_error_retry_attempts"].default == 3:  # before redis-py 6, which goes by `retry`
        settings["cluster_error_retry_attempts"] = 0
    return settings
