"""What a propagator is, and how it reaches into a carrier of any shape.

The shapes of getter and setter are those of OpenTelemetry's `propagators.textmap` on purpose: a getter or
setter of either library serves the propagators of the other.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, Final, Protocol, TypeVar

from spakky.tracing._text import readable
from spakky.tracing.baggage import Baggage
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError

__all__ = [
    "DEFAULT_ACCESS",
    "CompositePropagator",
    "IGetter",
    "IRemover",
    "ISetter",
    "ITracePropagator",
    "MappingAccess",
    "PlainPropagator",
    "serve",
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
    the setter. One that knows neither may have the methods `inject(self, carrier)`, which writes the current
    context into a `dict[str, str]`, and `extract(self, carrier)`, which reads one; `serve` does the rest.
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
        self._propagators = tuple(serve(each) for each in propagators)

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


class PlainPropagator(ITracePropagator):
    """Lets a propagator that reads and writes nothing but a `dict[str, str]` serve any carrier.

    The other one is given the fields that it names, in the casing in which it names them; several values of a
    field are one with commas between them, as in HTTP (RFC 9110, section 5.3).
    """

    def __init__(self, propagator: ITracePropagator) -> None:
        """Serve *propagator*, of which no method is given more than a dict."""
        self._propagator: Any = propagator

    def inject(
        self,
        carrier: CarrierT,
        context: TraceContext | None = None,
        setter: ISetter[CarrierT] | None = None,
    ) -> None:
        """Write what the propagator writes while *context* is current; its other fields are taken out."""
        context = context or TraceContext.get()
        if context is None:
            return
        written: dict[str, str] = {}
        with TraceContext.use(context):
            self._propagator.inject(written)
        setter = setter or _DEFAULT_SETTER
        remove = getattr(setter, "remove", _leave)
        for field in self.fields():
            remove(carrier, field)
        for field, value in written.items():
            setter.set(carrier, field, value)

    def extract(self, carrier: CarrierT, getter: IGetter[CarrierT] | None = None) -> TraceContext | None:
        """Return the context that the propagator reads from a dict of its fields."""
        found: TraceContext | None = self._propagator.extract(self._plain(carrier, getter))
        return found

    def extract_baggage(self, carrier: CarrierT, getter: IGetter[CarrierT] | None = None) -> Baggage:
        """Return the baggage that the propagator reads, empty if it knows of none."""
        found: Baggage = self._propagator.extract_baggage(self._plain(carrier, getter))
        return found

    def fields(self) -> list[str]:
        """Return the fields that the propagator names."""
        return list(self._propagator.fields())

    def _plain(self, carrier: CarrierT, getter: IGetter[CarrierT] | None) -> dict[str, str]:
        get = (getter or DEFAULT_ACCESS).get
        return {field: ",".join(values) for field in self.fields() if (values := get(carrier, field))}


def serve(propagator: ITracePropagator) -> ITracePropagator:
    """Return *propagator*, or one in its place that may be given a context, a setter and a getter as well."""
    return propagator if _serves_carriers(type(propagator)) else PlainPropagator(propagator)


def _leave(carrier: object, field: str) -> None:
    """Take nothing out, as a setter like OpenTelemetry's does not offer it."""


_PLENTY: Final = 128  # more classes of propagators than any process has


@lru_cache(_PLENTY)
def _serves_carriers(kind: type[ITracePropagator]) -> bool:
    """Tell whether the methods of *kind* take what those of `ITracePropagator` take."""
    return _takes(kind.inject, 4) and _takes(kind.extract, 3)


def _takes(method: Callable[..., object], count: int) -> bool:
    """Tell whether *method* takes that many positional arguments, the object itself among them."""
    try:
        inspect.signature(method).bind(*range(count))
    except (TypeError, ValueError):  # ValueError: it says nothing of what it takes
        return False
    return True


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

_DEFAULT_SETTER: Final[ISetter[Any]] = DEFAULT_ACCESS
