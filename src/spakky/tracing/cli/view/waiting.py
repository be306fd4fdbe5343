"""How long messages waited before they were processed, and which spans are attempts of one message."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from spakky.tracing.cli.view.traces import DrawnSpan, Node, Trace

__all__ = ["Wait", "attempts_of", "find_waits"]


@dataclass(frozen=True, slots=True)
class Wait:
    """The time that a message was in a queue.

    Attributes:
        start_unix_nano: When it began, in nanoseconds since 1970 (UTC).
        took_nano: How long it was, in nanoseconds; never negative.
        since: What it is counted from: the message's own `timestamp`, the end of the `attempt` before, or the
            end of the span that `sent` it.
    """

    start_unix_nano: int
    took_nano: int
    since: Literal["timestamp", "attempt", "sent"]


def find_waits(traces: Iterable[Trace], attempts: Iterable[Sequence[Node]]) -> Iterator[tuple[Node, Wait]]:
    """Yield the nodes whose message waited, as far as that is known.

    Args:
        traces: What is looked through.
        attempts: What `attempts_of` returns for them.
    """
    before = {id(late): early.span for tries in attempts for early, late in pairwise(tries)}
    for trace in traces:
        for node, above in _family(trace):
            parent = above[-1].span if above else None
            if (wait := _wait(node.span, parent, before.get(id(node)))) is not None:
                yield node, wait


def _wait(span: DrawnSpan, parent: DrawnSpan | None, before: DrawnSpan | None) -> Wait | None:
    """Return how long the message of *span* waited.

    Without a time of its own it waited since it was sent or, as a retry, since the attempt before.
    """
    if (waited := span.queue_time_nano) is not None:
        return Wait(span.start_unix_nano - waited, waited, "timestamp")
    since = before or parent
    if span.kind != "consumer" or since is None or (since is parent and since.kind != "producer"):
        return None
    if before is None and (span.attempt or 1) > 1:  # since an attempt that is not there
        return None
    waited = span.start_unix_nano - since.end_unix_nano
    if waited < 0:  # the clocks disagree, or it was handed over before sending had ended
        return None
    return Wait(since.end_unix_nano, waited, "attempt" if since is before else "sent")


def attempts_of(traces: Iterable[Trace]) -> list[list[Node]]:
    """Return the attempts of each message that has more than one, in their order.

    Where an attempt is there twice, several messages have one sender: whose a retry is, nobody can tell.
    """
    messages: dict[tuple[str, ...], list[Node]] = {}
    for trace in traces:
        for node, above in _family(trace):
            if node.span.attempt is not None:
                messages.setdefault(_message(node.span, above), []).append(node)
    tried = [sorted(part, key=_order) for nodes in messages.values() for part in _by_process(nodes)]
    return [nodes for nodes in tried if len(nodes) > 1 and _are_numbered(nodes)]


def _family(trace: Trace) -> Iterator[tuple[Node, list[Node]]]:
    """Yield the nodes with all above them, each parent before its children; the list changes later."""
    above: list[Node] = []
    for depth, node in trace.walk():
        del above[depth:]
        yield node, above
        above.append(node)


def _are_numbered(nodes: list[Node]) -> bool:
    """Tell whether each of *nodes* is another attempt."""
    return len({node.span.attempt for node in nodes}) == len(nodes)


def _by_process(nodes: list[Node]) -> Iterable[list[Node]]:
    """Return *nodes* as one part or, if several services got the message, a part for each."""
    if _are_numbered(nodes):
        return [nodes]
    parts: dict[str, list[Node]] = {}
    for node in nodes:
        parts.setdefault(node.span.process, []).append(node)
    return parts.values()


def _order(node: Node) -> tuple[int, int]:
    return node.span.attempt or 0, node.span.start_unix_nano


def _message(span: DrawnSpan, above: Sequence[Node]) -> tuple[str, ...]:
    """Return what the attempts of one message have in common: who sent it, and to what.

    A retry that was sent anew hangs below the attempt before it, and is taken as the same message.
    """
    for number in range(len(above) - 1, -1, -1):
        earlier = above[number].span
        is_before = earlier.attempt is not None and earlier.attempt + 1 == span.attempt
        if is_before and (earlier.name, earlier.system) == (span.name, span.system):
            return _message(earlier, above[:number])
    sender = span.parent_span_id or next((link.span_id for link in span.links), span.span_id)
    return sender, span.name, span.system, span.destination
