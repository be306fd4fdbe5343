"""The options of the verbs, the same in every integration, and what they amount to."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self, TypedDict, get_args

from spakky.tracing.error import WrongUseError
from spakky.tracing.propagator import ITracePropagator
from spakky.tracing.recorder import JsonLinesRecorder
from spakky.tracing.tracer import ITracer, get_tracer, set_tracer
from spakky.tracing.w3c_propagator import W3C

__all__ = ["Options", "Policy", "ReceiveOptions", "Relation", "SendOptions"]

Relation = Literal["child", "link", "root"]
"""How the processing of a message relates to its sender.

- `child`: a new span of the sender's trace.
- `link`: a new trace that links to the sender and keeps its baggage; for long queues and scheduled work.
- `root`: a new trace that ignores the sender; for input that is not trusted.
"""


class SendOptions(TypedDict, total=False):
    """Options of what sends; all may be left out.

    Attributes:
        propagator: The format of the headers; W3C trace context and baggage unless given.
        enabled: `False` switches it off: headers stay as the caller gave them.
        tracer: What records spans here; what `set_tracer` set unless given.
        keep: `True` leaves a valid context in the caller's headers as it is, also inside of a trace.
    """

    propagator: ITracePropagator
    enabled: bool
    tracer: ITracer
    keep: bool


class ReceiveOptions(TypedDict, total=False):
    """Options of what receives; all may be left out.

    Attributes:
        propagator: The format of the headers; W3C trace context and baggage unless given.
        relation: How the processing relates to the sender; `child` unless given.
        enabled: `False` switches it off: no header is read, what is current stays so.
        tracer: What records spans here; what `set_tracer` set unless given.
    """

    propagator: ITracePropagator
    relation: Relation
    enabled: bool
    tracer: ITracer


class Options(SendOptions, ReceiveOptions, total=False):
    """Options of what hooks both ways, such as a framework."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Options, checked and complete.

    Attributes:
        fields: The lower-case names of the headers that the propagator may write.
    """

    propagator: ITracePropagator = W3C
    relation: Relation = "child"
    enabled: bool = True
    tracer: ITracer | None = None
    keep: bool = False
    fields: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.propagator, ITracePropagator):
            message = f"propagator= takes an ITracePropagator, got {type(self.propagator).__name__}"
            raise WrongUseError(message)
        if self.relation not in get_args(Relation):
            message = f"relation= takes 'child', 'link' or 'root', got {self.relation!r}"
            raise WrongUseError(message)
        object.__setattr__(self, "fields", frozenset(name.lower() for name in self.propagator.fields()))

    @classmethod
    def of(cls, allowed: type[Any], options: object) -> Self:
        """Return the policy of *options*, which a caller gave as keywords.

        Args:
            allowed: The typed dict of the options that make sense for the caller.
            options: The keywords.

        Raises:
            WrongUseError: There is no such option, or its value is of the wrong kind.
        """
        given = dict(options) if isinstance(options, dict) else {}
        unknown = given.keys() - allowed.__annotations__.keys()
        if unknown:
            names = ", ".join(sorted(allowed.__annotations__))
            message = f"there is no option {min(unknown)!r} here; the options are {names}"
            raise WrongUseError(message)
        return cls(**given)

    def active_tracer(self) -> ITracer | None:
        """Return what records spans now, `None` for nothing."""
        return self.tracer or get_tracer()


_RECORD: Final = os.environ.get("SPAKKY_TRACING_RECORD")

if _RECORD:
    set_tracer(JsonLinesRecorder(_RECORD))
