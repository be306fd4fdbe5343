"""Headers that came together: what each of them says, and what holds between them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from spakky.tracing.carriers.mapping import HTTP
from spakky.tracing.cli.headers.baggage import read_baggage
from spakky.tracing.cli.headers.findings import Finding, in_baggage, in_trace_context
from spakky.tracing.cli.headers.foreign import Foreign
from spakky.tracing.cli.headers.pasted import Misnamed, Pasted, headers_of_line
from spakky.tracing.cli.headers.traceparent import read_traceparent
from spakky.tracing.cli.headers.tracestate import read_tracestate
from spakky.tracing.w3c_propagator import W3C

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from spakky.tracing.cli.headers.findings import Kind, Reading, Section
    from spakky.tracing.cli.headers.pasted import Found
    from spakky.tracing.context import TraceContext

__all__ = ["Dump", "Message", "message_of"]

_SECTIONS_OF_LISTS: Final[tuple[tuple[Kind, Section], ...]] = (
    ("tracestate", in_trace_context("3.3.2")),
    ("baggage", in_baggage("3")),
)

# The end of curl's request and response, brackets that open or close a dump, an empty line.
_END_OF_MESSAGE: Final = re.compile(r"\s*+(?:[<>]|[(\[{)\]}]++,?)?\s*+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """The headers of one message or request.

    Attributes:
        line: The line in which it starts, from 1; `None` for arguments.
        readings: Its headers: each traceparent, then all of tracestate, then all of baggage.
        foreign: Headers of other formats.
        findings: What holds between the headers.
        context: What this library reads from them; `None` for nothing: a new trace is started.
    """

    line: int | None
    readings: tuple[Reading, ...]
    foreign: tuple[Foreign, ...]
    findings: tuple[Finding, ...]
    context: TraceContext | None

    @property
    def has_faults(self) -> bool:
        """Whether there is one in any header or between them."""
        inside = (finding for reading in self.readings for finding in reading.findings)
        return any(finding.is_fault for findings in (self.findings, inside) for finding in findings)


class Dump:
    """Lines in which there are headers of messages.

    Attributes:
        passed_over: How many lines had no header in them, empty ones not counted.
    """

    def __init__(self) -> None:
        self.passed_over = 0
        self._line = 0
        self._open: list[Found] = []

    def messages(self, lines: Iterable[str]) -> Iterator[Message]:
        """Yield the messages: lines up to an empty one or a bracket, or one line with several headers."""
        for number, line in enumerate(lines, start=1):
            if _END_OF_MESSAGE.fullmatch(line):
                yield from self._ended()
                continue
            found, is_whole = headers_of_line(line)
            if is_whole:
                yield from self._ended()
                yield message_of(found, number)
            elif found:
                self._line = self._line if self._open else number
                self._open += found
            else:
                self.passed_over += 1
        yield from self._ended()

    def _ended(self) -> Iterator[Message]:
        if self._open:
            yield message_of(self._open, self._line)
            self._open = []


def message_of(headers: Sequence[Found], line: int | None = None) -> Message:
    """Say what *headers*, which came together, mean; *line* is where they start."""
    pasted = [header for header in headers if isinstance(header, Pasted)]
    readings = tuple(_readings(pasted))
    context = W3C.extract([(header.kind, header.value) for header in pasted], HTTP)
    return Message(
        line=line,
        readings=readings,
        foreign=tuple(header for header in headers if isinstance(header, Foreign)),
        findings=tuple(_findings(headers, context)),
        context=context,
    )


def _readings(pasted: list[Pasted]) -> Iterator[Reading]:
    for header in pasted:
        if header.kind == "traceparent":
            yield read_traceparent(header.value, header.guess)
    for kind, read in (("tracestate", read_tracestate), ("baggage", read_baggage)):
        parts = [header for header in pasted if header.kind == kind]
        if parts:
            guess = next((header.guess for header in parts if header.guess), None)
            yield read(",".join(header.value for header in parts), guess)


def _findings(headers: Sequence[Found], context: TraceContext | None) -> Iterator[Finding]:
    for header in headers:
        if isinstance(header, Misnamed):
            yield _misnamed(header)
    pasted = [header for header in headers if isinstance(header, Pasted)]
    kinds: list[Kind] = [header.kind for header in pasted]
    yield from _repeated_traceparent([header.value for header in pasted if header.kind == "traceparent"])
    yield from _repeated_lists(kinds)
    if "tracestate" in kinds and context is None:
        yield _unused_tracestate(has_parent="traceparent" in kinds, is_alone=len(headers) == 1)
    if "baggage" in kinds and "traceparent" not in kinds:
        sentence = "baggage names no trace: without a traceparent a new one is started, with this baggage"
        yield _finding("baggage-alone", sentence, in_baggage("3"), is_fault=False)


def _misnamed(header: Misnamed) -> Finding:
    section = in_trace_context("3.2.1" if header.meant == "traceparent" else "3.3.1")
    return _finding(
        "misnamed", f"{header.name} is not read: the name is {header.meant}, in one word", section
    )


def _repeated_traceparent(values: list[str]) -> Iterator[Finding]:
    if len(values) > 1:
        how = "with the same value" if len(set(values)) == 1 else "with different values"
        effect = "over HTTP none of them counts, in Kafka the last one does"
        sentence = f"traceparent is there {len(values)} times, {how}: {effect}"
        yield _finding("traceparent-repeated", sentence, in_trace_context("3.2.2"))


def _repeated_lists(kinds: list[Kind]) -> Iterator[Finding]:
    for kind, section in _SECTIONS_OF_LISTS:
        if (count := kinds.count(kind)) > 1:
            sentence = f"{kind} is there {count} times, which counts as one list"
            yield _finding(f"{kind}-repeated", sentence, section, is_fault=False)


def _unused_tracestate(*, has_parent: bool, is_alone: bool) -> Finding:
    """Say why a tracestate is not used; where only its value was asked about, that is no fault of it."""
    if has_parent:
        sentence = "the tracestate is not used, as no traceparent is"
        return _finding("tracestate-unused", sentence, in_trace_context("3.3"), is_fault=False)
    sentence = "a tracestate without a traceparent is not used"
    return _finding("tracestate-alone", sentence, in_trace_context("4.1.1"), is_fault=not is_alone)


def _finding(code: str, sentence: str, section: Section, *, is_fault: bool = True) -> Finding:
    return Finding(code=code, sentence=sentence, section=section, is_fault=is_fault)
