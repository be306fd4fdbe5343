"""The format of headers where nobody names one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from spakky.tracing.propagator import CarrierT, IGetter, ISetter, ITracePropagator
from spakky.tracing.w3c_propagator import W3C

if TYPE_CHECKING:
    from spakky.tracing.baggage import Baggage
    from spakky.tracing.context import TraceContext

__all__ = ["DEFAULT", "DefaultPropagator"]


class DefaultPropagator(ITracePropagator):
    """Stands for the propagator that boundaries use without an option; it may be another one at any time.

    Attributes:
        names: The lower-case names of its fields.
    """

    def __init__(self) -> None:
        self.become(W3C)

    def become(self, propagator: ITracePropagator) -> None:
        """Use *propagator* from now on."""
        self._propagator = propagator
        self.names = frozenset(name.lower() for name in propagator.fields())

    def inject(
        self,
        carrier: CarrierT,
        context: TraceContext | None = None,
        setter: ISetter[CarrierT] | None = None,
    ) -> None:
        """Let the propagator write."""
        self._propagator.inject(carrier, context, setter)

    def extract(self, carrier: CarrierT, getter: IGetter[CarrierT] | None = None) -> TraceContext | None:
        """Return what the propagator reads."""
        return self._propagator.extract(carrier, getter)

    def extract_baggage(self, carrier: CarrierT, getter: IGetter[CarrierT] | None = None) -> Baggage:
        """Return what baggage the propagator reads."""
        return self._propagator.extract_baggage(carrier, getter)

    def fields(self) -> list[str]:
        """Return the fields of the propagator."""
        return self._propagator.fields()


DEFAULT: Final = DefaultPropagator()
"""The one that all boundaries share: W3C trace context and baggage, until it becomes another."""
