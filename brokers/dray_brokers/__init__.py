"""The brokers that come with dray. Each is chosen by its URL and imported only then; `plugin.py` lists them."""

from __future__ import annotations
