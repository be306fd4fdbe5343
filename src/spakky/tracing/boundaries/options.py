"""The options of the verbs, the same in every integration, and what they amount to."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Self, TypeAlias, TypedDict, TypeVar, get_args

from spakky.tracing.boundaries.default import DEFAULT
from spakky.tracing.error import WrongUseError
from spakky.tracing.propagator import ITracePropagator, serve
from spakky.tracing.recorder import JsonLinesRecorder
from spakky.tracing.switch import is_switched_on
from spakky.tracing.tracer import ITracer, get_tracer, set_tracer

__all__ = [
    "CallOptions",
    "EnabledChoice",
    "Options",
    "Policy",
    "ReceiveOptions",
    "Relation",
    "RelationChoice",
    "SendOptions",
    "Settings",
]

_logger: Final = logging.getLogger("spakky.tracing")

_ANY: Final = "*"

Relation = Literal["child", "link", "root"]
"""How the processing of a message relates to its sender.

- `child`: a new span of the sender's trace.
- `link`: a new trace that links to the sender and keeps its baggage; for long queues and scheduled work.
- `root`: a new trace that ignores the sender; for input that is not trusted.
"""

RelationChoice: TypeAlias = Relation | Mapping[str, Relation] | Callable[[Any], Relation]
"""One relation for all messages, one for each name of a topic, queue or exchange, or a function of a message.

The name `*` stands for all that a mapping does not name; without it they are a `child`.
A function that fails or returns something else makes a `root`.
"""

EnabledChoice: TypeAlias = bool | Mapping[str, bool]
"""Whether it is switched on: for all, or for each name of a topic, queue, exchange or host.

The name `*` stands for all that a mapping does not name; without it they are switched on.
"""

ValueT = TypeVar("ValueT")


class SendOptions(TypedDict, total=False):
    """Options of what sends; all may be left out.

    Attributes:
        propagator: The format of the headers; W3C trace context and baggage unless given.
        enabled: `False` switches it off: headers stay as the caller gave them. A mapping does so by name.
        tracer: What records spans here; what `set_tracer` set unless given.
        keep: `True` leaves a valid context in the caller's headers as it is, also inside of a trace.
    """

    propagator: ITracePropagator
    enabled: EnabledChoice
    tracer: ITracer
    keep: bool


class ReceiveOptions(TypedDict, total=False):
    """Options of what receives; all may be left out.

    Attributes:
        propagator: The format of the headers; W3C trace context and baggage unless given.
        relation: How the processing relates to the sender; `child` unless given.
        enabled: `False` switches it off: no header is read, what is current stays so. A mapping does so by
            name.
        tracer: What records spans here; what `set_tracer` set unless given.
    """

    propagator: ITracePropagator
    relation: RelationChoice
    enabled: EnabledChoice
    tracer: ITracer


class CallOptions(TypedDict, total=False):
    """Options of a single call of a task; all may be left out.

    Attributes:
        relation: How its run relates to its sender; as it is for the app or the task unless given. A worker
            whose own relation is `root` does not trust its senders, and keeps to it.
        enabled: `False` sends its headers as they are, without a context.
    """

    relation: Relation
    enabled: bool


class Options(SendOptions, ReceiveOptions, total=False):
    """Options of what hooks both ways, such as a framework."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Options, checked and complete."""

    propagator: ITracePropagator = DEFAULT
    relation: RelationChoice = "child"
    enabled: EnabledChoice = True
    tracer: ITracer | None = None
    keep: bool = False
    _names: frozenset[str] | None = field(init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.propagator, ITracePropagator):
            message = f"propagator= takes an ITracePropagator, got {type(self.propagator).__name__}"
            raise WrongUseError(message)
        _check_relation(self.relation)
        _check_enabled(self.enabled)
        _check_tracer(self.tracer)
        _check_keep(self.keep)
        object.__setattr__(self, "propagator", serve(self.propagator))
        is_default = self.propagator is DEFAULT
        names = None if is_default else frozenset(name.lower() for name in self.propagator.fields())
        object.__setattr__(self, "_names", names)

    @property
    def fields(self) -> frozenset[str]:
        """The lower-case names of the headers that the propagator may write."""
        return DEFAULT.names if self._names is None else self._names

    @classmethod
    def of(cls, allowed: type[Any], options: object) -> Self:
        """Return the policy of *options*, which a caller gave as keywords.

        Args:
            allowed: The typed dict of the options that make sense for the caller.
            options: The keywords.

        Raises:
            WrongUseError: There is no such option, or its value is of the wrong kind.
        """
        return cls(**_known(allowed, options))

    def active_tracer(self) -> ITracer | None:
        """Return what records spans now, `None` for nothing."""
        return self.tracer or get_tracer()

    def enables(self, names: Callable[[], Sequence[str]]) -> bool:
        """Return whether it is switched on for a destination.

        Args:
            names: Gets what the destination is called, the most exact name first; only asked if it matters.
        """
        if not is_switched_on():
            return False
        return self.enabled if isinstance(self.enabled, bool) else _named(self.enabled, names(), default=True)

    def relation_of(self, message: object, names: Callable[[], Sequence[str]]) -> Relation:
        """Return how the processing of *message* relates to its sender.

        Args:
            message: What a function of the message is called with.
            names: Gets what its source is called, the most exact name first; only asked if it matters.
        """
        relation = self.relation
        if callable(relation):
            return _chosen(relation, message)
        if isinstance(relation, Mapping):
            return _named(relation, names(), default="child")
        return relation


