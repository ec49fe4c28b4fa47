"""What `dray doctor` says about a RabbitMQ: what was chosen and why, and what deserves a thought."""

from __future__ import annotations

from collections.abc import Sequence

from .rabbitmq_connection import RabbitOptions
from .rabbitmq_management import Management
from .rabbitmq_topology import Server

#: Where a password that everybody knows does no harm.
OWN_HOSTS = {"localhost", "127.0.0.1", "::1", ""}


def advice(
    server: Server, options: RabbitOptions, management: Management, hosts: Sequence[str], user: str
) -> list[str]:
    """Return sentences about a server. Asks the management API, when that is given, and nothing else."""
    nodes = management.nodes()
    said = [_queue_type(server, options, nodes), _timeout(server, options)]
    if not server.quorum and nodes is not None and nodes > 1:
        said.append(
            f"this is a cluster of {nodes} nodes, and classic queues live on one of them: while that is away, so are "
            "they; write ?queue_type=quorum for new queues"
        )
    if not server.quorum_ladder:
        said.append(
            "delays pass through classic queues, which do not confirm to each other: a server that is killed can lose "
            "what moved on within the last second; from RabbitMQ 3.10 on quorum queues are used for that"
        )
    if not management.is_given:
        said.append(
            "without ?management=http://HOST:15672 nobody can tell how many messages are in workers' hands, and "
            "queues that this process has not used are not listed"
        )
    elif nodes is None:
        said.append(
            "the management API does not answer, or this user may not ask it (the tag `monitoring` is enough): sizes "
            "and the list of queues are incomplete"
        )
    said += [
        f"{alarm} is short: nobody can send until there is more; raise the limit, or let workers catch up"
        for alarm in management.alarms() or ()
    ]
    if user == "guest" and not OWN_HOSTS.issuperset(hosts):
        said.append("the user guest and its password are known to everybody: make a user of your own")
    return said


def _queue_type(server: Server, options: RabbitOptions, nodes: int | None) -> str:
    version = ".".join(str(part) for part in server.version)
    kind = "quorum" if server.quorum else "classic"
    if options.queue_type != "auto":
        return f"queues are {kind}, as the URL says (RabbitMQ {version})"
    why = {
        (True, True): "RabbitMQ 4 and newer, where they are the kind that is replicated and looked after",
        (True, False): "a cluster, where they are the kind that survives the loss of a node",
        (False, False): "they cost less, and before RabbitMQ 4 a single node gains nothing by quorum queues"
        + ("" if nodes else "; if this is a cluster, write ?queue_type=quorum"),
    }[server.quorum, server.version >= (4,)]
    return f"queues are {kind} (RabbitMQ {version}): {why}"


def _timeout(server: Server, options: RabbitOptions) -> str:
    if options.consumer_timeout and server.version >= (3, 12):
        return (
            f"a task that takes longer than {options.consumer_timeout:g} s (consumer_timeout) is taken back and runs "
            "once more, while the first still runs"
        )
    cure = "?consumer_timeout=SECONDS for new queues, or " if server.version >= (3, 12) else ""
    return (
        "a task that takes longer than the server's consumer_timeout (30 minutes unless configured) is taken back and "
        f"runs once more, while the first still runs: keep tasks shorter, or raise it with {cure}consumer_timeout in "
        "rabbitmq.conf"
    )
