"""What is shown of the messages: lines for people, or JSON lines for programs."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

from rich.cells import cell_len
from rich.text import Text

from spakky.tracing.cli.tail.table import table_of
from spakky.tracing.cli.tail.verdict import VERDICTS
from spakky.tracing.cli.terminal import console, printable

if TYPE_CHECKING:
    from collections.abc import Collection

    from rich.console import Console

    from spakky.tracing.cli.tail.totals import Group, Totals
    from spakky.tracing.cli.tail.verdict import Judgement, Verdict
    from spakky.tracing.cli.tail.watched import Watched

__all__ = ["IScreen", "JsonLines", "Lines"]

_NANOSECONDS: Final = 1_000_000_000
_INDENT: Final = " " * 20  # below who sent it
_NARROW_INDENT: Final = "  "
_LEAST_COLUMNS: Final = 2 * len(_INDENT)  # for that indent
_WIDTH_OF_NAME: Final = 12
_WIDTH_OF_WHERE: Final = 27
_WIDEST_WHERE: Final = 80
_COLUMNS: Final = 80  # where a trace id is beside it and nothing is folded
_COLOURS: Final[dict[Verdict, str]] = {
    "valid": "\x1b[32m",
    "missing": "\x1b[31m",
    "stale": "\x1b[33m",
    "duplicated": "\x1b[33m",
    "malformed": "\x1b[31m",
}
_NO_COLOUR: Final = "\x1b[0m"
_REFRESH_SECONDS: Final = 0.3
_LEAST_ROWS: Final = 3
_WIDE: Final = 10_000  # in a pipe nothing is folded


class IScreen(Protocol):
    """Shows messages and totals; what is shown waits for `refresh`, which comes ten times a second."""

    def show(self, message: Watched, group: str, judgement: Judgement) -> None:
        """Show one message, which is counted in *group*."""

    def refresh(self) -> None:
        """Write what waits.

        Raises:
            BrokenPipeError: Nobody reads any longer.
        """

    def note(self, sentence: str) -> None:
        """Say something to the person who watches, on standard error."""

    def end(self) -> None:
        """Write what waits, and the totals."""


class Lines:
    """A line for each message, and totals below: at the end, and in a terminal all the time."""

    def __init__(self, totals: Totals, heading: str, shown: Collection[Verdict]) -> None:
        """Write to standard output.

        Args:
            totals: What is counted, by who shows it.
            heading: What the groups are, such as `producer`.
            shown: The verdicts of the messages that get a line.
        """
        self._totals = totals
        self._heading = heading
        self._shown = shown
        self._console = console()
        self._waiting: list[str] = []
        self._has_lines = False
        self._is_coloured = self._console.color_system is not None and not self._console.no_color
        self._footer = _Footer(self._console) if _is_terminal(self._console) else None
        self._columns = self._console.width if self._console.is_terminal else None
        self._where = _Where()

    def show(self, message: Watched, group: str, judgement: Judgement) -> None:
        """Write a line that is as wide as the terminal at most, or goes on below."""
        if judgement.verdict in self._shown:
            where = self._where.cell(message, group, self._columns)
            line = _line(message, where, judgement, self._columns)
            self._waiting.append(_coloured(line, judgement.verdict) if self._is_coloured else line)

    def refresh(self) -> None:
        """Write the lines that wait, and the totals below them if this is a terminal."""
        if self._footer is None:
            self._write("")
            return
        self._columns = self._console.width
        is_new = self._footer.render(self._totals, self._heading)
        if is_new or self._waiting:
            self._write(self._footer.shown)

    def note(self, sentence: str) -> None:
        """Write *sentence* to standard error, above the totals."""
        self._write("")
        _say(sentence)

    def end(self) -> None:
        """Write all totals."""
        self._write("")
        if self._has_lines:
            self._console.print()
        if not self._console.is_terminal:
            self._console.width = _WIDE
        self._console.print(table_of(self._totals, self._heading, self._console.width))

    def _write(self, footer: str) -> None:
        erased = "" if self._footer is None else self._footer.replaced_by(footer)
        text = erased + "".join(self._waiting) + footer
        self._has_lines = self._has_lines or bool(self._waiting)
        self._waiting.clear()
        if text:
            _write(sys.stdout, text)


class _Footer:
    """The totals at the bottom of a terminal, written over again and again."""

    def __init__(self, of: Console) -> None:
        self._console = of
        self._height = 0
        self._messages = 0
        self._rendered_at = 0.0
        self.shown = ""

    def render(self, totals: Totals, heading: str) -> bool:
        """Make `shown` what *totals* are now, a third of the terminal at most; return whether that is new.

        It is rendered again a few times a second at most, and only if there is something new.
        """
        now = time.monotonic()
        if totals.messages == self._messages or now - self._rendered_at < _REFRESH_SECONDS:
            return False
        rows = max(_LEAST_ROWS, self._console.height // 3)
        with self._console.capture() as captured:
            self._console.print()
            self._console.print(table_of(totals, heading, self._console.width, rows))
        self.shown = captured.get()
        self._messages, self._rendered_at = totals.messages, now
        return True

    def replaced_by(self, footer: str) -> str:
        """Return what erases this footer, below which *footer* is going to be written."""
        erased = f"\x1b[{self._height}F\x1b[J" if self._height else ""
        self._height = footer.count("\n")
        return erased


class JsonLines:
    """A JSON object for each message, and one with the totals as the last."""

    def __init__(self, totals: Totals, shown: Collection[Verdict]) -> None:
        """Write to standard output; the arguments are those of `Lines`."""
        self._totals = totals
        self._shown = shown
        self._waiting: list[str] = []

    def show(self, message: Watched, group: str, judgement: Judgement) -> None:
        """Write an object on one line."""
        if judgement.verdict in self._shown:
            self._waiting.append(f"{json.dumps(_object(message, group, judgement))}\n")

    def refresh(self) -> None:
        """Write the objects that wait."""
        if self._waiting:
            text = "".join(self._waiting)
            self._waiting.clear()
            _write(sys.stdout, text)

    def note(self, sentence: str) -> None:
        """Write *sentence* to standard error."""
        _say(sentence)

    def end(self) -> None:
        """Write the object with the totals."""
        groups = [{"producer": group.name, **_counts(group)} for group in self._totals.worst_first()]
        totals = {**_counts(self._totals.all), "groups": groups}
        self._waiting.append(f"{json.dumps({'totals': totals})}\n")
        self.refresh()


def _is_terminal(of: Console) -> bool:
    """Return whether what was written can be written over."""
    return of.is_terminal and not of.is_dumb_terminal and sys.stdout.isatty()


def _say(sentence: str) -> None:
    errors = console(stderr=True)
    errors.print(Text(printable(sentence)), soft_wrap=not errors.is_terminal)


def _write(stream: TextIO, text: str) -> None:
    stream.write(text)
    stream.flush()


def _line(message: Watched, where: str, judgement: Judgement, columns: int | None) -> str:
    """Return a line, or several if there are only so many *columns*."""
    head = f"{_clock(_moment(message) // _NANOSECONDS)} {judgement.verdict:<10} {where}"
    trace_id = "" if judgement.context is None else judgement.context.trace_id
    said = [text for text in (trace_id, judgement.reason, *judgement.notes) if text]
    line = f"{head} {'  '.join(map(printable, said))}"
    if columns is None or (len(line) <= columns and (line.isascii() or cell_len(line) <= columns)):
        return f"{line}\n"
    return _folded(head, said, columns)


def _coloured(line: str, verdict: Verdict) -> str:
    """Return *line* with its verdict in colour, which is the second word."""
    clock, space, rest = line.partition(" ")
    return f"{clock}{space}{_COLOURS[verdict]}{verdict}{_NO_COLOUR}{rest.removeprefix(verdict)}"


class _Where:
    """Who sent messages and where they were seen, as a column that grows with what is in it."""

    def __init__(self) -> None:
        self._width = _WIDTH_OF_WHERE

    def cell(self, message: Watched, group: str, columns: int | None) -> str:
        """Return who sent it and where it was seen; the place alone if it begins with who sent it.

        Args:
            message: What was seen.
            group: Who sent it.
            columns: How wide lines may be; the column grows by what is left. `None` if nothing is folded.
        """
        place, name = printable(message.place), printable(group)
        is_told = place == name or place.startswith(f"{name} ")
        text = place if is_told else f"{name:<{_WIDTH_OF_NAME}} {place}"
        most = _WIDEST_WHERE if columns is None else _WIDTH_OF_WHERE + max(0, columns - _COLUMNS)
        self._width = max(self._width, min(len(text), most))
        return f"{text:<{min(self._width, most)}}"


def _folded(head: str, said: list[str], columns: int) -> str:
    """Return several lines: the second and later ones are indented."""
    indent = _INDENT if columns >= _LEAST_COLUMNS else _NARROW_INDENT
    room = max(columns - len(indent), 1)
    is_short = cell_len(head.rstrip()) <= columns
    first, *rest = [head.rstrip()] if is_short else _wrapped(head.rstrip(), room)
    if said and cell_len(joined := f"{head} {printable(said[0])}") <= columns:
        first, said = joined, said[1:]
    below = [*rest, *(line for text in said for line in _wrapped(printable(text), room))]
    return "".join(f"{line}\n" for line in [first, *(indent + line for line in below)])


def _wrapped(text: str, columns: int) -> list[str]:
    if len(text) <= columns and text.isascii():
        return [text]
    room = console()
    return [line.plain.rstrip() for line in Text(text).wrap(room, columns)]


@lru_cache(16)
def _clock(seconds: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def _moment(message: Watched) -> int:
    """Return when it was sent, or else when it is seen: now."""
    sent = message.delivery.sent_unix_nano
    return time.time_ns() if sent is None else sent


def _object(message: Watched, group: str, judgement: Judgement) -> dict[str, Any]:
    context = judgement.context
    return {
        "time": _timestamp(_moment(message)),
        "place": message.place,
        "producer": group,
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "notes": judgement.notes,
        "trace_id": None if context is None else context.trace_id,
        "span_id": None if context is None else context.span_id,
        "message_id": message.message_id,
        "parent_id": message.parent_id,
        "attempt": message.delivery.attempt,
    }


def _timestamp(unix_nano: int) -> str:
    moment = datetime.fromtimestamp(unix_nano / _NANOSECONDS, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def _counts(group: Group) -> dict[str, int]:
    return {"messages": group.messages, **{verdict: group.counts[verdict] for verdict in VERDICTS}}
