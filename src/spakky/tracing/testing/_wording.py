"""How a failed sentence is told: the sentence, and under it both sides or all that there was."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from spakky.tracing.recorder import Span

__all__ = ["fail", "ids", "listed", "sides", "table"]

_MOST_ROWS: Final = 50


def fail(sentence: str, lines: Iterable[str] = ()) -> NoReturn:
    """Say *sentence*, with *lines* below it.

    Raises:
        AssertionError: Always.
    """
    __tracebackhide__ = True
    raise AssertionError("\n".join([sentence, *(f"  {line}" for line in lines)])) from None


def sides(*sides: tuple[str, str]) -> list[str]:
    """Return a line for each of two or more *sides*: what it is, and what it says, in columns."""
    return _columns(sides)


def table(spans: Sequence[Span]) -> list[str]:
    """Return a line for each of *spans*, in columns."""
    rows = [_row(span) for span in spans[-_MOST_ROWS:]]
    earlier = len(spans) - len(rows)
    return [*([f"({earlier} earlier ones)"] if earlier else []), *_columns(rows)]


def _row(span: Span) -> tuple[str, ...]:
    attempt = "" if span.attempt is None else f"attempt {span.attempt}"
    where = f"in {span.process!a} ({span.process_id})"
    ended = span.outcome if span.error is None else f"{span.outcome} {span.error}"
    return repr(span.name), span.kind, repr(span.destination), where, ended, attempt, f"trace {span.trace_id}"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    columns = [column for column in zip_longest(*rows, fillvalue="") if any(column)]
    widths = [max(map(len, column)) for column in columns]
    lines = [zip(row, widths, strict=True) for row in zip(*columns, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in line).rstrip() for line in lines]


def ids(trace_id: str, span_id: str | None) -> str:
    """Return how a span is told by its ids; `None` for a span that is not known."""
    return f"trace {trace_id}" if span_id is None else f"trace {trace_id} span {span_id}"


def listed(words: Iterable[object], empty: str = "nothing") -> str:
    """Return *words* with commas between, `and` before the last; *empty* if there is none."""
    texts = [str(word) for word in words]
    if not texts:
        return empty
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last
