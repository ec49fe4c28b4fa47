"""`dray worker` as a process: how it starts, what it heeds, what it tells of itself, and how it ends.

worker_start -> (daemon, pidfile, parent) -> worker_process, and beside that a minder: signals, heartbeat
"""
