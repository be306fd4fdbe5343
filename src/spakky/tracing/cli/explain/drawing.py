"""Draws what is known about headers, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.cells import chop_cells
from rich.text import Text

from spakky.tracing.cli.explain.pointing import excerpt, pointed, spelled
from spakky.tracing.cli.terminal import print_line, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

    from spakky.tracing.cli.headers.findings import Finding, Member, Reading
    from spakky.tracing.cli.headers.foreign import Foreign
    from spakky.tracing.cli.headers.messages import Message

__all__ = ["Drawing"]

_STYLES: Final = {"accepted": "bold green", "partial": "bold yellow", "refused": "bold red"}
_INDENT: Final = "  "
_MOST_FINDINGS: Final = 20
_LINES_OF_VALUE: Final = 4
_WIDEST_NAME: Final = 24
_LONGEST_MEMBER: Final = 200
_NARROWEST: Final = 40


class Drawing:
    """Draws on a console: within its width if it is a terminal, and else each thing whole on one line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._width = max(console.width, _NARROWEST)
        self._folds = console.is_terminal
        self._is_first = True

    def draw(self, message: Message) -> None:
        """Draw *message*, below the number of its line if it has one."""
        if message.line is not None:
            self._begin()
            print_line(self._console, Text(f"line {message.line}", "underline"))
            self._is_first = True
        for reading in message.readings:
            self._begin()
            self._draw_reading(reading)
        self._draw_foreign(message.foreign)
        self._draw_findings_between(message)

    def draw_sum(self, sentence: str) -> None:
        """Draw a closing sentence."""
        self._begin()
        self._print_hanging(Text(sentence), "", 0)

    def _begin(self) -> None:
        """Leave a line between parts."""
        if not self._is_first:
            print_line(self._console, Text())
        self._is_first = False

    def _draw_reading(self, reading: Reading) -> None:
        heading = Text(f"{reading.kind}: ", "bold").append(_verdict(reading), _STYLES[reading.verdict])
        self._print_hanging(heading, "", len(_INDENT))
        if reading.guess:
            self._print_hanging(Text(reading.guess, "dim"))
        self._draw_value(reading)
        self._draw_findings(reading)
        self._draw_facts(reading)
        self._draw_members(reading.members)

    def _is_short(self, reading: Reading) -> bool:
        """Whether the value fits into a line, with a mark and a number after it."""
        room = self._width - 2 * len(_INDENT) - len("^ 00")
        return len(reading.value) <= room and len(spelled(reading.value)) <= room

    def _draw_value(self, reading: Reading) -> None:
        if not reading.value:
            print_line(self._console, Text(f"{_INDENT}(nothing)", "dim"))
        elif self._folds and not self._is_short(reading):
            self._draw_folded(reading.value)
        else:
            print_line(self._console, Text(_INDENT + spelled(reading.value)))
        if self._is_short(reading):
            for number, finding in enumerate(_first(reading.findings), start=1):
                marks = pointed(reading.value, finding.places).marks
                print_line(self._console, Text(_INDENT).append(f"{marks} {number}", _style(finding)))

    def _draw_folded(self, value: str) -> None:
        width = self._width - len(_INDENT)
        lines = chop_cells(spelled(value[: width * _LINES_OF_VALUE]), width)
        for line in lines[:_LINES_OF_VALUE]:
            print_line(self._console, Text(_INDENT + line))
        if len(lines) > _LINES_OF_VALUE or len(value) > width * _LINES_OF_VALUE:
            print_line(self._console, Text(f"{_INDENT}... {len(value)} characters in all", "dim"))

    def _draw_findings(self, reading: Reading) -> None:
        is_short = self._is_short(reading)
        for number, finding in enumerate(_first(reading.findings), start=1):
            start = f"{_INDENT}{number:>2} "
            self._draw_finding(finding, start)
            if not is_short and finding.places:
                self._draw_excerpt(reading.value, finding, len(start))
        if (more := len(reading.findings) - _MOST_FINDINGS) > 0:
            self._print_hanging(Text(f"and {more} more, which --json has all"))

    def _draw_finding(self, finding: Finding, start: str) -> None:
        text = Text().append("fault: " if finding.is_fault else "note: ", _style(finding))
        text.append(printable(finding.sentence))
        text.append(f" [{finding.section.document}, {finding.section.number}]", "dim")
        self._print_hanging(text, start)

    def _draw_excerpt(self, value: str, finding: Finding, indent: int) -> None:
        shown, marks = excerpt(value, finding.places, self._width - indent)
        print_line(self._console, Text(" " * indent + shown))
        print_line(self._console, Text(" " * indent).append(marks, _style(finding)))

    def _draw_facts(self, reading: Reading) -> None:
        for fact in reading.facts:
            name = fact.name.replace("_", " ")
            text = Text(fact.value)
            if fact.meaning:
                text.append(f"  {fact.meaning}", "dim")
            self._print_hanging(text, f"{_INDENT}{name:<11}  ")

    def _draw_members(self, members: Sequence[Member]) -> None:
        width = min(max((len(member.key) for member in members), default=0), _WIDEST_NAME)
        for member in members:
            text = Text(self._shortened(member.value))
            for what in _remarks(member):
                text.append(f"  {self._shortened(what)}", "dim")
            self._print_hanging(text, self._start_of(member, width), 2 * len(_INDENT) + width)

    def _start_of(self, member: Member, width: int) -> str:
        """Return what is in front of a member's value; a key that is too wide is printed before."""
        if self._folds and len(member.key) > width:
            self._print_hanging(Text(self._shortened(member.key)))
            return " " * (2 * len(_INDENT) + width)
        return f"{_INDENT}{printable(member.key):<{width}}  "

    def _draw_foreign(self, foreign: Iterable[Foreign]) -> None:
        names: dict[str, list[str]] = {}
        for header in foreign:
            names.setdefault(header.sentence, []).append(header.name or "without a name")
        for sentence, those in names.items():
            self._begin()
            heading = self._shortened(printable(", ".join(dict.fromkeys(those))))
            self._print_hanging(Text(f"{heading}: ", "bold").append(sentence), "", len(_INDENT))

    def _draw_findings_between(self, message: Message) -> None:
        is_several = len(message.readings) + len(message.foreign) > 1
        if not (is_several or message.findings):
            return
        if is_several or not message.readings:
            self._begin()
            verdict = "accepted" if message.context else "refused"
            outcome = Text("outcome: ", "bold").append(_outcome(message), _STYLES[verdict])
            self._print_hanging(outcome, "", len(_INDENT))
        for finding in message.findings:
            self._draw_finding(finding, _INDENT)

    def _shortened(self, text: str) -> str:
        text = printable(text)
        if not self._folds or len(text) <= _LONGEST_MEMBER:
            return text
        return f"{text[:_LONGEST_MEMBER]}... ({len(text)} characters)"

    def _print_hanging(self, text: Text, start: str = _INDENT, indent: int | None = None) -> None:
        """Print *text* after *start*; in a terminal folded, all lines but the first below its beginning."""
        indent = len(start) if indent is None else indent
        if not self._folds:
            print_line(self._console, Text(start).append(text))
            return
        for line in text.wrap(self._console, self._width - max(indent, len(start)), overflow="fold"):
            line.rstrip()
            print_line(self._console, Text(start).append(line))
            start = " " * indent


