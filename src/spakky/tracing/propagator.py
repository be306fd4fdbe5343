"""What a propagator is, and how it reaches into a carrier of any shape.

The shapes of getter and setter are those of OpenTelemetry's `propagators.textmap` on purpose: a getter or
setter of either library serves the propagators of the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from spakky.tracing._text import readable
from spakky.tracing.baggage import Baggage
from spakky.tracing.error import WrongUseError

if TYPE_CHECKING:
    from spakky.tracing.context import TraceContext

__all__ = [
    "DEFAULT_ACCESS",
    "CompositePropagator",
    "IGetter",
    "IRemover",
    "ISetter",
    "ITracePropagator",
    "MappingAccess",
]

_ReadT_contra = TypeVar("_ReadT_contra", contravariant=True)
_WrittenT_contra = TypeVar("_WrittenT_contra", contravariant=True)

CarrierT = TypeVar("CarrierT")


class IGetter(Protocol[_ReadT_contra]):
    """Reads fields from a carrier; stateless. Frozen: an addition would be a protocol of its own."""

    def get(self, carrier: _ReadT_contra, key: str) -> list[str] | None:
        """Return the readable values of *key* in order, `[]` if none is readable, `None` if it is absent."""

    def keys(self, carrier: _ReadT_contra) -> list[str]:
        """Return the names of all fields in the carrier."""
        ...


class ISetter(Protocol[_WrittenT_contra]):
    """Writes fields into a carrier; stateless. Frozen: an addition would be a protocol of its own."""

    def set(self, carrier: _WrittenT_contra, key: str, value: str) -> None:
        """Make *value* the only value of *key*, in place."""


class IRemover(Protocol[_WrittenT_contra]):
    """What a setter may offer besides `set`, so that a field of an earlier context can be taken out."""

    def remove(self, carrier: _WrittenT_contra, key: str) -> None:
        """Take every value of *key* out, in place; no error if there is none."""


class ITracePropagator(ABC):
    """Carries a context over a process boundary in the fields of one format.

    A propagator is stateless and knows no broker: what a carrier looks like is the business of the getter and
    the setter.
    """

    @abstractmethod
    def inject(
        self,
        carrier: CarrierT,
        context: TraceContext | None = None,
        setter: ISetter[CarrierT] | None = None,
    ) -> None:
        """Write a context into *carrier*, in place.

        Args:
            carrier: What is written into; a `dict[str, str]` unless a setter is given.
            context: The context to write; `None` takes the current one. Without either nothing is written.
            setter: How to write into this carrier; `None` for a dict.

        Raises:
            WrongUseError: The carrier is not one that the setter can write into.
        """

    @abstractmethod
    def extract(self, carrier: CarrierT, getter: IGetter[CarrierT] | None = None) -> TraceContext | None:
        """Read the context that *carrier* brings; nothing is made current, nothing is raised.

        Args:
            carrier: What is read from; a mapping of names to values unless a getter is given.
            getter: How to read from this carrier; `None` for a mapping.

        Returns:
            The sender's context, or `None` if there is none or if it is refused; a debug log says why.
        """

    @abstractmethod
    def fields(self) -> list[str]:
        """Return the names of the fields that `inject` may write."""

    def extract_baggage(self, carrier: CarrierT, getter: IGetter[CarrierT] | None = None) -> Baggage:
        """Read the baggage that *carrier* brings, also where it brings no context; empty if there is none.

        Formats without baggage need not define it.
        """
        del carrier, getter
        return Baggage()


class CompositePropagator(ITracePropagator):
    """Several propagators as one: all of them write, and what each of them reads is put together."""

    def __init__(self, *propagators: ITracePropagator) -> None:
        """Group *propagators*; if several read a context, the later one wins."""
        self._propagators = propagators

    def inject(
        self,
        carrier: CarrierT,
        context: TraceContext | None = None,
        setter: ISetter[CarrierT] | None = None,
    ) -> None:
        """Let each propagator write into *carrier*, in their order."""
        for propagator in self._propagators:
            propagator.inject(carrier, context, setter)

    def extract(self, carrier: CarrierT, getter: IGetter[CarrierT] | None = None) -> TraceContext | None:
        """Return the context that the last of them finds, with the baggage that the last of them finds."""
        found = None
        for propagator in self._propagators:
            found = propagator.extract(carrier, getter) or found
        if found is None:
            return None
        baggage = self.extract_baggage(carrier, getter)
        return found.with_baggage(baggage) if baggage else found

    def extract_baggage(self, carrier: CarrierT, getter: IGetter[CarrierT] | None = None) -> Baggage:
        """Return the baggage that the last of them finds."""
        found = Baggage()
        for propagator in self._propagators:
            found = propagator.extract_baggage(carrier, getter) or found
        return found

    def fields(self) -> list[str]:
        """Return the fields of all of them, each once."""
        return list(dict.fromkeys(field for each in self._propagators for field in each.fields()))


class MappingAccess:
    """Getter and setter of a mapping of names to values: the default of every propagator.

    A field is found under its exact name, or else under any other casing of it. A value may be `str`, `bytes`
    or a list of them; anything else is not readable.
    """

    def get(self, carrier: object, key: str) -> list[str] | None:
        """Return the readable values of *key*; `None` also for a carrier that is no mapping."""
        if not isinstance(carrier, Mapping):
            return None
        if key in carrier:
            return self._readable_values(carrier[key])
        names = _other_casings(carrier, key)
        return [text for name in names for text in self._readable_values(carrier[name])] if names else None

    def keys(self, carrier: object) -> list[str]:
        """Return all names that are text."""
        return [name for name in carrier if isinstance(name, str)] if isinstance(carrier, Mapping) else []

    def set(self, carrier: MutableMapping[str, Any], key: str, value: str) -> None:
        """Make *value* the only value of *key* in any casing.

        Raises:
            WrongUseError: The carrier is not a mutable mapping.
        """
        self.remove(carrier, key)
        carrier[key] = value

    def remove(self, carrier: MutableMapping[str, Any], key: str) -> None:
        """Take *key* out in any casing.

        Raises:
            WrongUseError: The carrier is not a mutable mapping.
        """
        if not isinstance(carrier, MutableMapping):
            message = (
                f"trace context is written into a dict, got {type(carrier).__name__}; "
                "pass setter= for a carrier of another shape"
            )
            raise WrongUseError(message)
        carrier.pop(key, None)
        for name in _other_casings(carrier, key):
            del carrier[name]

    def _readable_values(self, value: object) -> list[str]:
        values = value if isinstance(value, (list, tuple)) else (value,)
        return [text for each in values if (text := readable(each)) is not None]


def _other_casings(carrier: Mapping[Any, Any], key: str) -> list[str]:
    size, lower = len(key), key.lower()
    return [
        name
        for name in carrier
        if isinstance(name, str) and len(name) == size and name != key and name.lower() == lower
    ]


DEFAULT_ACCESS: Final = MappingAccess()
"""What a propagator uses unless it is given a getter or a setter."""
