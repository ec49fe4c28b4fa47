"""The parts of the report: each module yields the measures of one, at a place."""

from __future__ import annotations
