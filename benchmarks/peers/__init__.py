"""dray beside other task queues of Python: `python benchmarks/run_peers.py`, or `make bench-peers`."""

from __future__ import annotations
