"""What dray does instead, for the settings of Celery that it does not have: one sentence each, used in errors."""

from __future__ import annotations

from fnmatch import fnmatchcase

_IN_URL = "options of a broker or backend are part of its URL: scheme://host/...?option=value"
_ALWAYS_RETRIES = "a worker always reconnects, with growing pauses, and never gives up; leave it out"
_RESULTS = "results are kept in `result_backend`, and pass no exchange of yours; leave it out"
_CHILDREN = "a process of the pool that dies or does not start is noticed at once, and replaced; leave it out"
_STORE = "schedules and their state are kept in the store (`store_url`), where all schedulers meet; leave it out"
_CHORDS = "a chord is counted in the store, and what follows it is sent by whoever ends it; leave it out"
_EVENTS = "events do not pass through the broker: with `worker_send_task_events` they are kept in the store"
_LOGGING = "logging is left as you set it up with Python's `logging`"
_CONTROL = "there is no remote control of workers yet"
_NAMED_QUEUES = (
    "every queue has priorities 0 to 9 and delays, and the broker's URL says of which kind it is; leave it out"
)
_ONE_LOOP = "a worker is one engine of threads and an event loop; its parts are not exchanged"
_NO_CONNECTION_POOL = "there is one connection per role, and no pool of them to size; leave it out"
_PARTS_OF_URL = "a broker is chosen by one URL: use `broker_url`"
_ONE_URL = "sending and receiving use the same broker: use `broker_url`"
_SIGNED = "messages are signed, metadata included, or encrypted: use `message_security` and `message_keys`"

_INSTEAD = {
    "task_protocol": (
        "messages say themselves which format they have, and no version of it signs them: `message_security` does; "
        "leave it out"
    ),
    "result_ttl": "that is `result_expires`",
    "task_retry_on_worker_lost": "that is `task_reject_on_worker_lost`, with `task_max_deliveries` as the limit",
    "worker_disable_rate_limits": "`app.limits.set(task, rate=None)` lifts a limit for all workers",
    "event_*": _EVENTS,
    "task_remote_tracebacks": "the traceback is stored as text, and `AsyncResult.traceback` has it; leave it out",
    "task_inherit_parent_priority": "every task has its own priority: see `task_default_priority` and `task_routes`",
    "task_queue_max_priority": _NAMED_QUEUES,
    "task_create_missing_queue_*": _NAMED_QUEUES,
    "task_default_queue_type": _NAMED_QUEUES,
    "worker_detect_quorum_queues": _NAMED_QUEUES,
    "broker_native_delayed_delivery_queue_type": _NAMED_QUEUES,
    "task_default_delivery_mode": "messages are always stored durably where the broker can; leave it out",
    "result_exchange*": _RESULTS,
    "control_*": _CONTROL,
    "worker_enable_remote_control": _CONTROL,
    "worker_pool_restarts": _CONTROL,
    "task_acks_on_failure_or_timeout": "that is `task_acks_on_failure`; False keeps the message in the dead letters",
    "result_persistent": "results are stored durably where the backend can; leave it out",
    "result_chord_*": _CHORDS,
    "task_allow_error_cb_on_chord_header": "the link_error of a chord is called once, and its members keep their own",
    "result_accept_content": "results are read by the same list: use `accept_content`",
    "result_cache_max": "results are not cached in the sender; leave it out",
    "result_failure_expires": "failures are kept as long as results: use `result_expires`",
    "result_backend_always_retry": "storing a result is always tried again; leave it out",
    "result_backend_max_retries": "storing a result is tried again until it succeeds; leave it out",
    "result_backend_*_sleep_between_retries_ms": "storing a result is tried again with growing pauses; leave it out",
    "broker_connection_retry*": _ALWAYS_RETRIES,
    "broker_connection_max_retries": _ALWAYS_RETRIES,
    "broker_channel_error_retry": _ALWAYS_RETRIES,
    "broker_failover_strategy": "that is `broker_failover`: 'ordered' (Celery's 'round-robin') or 'shuffle'",
    "broker_connection_timeout": _IN_URL,
    "broker_heartbeat*": _IN_URL,
    "broker_login_method": _IN_URL,
    "broker_use_ssl": _IN_URL,
    "broker_pool_*": _NO_CONNECTION_POOL,
    "broker_read_url": _ONE_URL,
    "broker_write_url": _ONE_URL,
    "broker_host": _PARTS_OF_URL,
    "broker_port": _PARTS_OF_URL,
    "broker_user": _PARTS_OF_URL,
    "broker_password": _PARTS_OF_URL,
    "broker_vhost": _PARTS_OF_URL,
    "broker_transport": _PARTS_OF_URL,
    "*_transport_options": _IN_URL,
    "*_backend_settings": _IN_URL,
    "*_backend_options": _IN_URL,
    "beat_schedule_filename": _STORE,
    "beat_scheduler": _STORE,
    "beat_sync_every": _STORE,
    "beat_cron_starting_deadline": "an entry says how late it may be: `deadline`",
    "beat_logfile": "that is `dray scheduler --logfile`",
    "beat_log_level": "that is `dray scheduler --loglevel`",
    "security_*": _SIGNED,
    "worker_lost_wait": _CHILDREN,
    "worker_proc_alive_timeout": _CHILDREN,
    "worker_pool_start_method": "that is `worker_start_method`",
    "worker_pool_putlocks": "a worker takes no more than it can run; leave it out",
    "worker_disable_prefetch": "a worker holds only what it can run in a moment; leave it out",
    "worker_enable_prefetch_count_reduction": "a worker holds only what it can run in a moment; leave it out",
    "worker_eta_task_limit": "delayed tasks wait in the broker, not in the worker; leave it out",
    "worker_soft_shutdown_timeout": "that is `worker_shutdown_timeout`",
    "worker_enable_soft_shutdown_on_idle": "an idle worker stops at once and gives back what it holds; leave it out",
    "worker_deduplicate_successful_tasks": "what has succeeded is recognised when it is delivered again; leave it out",
    "worker_cancel_long_running_tasks_on_connection_loss": "a task whose lease is lost is told so, and writes nothing",
    "worker_state_db": "revoked ids are kept by the broker, not in a file; leave it out",
    "worker_direct": "a worker has no queue of its own; start it with -Q and a queue named after it",
    "worker_autoscaler": "`worker_autoscale` says how many tasks run at once, at most and at least; leave it out",
    "worker_hijack_root_logger": _LOGGING,
    "worker_log_*": _LOGGING,
    "worker_task_log_*": _LOGGING,
    "worker_redirect_stdouts*": "what tasks print is left alone; leave it out",
    "worker_agent": _ONE_LOOP,
    "worker_consumer": _ONE_LOOP,
    "worker_timer*": _ONE_LOOP,
}


def instead(name: str) -> str | None:
    """Return what dray does instead of Celery's setting `name`; None when that is not one of Celery's."""
    if name in _INSTEAD:
        return _INSTEAD[name]
    return next((said for pattern, said in _INSTEAD.items() if "*" in pattern and fnmatchcase(name, pattern)), None)
