"""Decides how wide the columns of a tree are, and which there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["GAP", "Columns", "fitted"]

GAP: Final = 2
_LEAST_PROCESS, _LEAST_SPAN = 7, 20
_LEAST_BAR, _GOOD_BAR, _WIDEST_BAR = 10, 16, 60
_UNLIMITED_BAR: Final = 40


class Columns(NamedTuple):
    """The widths of the columns, in their order; 0 leaves one out.

    Attributes:
        process: The names of processes.
        span: The tree, with what a span does and where.
        span_id: The ids of spans.
        outcome: How spans ended.
        waited: How long messages were in a queue.
        took: How long spans took.
        bar: The time line.
    """

    process: int
    span: int
    span_id: int
    outcome: int
    waited: int
    took: int
    bar: int

    @property
    def total(self) -> int:
        """The width of a line."""
        widths = [width for width in self if width]
        return sum(widths) + GAP * (len(widths) - 1)


def fitted(natural: Columns, slim: Columns, width: int | None) -> tuple[Columns, bool]:
    """Return the columns that make the most of *width*, and whether they are the slim ones.

    Args:
        natural: Wide enough for all, but for the bar.
        slim: The same for a tree that is indented less.
        width: What there is; `None` for as much as it takes.
    """
    if width is None:
        return natural._replace(bar=_UNLIMITED_BAR), False
    candidate, bar = natural, 0
    for candidate, is_slim in _candidates(natural, slim, max(_LEAST_PROCESS, width // 5)):
        bar = width - candidate.total - GAP
        if bar >= _GOOD_BAR:
            return candidate._replace(bar=min(bar, _WIDEST_BAR)), is_slim
    return _squeezed(candidate, bar), True


def _candidates(natural: Columns, slim: Columns, process: int) -> Iterator[tuple[Columns, bool]]:
    """Yield from the widest to the narrowest."""
    natural = natural._replace(process=min(natural.process, process))
    slim = slim._replace(process=natural.process)
    yield natural, False
    natural, slim = natural._replace(span_id=0), slim._replace(span_id=0)
    yield natural, False
    yield slim, True
    yield natural._replace(waited=0), False
    yield slim._replace(waited=0), True


def _squeezed(columns: Columns, bar: int) -> Columns:
    """Return columns that leave *bar* for the time line: the names take more lines, or there is none."""
    if bar >= _LEAST_BAR:
        return columns._replace(bar=bar)
    span = columns.span + bar - _LEAST_BAR
    if span >= _LEAST_SPAN:
        return columns._replace(span=span, bar=_LEAST_BAR)
    return columns._replace(span=max(_LEAST_SPAN, columns.span + bar + GAP), bar=0)
