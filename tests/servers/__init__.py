"""Real servers for tests: found or fetched, started on free ports, killed and started again on request, always ended.

`tests/conftest.py` makes them fixtures: `redis_server`, `rabbitmq_server`, `durable_postgres` and so on.
"""

from __future__ import annotations
