"""All that is to be said about a traceparent (W3C Trace Context Level 2, section 3.2)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from spakky.tracing.cli.headers.findings import (
    WHITE_SPACE,
    Fact,
    Finding,
    Place,
    Reading,
    in_order,
    in_trace_context,
    named,
    places_of,
)
from spakky.tracing.context import RANDOM_FLAG, SAMPLED_FLAG, TraceContext
from spakky.tracing.error import InvalidTraceparentError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["read_traceparent"]


class _Field(NamedTuple):
    name: str
    length: int
    section: str


class _Found(NamedTuple):
    """What is in the place of a field: its text, `None` if it is missing, and where it begins."""

    field: _Field
    text: str | None
    start: int


class _Parts(NamedTuple):
    """What a traceparent falls into: its fields, places where a dash is wanting, and what follows."""

    fields: list[_Found]
    without_dash: list[int]
    rest: str
    rest_start: int


_FIELDS: Final = (
    _Field("version", 2, "3.2.2.1"),
    _Field("trace-id", 32, "3.2.2.3"),
    _Field("parent-id", 16, "3.2.2.4"),
    _Field("trace-flags", 2, "3.2.2.5"),
)
_STARTS: Final = (0, 3, 36, 53)
_DASHES: Final = (2, 35, 52)
_LENGTH: Final = 55
_DASHES_TO_GO_BY: Final = 2

_LONGEST: Final = 512  # what `TraceContext.from_traceparent` reads; a test compares

_UPPER_CASE: Final = re.compile("[A-F]+")
_NO_DIGIT: Final = re.compile("[^0-9a-fA-F]+")
_DIGITS: Final = re.compile("[0-9a-f]{2}")
_KNOWN_FLAGS: Final = SAMPLED_FLAG | RANDOM_FLAG


def read_traceparent(value: str, guess: str | None = None) -> Reading:
    """Say what *value* means and all that is wrong with it; *guess* is why it is taken for a traceparent."""
    findings = in_order(_findings(value))
    try:
        context = TraceContext.from_traceparent(value)
    except InvalidTraceparentError:
        return Reading(kind="traceparent", value=value, verdict="refused", findings=findings, guess=guess)
    return Reading(
        kind="traceparent",
        value=value,
        verdict="accepted",
        findings=findings,
        facts=tuple(_facts(value.strip(WHITE_SPACE), context)),
        guess=guess,
    )


def _findings(value: str) -> Iterator[Finding]:
    body = value.strip(WHITE_SPACE)
    start = len(value) - len(value.lstrip(WHITE_SPACE))
    if len(value) > _LONGEST:
        sentence = f"it has {len(value)} characters, and this library reads {_LONGEST} at most"
        yield _finding("traceparent-length", sentence, "3.2.4", Place(_LONGEST, len(value)))
    if "-" not in body:
        what = "there are no dashes" if body else "it is empty"
        sentence = f"{what}, where version-traceid-parentid-flags belongs"
        yield _finding("traceparent-shape", sentence, "3.2.2", Place(start, start + len(body)))
        return
    parts = _by_position(body, start) if _has_its_dashes(body) else _by_dashes(body, start)
    for found in parts.fields:
        yield from _findings_in_field(found)
    for place in parts.without_dash:
        sentence = f"{value[place]!r} is where a dash belongs"
        yield _finding("dash-missing", sentence, "3.2.2", Place(place, place + 1))
    yield from _findings_after(parts)


def _has_its_dashes(body: str) -> bool:
    """Whether dashes are where they belong, so that fields can be told apart although one dash is not."""
    at_their_place = sum(body[place : place + 1] == "-" for place in _DASHES)
    return len(body) >= _LENGTH and at_their_place >= _DASHES_TO_GO_BY


def _by_position(body: str, start: int) -> _Parts:
    fields = [
        _Found(field, body[begin : begin + field.length], start + begin)
        for field, begin in zip(_FIELDS, _STARTS, strict=True)
    ]
    without_dash = [start + place for place in _DASHES if body[place] != "-"]
    return _Parts(fields, without_dash, body[_LENGTH:], start + _LENGTH)


def _by_dashes(body: str, start: int) -> _Parts:
    fields: list[_Found] = []
    rest: str | None = body
    wanted = list(_FIELDS)
    if [len(piece) for piece in body.split("-", 3)] == [field.length for field in _FIELDS[1:]]:
        fields.append(_Found(wanted.pop(0), None, start))
    place = start
    for field in wanted:
        if rest is None:
            fields.append(_Found(field, None, place - 1))
            continue
        text, dash, after = rest.partition("-")
        fields.append(_Found(field, text, place))
        place += len(text) + len("-")
        rest = after if dash else None
    return _Parts(fields, [], "" if rest is None else f"-{rest}", place - 1)


def _findings_in_field(found: _Found) -> Iterator[Finding]:
    (name, length, section), text, start = found
    if text is None:
        yield _finding(f"{name}-missing", f"{name}: missing", section, Place(start, start))
        return
    whole = Place(start, start + len(text))
    if len(text) != length:
        sentence = f"{name}: {len(text)} character{'' if len(text) == 1 else 's'}, not {length}"
        yield _finding(f"{name}-length", sentence, section, whole)
    if places := places_of(_UPPER_CASE, text, start):
        sentence = f"{name}: upper-case letters, where only lower-case ones are allowed"
        yield _finding(f"{name}-upper-case", sentence, section, *places)
    if places := places_of(_NO_DIGIT, text, start):
        others = named("".join(_NO_DIGIT.findall(text)))
        sentence = f"{name}: {others}, where only 0-9 and a-f are allowed"
        yield _finding(f"{name}-characters", sentence, section, *places)
    yield from _findings_in_meaning(name, text, section, whole)


def _findings_in_meaning(name: str, text: str, section: str, whole: Place) -> Iterator[Finding]:
    if name == "version" and text == "ff":
        yield _finding("version-forbidden", "version: ff is forbidden", section, whole)
    elif name == "version" and text != "00" and _DIGITS.fullmatch(text):
        sentence = f"version: {text} is above 00; it is read as far as 00 goes, and sent on as 00"
        yield _note("version-higher", sentence, "3.2.4", whole)
    elif name in {"trace-id", "parent-id"} and text and not text.strip("0"):
        yield _finding(f"{name}-zero", f"{name}: zeros only are invalid", section, whole)
    elif name == "trace-flags" and _DIGITS.fullmatch(text) and (unknown := int(text, 16) & ~_KNOWN_FLAGS):
        sentence = f"trace-flags: the bits {unknown:02x} have no meaning yet, and are not sent on"
        yield _note("trace-flags-unknown", sentence, "3.2.2.5.3", whole)


def _findings_after(parts: _Parts) -> Iterator[Finding]:
    version = parts.fields[0].text or ""
    if not parts.rest or version == "ff" or not _DIGITS.fullmatch(version):
        return
    place = Place(parts.rest_start, parts.rest_start + len(parts.rest))
    if version == "00":
        sentence = "version 00 ends with the flags, but it goes on"
        yield _finding("trailing-data", sentence, "3.2.2.2", place)
    elif not parts.rest.startswith("-"):
        sentence = f"{parts.rest[0]!r} follows the flags, where only a dash may follow"
        yield _finding("trailing-data", sentence, "3.2.4", Place(place.start, place.start + 1))


def _finding(code: str, sentence: str, section: str, *places: Place) -> Finding:
    return Finding(code=code, sentence=sentence, section=in_trace_context(section), places=places)


def _note(code: str, sentence: str, section: str, place: Place) -> Finding:
    section_of = in_trace_context(section)
    return Finding(code=code, sentence=sentence, section=section_of, places=(place,), is_fault=False)


def _facts(body: str, context: TraceContext) -> Iterator[Fact]:
    version = body[:2]
    yield Fact("version", version)
    yield Fact("trace_id", context.trace_id, "the same in all of the request")
    yield Fact("parent_id", context.span_id, "the span of the sender")
    yield Fact("trace_flags", body[_STARTS[-1] : _LENGTH])
    yield Fact("sampled", *_sampled(context))
    yield Fact("random", *_random(context))
    yield Fact("level", _level(version, context))
    yield Fact("sent_on", context.to_traceparent(), "" if version == "00" else "as version 00")


def _sampled(context: TraceContext) -> tuple[str, str]:
    if context.is_sampled:
        return "yes", "the sender may have recorded the trace"
    return "no", "the sender has not recorded the trace"


def _random(context: TraceContext) -> tuple[str, str]:
    if context.is_random:
        return "yes", "the right-most 7 bytes of the trace id are random"
    return "no", "nothing is said of how the trace id was made"


def _level(version: str, context: TraceContext) -> str:
    if version != "00":
        return "a later one"
    return "2" if context.is_random else "1 or 2"
