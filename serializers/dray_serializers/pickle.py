"""Pickle: any Python object, for those who trust everyone who can write to the queue.

Reading a pickle can run code of its writer's choosing, so dray never reads one unless `accept_content` names it.
Reader and writer need the same classes at the same places.
"""

from __future__ import annotations

import pickle
from typing import Any

from dray import DecodeError, Serializer

from .refusal import refusal

#: Read by every Python that dray runs on.
_PROTOCOL = 5


class PickleSerializer(Serializer):
    """Writes and reads pickles. What was written comes back as it was, so annotations are not looked at."""

    name = "pickle"
    content_type = "application/x-python-serialize"
    exact = True
    safe = False

    def dumps(self, value: Any) -> bytes:
        try:
            return _write(value)
        except Exception as error:
            raise refusal(self.name, value, _write) from error

    def loads(self, data: bytes | memoryview, type: Any = None) -> Any:
        try:
            return pickle.loads(data)
        except RecursionError:
            raise DecodeError("not readable as a pickle: nested too deeply") from None
        except Exception as error:
            raise DecodeError(f"not readable as a pickle: {error.__class__.__name__}: {error}") from None


def _write(value: Any) -> bytes:
    return pickle.dumps(value, _PROTOCOL)
