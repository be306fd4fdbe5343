"""What there is to say of a span besides what, where and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from spakky.tracing.cli.view.words import count, duration

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from spakky.tracing.cli.view.traces import DrawnSpan, Node

__all__ = ["notes_of"]

_LINKS: Final = 3


def notes_of(node: Node, known: Collection[str], *, is_complete: bool, with_wait: bool = False) -> list[str]:
    """Return the notes on a span, in the order of their weight.

    Args:
        node: The span in its tree.
        known: The ids of the traces in the files.
        is_complete: Whether all is said, with whole ids; else what is as usual is left out.
        with_wait: Whether it is said how long the message waited, as no column does.
    """
    span = node.span
    way = [*(_of_wait(node) if with_wait else ()), *_of_way(span, is_complete=is_complete)]
    return [
        *([", ".join(way)] if way else []),
        *_of_parent(node),
        *_of_links(span, known, is_complete=is_complete),
    ]


def _of_wait(node: Node) -> Iterator[str]:
    if node.wait is not None:
        yield f"waited {duration(node.wait.took_nano)}"


def _of_way(span: DrawnSpan, *, is_complete: bool) -> Iterator[str]:
    if span.attempt is not None and (is_complete or span.attempt > 1 or span.outcome != "ok"):
        yield f"attempt {span.attempt}"
    if span.error:
        yield span.error
    if span.is_redelivered:
        yield "redelivered"
    if span.death_count:
        yield "dead-lettered" if span.death_count == 1 else f"dead-lettered {span.death_count:,} times"
    if span.is_scheduled:
        yield "started by a clock"


def _of_parent(node: Node) -> Iterator[str]:
    if node.is_circular:
        yield f"parent {node.span.parent_span_id} is below it"
    elif node.is_orphan:
        yield f"parent {node.span.parent_span_id} is not in the files"


def _of_links(span: DrawnSpan, known: Collection[str], *, is_complete: bool) -> Iterator[str]:
    shown = span.links if is_complete else span.links[:_LINKS]
    for link in shown:
        if link.trace_id == span.trace_id:
            yield f"linked to {link.span_id} of this trace"
            continue
        trace = link.trace_id if is_complete else f"{link.trace_id[:8]}.."
        missing = "" if link.trace_id in known else ", not in the files"
        yield f"linked to {link.span_id} of trace {trace}{missing}"
    if len(shown) < len(span.links):
        yield f"and to {count(len(span.links) - len(shown), 'more span')}"
