"""The bare loops: the least that a queue on each kind of server has to do, with its driver alone."""

from __future__ import annotations
