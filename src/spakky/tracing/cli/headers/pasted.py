"""Finds headers in what a person pastes: an argument, a line of curl's output, a dump of a Kafka record."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from spakky.tracing.cli.headers.baggage import read_baggage
from spakky.tracing.cli.headers.findings import KINDS, WHITE_SPACE, Kind
from spakky.tracing.cli.headers.foreign import FOREIGN_NAMES, Foreign, foreign_by_name, foreign_by_shape
from spakky.tracing.cli.headers.tracestate import read_tracestate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spakky.tracing.cli.headers.findings import Reading

__all__ = ["Found", "Misnamed", "Pasted", "headers_of_argument", "headers_of_line"]


@dataclass(frozen=True, slots=True)
class Pasted:
    """A header that this library reads.

    Attributes:
        kind: Which one.
        value: Its value, without quotes.
        guess: Why it is taken for this kind; `None` if it came with its name.
    """

    kind: Kind
    value: str
    guess: str | None = None


@dataclass(frozen=True, slots=True)
class Misnamed:
    """A header with almost the name of one that this library reads: its name, and what was meant."""

    name: str
    meant: Kind


Found = Pasted | Misnamed | Foreign
"""What a header may turn out to be."""

_MISNAMED: Final = ("trace[-_.]parent", "trace[-_.]state")
_KNOWN: Final = "|".join([*KINDS, *map(re.escape, FOREIGN_NAMES), *_MISNAMED])

# A name, in quotes or not, and what leads to its value: as HTTP, shells, dicts and tuples have it.
_HEADER: Final = re.compile(
    rf"""(?<![\w.-])(?P<open>b?["'])?(?P<name>{_KNOWN})(?P<close>["']?)"""
    r"""[ \t]*+(?P<separator>=>|[:=,])(?P<blank>[ \t]*+)(?P<quote>b?["'])?""",
    re.IGNORECASE,
)

# What may be in front of a header that has a line for itself: curl's marks and options, brackets, `export`.
_LEAD: Final = re.compile(
    r"(?:[ \t]++|[<>](?=[ \t])|-H|--header=?|export(?=[ \t])|[(\[{]++(?=[ \t]*+b?[\"']))*+"
)

_OTHER_HEADER: Final = re.compile(r"[A-Za-z][\w.-]*+:[ \t].*", re.DOTALL)
_BLANK: Final = re.compile(r"\s")
_CLOSING: Final = ",;)]}"

_IDS: Final = re.compile(".{0,4}?[0-9A-Fa-f]{30,34}.[0-9A-Fa-f]{14,18}")
_VERSION: Final = re.compile("[0-9A-Fa-f]{2}-")
_TRACEPARENT: Final = re.compile("[0-9A-Fa-f]{2}-[0-9A-Fa-f]{32}-[0-9A-Fa-f]{16}-[0-9A-Fa-f]{2}")

_LIKE_A_TRACEPARENT: Final = "it came without a name, in the shape of a traceparent"


def headers_of_argument(text: str) -> list[Found]:
    """Return the headers in one argument, which may be a value without a name; empty if there is none."""
    if found := [_header(name, value) for name, value in _Text(text).headers()]:
        return found
    if _OTHER_HEADER.fullmatch(text):
        return []
    guessed = _guess(_unquoted(text))
    return [] if guessed is None else [guessed]


def headers_of_line(line: str) -> tuple[list[Found], bool]:
    """Return the headers in a line of a dump, and whether the line is a message of its own.

    It is one unless all that it has is one header with its name. A value without a name is seen only if it is
    a traceparent but for its details.
    """
    text = _Text(line, is_dump=True)
    if pairs := list(text.headers()):
        return [_header(*pair) for pair in pairs], len(pairs) > 1 or not text.is_one_header
    value = line.strip()
    bare = [Pasted("traceparent", value, _LIKE_A_TRACEPARENT)] if _TRACEPARENT.fullmatch(value) else []
    return [*bare], bool(bare)


def _header(name: str, value: str) -> Found:
    lower = name.lower()
    if lower in KINDS:
        return Pasted(lower, value)
    return foreign_by_name(name) or Misnamed(
        name, "traceparent" if lower.endswith("parent") else "tracestate"
    )


class _Text:
    """What was pasted, in which headers with their names are looked for.

    Attributes:
        is_one_header: Whether, as far as `headers` has come, it is one header and nothing else.
    """

    def __init__(self, text: str, *, is_dump: bool = False) -> None:
        self.is_one_header = True
        self._text = text
        self._is_dump = is_dump
        lead = _LEAD.match(text)
        self._lead_end = 0 if lead is None else lead.end()

    def headers(self) -> Iterator[tuple[str, str]]:
        """Yield names and values."""
        previous: re.Match[str] | None = None
        end = 0  # of the previous value, unless another header follows before
        for match in self._matches():
            if previous is None:
                end = self._end_of_value(match)
            elif match.start() >= end:
                yield previous["name"], self._cut(previous, end)
                end = self._end_of_value(match)
            elif self._ends_at(previous, match):
                yield previous["name"], self._cut(previous, match.start()).removesuffix(",")
                end = self._end_of_value(match) if match["quote"] else end
            else:
                continue
            previous = match
        if previous is not None:
            yield previous["name"], self._cut(previous, end)

    def _matches(self) -> Iterator[re.Match[str]]:
        """Yield where headers may begin; a comma only counts as in Python's `('name', b'value')`."""
        return (
            match for match in _HEADER.finditer(self._text) if match["separator"] != "," or match["close"]
        )

    def _ends_at(self, previous: re.Match[str], match: re.Match[str]) -> bool:
        """Whether the value of *previous* ends at a comma, because *match* is the next header of a dump.

        It is so in `traceparent:00-...,tracestate:a=1` and not in `baggage: a=1,tracestate=2`.
        """
        if previous["separator"] != match["separator"] or previous["quote"] or previous["open"]:
            return False
        before = self._text[max(0, match.start() - 2) : match.start()]
        return before.rstrip(WHITE_SPACE).endswith(",")

    def _end_of_value(self, match: re.Match[str]) -> int:
        quote = match["quote"] or ("" if match["close"] else match["open"])
        if match.start() > self._lead_end:
            self.is_one_header = False
        if quote:
            return self._end_at(quote[-1], match)
        if match.start() > self._lead_end:
            blank = _BLANK.search(self._text, match.end())
            return len(self._text) if blank is None else blank.start()
        if self._is_dump and match["separator"] == ":" and not match["blank"]:
            return self._end_of_record(match)
        return len(self._text)

    def _end_of_record(self, match: re.Match[str]) -> int:
        """Return where the headers end in what Kafka's console consumer shows: at a tab before the value.

        Its `name:value` has no blank after the colon, which tells it from HTTP.
        """
        end = self._end_at("\t", match)
        self.is_one_header = self.is_one_header and end == len(self._text)
        return end

    def _end_at(self, character: str, match: re.Match[str]) -> int:
        end = self._text.find(character, match.end())
        return len(self._text) if end < 0 else end

    def _cut(self, match: re.Match[str], end: int) -> str:
        """Return the value of *match*, without what closes a list or a mapping that a log line shows."""
        value = self._text[match.end() : end].strip(WHITE_SPACE)
        is_inside = match.start() > self._lead_end and not (match["quote"] or match["open"])
        return value.rstrip(_CLOSING) if is_inside else value


def _unquoted(text: str) -> str:
    text = text.strip(WHITE_SPACE)
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text


def _guess(value: str) -> Found | None:
    """Say by its shape what a value without a name is."""
    if (foreign := foreign_by_shape(value)) is not None:
        return foreign
    if _IDS.match(value) or (_VERSION.match(value) and "=" not in value):
        return Pasted("traceparent", value, _LIKE_A_TRACEPARENT)
    return _guess_list(value) if "=" in value else None


def _guess_list(value: str) -> Pasted:
    state, baggage = read_tracestate(value), read_baggage(value)
    vendor = next((member.meaning for member in state.members if member.meaning), None)
    if vendor and not _faults(state):
        return Pasted("tracestate", value, f"it came without a name, but with a key of {vendor}")
    if not (_faults(state) or _faults(baggage)):
        return Pasted("baggage", value, "it came without a name, and would be valid as a tracestate, too")
    is_state = _faults(state) < _faults(baggage)
    kind: Kind = "tracestate" if is_state else "baggage"
    return Pasted(kind, value, f"it came without a name, and looks more like {kind}")


def _faults(reading: Reading) -> int:
    return sum(finding.is_fault for finding in reading.findings)