def _first(findings: Sequence[Finding]) -> Sequence[Finding]:
    """Return as many as are drawn: of too many, faults before notes."""
    if len(findings) <= _MOST_FINDINGS:
        return findings
    return sorted(findings, key=lambda finding: not finding.is_fault)[:_MOST_FINDINGS]


def _style(finding: Finding) -> str:
    return "red" if finding.is_fault else "yellow"


def _verdict(reading: Reading) -> str:
    if reading.kind == "traceparent":
        return (
            "valid, the trace goes on" if reading.verdict == "accepted" else "refused, a new trace is started"
        )
    if reading.verdict == "refused":
        return "refused, nothing of it is taken"
    if not reading.members:
        return "valid, but empty"
    members = "1 member" if len(reading.members) == 1 else f"{len(reading.members)} members"
    return f"valid, {members}" if reading.verdict == "accepted" else f"valid in part, {members} of it"


def _outcome(message: Message) -> str:
    if message.context is None:
        return "no context, a new trace is started"
    return f"the trace goes on, {message.context.trace_id}"


def _remarks(member: Member) -> list[str]:
    remarks = [f"({member.wire} on the wire)"] if member.wire != member.value else []
    remarks += [f";{each}" for each in member.properties]
    return [*remarks, member.meaning] if member.meaning else remarks
