"""The command line: `dray worker`, `dray call`, `dray plugins` and the others."""

from __future__ import annotations
