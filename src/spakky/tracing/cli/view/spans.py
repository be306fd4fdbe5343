"""Reads spans from files, whoever wrote them: our own JSON lines, and OTLP/JSON.

A file has a JSON object a line, as recorders and exporters append them, or objects over several lines, as
`jq` writes them. What is no span is counted and passed over. A file that is
being written is read as far as it is there.
"""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from spakky.tracing.cli.refusal import Refusal
from spakky.tracing.cli.view import otlp, record
from spakky.tracing.cli.view.traces import DrawnSpan
from spakky.tracing.cli.view.values import NoSpanError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["STANDARD_INPUT", "Bad", "Reading", "read"]

STANDARD_INPUT: Final = "-"
_LONGEST: Final = 1 << 26  # bytes of a line, and of what is written over several lines
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_SPACE: Final = " \t\r\n"
_GAP: Final = re.compile(f"[{_SPACE}]*")
_NAMED_OF_A_FILE: Final = 3


@dataclass(frozen=True, slots=True)
class Bad:
    """What was passed over.

    Attributes:
        file: Where it is.
        place: `line 7`, or `line 7, span 3` for one of several in a line.
        reason: Why it is none, such as `it is cut off`.
    """

    file: str
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.place} is no span: {self.reason}"


class Reading:
    """What was read from files.

    Attributes:
        spans: All spans, in the order in which they are there.
        bad: The first of those that are none.
        bad_count: How many are none.
        without_spans: Sentences on the files that have no span.
    """

    def __init__(self) -> None:
        self.spans: list[DrawnSpan] = []
        self.bad: list[Bad] = []
        self.bad_count = 0
        self.without_spans: list[str] = []

    def add(self, file: str, stream: BinaryIO) -> None:
        """Read one more file."""
        before, bad_before = len(self.spans), self.bad_count
        for found in _found_in(stream):
            if isinstance(found, DrawnSpan):
                self.spans.append(found)
            else:
                self._pass_over(Bad(file, *found))
        if len(self.spans) == before:
            self.without_spans.append(self._why(file, is_bad=self.bad_count > bad_before))

    def _pass_over(self, bad: Bad) -> None:
        self.bad_count += 1
        if sum(known.file == bad.file for known in self.bad) < _NAMED_OF_A_FILE:
            self.bad.append(bad)

    def _why(self, file: str, *, is_bad: bool) -> str:
        if not is_bad:
            return f"{file} has no spans yet."
        first = next(bad for bad in self.bad if bad.file == file)
        return f"{file} has no spans: {first.place} is none, {first.reason}."


def read(files: Sequence[str]) -> Reading:
    """Read all spans of *files*; `-` is standard input.

    Raises:
        Refusal: One of them cannot be read, or there is no span in any.
    """
    reading = Reading()
    for file in dict.fromkeys(files):
        with _refusing(file), _opened(file) as stream:
            reading.add("standard input" if file == STANDARD_INPUT else file, stream)
    if not reading.spans:
        remedy = "It reads what SPAKKY_TRACING_RECORD=FILE records, and OTLP/JSON."
        raise Refusal(" ".join([*reading.without_spans, remedy]))
    return reading


def _opened(file: str) -> BinaryIO:
    return open(0, "rb", closefd=False) if file == STANDARD_INPUT else Path(file).open("rb")


@contextmanager
def _refusing(file: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror}."
        raise Refusal(message) from error


_Passed = tuple[str, str]  # the place and the reason of what is no span


def _found_in(stream: BinaryIO) -> Iterator[DrawnSpan | _Passed]:
    lines = ((number, line) for number, line in enumerate(_lines(stream), start=1) if line.strip())
    first = next(lines, None)
    if first is None:
        return
    if _is_left_open(first[1]):
        yield from _of_several_lines(first, lines)
    else:
        yield from _of_lines(chain([first], lines))


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the lines with their ends; of one that is too long only as much as tells that it is."""
    is_first = True
    while line := stream.readline(_LONGEST + 1):
        yield line.removeprefix(_BYTE_ORDER_MARK) if is_first else line
        is_first = False
        while len(line) > _LONGEST and not line.endswith(b"\n"):
            line = stream.readline(_LONGEST + 1)


def _is_left_open(line: bytes) -> bool:
    """Tell whether an object goes on in the next line: then the file has not one a line."""
    written = line.strip()
    return len(line) <= _LONGEST and written[:1] in {b"{", b"["} and written[-1:] in {b"{", b"[", b",", b":"}


def _of_lines(lines: Iterable[tuple[int, bytes]]) -> Iterator[DrawnSpan | _Passed]:
    for number, line in lines:
        place = f"line {number}"
        try:
            value = _value_of(line)
        except NoSpanError as error:
            yield place, str(error)
        else:
            yield from _spans_of(value, place)


def _value_of(line: bytes) -> object:
    """Return what a line says.

    Raises:
        NoSpanError: It is no JSON.
    """
    if len(line) > _LONGEST:
        message = f"it is longer than {_LONGEST >> 20} MiB"
        raise NoSpanError(message)
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError:
        message = "it is no text in UTF-8"
    except json.JSONDecodeError as error:
        message = _fault(error, is_whole=line.endswith(b"\n"))
    except RecursionError:
        message = "it is nested too deeply"
    except ValueError:  # what Python says of an integer with thousands of digits
        message = "it has a number with too many digits"
    raise NoSpanError(message)


def _fault(error: json.JSONDecodeError, *, is_whole: bool) -> str:
    is_cut = error.msg.startswith("Unterminated") or error.pos >= len(error.doc.rstrip(_SPACE))
    if not is_cut:
        return "it is no JSON"
    return "it is cut off" if is_whole else "it is not written to its end yet"


def _spans_of(value: object, place: str) -> Iterator[DrawnSpan | _Passed]:
    """Yield the spans that a JSON value has: it is one, a document of OTLP, or a list of either."""
    if isinstance(value, list):
        for number, item in enumerate(value, start=1):
            yield from _spans_of_object(item, f"{place}, item {number}")
    else:
        yield from _spans_of_object(value, place)


def _spans_of_object(value: object, place: str) -> Iterator[DrawnSpan | _Passed]:
    if not isinstance(value, dict):
        yield place, "it is no JSON object"
    elif otlp.is_otlp(value):
        for number, span in enumerate(otlp.spans_of(value), start=1):
            yield span if isinstance(span, DrawnSpan) else (f"{place}, span {number}", str(span))
    elif not otlp.holds_no_traces(value):
        try:
            yield record.span_of(value)
        except NoSpanError as error:
            yield place, str(error)


def _of_several_lines(
    first: tuple[int, bytes], lines: Iterable[tuple[int, bytes]]
) -> Iterator[DrawnSpan | _Passed]:
    """Yield the spans of JSON that is written over several lines, one value after the other."""
    kept, size = [first], len(first[1])
    for numbered in lines:
        kept.append(numbered)
        size += len(numbered[1])
        if size > _LONGEST:
            break
    try:
        values = list(_values_of("".join(line.decode() for _, line in kept)))
    except (ValueError, RecursionError):  # it was one a line after all, or cannot be understood
        yield from _of_lines(chain(kept, lines))
    else:
        for number, value in enumerate(values, start=1):
            yield from _spans_of(value, f"object {number}")


def _values_of(text: str) -> Iterator[object]:
    decoder, place = json.JSONDecoder(), _after_space(text, 0)
    while place < len(text):
        value, place = decoder.raw_decode(text, place)
        yield value
        place = _after_space(text, place)


def _after_space(text: str, place: int) -> int:
    gap = _GAP.match(text, place)
    return gap.end() if gap else place
