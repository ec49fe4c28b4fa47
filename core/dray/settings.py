"""Every setting of dray, in one typed table: name, type, default, unit, help and validation.

The table is the class `Settings`; documentation and `dray settings` are generated from it (`describe`). Where values
come from - code, the environment, a file - is the business of `dray.configuration`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, TypedDict

import msgspec
from msgspec import Meta

from .celery_settings import instead
from .errors import SettingError
from .message import Queue
from .routers import Priority, QueueName, RateText, RouteOptions, ShortText
from .setting_values import Setting, describe_setting, read_value
from .urls import mask, nearest

_PUBLISH_RETRY: PublishRetryPolicy = {
    "max_retries": 3,
    "interval_start": 0.0,
    "interval_step": 0.2,
    "interval_max": 1.0,
}
#: What Svix does.
_WEBHOOK_RETRIES = [5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 36000.0]
_LIST = " `dray settings` lists them all."

#: Durations are seconds as float; a timedelta or text such as "5m" is turned into that.
Seconds = Annotated[float, Meta(ge=0, extra={"unit": "seconds"})]
Positive = Annotated[float, Meta(gt=0, extra={"unit": "seconds"})]
Bytes = Annotated[int, Meta(ge=1, extra={"unit": "bytes"})]
Count = Annotated[int, Meta(ge=1)]
CountOrZero = Annotated[int, Meta(ge=0)]
Autoscale = Annotated[list[Count], Meta(min_length=2, max_length=2, extra={"takes": "MAX,MIN"})]
Place = Annotated[str, Meta(extra={"form": "url", "takes": "URL"})]
Places = Annotated[str, Meta(extra={"form": "urls", "takes": "URL, or several"})]
Name = Annotated[str, Meta(min_length=1, extra={"takes": "name"})]
Module = Annotated[str, Meta(min_length=1, extra={"takes": "module"})]
TaskPattern = Annotated[str, Meta(min_length=1, extra={"takes": "task name or pattern"})]
KeyId = Annotated[str, Meta(pattern=r"\A[\w.:\-]{1,64}\Z", extra={"takes": "key id"})]
#: Texts of which only those are shown that point to the secret.
Secrets = Annotated[
    dict[KeyId, Annotated[str, Meta(min_length=1, extra={"takes": "'env:NAME', 'file:PATH' or the secret itself"})]],
    Meta(extra={"form": "secrets"}),
]
#: Names, tables and the queues of kombu are read into queues by `dray.queues`.
Queues = Annotated[
    list[Queue], Meta(extra={"form": "queues", "takes": "list of queue names, tables (name, exchange ...) and Queues"})
]
#: What `dray.routers` reads.
Routers = Annotated[
    dict[TaskPattern, QueueName | RouteOptions] | list[Any],
    Meta(
        extra={
            "form": "routes",
            "takes": "table of task name or pattern -> queue name or table of queue, priority, exchange, routing_key, "
            "rate_limit; "
            "or function or its path; or list of all these",
        }
    ),
]


class PublishRetryPolicy(TypedDict, total=False):
    """How sending is tried again while the broker is away. What is left out is as in the default."""

    #: Most tries after the first; None: no limit.
    max_retries: CountOrZero | None
    #: Seconds before the first retry, seconds each further pause is longer by, and the longest pause.
    interval_start: Seconds
    interval_step: Seconds
    interval_max: Seconds


class QueueLimits(TypedDict, total=False):
    """How often tasks of a queue may begin, and how many may run at a time, over all workers."""

    rate_limit: RateText
    burst: Count
    max_concurrent: Count


def _of(group: str, help: str, celery: bool | str = True) -> Meta:
    """Describe a setting that Celery has too, under the name `celery` if that is another one."""
    return Meta(description=help, extra={"group": group, "celery": celery})


def _own(group: str, help: str) -> Meta:
    """Describe a setting that is dray's own."""
    return _of(group, help, celery=False)