class Settings:
    """The policy of an integration or of a call, which follows when that of the integration changes."""

    def __init__(self, allowed: type[Any], options: object = None, base: Settings | None = None) -> None:
        """Put *options* on top of those of *base*, or else of the library's defaults.

        Raises:
            WrongUseError: There is no such option, or its value is of the wrong kind.
        """
        self._allowed = allowed
        self._options = _known(allowed, options)
        self._base = base
        origin = base.policy if base else _DEFAULT
        self._derived = origin, replace(origin, **self._options)  # together, as threads may look at any time

    @classmethod
    def fixed(cls, policy: Policy) -> Self:
        """Return settings that are always *policy*."""
        settings = cls(Options)
        settings._derived = policy, policy
        return settings

    @property
    def policy(self) -> Policy:
        """The policy that holds now."""
        origin, policy = self._derived
        if self._base is not None and (now := self._base.policy) is not origin:
            policy = replace(now, **self._options)
            self._derived = now, policy
        return policy

    @property
    def are_of_a_call(self) -> bool:
        """Whether a call gave options of its own, on top of those of its integration."""
        return self._base is not None and bool(self._options)

    def change(self, options: object) -> None:
        """Put other options in the place of those given before.

        Raises:
            WrongUseError: There is no such option, or its value is of the wrong kind; nothing has changed.
        """
        known = _known(self._allowed, options)
        origin, _ = self._derived
        policy = replace(origin, **known)
        self._options, self._derived = known, (origin, policy)


def _known(allowed: type[Any], options: object) -> dict[str, Any]:
    """Return the *options* if all of them are *allowed*."""
    given = dict(options) if isinstance(options, dict) else {}
    unknown = given.keys() - allowed.__annotations__.keys()
    if unknown:
        names = ", ".join(sorted(allowed.__annotations__))
        message = f"there is no option {min(unknown)!r} here; the options are {names}"
        raise WrongUseError(message)
    return given


def _check_relation(relation: object) -> None:
    if callable(relation):
        return
    for each in relation.values() if isinstance(relation, Mapping) else (relation,):
        if each not in get_args(Relation):
            message = f"relation= takes 'child', 'link' or 'root', got {each!r}"
            raise WrongUseError(message)


def _check_enabled(enabled: object) -> None:
    for each in enabled.values() if isinstance(enabled, Mapping) else (enabled,):
        if not isinstance(each, bool):
            message = f"enabled= takes True, False or a mapping of names to these, got {each!r}"
            raise WrongUseError(message)


def _check_tracer(tracer: object) -> None:
    if tracer is not None and not callable(getattr(tracer, "start", None)):
        message = f"tracer= takes an ITracer, such as a recorder, got {type(tracer).__name__}"
        raise WrongUseError(message)


def _check_keep(keep: object) -> None:
    if not isinstance(keep, bool):
        message = f"keep= takes True or False, got {keep!r}"
        raise WrongUseError(message)


def _named(choices: Mapping[str, ValueT], names: Sequence[str], *, default: ValueT) -> ValueT:
    return next((choices[name] for name in (*names, _ANY) if name in choices), default)


def _chosen(choose: Callable[[Any], Relation], message: object) -> Relation:
    try:
        relation = choose(message)
    except Exception:  # the function is the user's; a message is worth more than its trace
        _logger.debug("the sender is ignored: the function given as relation= failed", exc_info=True)
        return "root"
    if relation in get_args(Relation):
        return relation
    _logger.debug("the sender is ignored: the function given as relation= returned %r", relation)
    return "root"


_DEFAULT: Final = Policy()


def _record_to(path: str) -> None:
    try:
        set_tracer(JsonLinesRecorder(path))
    except OSError as error:
        message = f"SPAKKY_TRACING_RECORD={path} cannot be opened for appending: {error.strerror}"
        raise WrongUseError(message) from error


if _RECORD := os.environ.get("SPAKKY_TRACING_RECORD"):
    _record_to(_RECORD)
