"""The totals as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.table import Table
from rich.text import Text

from spakky.tracing.cli.tail.verdict import VERDICTS
from spakky.tracing.cli.terminal import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from spakky.tracing.cli.tail.totals import Group, Totals

__all__ = ["table_of"]

_ALL: Final = "all"


def table_of(totals: Totals, heading: str, most_rows: int | None = None) -> RenderableType:
    """Return the groups of *totals*, the worst first, with their sum below.

    Args:
        totals: What was counted.
        heading: What the groups are, such as `producer`.
        most_rows: How many groups are shown; `None` for all of them.
    """
    groups = totals.worst_first()
    shown = groups[:most_rows]
    table = _columns(heading)
    for group in shown:
        table.add_row(Text(printable(group.name)), *_numbers(group), style="bold" if group.lost else "")
    if len(shown) < len(groups):
        table.add_row(Text(f"and {len(groups) - len(shown)} more"))
    if len(groups) != 1:
        table.add_row(Text(_ALL), *_numbers(totals.all), style="dim" if groups else "")
    return table


def _columns(heading: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(Text(printable(heading)), overflow="fold", min_width=8)
    for name in ("messages", *VERDICTS, "lost"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _numbers(group: Group) -> list[str]:
    counts = [str(group.counts[verdict]) for verdict in VERDICTS]
    return [str(group.messages), *counts, _percent(group)]


def _percent(group: Group) -> str:
    """Return the share that is lost; what is not nothing and not everything is never rounded to that."""
    percent = round(group.lost_percent)
    if percent == 0 and group.lost:
        return "<1%"
    return ">99%" if percent == 100 and group.lost < group.messages else f"{percent}%"  # noqa: PLR2004 - all
