"""Draws the traces: as trees, and as a page that is left behind with the spans."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import copyfile

from spakky.tracing.cli.view.page import page
from spakky.tracing.cli.view.timeline import ASCII, UNICODE
from spakky.tracing.cli.view.traces import DrawnSpan, traces_of
from spakky.tracing.cli.view.tree import Tree
from spakky.tracing.recorder import read_spans

from .screen import WIDTH

SPANS, PAGE = Path("demo.jsonl"), Path("demo.html")


def draw(spans: Sequence[DrawnSpan]) -> Iterator[str]:
    """Yield the lines of a tree, as `spakky-tracing view` draws it."""
    signs = UNICODE if UNICODE.are_known_to(sys.stdout.encoding) else ASCII
    traces = traces_of(spans)
    tree = Tree({trace.trace_id for trace in traces}, width=WIDTH, signs=signs)
    for trace in traces:
        for line in tree.table(trace):
            yield line.plain


def keep(spans: Path) -> tuple[Path, Path]:
    """Put the spans and a page of them into the current folder, and return both.

    Raises:
        OSError: One of them cannot be written.
    """
    copyfile(spans, SPANS)
    traces = traces_of(DrawnSpan.of(span) for span in read_spans(SPANS))
    PAGE.write_text(page(traces, title="Two orders"), encoding="utf-8")
    return SPANS, PAGE
