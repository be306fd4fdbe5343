"""All that is to be said about a tracestate (W3C Trace Context Level 2, section 3.3)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from spakky.tracing.cli.headers.findings import (
    WHITE_SPACE,
    Finding,
    Member,
    Place,
    Reading,
    in_order,
    in_trace_context,
    named,
    places_of,
)
from spakky.tracing.error import InvalidTraceStateError
from spakky.tracing.trace_state import MAX_LENGTH, MAX_MEMBERS, TraceState

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["read_tracestate"]

_LONGEST: Final = 256
"""The most characters of a key, and of a value (sections 3.3.2.2.1 and 3.3.2.2.2)."""

_PROPAGATED: Final = 512
"""As many characters everybody should send on (section 3.3.3.1)."""

_NO_KEY_CHARACTER: Final = re.compile(r"[^a-z0-9_\-*/@]+")
_NO_FIRST_CHARACTER: Final = re.compile(r"[_\-*/@]")
_NO_VALUE_CHARACTER: Final = re.compile(r"[^\x20-\x2B\x2D-\x3C\x3E-\x7E]+")

# Level 1: a key starts with a letter, or it is tenant@system, of at most 241 and 14 characters.
_LEVEL_1_KEY: Final = re.compile(
    r"[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}"
)

_VENDORS: Final = {"dd": "Datadog", "es": "Elastic", "ot": "OpenTelemetry"}
_SYSTEMS: Final = {"dt": "Dynatrace", "nr": "New Relic"}


class _Entry(NamedTuple):
    """A member that is not empty, its place in the list from 1, and where it begins."""

    position: int
    text: str
    start: int

    @property
    def place(self) -> Place:
        return Place(self.start, self.start + len(self.text))


def read_tracestate(value: str, guess: str | None = None) -> Reading:
    """Say what *value* means and all that is wrong with it; *guess* is why it is taken for a tracestate."""
    findings = in_order(_findings(value))
    try:
        state = TraceState.parse(value)
    except InvalidTraceStateError:
        return Reading(kind="tracestate", value=value, verdict="refused", findings=findings, guess=guess)
    return Reading(
        kind="tracestate",
        value=value,
        verdict="partial" if any(finding.is_fault for finding in findings) else "accepted",
        findings=findings,
        members=tuple(
            Member(key=key, value=text, wire=text, meaning=_vendor_of(key)) for key, text in state.items()
        ),
        guess=guess,
    )


def _vendor_of(key: str) -> str:
    """Return whose entries have this key, as far as it is known; else nothing."""
    return _VENDORS.get(key) or _SYSTEMS.get(key.rpartition("@")[2] if "@" in key else "", "")


def _findings(value: str) -> Iterator[Finding]:
    if len(value) > MAX_LENGTH:
        sentence = f"it has {len(value)} characters, and this library looks at {MAX_LENGTH} at most"
        yield _finding("tracestate-length", sentence, "3.3.3.1", Place(MAX_LENGTH, len(value)))
    elif len(value) > _PROPAGATED:
        sentence = f"it has {len(value)} characters; others may send on no more than {_PROPAGATED}"
        yield _note("tracestate-long", sentence, "3.3.3.1", Place(_PROPAGATED, len(value)))
    entries, empty = _entries(value[:MAX_LENGTH])
    if len(entries) > MAX_MEMBERS:
        sentence = f"it has {len(entries)} members, and {MAX_MEMBERS} are allowed"
        place = Place(entries[MAX_MEMBERS].start, entries[-1].place.end)
        yield _finding("too-many-members", sentence, "3.3.2", place)
    yield from _notes_on_empty(value, empty)
    first: dict[str, int] = {}
    for entry in entries:
        yield from _findings_in_entry(entry)
        yield from _findings_in_repetition(entry, first)


def _entries(text: str) -> tuple[list[_Entry], list[Place]]:
    """Return the members, and the places of the empty ones."""
    entries: list[_Entry] = []
    empty: list[Place] = []
    start = 0
    for part in text.split(","):
        member = part.strip(WHITE_SPACE)
        if member:
            before = len(part) - len(part.lstrip(WHITE_SPACE))
            entries.append(_Entry(len(entries) + 1, member, start + before))
        else:
            empty.append(Place(start, start + len(part)))
        start += len(part) + len(",")
    return entries, empty


def _notes_on_empty(value: str, empty: list[Place]) -> Iterator[Finding]:
    if not value.strip(WHITE_SPACE):
        yield _note("tracestate-empty", "it is empty: that is allowed, but better not sent", "3.3.2", *empty)
    elif empty:
        what = "an empty member is" if len(empty) == 1 else f"{len(empty)} empty members are"
        yield _note("member-empty", f"{what} allowed, and ignored", "3.3.2", *empty)


def _findings_in_entry(entry: _Entry) -> Iterator[Finding]:
    key, equals, value = entry.text.partition("=")
    if not equals:
        sentence = f"member {entry.position} has no '=' between key and value"
        yield _finding("member-without-value", sentence, "3.3.2.1", entry.place, member=entry.position)
        return
    yield from _findings_in_key(key, entry)
    yield from _findings_in_value(value, entry)


def _findings_in_key(key: str, entry: _Entry) -> Iterator[Finding]:
    whole = Place(entry.start, entry.start + len(key))
    section, what, number = "3.3.2.2.1", f"the key of member {entry.position}", entry.position
    if not key:
        yield _finding("key-empty", f"{what} is missing", section, whole, member=number)
    if len(key) > _LONGEST:
        sentence = f"{what} has {len(key)} characters, and {_LONGEST} are allowed"
        yield _finding("key-length", sentence, section, whole, member=number)
    if places := places_of(_NO_KEY_CHARACTER, key, entry.start):
        others = named("".join(_NO_KEY_CHARACTER.findall(key)))
        sentence = f"{what} has {others}, where only a-z 0-9 _ - * / @ are allowed"
        yield _finding("key-characters", sentence, section, *places, member=number)
    elif _NO_FIRST_CHARACTER.match(key):
        sentence = f"{what} starts with {key[0]!r}, where a letter or a digit belongs"
        yield _finding("key-start", sentence, section, Place(whole.start, whole.start + 1), member=number)
    elif key and len(key) <= _LONGEST and not _LEVEL_1_KEY.fullmatch(key):
        sentence = f"{what} is new in Level 2: readers that know only Level 1 refuse the list"
        yield _note("key-level-2", sentence, section, whole, member=number)


def _findings_in_value(value: str, entry: _Entry) -> Iterator[Finding]:
    end = entry.place.end
    whole = Place(end - len(value), end)
    section, what, number = "3.3.2.2.2", f"the value of member {entry.position}", entry.position
    if not value:
        yield _finding("value-empty", f"{what} is missing", section, whole, member=number)
    if len(value) > _LONGEST:
        sentence = f"{what} has {len(value)} characters, and {_LONGEST} are allowed"
        yield _finding("value-length", sentence, section, whole, member=number)
    if places := places_of(_NO_VALUE_CHARACTER, value, whole.start):
        others = named("".join(_NO_VALUE_CHARACTER.findall(value)))
        sentence = f"{what} has {others}, where only printable ASCII without ',' and '=' is allowed"
        yield _finding("value-characters", sentence, section, *places, member=number)


def _findings_in_repetition(entry: _Entry, first: dict[str, int]) -> Iterator[Finding]:
    key, equals, _ = entry.text.partition("=")
    if not (key and equals):
        return
    earlier = first.setdefault(key, entry.position)
    if earlier != entry.position:
        sentence = f"member {entry.position} has the key of member {earlier}, and only the first one counts"
        yield _finding("key-repeated", sentence, "3.3.3", entry.place, member=entry.position)


def _finding(code: str, sentence: str, section: str, *places: Place, member: int | None = None) -> Finding:
    return Finding(
        code=code, sentence=sentence, section=in_trace_context(section), places=places, member=member
    )


def _note(code: str, sentence: str, section: str, *places: Place, member: int | None = None) -> Finding:
    return Finding(
        code=code,
        sentence=sentence,
        section=in_trace_context(section),
        places=places,
        member=member,
        is_fault=False,
    )
