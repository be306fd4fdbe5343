"""What is found out about a header."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    import re
    from collections.abc import Iterable

__all__ = [
    "KINDS",
    "WHITE_SPACE",
    "Fact",
    "Finding",
    "Kind",
    "Member",
    "Place",
    "Reading",
    "Section",
    "Verdict",
    "in_baggage",
    "in_order",
    "in_trace_context",
    "named",
    "places_of",
]

Kind = Literal["traceparent", "tracestate", "baggage"]
"""The headers that this library reads."""

Verdict = Literal["accepted", "partial", "refused"]
"""What this library makes of a header: all of it is taken, some of it, or nothing."""

KINDS: Final[tuple[Kind, ...]] = ("traceparent", "tracestate", "baggage")

WHITE_SPACE: Final = " \t"
"""The white space that is optional around values and members (RFC 7230, section 3.2.3)."""

_NAMED: Final = 3


class Place(NamedTuple):
    """Some characters of a value, from `start` up to but without `end`; one to point at if both are equal."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Section:
    """Where a specification says so.

    Attributes:
        document: Its name.
        number: The section, such as `3.2.2.3`.
    """

    document: str
    number: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about a header that its sender or its reader should know.

    Attributes:
        code: A name for programs, which stays the same: `trace-id-zero`.
        sentence: The same for people. It may quote single characters and keys of the header.
        section: The rule that it is about.
        places: The characters it is about; none for what concerns several headers.
        member: The number of the list-member that it is about, from 1; `None` if it is not about one.
        is_fault: Whether something is not taken because of it.
    """

    code: str
    sentence: str
    section: Section
    places: tuple[Place, ...] = ()
    member: int | None = None
    is_fault: bool = True


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that a valid header says: its name, its value, and what that means (may be empty)."""

    name: str
    value: str
    meaning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One entry of a list, as it is taken over.

    Attributes:
        key: Its key.
        value: Its value, decoded.
        wire: Its value as it came.
        properties: What baggage says besides, as it came.
        meaning: Whose entry it is, if that is known; else empty.
    """

    key: str
    value: str
    wire: str
    properties: tuple[str, ...] = ()
    meaning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One header with all that is known about it.

    Attributes:
        kind: Which header it is.
        value: Its value; of a list that came in several headers, all of them with a comma between.
        verdict: What this library makes of it.
        findings: What is wrong, and what is merely worth knowing: first about the whole, then from left to
            right.
        facts: What a traceparent says; empty if it is refused, and for lists.
        members: What is taken of a list.
        guess: Why it is taken for this kind; `None` if it came with its name.
    """

    kind: Kind
    value: str
    verdict: Verdict
    findings: tuple[Finding, ...]
    facts: tuple[Fact, ...] = ()
    members: tuple[Member, ...] = ()
    guess: str | None = None


def in_trace_context(number: str) -> Section:
    """Return a section of Trace Context."""
    return Section("W3C Trace Context Level 2", number)


def in_baggage(number: str) -> Section:
    """Return a section of Baggage."""
    return Section("W3C Baggage", number)


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return *findings*, all of which have places: those about the whole of a list first, else by place."""
    return tuple(sorted(findings, key=lambda finding: (finding.member is not None, finding.places[0])))


def places_of(pattern: re.Pattern[str], text: str, start: int) -> tuple[Place, ...]:
    """Return where *pattern* is found in *text*, which begins at *start* of the value."""
    return tuple(Place(start + found.start(), start + found.end()) for found in pattern.finditer(text))


def named(characters: Iterable[str]) -> str:
    """Return different characters in words, the first three of them: `' ', 'é', ';' and 2 more`."""
    different = [repr(character) for character in dict.fromkeys(characters)]
    more = len(different) - _NAMED
    return ", ".join(different[:_NAMED]) + (f" and {more} more" if more > 0 else "")
