"""All that is to be said about baggage (W3C Baggage, section 3.3; its keys are tokens of RFC 7230)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from spakky.tracing.baggage import MAX_BYTES, MAX_LENGTH, MAX_MEMBERS, Baggage
from spakky.tracing.cli.headers.findings import (
    WHITE_SPACE,
    Finding,
    Member,
    Place,
    Reading,
    in_baggage,
    in_order,
    named,
    places_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spakky.tracing.cli.headers.findings import Verdict

__all__ = ["read_baggage"]

_NO_TOKEN_CHARACTER: Final = re.compile(r"[^!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NO_OCTET: Final = re.compile(r"[^\x21\x23-\x2B\x2D-\x3A\x3C-\x5B\x5D-\x7E]+")
_LONE_PERCENT: Final = re.compile("%(?![0-9A-Fa-f]{2})")

_ENCODED_SHOWN: Final = 3


class _Part(NamedTuple):
    """A piece of a value, without the white space around it, and where it begins."""

    text: str
    start: int

    @property
    def place(self) -> Place:
        return Place(self.start, self.start + len(self.text))


class _Entry(NamedTuple):
    """A member that is not empty: its number among those, its text, and what is wrong with it."""

    number: int
    part: _Part
    findings: tuple[Finding, ...]

    @property
    def key(self) -> str:
        return self.part.text.partition("=")[0].rstrip(WHITE_SPACE)

    @property
    def is_good(self) -> bool:
        return not any(finding.is_fault for finding in self.findings)


def read_baggage(value: str, guess: str | None = None) -> Reading:
    """Say what *value* means and all that is wrong with it; *guess* is why it is taken for baggage."""
    baggage = Baggage.parse(value)
    findings = in_order(_findings(value, baggage))
    return Reading(
        kind="baggage",
        value=value,
        verdict=_verdict(findings, baggage),
        findings=findings,
        members=tuple(_members(baggage)),
        guess=guess,
    )


def _verdict(findings: tuple[Finding, ...], baggage: Baggage) -> Verdict:
    if not any(finding.is_fault for finding in findings):
        return "accepted"
    return "partial" if baggage else "refused"


def _members(baggage: Baggage) -> Iterator[Member]:
    wires = [text.partition(";")[0].partition("=")[2] for text in baggage.to_header().split(",")]
    for (key, value), wire in zip(baggage.items(), wires if baggage else (), strict=True):
        yield Member(key=key, value=value, wire=wire, properties=baggage.properties(key))


def _findings(value: str, baggage: Baggage) -> Iterator[Finding]:
    text = value
    if len(value) > MAX_LENGTH:
        text = value[: MAX_LENGTH + 1].rpartition(",")[0]
        sentence = f"it has {len(value)} characters, and this library reads {MAX_LENGTH} at most"
        yield _finding("baggage-length", sentence, "3.3.2", Place(len(text), len(value)))
    entries, empty = _entries(text) if text or not value else ([], [])
    yield from _notes_on_empty(value, empty)
    for entry in entries:
        yield from entry.findings
    good = [entry for entry in entries if entry.is_good]
    yield from _findings_in_repetitions(good)
    yield from _findings_in_size(good, baggage)


def _entries(text: str) -> tuple[list[_Entry], list[Place]]:
    """Return the members, and the places of the empty ones."""
    entries: list[_Entry] = []
    empty: list[Place] = []
    for part in _split(_Part(text, 0), ","):
        if part.text:
            number = len(entries) + 1
            entries.append(_Entry(number, part, tuple(_findings_in_member(part, number))))
        else:
            empty.append(part.place)
    return entries, empty


def _split(whole: _Part, separator: str) -> Iterator[_Part]:
    """Yield what is between the separators."""
    start = whole.start
    for text in whole.text.split(separator):
        yield _stripped(text, start)
        start += len(text) + len(separator)


def _stripped(text: str, start: int) -> _Part:
    left = text.lstrip(WHITE_SPACE)
    return _Part(left.rstrip(WHITE_SPACE), start + len(text) - len(left))


def _notes_on_empty(value: str, empty: list[Place]) -> Iterator[Finding]:
    if not value.strip(WHITE_SPACE):
        yield _note("baggage-empty", "it is empty, where at least one member belongs", "3.3.1", *empty)
    elif empty:
        what = "an empty member is" if len(empty) == 1 else f"{len(empty)} empty members are"
        yield _note("member-empty", f"{what} not allowed, but ignored", "3.3.1", *empty)


def _findings_in_member(member: _Part, number: int) -> Iterator[Finding]:
    first, *properties = _split(member, ";")
    what = f"member {number}"
    if "=" not in first.text:
        sentence = f"{what} has no '=' between key and value"
        yield _finding("member-without-value", sentence, "3.3.1", first.place, member=number)
    key, *value = _key_and_value(first)
    yield from _findings_in_key(key, f"the key of {what}", "3.3.1.2", number)
    for part in value:
        yield from _findings_in_value(part, f"the value of {what}", "3.3.1.3", number)
    for position, each in enumerate(properties, start=1):
        whose = f"property {position} of {what}"
        key, *value = _key_and_value(each)
        yield from _findings_in_key(key, f"the key of {whose}", "3.3.1.4", number)
        for part in value:
            yield from _findings_in_value(part, f"the value of {whose}", "3.3.1.4", number)


def _key_and_value(part: _Part) -> list[_Part]:
    """Return the key, and the value if there is one."""
    key, equals, value = part.text.partition("=")
    parts = [_stripped(key, part.start)]
    if equals:
        parts.append(_stripped(value, part.start + len(key) + len(equals)))
    return parts


def _findings_in_key(key: _Part, what: str, section: str, number: int) -> Iterator[Finding]:
    if not key.text:
        yield _finding("key-empty", f"{what} is missing", section, key.place, member=number)
    if places := places_of(_NO_TOKEN_CHARACTER, key.text, key.start):
        others = named("".join(_NO_TOKEN_CHARACTER.findall(key.text)))
        sentence = f"{what} has {others}, which no token of RFC 7230 (3.2.6) has"
        yield _finding("key-characters", sentence, section, *places, member=number)


def _findings_in_value(value: _Part, what: str, section: str, number: int) -> Iterator[Finding]:
    if places := places_of(_NO_OCTET, value.text, value.start):
        others = "".join(dict.fromkeys("".join(_NO_OCTET.findall(value.text))))
        sentence = f"{what} has {named(others)} unencoded: {_encoded(others)} belongs there"
        yield _finding("value-characters", sentence, section, *places, member=number)
    if places := places_of(_LONE_PERCENT, value.text, value.start):
        sentence = f"{what} has a '%' that starts no code, and stays as it is; %25 belongs there"
        yield _note("value-percent", sentence, section, *places, member=number)
    if not _is_utf_8(value.text):
        sentence = f"{what} encodes bytes that are not UTF-8, which are read as U+FFFD"
        yield _note("value-encoding", sentence, section, value.place, member=number)


def _encoded(characters: str) -> str:
    """Return what the first of *characters* are percent-encoded to; a lone surrogate to `?`."""
    shown = [quote(character, errors="replace") for character in characters[:_ENCODED_SHOWN]]
    return ", ".join(shown) + (", ..." if len(characters) > _ENCODED_SHOWN else "")


def _is_utf_8(text: str) -> bool:
    if "%" not in text:
        return True
    try:
        unquote_to_bytes(text.encode("ascii", "replace")).decode()
    except UnicodeDecodeError:
        return False
    return True


def _findings_in_repetitions(good: list[_Entry]) -> Iterator[Finding]:
    last = {entry.key: entry.number for entry in good}
    for entry in good:
        if last[entry.key] != entry.number:
            sentence = (
                f"member {entry.number} has the key of member {last[entry.key]}, and only the last counts"
            )
            place = entry.part.place
            yield _finding("key-repeated", sentence, "3.3.1.1", place, member=entry.number)


def _findings_in_size(good: list[_Entry], baggage: Baggage) -> Iterator[Finding]:
    """Ask the library which members it has kept: that depends on their sizes and on their order."""
    surplus = [entry.part.place for entry in good if entry.key not in baggage]
    if surplus:
        members = len({entry.key for entry in good})
        what = "one member is" if len(surplus) == 1 else f"{len(surplus)} members are"
        limits = f"{MAX_MEMBERS} members and {MAX_BYTES} bytes are what fits"
        sentence = f"{what} left out: of {members} in {_bytes(good)} bytes, {limits}"
        yield _finding("too-much", sentence, "3.3.2", *surplus)


def _bytes(good: list[_Entry]) -> int:
    """Return the size of the header that all of them would make, the last one of each key."""
    last = {entry.key: entry.part.text for entry in good}
    sizes = [len(text) - text.count(" ") - text.count("\t") for text in last.values()]
    return sum(sizes) + len(sizes) - 1


def _finding(code: str, sentence: str, section: str, *places: Place, member: int | None = None) -> Finding:
    return Finding(code=code, sentence=sentence, section=in_baggage(section), places=places, member=member)


def _note(code: str, sentence: str, section: str, *places: Place, member: int | None = None) -> Finding:
    return Finding(
        code=code,
        sentence=sentence,
        section=in_baggage(section),
        places=places,
        member=member,
        is_fault=False,
    )
