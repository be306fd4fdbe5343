"""The totals as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

from spakky.tracing.cli.tail.verdict import VERDICTS
from spakky.tracing.cli.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Collection

    from rich.console import RenderableType

    from spakky.tracing.cli.tail.totals import Group, Totals
    from spakky.tracing.cli.tail.verdict import Verdict

__all__ = ["table_of"]

_ALL: Final = "all"
_LEAST_WIDTH_OF_NAME: Final = 8
_GAP: Final = 2


def table_of(totals: Totals, heading: str, columns: int, most_rows: int | None = None) -> RenderableType:
    """Return the groups of *totals*, the worst first, with their sum below.

    Args:
        totals: What was counted.
        heading: What the groups are, such as `producer`.
        columns: How wide it may be. Where not all verdicts have room, who sends and what is lost stay.
        most_rows: How many groups are shown; `None` for all of them.
    """
    groups = totals.worst_first()
    shown = groups[:most_rows]
    verdicts = _verdicts_for(totals.all, columns)
    table = _columns(heading, verdicts)
    for group in shown:
        table.add_row(
            Text(printable(group.name)), *_numbers(group, verdicts), style="bold" if group.lost else ""
        )
    if len(shown) < len(groups):
        table.add_row(Text(f"and {len(groups) - len(shown)} more"))
    if len(groups) != 1:
        table.add_row(Text(_ALL), *_numbers(totals.all, verdicts), style="dim" if groups else "")
    return table


def _verdicts_for(together: Group, columns: int) -> Collection[Verdict]:
    """Return the verdicts that have room: all, or those that there were besides valid, or none."""
    faults: tuple[Verdict, ...] = tuple(
        each for each in VERDICTS if each != "valid" and together.counts[each]
    )
    return next((each for each in (VERDICTS, faults) if _width(together, each) <= columns), ())


def _width(together: Group, verdicts: Collection[Verdict]) -> int:
    """Return how wide the table is at least; no number is longer than that of all groups *together*."""
    pairs = zip(_names(verdicts), _numbers(together, verdicts), strict=True)
    return _LEAST_WIDTH_OF_NAME + sum(_GAP + max(map(len, pair)) for pair in pairs)


def _names(verdicts: Collection[Verdict]) -> tuple[str, ...]:
    return ("messages", *verdicts, "lost")


def _columns(heading: str, verdicts: Collection[Verdict]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    table.add_column(Text(printable(heading)), overflow="fold", min_width=_LEAST_WIDTH_OF_NAME)
    for name in _names(verdicts):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _numbers(group: Group, verdicts: Collection[Verdict]) -> list[str]:
    counts = [str(group.counts[verdict]) for verdict in verdicts]
    return [str(group.messages), *counts, _percent(group)]


def _percent(group: Group) -> str:
    """Return the share that is lost; what is not nothing and not everything is never rounded to that."""
    percent = round(group.lost_percent)
    if percent == 0 and group.lost:
        return "<1%"
    return ">99%" if percent == 100 and group.lost < group.messages else f"{percent}%"  # noqa: PLR2004 - all
