"""Lanes: queues within a queue, each for some of its tenants, so that tenants take turns where a broker's keys do not.

A lane is a queue like any other: what waits there is stored, lent, counted and buried by the broker. What makes turns
of them is the worker, which takes from that lane first from which it has taken longest ago (credit.py). Which lane is a
tenant's follows from the tenant alone, so that nobody has to be told. What has no tenant is in the queue itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from zlib import crc32

from .capabilities import Capabilities

if TYPE_CHECKING:
    from .settings import Settings


def lanes_of(conf: Settings) -> dict[str, list[str]]:
    """Return the lanes of each queue that has some."""
    copied = {queue.name for queue in conf.task_queues or () if queue.broadcast}
    return {
        queue: [f"{queue}__t{number}" for number in range(count)]
        for queue, count in conf.task_tenant_lanes.items()
        if queue not in copied
    }


def lane_of(lanes: Sequence[str], tenant: str) -> str:
    """Return the lane of a tenant: the same in every process and for ever, as long as there are as many."""
    return lanes[crc32(tenant.encode()) % len(lanes)]


def homes_of(lanes: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return which queue each lane stands for."""
    return {lane: queue for queue, some in lanes.items() for lane in some}


def turns_of(conf: Settings, can: Capabilities, queues: Sequence[str]) -> dict[str, list[str]]:
    """Return what a worker of these queues looks at in turns, in the place of those that have lanes.

    There are none where the broker's keys take turns by themselves.
    """
    lanes = {} if can.key == "fair" else lanes_of(conf)
    return {queue: [queue, *lanes[queue]] for queue in queues if queue in lanes}
