"""Headers of Celery's task messages.

Facts:

- Protocol 2 keeps Celery's own keys and the user's headers in one flat dict of the message; protocol 1 has
  only the user's, usually `{}`.
- Some tools nest what they send once more under the key `headers`. What is at the top was written last, so it
  counts; both places must say the same when the message is sent on (a retry sends `request.headers` again).
- Redis (JSON) brings back numbers, lists and dicts as such; AMQP brings `bytes` back as `str` where it can.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping
from typing import Any, Final

from spakky.tracing.carriers.amqp import AmqpCarrier

__all__ = ["CARRIER", "LINKS", "RELATION", "CeleryCarrier"]

LINKS: Final = "x-trace-links"
"""The header with what a task comes from besides its sender: traceparents with commas between."""

RELATION: Final = "x-trace-relation"
"""The header with what a sender wants of the trace of one task, for the hooks on its way."""

_NESTED: Final = "headers"


class CeleryCarrier(AmqpCarrier):
    """Reads and writes the headers of a task message; `CARRIER` is the one instance that is needed."""

    def get(self, carrier: object, key: str) -> list[str] | None:
        """Return the value of *key*, from the top or else from the nested headers."""
        found = super().get(carrier, key)
        if found is None and isinstance(carrier, Mapping):
            return super().get(carrier.get(_NESTED), key)
        return found

    def keys(self, carrier: object) -> list[str]:
        """Return the names at the top and in the nested headers, each once."""
        nested = carrier.get(_NESTED) if isinstance(carrier, Mapping) else None
        return list(dict.fromkeys([*super().keys(carrier), *super().keys(nested)]))

    def set(self, carrier: MutableMapping[str, Any], key: str, value: str) -> None:
        """Make *value* the only value of *key*, also in the nested headers if it is there."""
        nested = self._nested_with(carrier, key)
        super().set(carrier, key, value)
        if nested is not None:
            carrier[_NESTED] = {**super().copy(nested, {key.lower()}), key: value}

    def remove(self, carrier: MutableMapping[str, Any], key: str) -> None:
        """Take *key* out, also of the nested headers."""
        nested = self._nested_with(carrier, key)
        super().remove(carrier, key)
        if nested is not None:
            carrier[_NESTED] = super().copy(nested, {key.lower()})

    def copy(self, carrier: object, without: Collection[str] = ()) -> dict[str, Any]:
        """Return a new dict of *carrier*'s entries, less those named in *without*, also in nested headers.

        Raises:
            WrongUseError: It is neither a mapping nor `None`.
        """
        copied = super().copy(carrier, without)
        if any(self._nested_with(copied, name) is not None for name in without):
            copied[_NESTED] = super().copy(copied[_NESTED], without)
        return copied

    def _nested_with(self, carrier: object, key: str) -> Mapping[str, Any] | None:
        """Return the nested headers if *key* is in them; they may be shared, so they are only read."""
        nested = carrier.get(_NESTED) if isinstance(carrier, Mapping) else None
        return nested if isinstance(nested, Mapping) and super().get(nested, key) is not None else None


CARRIER: Final = CeleryCarrier()
