"""The serializer port: values to bytes and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar


class Serializer(ABC):
    """Writes values as bytes and reads them back. Stateless: one instance serves all threads.

    Values it must take at least: None, bool, int (64 bits), float, text, and lists, tuples and text-keyed dicts of
    those, nested; tuples may come back as lists.
    """

    #: The short name used in settings: `task_serializer = "json"`.
    name: ClassVar[str]
    #: The MIME type that travels with what it wrote, and by which a reader finds it again.
    content_type: ClassVar[str]
    #: True: `loads` returns the very types that `dumps` was given, so nothing needs converting to annotations.
    exact: ClassVar[bool] = False
    #: False: reading foreign bytes with it can run code. Such a one is used only when `accept_content` names it.
    safe: ClassVar[bool] = True

    @abstractmethod
    def dumps(self, value: Any) -> bytes:
        """Return `value` as bytes; raise `SerializationError` naming the type it cannot write, and where in `value`."""

    @abstractmethod
    def loads(self, data: bytes | memoryview, type: Any = None) -> Any:
        """Return the value in `data`; with `type`, converted to it (an annotation msgspec or pydantic understands).

        Raises `DecodeError` for anything it cannot read, including nesting deep enough to exhaust the stack. Never
        raises anything else, never runs code from the data unless `safe` is False.
        """

    def convert(self, value: Any, type: Any) -> Any:
        """Turn a value that `loads` returned into `type`; raise `DecodeError` when it does not fit.

        Not called when `exact` is True.
        """
        return value
