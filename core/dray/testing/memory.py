"""Apps whose messages and results live in memory, for one test: a new one, or one that is there already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..app import Dray
from ..clock import Clock
from ..connections import DISABLED
from ..ids import id_source
from ..settings import Settings

MEMORY_URL = "memory://"


def memory_app(clock: Clock, **settings: Any) -> Dray:
    """Return a new app on memory, with these settings over the defaults; nothing else is looked at.

    Neither the environment, nor a configuration file, nor installed plugins (unless `plugins` names them) have a say.
    `def` tasks run one after the other, in the order in which a worker takes them, unless `worker_concurrency` says
    otherwise, and a task that nobody knows is buried at once. It is not the current app: see `Dray.as_current`.
    """
    given = {
        "broker_url": MEMORY_URL,
        "result_backend": MEMORY_URL,
        "plugins": [],
        "worker_concurrency": 1,
        "task_unknown_grace": 0.0,
        **settings,
    }
    app = Dray("test", clock=clock, set_as_current=False)
    app.conf = Settings.load(given, environ={"DRAY_CONFIG": ""})
    return app


@contextmanager
def on_memory(app: Dray, clock: Clock | None = None) -> Iterator[Dray]:
    """Have an existing app keep everything in memory, and take its time from `clock`, in the block.

    Its tasks, plugins, middleware and all other settings stay as they are; results stay disabled if they are. The
    memory is new each time, and what the app had open before is as it was afterwards. Not for an app that is used by
    other threads meanwhile.
    """
    conf = app.conf
    before = {name: (getattr(conf, name), conf.origin(name)) for name in ("broker_url", "result_backend", "store_url")}
    connections, own_clock, new_id = app._connections, app.clock, app.new_id
    app._connections = None
    conf.update(
        broker_url=MEMORY_URL,
        result_backend=DISABLED if conf.result_backend == DISABLED else MEMORY_URL,
        store_url=DISABLED if conf.store_url == DISABLED else MEMORY_URL,
        origin="dray.testing.on_memory",
    )
    if clock is not None:
        app.clock, app.new_id = clock, id_source(clock)
    try:
        yield app
    finally:
        app.close()
        app._connections, app.clock, app.new_id = connections, own_clock, new_id
        for name, (value, origin) in before.items():
            conf.update({name: value}, origin=origin)
