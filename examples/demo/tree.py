"""Draws the spans of a trace as a tree."""

from collections.abc import Iterable, Iterator, Sequence

from spakky.tracing.recorder import Span

HEADER = ("process", "boundary", "destination", "span id", "attempt", "outcome", "ms")
RIGHT_ALIGNED = {"attempt", "ms"}
NANOSECONDS = 1_000_000
WITHOUT_DECIMALS = 100


def draw(spans: Iterable[Span]) -> list[str]:
    """Return the lines of a table with one row for each span, children below their parents."""
    tree = sorted(spans, key=lambda span: span.start_unix_nano)
    rows = [HEADER, *(row for root in roots(tree) for row in _rows(root, tree, "", ""))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [_line(row, widths) for row in rows]


def roots(spans: Sequence[Span]) -> list[Span]:
    """Return the spans whose parent is not among *spans*."""
    known = {span.span_id for span in spans}
    return [span for span in spans if span.parent_span_id not in known]


def children(parent: Span, spans: Iterable[Span]) -> list[Span]:
    """Return the spans directly below *parent*."""
    return [span for span in spans if span.parent_span_id == parent.span_id]


def boundary(span: Span) -> str:
    """Return what a span does, without where: its name without the destination."""
    return span.name.removesuffix(span.destination).strip() or span.name


def _rows(span: Span, spans: Sequence[Span], indent: str, branch: str) -> Iterator[tuple[str, ...]]:
    yield (
        span.process,
        f"{indent}{branch}{boundary(span)}",
        f"{span.system} {span.destination}".rstrip(),
        span.span_id,
        str(span.attempt or ""),
        span.outcome,
        _milliseconds(span),
    )
    below = indent + {"": "", "├ ": "│ ", "└ ": "  "}[branch]
    for link in span.links:
        yield ("", f"{below}linked to", f"trace {link.trace_id[:8]}..", link.span_id, "", "", "")
    for child in (nested := children(span, spans)):
        yield from _rows(child, spans, below, "└ " if child is nested[-1] else "├ ")


def _milliseconds(span: Span) -> str:
    duration = (span.end_unix_nano - span.start_unix_nano) / NANOSECONDS
    return f"{duration:.1f}" if duration < WITHOUT_DECIMALS else f"{duration:.0f}"


def _line(row: tuple[str, ...], widths: Sequence[int]) -> str:
    cells = (
        cell.rjust(width) if name in RIGHT_ALIGNED else cell.ljust(width)
        for name, cell, width in zip(HEADER, row, widths, strict=True)
    )
    return "  ".join(cells).rstrip()