class Row(NamedTuple):
    """One setting as documentation and `dray settings` show it; all texts."""

    name: str
    #: What values it takes, in words.
    type: str
    default: str
    unit: str
    help: str
    group: str
    environment: str
    #: Celery's name for the same thing, or "".
    celery: str


class Settings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, dict=True, eq=False):
    """The settings of one app: `app.conf`.

    Attributes are read freely. Assigning one, and `update`, convert and validate, and raise `SettingError` naming
    the setting, the value, and what it takes. An `update` is taken whole or not at all. Reading is safe from
    any thread; change settings before the app is used: what has been built from them is not built again.
    """

    broker_url: Annotated[
        Places | None,
        _of(
            "Connections",
            "Where messages wait; several (a list, or ';' between them): the others stand by; None: a local file.",
        ),
    ] = None
    broker_failover: Annotated[
        Literal["ordered", "shuffle"],
        _of("Connections", "In which order several broker URLs are tried.", "broker_failover_strategy"),
    ] = "ordered"
    result_backend: Annotated[
        Place | None,
        _of("Connections", "Where results are kept; None: beside the messages; 'disabled': nowhere."),
    ] = None
    store_url: Annotated[
        Place | None,
        _own(
            "Connections",
            "Where workflows, schedules, limits and locks are kept, and what the broker cannot keep itself: long "
            "delays, revocations, delivery counts; None: where results are, or tasks; 'disabled': nowhere.",
        ),
    ] = None
    store_remember: Annotated[
        Seconds,
        _own(
            "Connections",
            "How long the store remembers what is done, on brokers that deliver twice now and then; 0: not.",
        ),
    ] = 60.0

    flow_expires: Annotated[
        Seconds,
        _own(
            "Connections", "How long a chord, or a group in a chain, is kept after the last thing that happened to it."
        ),
    ] = 7 * 86400.0

    task_serializer: Annotated[Name, _of("Messages", "How the arguments of tasks are written.")] = "json"
    result_serializer: Annotated[Name, _of("Messages", "How results are written.")] = "json"
    accept_content: Annotated[
        list[Name],
        _of(
            "Messages",
            "Serializers (names or content types) that are read; the rest goes to the dead letters.",
        ),
    ] = msgspec.field(default_factory=lambda: ["json", "msgpack"])
    task_compression: Annotated[Name | None, _of("Messages", "How arguments are packed, such as 'gzip' or 'zstd'.")] = (
        None
    )
    result_compression: Annotated[Name | None, _of("Messages", "How results are packed.")] = None
    task_max_message_bytes: Annotated[
        Bytes, _own("Messages", "Largest body that is sent or read, before and after unpacking.")
    ] = 16 * 1024 * 1024

    message_security: Annotated[
        Name | None,
        _own(
            "Security",
            "How messages and results are protected: 'hmac' or 'ed25519' (signed), 'aes-gcm' (encrypted); None: not.",
        ),
    ] = None
    message_keys: Annotated[
        Secrets, _own("Security", "The keys for that by id: the first one that can seals, all of them open.")
    ] = {}
    message_security_accept: Annotated[
        list[Name],
        _own("Security", "What is read besides `message_security`, during a change: seals, 'none' for what has none."),
    ] = []

    result_expires: Annotated[Seconds | None, _of("Results", "How long results are kept; None or 0: for ever.")] = (
        86400.0
    )
    result_extended: Annotated[
        bool, _of("Results", "Store the task's name, arguments, queue and worker with the result.")
    ] = False
    task_ignore_result: Annotated[bool, _of("Results", "Store no states and no results.")] = False
    task_store_errors_even_if_ignored: Annotated[
        bool, _of("Results", "Store failures although results are ignored.")
    ] = False
    task_track_started: Annotated[bool, _of("Results", "Store the state STARTED when a task begins.")] = False

    task_acks_late: Annotated[
        bool,
        _of("Tasks", "True: acked when it has ended (at-least-once); False: acked before it starts (at-most-once)."),
    ] = True
    task_acks_on_failure: Annotated[
        bool,
        _of(
            "Tasks",
            "False: the message of a task that has failed for good is kept in the dead letters.",
            "task_acks_on_failure_or_timeout",
        ),
    ] = True
    task_annotations: Annotated[
        dict[TaskPattern, dict[str, Any]],
        _of("Tasks", "Options laid over those of the tasks with that name or pattern; '*' is all of them."),
    ] = {}
    task_time_limit: Annotated[
        Positive | None,
        _of("Tasks", "How long a task may run before it is ended and has failed; None: as long as it likes."),
    ] = 3600.0
    task_soft_time_limit: Annotated[
        Positive | None,
        _of("Tasks", "How long a task may run before SoftTimeLimitExceeded is raised in it; None: it is not."),
    ] = None
    task_reject_on_worker_lost: Annotated[
        bool,
        _of("Tasks", "True: a task whose process died runs again, `task_max_deliveries` times; False: it has failed."),
    ] = True
    task_unknown_grace: Annotated[
        Seconds,
        _own(
            "Tasks",
            "How long a task this worker does not know is handed back to the queue before it goes to the dead letters.",
        ),
    ] = 60.0
    dead_letter_max: Annotated[
        Count | None,
        _own("Tasks", "Most dead letters that are kept in each queue, the youngest; None: all of them."),
    ] = 100_000
    dead_letter_expires: Annotated[
        Positive | None,
        _own("Tasks", "How long dead letters are kept; None: until somebody deletes them."),
    ] = 7_776_000.0
    imports: Annotated[list[Module], _of("Tasks", "Modules a worker imports when it starts, for their tasks.")] = []
    include: Annotated[list[Module], _of("Tasks", "More modules to import, after `imports`.")] = []

    task_default_queue: Annotated[QueueName, _of("Routing", "The queue of tasks that name none.")] = "default"
    task_default_priority: Annotated[
        Priority, _of("Routing", "The priority of tasks that name none: 0 to 9, 9 is the most urgent.")
    ] = 0
    task_queues: Annotated[
        Queues | None, _of("Routing", "The queues there are, which a worker without -Q takes from; None: any.")
    ] = None
    task_default_exchange: Annotated[
        Annotated[ShortText, Meta(min_length=1, extra={"takes": "name"})] | None,
        _of(
            "Routing",
            "The exchange of queues and sendings that say a routing key only; None: one called like the default queue.",
        ),
    ] = None
    task_default_exchange_type: Annotated[
        Literal["direct", "topic", "fanout"], _of("Routing", "The type of that exchange.")
    ] = "direct"
    task_default_routing_key: Annotated[
        ShortText | None, _of("Routing", "The routing key of sendings that say an exchange only.")
    ] = None
    task_create_missing_queues: Annotated[
        bool, _of("Routing", "False: sending to a queue that `task_queues` does not name is an error.")
    ] = True
    task_routes: Annotated[Routers, _of("Routing", "Where tasks go, by name or pattern, or as functions say.")] = {}

    task_default_rate_limit: Annotated[
        RateText | None,
        _of("Limits", "How often a task that does not say may begin, over all workers, such as '100/m'; None: always."),
    ] = None
    task_queue_limits: Annotated[
        dict[QueueName, QueueLimits],
        _own("Limits", "How often tasks of a queue may begin, and how many may run at a time, over all workers."),
    ] = {}

    task_tenant_lanes: Annotated[
        dict[QueueName, Count],
        _own(
            "Limits",
            "Queues whose tenants (`tenant=`) take turns, and by how many lanes; not needed where the broker does it.",
        ),
    ] = {}

    task_default_max_retries: Annotated[
        CountOrZero | None, _own("Retries", "Most retries of a task that does not say; None: no limit.")
    ] = 3
    task_default_retry_delay: Annotated[Seconds, _own("Retries", "Pause before a retry that does not say.")] = 180.0
    task_max_deliveries: Annotated[
        Count,
        _own("Retries", "How often a task may be started without ending before it goes to the dead letters."),
    ] = 3
    task_publish_retry: Annotated[bool, _of("Retries", "Try again to send while the broker is away.")] = True
    task_publish_retry_policy: Annotated[
        PublishRetryPolicy,
        _of("Retries", "How sending is tried again: pauses in seconds, and how often (None: no limit)."),
    ] = msgspec.field(default_factory=_PUBLISH_RETRY.copy)

    task_always_eager: Annotated[bool, _of("Testing", "Run tasks at once, where they are sent, and send nothing.")] = (
        False
    )
    task_eager_propagates: Annotated[bool, _of("Testing", "An eager task that fails raises where it was sent.")] = False
    task_store_eager_result: Annotated[bool, _of("Testing", "Store the results of eager tasks in the backend.")] = False

    webhook_secrets: Annotated[
        Secrets,
        _own("Webhooks", "What webhooks are signed with, by id: each of them signs, so that secrets can be changed."),
    ] = {}
    webhook_timeout: Annotated[Positive, _own("Webhooks", "How long the answer to a webhook is waited for.")] = 10.0
    webhook_retries: Annotated[
        list[Seconds], _own("Webhooks", "The pauses before a webhook is tried again; then it is a dead letter.")
    ] = msgspec.field(default_factory=_WEBHOOK_RETRIES.copy)
    webhook_allow_private: Annotated[
        list[Name],
        _own("Webhooks", "Hosts and networks that webhooks may call although they are not public: '10.0.0.0/8'."),
    ] = []

    worker_send_task_events: Annotated[
        bool,
        _of(
            "Events", "True: a worker keeps in the store what it and its tasks do, for `app.events` and `dray events`."
        ),
    ] = False
    task_send_sent_event: Annotated[
        bool, _of("Events", "True: that a task was sent is kept there as well, by whoever sends it.")
    ] = False

    timezone: Annotated[
        Annotated[str, Meta(extra={"form": "timezone", "takes": "time zone such as 'Europe/Athens'"})],
        _of("Time", "Zone of times that are shown, and of those given without one if `enable_utc` is off."),
    ] = "UTC"
    enable_utc: Annotated[
        bool, _of("Time", "True: a datetime given without a zone is in UTC; False: it is in `timezone`.")
    ] = True

    beat_schedule: Annotated[
        dict[Annotated[str, Meta(min_length=1, extra={"takes": "name"})], dict[str, Any]],
        _of("Schedules", "What schedulers send when: a table of entries by name; see docs/scheduling.md."),
    ] = {}
    beat_max_loop_interval: Annotated[
        Positive,
        _of("Schedules", "How long a scheduler sleeps at most before it looks for schedules that have changed."),
    ] = 5.0

    worker_name: Annotated[Name | None, _own("Worker", "The worker's name; None: made of process and host.")] = None
    worker_pool: Annotated[
        Name, _of("Worker", "What tasks run on: 'threads', 'processes', 'gevent', 'solo', 'asyncio' or a plugin's.")
    ] = "threads"
    worker_async_pool: Annotated[
        Name | None,
        _own("Worker", "What `async def` tasks run on; None: the pool if it runs them too, else 'loop'."),
    ] = None
    worker_concurrency: Annotated[
        Count | None,
        _of("Worker", "How many `def` tasks run at once; None: as the pool and the CPUs this process may use suggest."),
    ] = None
    worker_async_concurrency: Annotated[
        Count, _own("Worker", "How many `async def` tasks run at once, on one event loop.")
    ] = 100
    worker_autoscale: Annotated[
        Autoscale | None,
        _own(
            "Worker",
            "Most and fewest `def` tasks that run at once, as work comes: '10,3'; None: a fixed number.",
        ),
    ] = None
    worker_start_method: Annotated[
        Literal["forkserver", "spawn", "fork"],
        _of("Worker", "How the processes of the pool begin: see docs/workers.md.", "worker_pool_start_method"),
    ] = "forkserver"
    worker_max_tasks_per_child: Annotated[
        Count | None, _of("Worker", "A process of the pool is replaced after so many tasks; None: never.")
    ] = None
    worker_max_memory_per_child: Annotated[
        Annotated[int, Meta(ge=16 * 1024 * 1024, extra={"unit": "bytes"})] | None,
        _own("Worker", "A process of the pool that is larger is replaced when its task has ended; None: never."),
    ] = None
    worker_prefetch_multiplier: Annotated[
        CountOrZero | None,
        _of("Worker", "Messages held per task that can run at once; 0: no limit; None: as many as a moment's work."),
    ] = None
    worker_queue_order: Annotated[
        Literal["strict", "weighted"],
        _own(
            "Worker", "'strict': a queue is looked at when those before it are empty; 'weighted': each has its share."
        ),
    ] = "strict"
    worker_queue_weights: Annotated[
        dict[QueueName, Count],
        _own("Worker", "The share of each queue when the order is 'weighted'; 1 for those not named."),
    ] = {}
    worker_queue_concurrency: Annotated[
        dict[QueueName, Count],
        _own("Worker", "How many tasks of a queue one worker runs at once, at most; no limit for those not named."),
    ] = {}
    worker_lease: Annotated[
        Positive,
        _own("Worker", "How long a message is lent to a worker; renewed while it lives, over when it dies."),
    ] = 30.0
    worker_heartbeat_file: Annotated[
        Name | None,
        _own(
            "Worker",
            "File that `dray worker` writes every few seconds, for `dray healthcheck`; %n, %h, %p as in names.",
        ),
    ] = None
    worker_shutdown_timeout: Annotated[
        Seconds,
        _of(
            "Worker",
            "How long running tasks may go on when the worker is asked to stop.",
            "worker_soft_shutdown_timeout",
        ),
    ] = 25.0

    plugins: Annotated[
        list[Name] | None,
        _own("Plugins", "The only installed plugins (names or distributions) to load; empty: none; None: all."),
    ] = None
    disabled_plugins: Annotated[list[Name], _own("Plugins", "Plugins (names or distributions) not to load.")] = []
    plugin_choices: Annotated[
        dict[
            Annotated[str, Meta(pattern=r"\A[a-z]+\..+\Z", extra={"takes": "kind.name"})],
            Annotated[str, Meta(pattern=r"\A[^/]+/.+\Z", extra={"takes": "dist/name"})],
        ],
        _own("Plugins", "Which plugin wins a name that several claim: {'brokers.nats': 'acme-nats/nats'}."),
    ] = {}
    strict: Annotated[
        bool,
        _own("Plugins", "True: a broken plugin is an error, and what the broker cannot do itself is refused."),
    ] = False

    @classmethod
    def load(
        cls,
        overrides: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Settings:
        """Gather settings: `overrides` (code), over `environ`, over the nearest file from `cwd` upwards, over defaults.

        `environ` and `cwd` are the process's own when left out. Raises `SettingError`.
        """
        from .configuration import gather

        return gather(overrides or {}, environ=environ, cwd=cwd)

    def update(self, changes: Mapping[str, Any] | None = None, /, *, origin: str = "code", **more: Any) -> None:
        """Set several settings: all of them, or none and a `SettingError` that names every mistake.

        `origin` is what `origin(name)` then answers.
        """
        wanted = {**(changes or {}), **more}
        read, wrong = {}, []
        for name, value in wanted.items():
            try:
                read[name] = read_setting(name, value, origin)
            except SettingError as error:
                wrong.append(str(error))
        if wrong:
            raise SettingError("\n".join(wrong))
        for name, value in read.items():
            super().__setattr__(name, value)
            self._origins[name] = origin

    def from_object(self, source: Any, namespace: str = "") -> None:
        """Take settings from a module, class, mapping, object or "module:attribute" (`read_object`)."""
        from .configuration import read_object

        self.update(read_object(source, namespace))

    def origin(self, name: str) -> str:
        """Return where a setting's value comes from: "default", "code", or the variable or file that says so."""
        _known(name, "code")
        return self._origins.get(name, "default")

    def shown(self) -> dict[str, str]:
        """Return every setting's value as text for people, passwords masked."""
        return {name: show_value(setting, getattr(self, name)) for name, setting in settings_table().items()}

    def __post_init__(self) -> None:
        super().__setattr__("_origins", {})
        self.update({name: getattr(self, name) for name in self._changed()})

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={text}' for name, text in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        table = settings_table()
        return [(name, show_value(table[name], getattr(self, name))) for name in self._changed()]

    def _changed(self) -> list[str]:
        return [name for name, setting in settings_table().items() if getattr(self, name) != setting.default]

    if TYPE_CHECKING:
        # Kept per object; only a ClassVar keeps type checkers from taking it for one more setting.
        _origins: ClassVar[dict[str, str]]
    else:
        # Hidden from type checkers: they would take any misspelt name for a legal assignment.
        def __setattr__(self, name: str, value: Any) -> None:
            self.update({name: value})


@cache
def settings_table() -> Mapping[str, Setting]:
    """Return the description of every setting, by name, in the order of documentation."""
    return {field.name: describe_setting(field) for field in msgspec.structs.fields(Settings)}


def describe() -> list[Row]:
    """Return a row of texts for every setting: what docs/settings.md and `dray settings` are generated from."""
    return [
        Row(s.name, s.takes, s.default_text, s.unit, s.help, s.group, s.environment, s.celery)
        for s in settings_table().values()
    ]


def read_setting(name: str, value: Any, origin: str = "code") -> Any:
    """Return `value` as the setting's type; raise `SettingError` for an unknown name or a value it does not take."""
    setting = _known(name, origin)
    try:
        read = read_value(setting, value)
    except ValueError as error:
        shown = f"{_from(origin)}{name} = {_short(value, setting)}"
        raise SettingError(f"{shown}: {_sentence(str(error))} It takes: {setting.takes}.") from None
    # Celery's spelling of "for ever".
    return None if name == "result_expires" and read == 0 else read


def show_value(setting: Setting, value: Any) -> str:
    """Return a setting's value as text for people: without passwords and secrets, but with what points to them."""
    if setting.form == "secrets":
        value = {id: text if text.startswith(("env:", "file:")) else "***" for id, text in value.items()}
    return mask(repr(value))


def hint(name: str) -> str:
    """Return what to say of an unknown setting: "; what dray does instead", "; did you mean ...?" or nothing."""
    plain = str(name).lower().removeprefix("dray_").removeprefix("celery_")
    return f"; {said}" if (said := instead(plain)) else nearest(plain, settings_table())


def _known(name: str, origin: str) -> Setting:
    table = settings_table()
    if name in table:
        return table[name]
    raise SettingError(_sentence(f"{_from(origin)}there is no setting {name!r}{hint(name)}") + _LIST)


def _from(origin: str) -> str:
    return "" if origin == "code" else f"{origin}: "


def _sentence(text: str) -> str:
    return text if text.endswith(("?", ".")) else text + "."


def _short(value: Any, setting: Setting) -> str:
    if setting.form == "secrets":
        return "(not shown)"
    text = mask(repr(value))
    if setting.form in ("url", "urls") and "@" in text and mask(text) == repr(value):
        return "(not shown)"
    return text if len(text) <= 80 else text[:77] + "..."
