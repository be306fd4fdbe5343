"""Spans, whoever recorded them, put together as traces."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from spakky.tracing.cli.view.waiting import attempts_of, find_waits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from spakky.tracing.cli.view.waiting import Wait
    from spakky.tracing.recorder import Span, SpanLink

__all__ = ["DrawnSpan", "Node", "Trace", "traces_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnSpan:
    """A span as it is drawn.

    Its fields are those of `spakky.tracing.recorder.Span`. They come from a file, so that any text may be in
    them; only the ids are known to be hexadecimal, and `end_unix_nano` not to be before `start_unix_nano`.

    Attributes:
        kind: `producer`, `consumer`, `client`, `server` or `internal`.
        outcome: One of those of `spakky.tracing.tracer.Outcome`.
        process_id: `None` if it is not known.
    """

    name: str
    kind: str
    system: str
    destination: str
    trace_id: str
    span_id: str
    parent_span_id: str | None = None
    links: tuple[SpanLink, ...] = ()
    start_unix_nano: int
    end_unix_nano: int
    outcome: str = "ok"
    error: str | None = None
    attempt: int | None = None
    process: str = ""
    process_id: int | None = None
    death_count: int | None = None
    is_redelivered: bool | None = None
    queue_time_nano: int | None = None
    is_scheduled: bool = False

    @classmethod
    def of(cls, span: Span) -> DrawnSpan:
        """Return a span of a recorder as it is drawn."""
        return cls(**{each.name: getattr(span, each.name) for each in fields(span)})

    @property
    def does(self) -> str:
        """What it does, without where: its name without the destination."""
        return self.name.removesuffix(self.destination).strip() or self.name or self.kind

    @property
    def start_of_way_unix_nano(self) -> int:
        """When its message was sent, or when it started if that is not known, in nanoseconds since 1970."""
        return self.start_unix_nano - (self.queue_time_nano or 0)

    @property
    def has_failed(self) -> bool:
        """Whether it ended as an error or was rejected."""
        return self.outcome in {"error", "rejected"}


@dataclass(slots=True, eq=False)
class Node:
    """A span with those below it, in the order in which they started.

    Attributes:
        is_orphan: Whether it stands at the top although it names a parent.
        is_circular: Whether that is so because it is itself above that parent; otherwise the parent is not
            among the spans.
        wait: How long its message was in a queue, `None` if that is not known.
        message: A number that all attempts of one message have; `None` if there is one attempt only.
    """

    span: DrawnSpan
    children: list[Node] = field(default_factory=list, repr=False)
    is_orphan: bool = False
    is_circular: bool = False
    wait: Wait | None = None
    message: int | None = None

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Node]]:
        """Yield this node and all below it with their depths, each parent before its children."""
        waiting = [(depth, self)]
        while waiting:  # a loop, as a chain of spans may be longer than the stack is deep
            level, node = waiting.pop()
            yield level, node
            waiting += [(level + 1, child) for child in reversed(node.children)]


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """The spans of one trace.

    Attributes:
        trace_id: 32 hexadecimal digits.
        roots: Those without a parent among the spans, in the order in which they started; never empty.
    """

    trace_id: str
    roots: tuple[Node, ...]

    def walk(self) -> Iterator[tuple[int, Node]]:
        """Yield all nodes with their depths, each parent before its children."""
        for root in self.roots:
            yield from root.walk()

    @property
    def spans(self) -> Iterator[DrawnSpan]:
        """All spans, each before those below it."""
        return (node.span for _, node in self.walk())

    @property
    def start_unix_nano(self) -> int:
        """When its first message was sent or its first span started, in nanoseconds since 1970 (UTC)."""
        return min(span.start_of_way_unix_nano for span in self.spans)

    @property
    def end_unix_nano(self) -> int:
        """When its last span ended, likewise."""
        return max(span.end_unix_nano for span in self.spans)

    @property
    def has_failed(self) -> bool:
        """Whether any of its spans has."""
        return any(span.has_failed for span in self.spans)


def traces_of(spans: Iterable[DrawnSpan]) -> list[Trace]:
    """Return the traces of *spans*, in the order in which they started.

    A span that is there twice counts once, the last one. Spans that are each other's parents are broken up
    where the first of them started.
    """
    by_trace: dict[str, dict[str, DrawnSpan]] = defaultdict(dict)
    for span in spans:
        by_trace[span.trace_id][span.span_id] = span
    traces = [_trace(trace_id, list(members.values())) for trace_id, members in by_trace.items()]
    _tell_messages(traces)
    return sorted(traces, key=lambda trace: trace.start_unix_nano)


def _tell_messages(traces: list[Trace]) -> None:
    """Let nodes know how long their message waited, and which of them are attempts of one."""
    attempts = attempts_of(traces)
    for number, nodes in enumerate(attempts):
        for node in nodes:
            node.message = number
    for node, wait in find_waits(traces, attempts):
        node.wait = wait


def _trace(trace_id: str, spans: list[DrawnSpan]) -> Trace:
    spans.sort(key=lambda span: span.start_unix_nano)
    nodes = {span.span_id: Node(span) for span in spans}
    for node in nodes.values():
        if (parent := _parent(node, nodes)) is not None:
            parent.children.append(node)
        else:
            node.is_orphan = node.span.parent_span_id is not None
    roots = [node for node in nodes.values() if _parent(node, nodes) is None]
    return Trace(trace_id, tuple(_with_broken_circles(roots, nodes)))


def _parent(node: Node, nodes: dict[str, Node]) -> Node | None:
    return nodes.get(node.span.parent_span_id or "")


def _with_broken_circles(roots: list[Node], nodes: dict[str, Node]) -> list[Node]:
    """Return *roots* and, of each circle, the first span, taken from below its parent."""
    reached = {id(node) for root in roots for _, node in root.walk()}
    for node in nodes.values():
        if id(node) not in reached:
            first = _first_of_circle(node, nodes)
            nodes[first.span.parent_span_id or ""].children.remove(first)
            first.is_orphan = first.is_circular = True
            roots.append(first)
            reached.update(id(below) for _, below in first.walk())
    return sorted(roots, key=lambda root: root.span.start_unix_nano)


def _first_of_circle(node: Node, nodes: dict[str, Node]) -> Node:
    """Return the span that started first of the circle that *node* is in or hangs below."""
    way: dict[int, Node] = {}
    while id(node) not in way:  # up, until it comes back to where it was
        way[id(node)] = node
        node = nodes[node.span.parent_span_id or ""]
    circle = list(way.values())[list(way).index(id(node)) :]
    return min(circle, key=lambda each: each.span.start_unix_nano)
