"""What works on a Redis but deserves a thought: eviction and persistence, as far as one may look (`dray doctor`)."""

from __future__ import annotations

from .redis_connection import RedisLink


def advice(link: RedisLink) -> list[str]:
    """Return a sentence for each thing that deserves a thought."""
    return [*_eviction(link), *_persistence(link)]


def _eviction(link: RedisLink) -> list[str]:
    asked = link.configuration("maxmemory-policy")
    if asked is None:
        return ["CONFIG is not allowed, so eviction was not looked at: maxmemory-policy should be noeviction"]
    if asked.startswith("allkeys"):
        return [f"maxmemory-policy is {asked}: when Redis is full it deletes whole queues silently; set noeviction"]
    if asked.startswith("volatile"):
        return [f"maxmemory-policy is {asked}: when Redis is full it deletes results and cancellations; set noeviction"]
    return []


def _persistence(link: RedisLink) -> list[str]:
    appendonly, save = link.configuration("appendonly"), link.configuration("save")
    if appendonly is None:
        return ["CONFIG is not allowed, so persistence was not looked at: appendonly should be yes"]
    if appendonly == "yes":
        return []
    if save:
        return ["appendonly is no: a crash of Redis loses what was sent since the last snapshot; set appendonly yes"]
    return ["appendonly is no and save is empty: a restart of Redis loses every task; set appendonly yes"]
