"""The built-in executors, contributed through the same hook that a third party's use."""

from __future__ import annotations

from ..hookspecs import PLUGIN_API, Register, hookimpl

dray_api = PLUGIN_API


@hookimpl
def register_executors(register: Register) -> None:
    """Contribute what tasks can be run on."""
    register("threads", "dray.executors.threads:ThreadExecutor")
    register("loop", "dray.executors.loop:LoopExecutor")
    # Celery's word for it: chosen with --pool, `-c` says how many coroutines run at once; `def` tasks go to threads.
    register("asyncio", "dray.executors.loop:LoopExecutor")
    register("solo", "dray.executors.solo:SoloExecutor")
    register("processes", "dray.processes.pool:ProcessExecutor")
    register("gevent", "dray.greenlets.pool:GreenletExecutor")
