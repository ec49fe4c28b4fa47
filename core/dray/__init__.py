"""dray: a broker-agnostic, pluggable task queue. One cart, any horse.

    from dray import Dray

    app = Dray("shop", broker="sqlite:///tasks.db")

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    add.delay(2, 3).get(timeout=10)

Every public name is importable from here and is loaded when first used, so that `import dray` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .alerts import Alert as Alert
    from .app import Dray as Dray
    from .arguments import Sensitive as Sensitive
    from .backend import Record as Record
    from .backend import ResultBackend as ResultBackend
    from .batches import Batch as Batch
    from .batches import BatchResult as BatchResult
    from .broker import Broker as Broker
    from .broker import Consumer as Consumer
    from .canvas import Canvas as Canvas
    from .canvas import Chain as Chain
    from .canvas import Chord as Chord
    from .canvas import Group as Group
    from .canvas import Signature as Signature
    from .canvas import chain as chain
    from .canvas import chord as chord
    from .canvas import group as group
    from .canvas import signature as signature
    from .capabilities import FOREVER as FOREVER
    from .capabilities import Capabilities as Capabilities
    from .clock import Clock as Clock
    from .clock import ManualClock as ManualClock
    from .clock import SystemClock as SystemClock
    from .compressor import Compressor as Compressor
    from .context import Context as Context
    from .dead_letters import DeadLetter as DeadLetter
    from .endings import Ending as Ending
    from .endings import Results as Results
    from .errors import AlreadySent as AlreadySent
    from .errors import ArgumentsError as ArgumentsError
    from .errors import BackendError as BackendError
    from .errors import BackendUnavailable as BackendUnavailable
    from .errors import BlockingCallError as BlockingCallError
    from .errors import BrokerError as BrokerError
    from .errors import BrokerUnavailable as BrokerUnavailable
    from .errors import ConfigurationError as ConfigurationError
    from .errors import ContentNotAccepted as ContentNotAccepted
    from .errors import DecodeError as DecodeError
    from .errors import DrayError as DrayError
    from .errors import Ignore as Ignore
    from .errors import LimitExceeded as LimitExceeded
    from .errors import LockLost as LockLost
    from .errors import LockTaken as LockTaken
    from .errors import MaxRetriesExceeded as MaxRetriesExceeded
    from .errors import NotSupported as NotSupported
    from .errors import PluginError as PluginError
    from .errors import PublishError as PublishError
    from .errors import Reject as Reject
    from .errors import Replace as Replace
    from .errors import ResultError as ResultError
    from .errors import ResultTimeout as ResultTimeout
    from .errors import Retry as Retry
    from .errors import SerializationError as SerializationError
    from .errors import SettingError as SettingError
    from .errors import SoftTimeLimitExceeded as SoftTimeLimitExceeded
    from .errors import StoreError as StoreError
    from .errors import StoreUnavailable as StoreUnavailable
    from .errors import TaskExpired as TaskExpired
    from .errors import TaskFailed as TaskFailed
    from .errors import TaskOptionError as TaskOptionError
    from .errors import TaskRejected as TaskRejected
    from .errors import TaskRevoked as TaskRevoked
    from .errors import TimeLimitExceeded as TimeLimitExceeded
    from .errors import UnknownPlugin as UnknownPlugin
    from .errors import UnknownResult as UnknownResult
    from .errors import UnknownTask as UnknownTask
    from .errors import UrlError as UrlError
    from .errors import WorkerLost as WorkerLost
    from .events import KeptEvent as KeptEvent
    from .executors import Executor as Executor
    from .executors import Host as Host
    from .followups import FailedCall as FailedCall
    from .group_result import GroupResult as GroupResult
    from .grouping import stable_id as stable_id
    from .hookspecs import Event as Event
    from .hookspecs import hookimpl as hookimpl
    from .limits import Limit as Limit
    from .lineage import FlowProgress as FlowProgress
    from .locks import Lock as Lock
    from .message import Delivery as Delivery
    from .message import Envelope as Envelope
    from .message import Message as Message
    from .message import Queue as Queue
    from .message import Step as Step
    from .message import Waiting as Waiting
    from .middleware import Middleware as Middleware
    from .outcome import Outcome as Outcome
    from .result import AsyncResult as AsyncResult
    from .schedule_control import ScheduleEntry as ScheduleEntry
    from .schedule_control import Schedules as Schedules
    from .schedule_control import ScheduleTick as ScheduleTick
    from .scheduler import Scheduler as Scheduler
    from .schedules import Schedule as Schedule
    from .schedules import at as at
    from .schedules import crontab as crontab
    from .schedules import every as every
    from .schedules import schedule as schedule
    from .seal import Seal as Seal
    from .serializer import Serializer as Serializer
    from .settings import Settings as Settings
    from .shared import current_app as current_app
    from .shared import shared_task as shared_task
    from .store import Absent as Absent
    from .store import Add as Add
    from .store import Change as Change
    from .store import Changed as Changed
    from .store import Check as Check
    from .store import Delete as Delete
    from .store import Due as Due
    from .store import Equals as Equals
    from .store import Hold as Hold
    from .store import Index as Index
    from .store import Present as Present
    from .store import Put as Put
    from .store import Revise as Revise
    from .store import Store as Store
    from .store import StoreCapabilities as StoreCapabilities
    from .store import Take as Take
    from .store import Unindex as Unindex
    from .store import Write as Write
    from .task import Task as Task
    from .urls import Url as Url
    from .urls import mask as mask
    from .worker import Worker as Worker

#: Which module each public name lives in.
_HOMES = {
    "alerts": "Alert",
    "app": "Dray",
    "arguments": "Sensitive",
    "backend": "Record ResultBackend",
    "batches": "Batch BatchResult",
    "broker": "Broker Consumer",
    "canvas": "Canvas Chain Chord Group Signature chain chord group signature",
    "capabilities": "Capabilities FOREVER",
    "clock": "Clock ManualClock SystemClock",
    "compressor": "Compressor",
    "context": "Context",
    "dead_letters": "DeadLetter",
    "endings": "Ending Results",
    "errors": (
        "AlreadySent ArgumentsError BackendError BackendUnavailable BlockingCallError BrokerError BrokerUnavailable "
        "ConfigurationError ContentNotAccepted DecodeError DrayError Ignore LimitExceeded LockLost LockTaken "
        "MaxRetriesExceeded NotSupported PluginError PublishError Reject Replace ResultError ResultTimeout Retry "
        "SerializationError "
        "SettingError SoftTimeLimitExceeded StoreError StoreUnavailable TaskExpired TaskFailed TaskOptionError "
        "TaskRejected TaskRevoked TimeLimitExceeded UnknownPlugin UnknownResult UnknownTask UrlError WorkerLost"
    ),
    "events": "KeptEvent",
    "executors": "Executor Host",
    "followups": "FailedCall",
    "group_result": "GroupResult",
    "grouping": "stable_id",
    "hookspecs": "Event hookimpl",
    "limits": "Limit",
    "lineage": "FlowProgress",
    "locks": "Lock",
    "message": "Delivery Envelope Message Queue Step Waiting",
    "middleware": "Middleware",
    "outcome": "Outcome",
    "result": "AsyncResult",
    "schedule_control": "ScheduleEntry Schedules ScheduleTick",
    "scheduler": "Scheduler",
    "schedules": "Schedule at crontab every schedule",
    "seal": "Seal",
    "serializer": "Serializer",
    "settings": "Settings",
    "shared": "current_app shared_task",
    "store": (
        "Absent Add Change Changed Check Delete Due Equals Hold Index Present Put Revise Store StoreCapabilities Take "
        "Unindex Write"
    ),
    "task": "Task",
    "urls": "Url mask",
    "worker": "Worker",
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = sorted(["__version__", *_MODULE_OF])


def __getattr__(name: str) -> Any:
    try:
        module = _MODULE_OF[name]
    except KeyError:
        raise AttributeError(f"module 'dray' has no attribute {name!r}") from None
    value = getattr(import_module(f"dray.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
