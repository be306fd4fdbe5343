"""The spans of a trace as the rows of a table, with the lines of their tree."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.text import Text

from spakky.tracing.cli.terminal import printable
from spakky.tracing.cli.view.columns import Columns
from spakky.tracing.cli.view.words import duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from spakky.tracing.cli.view.timeline import Signs
    from spakky.tracing.cli.view.traces import DrawnSpan, Node, Trace

__all__ = ["TITLES", "Branches", "Row", "columns_of", "rows_of"]

TITLES: Final = {
    "process": "process",
    "span": "span",
    "span_id": "span id",
    "outcome": "outcome",
    "waited": "waited",
    "took": "took",
}


@dataclass(frozen=True, slots=True)
class Branches:
    """How the lines of a tree are drawn.

    Attributes:
        signs: What they are made of.
        indent: How many characters a level is indented, 1 or 2.
        levels: How many levels are drawn; deeper ones stand there, with their number.
    """

    signs: Signs
    indent: int
    levels: int


@dataclass(frozen=True, slots=True)
class Row:
    """A span, as it is said.

    Attributes:
        node: The span in its tree.
        depth: How deep it is.
        branch: The lines of the tree before its name.
        below: Those before what hangs below it.
        name: What it does and where.
    """

    node: Node
    depth: int
    branch: str
    below: str
    name: Text

    @property
    def span(self) -> DrawnSpan:
        """The span itself."""
        return self.node.span

    @property
    def process(self) -> str:
        """Who recorded it."""
        return printable(self.span.process)

    @property
    def waited(self) -> str:
        """How long its message was in a queue; empty if that is not known."""
        return "" if self.node.wait is None else duration(self.node.wait.took_nano)

    @property
    def took(self) -> str:
        """How long it took."""
        return duration(self.span.end_unix_nano - self.span.start_unix_nano)

    @property
    def width(self) -> int:
        """How wide its name with its branch is."""
        return len(self.branch) + cell_len(self.name.plain)


def rows_of(trace: Trace, branches: Branches, most: int | None) -> list[Row]:
    """Return the rows of the first *most* spans of a trace, `None` for all."""
    return list(islice(_rows(trace, branches), most))


def columns_of(rows: Sequence[Row]) -> Columns:
    """Return how wide columns have to be for *rows*; those that would be empty are left out."""
    return Columns(
        process=_widest("process", (row.process for row in rows)),
        span=max(len(TITLES["span"]), *(row.width for row in rows)),
        span_id=len(rows[0].span.span_id),
        outcome=_widest("outcome", (row.span.outcome for row in rows)),
        waited=_widest("waited", (row.waited for row in rows)),
        took=_widest("took", (row.took for row in rows)),
        bar=0,
    )


def _widest(title: str, cells: Iterable[str]) -> int:
    width = max(map(cell_len, set(cells)))
    return max(width, len(TITLES[title])) if width else 0


def _rows(trace: Trace, branches: Branches) -> Iterator[Row]:
    waiting = [Row(root, 0, "", "", _name(root.span)) for root in reversed(trace.roots)]
    while waiting:  # a loop, as a chain of spans may be longer than the stack is deep
        row = waiting.pop()
        yield row
        last = True
        for child in reversed(row.node.children):
            waiting.append(_below(row, child, branches, is_last=last))
            last = False


def _below(parent: Row, child: Node, branches: Branches, *, is_last: bool) -> Row:
    signs, depth = branches.signs, parent.depth + 1
    number = f"{depth}: " if depth > branches.levels else ""
    branch = f"{parent.below}{signs.last if is_last else signs.branch} {number}"
    is_deepest = depth >= branches.levels
    trunk = " " if is_last else signs.trunk
    below = parent.below if is_deepest else parent.below + trunk.ljust(branches.indent)
    return Row(child, depth, branch, below, _name(child.span))


def _name(span: DrawnSpan) -> Text:
    """Return what a span does, without where, and then where."""
    where = f"{span.system} {span.destination}".strip()
    return Text.assemble(printable(span.does), (f" {printable(where)}" if where else "", "cyan"))
