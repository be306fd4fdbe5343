"""A result backend in Redis that tells what it was asked for by us, and may refuse it."""

from __future__ import annotations

from typing import Any, ClassVar

from integrations.celery_kitchen import QuietRedis


class Store(QuietRedis):
    """A result backend that knows what of ours it was asked, and may refuse it.

    Attributes:
        asked: The names of what was called for our keys.
        refused: The names of what is refused.
    """

    asked: ClassVar[list[str]] = []
    refused: ClassVar[set[str]] = set()

    def mget(self, keys: Any) -> Any:
        self._ask("get", keys)
        return super().mget(keys)  # type: ignore[no-untyped-call]

    def set(self, key: Any, value: Any, expires: Any = None, **retry_policy: Any) -> Any:
        self._ask("set", key)
        return super().set(key, value, expires, **retry_policy)  # type: ignore[no-untyped-call]

    def delete(self, key: Any) -> Any:
        self._ask("delete", key)
        return super().delete(key)  # type: ignore[no-untyped-call]

    def _ask(self, name: str, key: Any) -> None:
        if "spakky" in str(key):
            self.asked.append(name)
            if name in self.refused:
                raise ConnectionError
