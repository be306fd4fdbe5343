"""Draws a trace as a tree with a time line: as wide as a terminal, or with all there is."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

from spakky.tracing.cli.terminal import printable
from spakky.tracing.cli.view.columns import GAP, Columns, fitted
from spakky.tracing.cli.view.notes import notes_of
from spakky.tracing.cli.view.rows import TITLES, Branches, Row, columns_of, rows_of
from spakky.tracing.cli.view.timeline import UNICODE, Signs, TimeLine
from spakky.tracing.cli.view.words import count, duration, moment

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from spakky.tracing.cli.view.traces import Trace

__all__ = ["Tree"]

_LEVELS: Final = 40
_LINES: Final = 4
_RIGHT: Final = frozenset({"waited", "took"})
_STYLES: Final = {"error": "bold red", "rejected": "bold red", "retry": "yellow", "cancelled": "yellow"}


class Tree:
    """Draws traces."""

    def __init__(
        self,
        known: Collection[str],
        *,
        width: int | None = None,
        signs: Signs = UNICODE,
        most: int | None = None,
    ) -> None:
        """Draw as it is to be.

        Args:
            known: The ids of all traces that were read.
            width: How wide lines may be: names go on in the next line, and notes are below their span.
                `None` for one line for each span, with all there is to say of it.
            signs: What the tree and the bars are made of.
            most: How many spans of a trace are drawn at most; `None` for all.
        """
        self._known = known
        self._width = width
        self._signs = signs
        self._most = most
        self._measuring = Console(width=width or 80)

    def draw(self, trace: Trace) -> Iterator[Text]:
        """Yield the lines of a trace: what it is, and its spans."""
        spans = list(trace.spans)
        start, end = trace.start_unix_nano, trace.end_unix_nano
        failures = sum(span.has_failed for span in spans)
        said = [
            moment(start),
            duration(end - start),
            count(len(spans), "span"),
            count(len({span.process for span in spans}), "process", "processes"),
            count(failures, "failure"),
        ]
        yield Text(f"Trace {trace.trace_id}", "bold")
        yield from self._wrapped(Text(", ".join(said)), self._width)
        yield Text()
        yield from self.table(trace)
        if self._most is not None and len(spans) > self._most:
            yield Text(f"{self._signs.more} {count(len(spans) - self._most, 'more span')}", "dim")

    def table(self, trace: Trace) -> Iterator[Text]:
        """Yield the lines of the spans of a trace alone."""
        start, end = trace.start_unix_nano, trace.end_unix_nano
        columns, rows = self._laid_out(trace)
        line = TimeLine(start, end, columns.bar, self._signs)
        yield self._titles(columns, duration(end - start))
        for row in rows:
            yield from self._lines(row, columns, line)

    def _laid_out(self, trace: Trace) -> tuple[Columns, Sequence[Row]]:
        natural = self._rows(trace, 2)
        if self._width is None:
            return fitted(columns_of(natural), columns_of(natural), None)[0], natural
        slim = self._rows(trace, 1)
        columns, is_slim = fitted(columns_of(natural), columns_of(slim), self._width)
        return columns, slim if is_slim else natural

    def _rows(self, trace: Trace, indent: int) -> list[Row]:
        levels = _LEVELS if self._width is None else min(_LEVELS, self._width // 4 // indent)
        return rows_of(trace, Branches(self._signs, indent, levels), self._most)

    def _titles(self, columns: Columns, total: str) -> Text:
        cells = [Text(title) for title in TITLES.values()]
        bar = Text(f"0{total.rjust(columns.bar - 1)}" if columns.bar else "")
        line = _joined([*cells, bar], columns)
        line.stylize("dim")
        return line

    def _lines(self, row: Row, columns: Columns, line: TimeLine) -> Iterator[Text]:
        notes = self._notes(row, columns)
        bar = line.bar(row.node) if columns.bar else Text()
        if self._width is None:
            if notes:
                bar.pad_right(columns.bar - len(bar) + GAP)
                bar.append("; ".join(notes))
            yield _joined([Text(row.process), Text(row.branch) + row.name, *_figures(row), bar], columns)
            return
        names = self._wrapped(Text(row.process), columns.process), self._names(row, columns.span)
        beside = [*_figures(row), bar]
        for process, name in zip_longest(*names, fillvalue=Text()):
            yield _joined([process, name, *beside], columns)
            beside = [Text()] * len(beside)
        yield from self._below(row, notes, columns)

    def _notes(self, row: Row, columns: Columns) -> list[str]:
        is_complete = self._width is None
        notes = notes_of(row.node, self._known, is_complete=is_complete, with_wait=not columns.waited)
        return [printable(note) for note in notes]

    def _names(self, row: Row, width: int) -> list[Text]:
        """Return the cell of the tree, in as many lines as it takes."""
        first, *more = self._wrapped(row.name, width - len(row.branch))
        return [Text(row.branch) + first, *(Text(self._trunk(row)) + line for line in more)]

    def _below(self, row: Row, notes: Sequence[str], columns: Columns) -> Iterator[Text]:
        """Yield the notes on a span, up to the right edge."""
        indent = " " * (columns.process + GAP if columns.process else 0) + self._trunk(row)
        style = "red" if row.span.has_failed else "dim"
        for note in notes:
            for line in self._wrapped(Text(note, style), (self._width or 0) - len(indent)):
                yield Text(indent) + line

    def _trunk(self, row: Row) -> str:
        """Return the lines of the tree beside what is said below a name."""
        trunk = self._signs.trunk if row.node.children else ""
        return f"{row.below}{trunk}".ljust(len(row.branch) + GAP)

    def _wrapped(self, text: Text, width: int | None) -> list[Text]:
        """Return a text in lines; what takes too many is cut."""
        if width is None:
            return [text]
        lines = list(text.wrap(self._measuring, max(1, width), overflow="fold")) or [Text()]
        if len(lines) > _LINES:
            del lines[_LINES:]
            lines[-1].right_crop(len(self._signs.more))
            lines[-1].append(self._signs.more)
        for each in lines:
            each.rstrip()
        return lines


def _figures(row: Row) -> list[Text]:
    """Return the cells between the tree and the bar."""
    outcome = row.span.outcome
    return [
        Text(row.span.span_id, "dim"),
        Text(outcome, _STYLES.get(outcome, "")),
        Text(row.waited, "dim"),
        Text(row.took),
    ]


def _joined(cells: Sequence[Text], columns: Columns) -> Text:
    """Return a line of the table."""
    line = Text()
    for name, width, cell in zip(columns._fields, columns, cells, strict=True):
        if width:
            space = max(0, width - cell.cell_len)
            before, after = (space, 0) if name in _RIGHT else (0, space)
            line.append(" " * (before + (GAP if line else 0)))
            line.append_text(cell).append(" " * after)
    line.rstrip()
    return line
