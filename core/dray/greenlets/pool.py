"""The executor that runs tasks in greenlets: what a worker asks of it, passed on to the herd."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, ClassVar

from ..errors import ConfigurationError
from ..executors import Host
from ..processes.birth import birth
from ..processes.pool import ProcessExecutor
from .herd import Herd
from .nursery import GreenletNursery


class GreenletExecutor(ProcessExecutor):
    """Each `def` task runs in a greenlet of one child process, which gevent has patched: what waits lets others run.

    A task that has to be killed takes that process along. The other tasks in it are given back, and charged with
    nothing; another process takes its place.
    """

    runs: ClassVar[frozenset[str]] = frozenset({"def"})
    isolates: ClassVar[bool] = False
    name: ClassVar[str] = "gevent"

    @classmethod
    def default_slots(cls, processors: int) -> int:
        return 100

    def start(self, host: Host) -> None:
        if find_spec("gevent") is None:
            raise ConfigurationError(
                "the pool 'gevent' needs gevent, which is not installed: pip install 'dray[gevent]'"
            )
        super().start(host)

    def _supervised(self, host: Host) -> Any:
        app = host.app
        told = birth(app, host.name, host.prepare_child, self.name)
        return Herd(
            host,
            self._line,
            GreenletNursery(app, told),
            self.slots,
            lease=host.lease if told.capabilities.lease else 0.0,
            most_jobs=app.conf.worker_max_tasks_per_child,
        )
