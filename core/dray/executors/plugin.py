"""The built-in executors, contributed through the same hook that a third party's use."""

from __future__ import annotations

from ..hookspecs import PLUGIN_API, Register, hookimpl

dray_api = PLUGIN_API


@hookimpl
def register_executors(register: Register) -> None:
    """Contribute the executors for `def` and for `async def` tasks."""
    register("threads", "dray.executors.threads:ThreadExecutor")
    register("loop", "dray.executors.loop:LoopExecutor")
