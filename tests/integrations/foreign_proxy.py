"""A layer of somebody else around an object of a client library."""

from __future__ import annotations

from typing import Any

from wrapt import ObjectProxy


class ForeignProxy(ObjectProxy):  # type: ignore[type-arg] # wrapt 2.1 cannot be subscripted
    """Counts the calls of one method, as an instrumentation of another library may."""

    def __init__(self, wrapped: Any, method: str) -> None:
        super().__init__(wrapped)
        self._self_method = method
        self._self_calls = 0

    @property
    def calls(self) -> int:
        return self._self_calls

    def __getattr__(self, name: str) -> Any:
        if name == self._self_method:
            self._self_calls += 1
        return super().__getattr__(name)
