"""Which of the recorded spans are meant."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from spakky.tracing.error import WrongUseError
from spakky.tracing.recorder import Span

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spakky.tracing.tracer import Kind, Outcome

__all__ = ["SpanFilters", "Which", "called", "check_filters", "selected", "that", "told"]

Which: TypeAlias = str | Span
"""A span, or the name of spans or of their destination; `*` in it stands for any text."""


class SpanFilters(TypedDict, total=False):
    """What else is known of the spans that are looked for; all may be left out.

    Attributes:
        kind: `producer`, `consumer`, `client` or `server`.
        system: The messaging system, such as `kafka`.
        destination: The topic, exchange, queue, path or host.
        process: The name of the process: `test` for the one that runs the tests, or a program's file name.
        outcome: How it ended, such as `ok`.
        attempt: The number of the attempt.
    """

    kind: Kind
    system: str
    destination: str
    process: str
    outcome: Outcome
    attempt: int


def check_filters(filters: SpanFilters) -> None:
    """Refuse what is no filter.

    Raises:
        WrongUseError: There is no such filter.
    """
    if unknown := filters.keys() - SpanFilters.__annotations__.keys():
        names = ", ".join(sorted(SpanFilters.__annotations__))
        message = f"there is no filter {min(unknown)!r} here; the filters are {names}"
        raise WrongUseError(message)


def selected(spans: Iterable[Span], which: Which | None, filters: SpanFilters) -> list[Span]:
    """Return those of *spans* that are meant, in their order; `None` leaves it to the *filters*."""
    return [span for span in spans if _is_meant(span, which) and _passes(span, filters)]


def _is_meant(span: Span, which: Which | None) -> bool:
    if which is None:
        return True
    if isinstance(which, Span):
        return (span.trace_id, span.span_id) == (which.trace_id, which.span_id)
    return _fits(span.name, which) or _fits(span.destination, which)


def _passes(span: Span, filters: SpanFilters) -> bool:
    return all(_fits(getattr(span, name), wanted) for name, wanted in filters.items())


def _fits(value: object, wanted: Any) -> bool:  # noqa: ANN401 - as the filter has it
    if isinstance(value, str) and isinstance(wanted, str) and "*" in wanted:
        return fnmatchcase(value, wanted.replace("[", "[[]").replace("?", "[?]"))
    return bool(value == wanted)


def called(which: Which) -> str:
    """Return what is asked for, for a sentence."""
    return repr(which.name if isinstance(which, Span) else which)


def told(which: Which | None, filters: SpanFilters) -> str:
    """Return a search, for a sentence that goes on after `no recorded span`."""
    words = [] if which is None else [f"is {called(which)} by its name or destination"]
    words += [f"has {name} {wanted!r}" for name, wanted in filters.items()]
    return " and ".join(words) or "is there"


def that(which: Which | None, filters: SpanFilters) -> str:
    """Return a search, for a sentence that has spoken of a span; nothing where any one is meant."""
    return "" if which is None and not filters else f" that {told(which, filters)}"
