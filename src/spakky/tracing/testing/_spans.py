"""Some of the recorded spans, and sentences about them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Self, overload

from spakky.tracing.context import TraceContext
from spakky.tracing.recorder import Span
from spakky.tracing.testing._message import TracedMessage
from spakky.tracing.testing._wording import fail, ids, listed, sides, table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spakky.tracing.testing._selection import Which
    from spakky.tracing.testing._traces import Traces
    from spakky.tracing.tracer import Outcome

__all__ = ["Named", "Spans"]


class Named(NamedTuple):
    """The spans that one name stands for, at least one."""

    name: str
    spans: list[Span]


class Spans(Sequence[Span]):
    """Recorded spans, a sequence that is never empty; `Traces.of` and `Traces.wait_for` return them.

    They are in the order of the names they were asked for, and those of one name in the order in which they
    ended. What begins with `must_` raises `AssertionError` if it does not hold, and returns these spans, so
    that sentences can be put one after the other.
    """

    def __init__(self, named: Sequence[Named], traces: Traces) -> None:
        self._named = named
        self._spans = [span for each in named for span in each.spans]
        self._traces = traces

    @overload
    def __getitem__(self, index: int) -> Span: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Span]: ...
    def __getitem__(self, index: int | slice) -> Span | Sequence[Span]:
        return self._spans[index]

    def __len__(self) -> int:
        return len(self._spans)

    def __repr__(self) -> str:
        return f"<Spans {listed(repr(span.name) for span in self._spans)}>"

    def must_be_one_trace(self) -> Self:
        """Say that all of them belong to one trace.

        Raises:
            AssertionError: They are of several; the text has each trace with its spans.
        """
        __tracebackhide__ = True
        by_trace = self._by_trace()
        if len(by_trace) > 1:
            sentence = f"{self._told()} must be one trace, but they are {len(by_trace)}:"
            fail(sentence, _told_by_trace(by_trace))
        return self

    def must_be_separate_traces(self) -> Self:
        """Say that no two of them belong to one trace.

        Raises:
            AssertionError: Some do; the text has each trace with its spans.
        """
        __tracebackhide__ = True
        by_trace = self._by_trace()
        if len(by_trace) < len(self):
            sentence = f"{self._told()} must be separate traces, but some are one:"
            fail(sentence, _told_by_trace(by_trace))
        return self

    def must_be_in_this_order(self) -> Self:
        """Say that they started in the order in which they are named; of each name the first span counts.

        Raises:
            AssertionError: One started before the one that is named before it.
        """
        __tracebackhide__ = True
        started = [(each.name, min(span.start_unix_nano for span in each.spans)) for each in self._named]
        if any(earlier > later for (_, earlier), (_, later) in pairwise(started)):
            in_fact = sorted(started, key=lambda each: each[1])
            fail(
                f"{self._told()} must have started in this order, but they did not:",
                sides(
                    ("expected", " -> ".join(name for name, _ in started)),
                    ("started", " -> ".join(name for name, _ in in_fact)),
                ),
            )
        return self

    def must_be_a_chain(self) -> Self:
        """Say that each is the child of one of those named just before it, from the second name on.

        Raises:
            AssertionError: One has another parent or none.
        """
        __tracebackhide__ = True
        for before, after in pairwise(self._named):
            self._check_children(after.spans, before.name, before.spans)
        return self

    def must_be_children_of(self, parent: TraceContext | Which) -> Self:
        """Say that each of them is a child of *parent*.

        Args:
            parent: A context, a span, or the name of recorded spans or of their destination, one of which has
                to be the parent.

        Raises:
            AssertionError: One has another parent or none.
        """
        __tracebackhide__ = True
        if isinstance(parent, TraceContext):
            self._check_children(self, "the given context", [parent])
        else:
            parents = self._traces.of(parent)
            self._check_children(self, repr(parents[0].name), parents)
        return self

    def must_be_roots(self) -> Self:
        """Say that each of them has started a trace.

        Raises:
            AssertionError: One has a parent.
        """
        __tracebackhide__ = True
        if children := [span for span in self if span.parent_span_id is not None]:
            fail(f"{self._told()} must be roots, but these have parents:", map(self._lineage, children))
        return self

    def must_link_to(self, *senders: object) -> Self:
        """Say that they, all together, link to exactly these *senders*.

        Args:
            *senders: Messages of any client library, contexts, spans, or names of recorded spans or of their
                destinations, which stand for all of that name. A batch may be processed in several parts: all
                that these link to counts. No sender at all says that they link to nothing.

        Raises:
            AssertionError: A link is missing, or there is another one.
            WrongUseError: No headers are found in a sender.
        """
        __tracebackhide__ = True
        wanted = dict(pair for sender in senders for pair in self._identities(sender))
        found = {(link.trace_id, link.span_id) for span in self for link in span.links}
        if missing := [f"no link to {told}, {ids(*key)}" for key, told in wanted.items() if key not in found]:
            fail(f"{self._told()} must link to all of these senders, but there is:", missing)
        if others := [f"a link to {self._who(key)}, {ids(*key)}" for key in sorted(found - wanted.keys())]:
            fail(f"{self._told()} must link to these senders only, but there is:", others)
        return self

    def must_be_attempts(self, *numbers: int) -> Self:
        """Say that they are the attempts of these *numbers* at one thing, in one trace.

        Args:
            *numbers: What their attempts are in the order in which they started: 1 for the first try.

        Raises:
            AssertionError: They have other numbers, or they are of several traces.
        """
        __tracebackhide__ = True
        spans = sorted(self, key=lambda span: span.start_unix_nano)
        if [span.attempt for span in spans] != list(numbers):
            told = ["not told" if span.attempt is None else span.attempt for span in spans]
            fail(
                f"{self._told()} must be attempts {listed(numbers)}, but they are not:",
                [*sides(("expected", listed(numbers)), ("recorded", listed(told))), *table(spans)],
            )
        return self.must_be_one_trace()

    def must_have_ended(self, outcome: Outcome = "ok") -> Self:
        """Say that each of them ended with this *outcome*.

        Raises:
            AssertionError: One ended otherwise.
        """
        __tracebackhide__ = True
        if others := [span for span in self if span.outcome != outcome]:
            fail(f"{self._told()} must have ended as {outcome!r}, but:", table(others))
        return self

    def _told(self) -> str:
        return listed(each.name for each in self._named)

    def _by_trace(self) -> dict[str, list[Span]]:
        by_trace: dict[str, list[Span]] = defaultdict(list)
        for span in self:
            if span not in by_trace[span.trace_id]:
                by_trace[span.trace_id].append(span)
        return by_trace

    def _check_children(
        self, spans: Iterable[Span], name: str, parents: Iterable[Span | TraceContext]
    ) -> None:
        __tracebackhide__ = True
        known = [(parent.trace_id, parent.span_id) for parent in parents]
        strays = [span for span in spans if (span.trace_id, span.parent_span_id) not in known]
        if strays:
            told = listed(dict.fromkeys(repr(span.name) for span in strays))
            fail(
                f"{told} must be a child of {name}, but is not:",
                [*map(self._lineage, strays), *(f"{name} is {ids(*each)}" for each in known)],
            )

    def _lineage(self, span: Span) -> str:
        if span.parent_span_id is None:
            return f"{span.name!r} has no parent, {ids(span.trace_id, span.span_id)}"
        key = span.trace_id, span.parent_span_id
        return f"{span.name!r} is a child of {self._who(key)}, {ids(*key)}"

    def _who(self, key: tuple[str, str]) -> str:
        """Return what the span of these ids is called."""
        names = (repr(span.name) for span in self._traces.spans if (span.trace_id, span.span_id) == key)
        return next(names, "a span that is not recorded")

    def _identities(self, sender: object) -> list[tuple[tuple[str, str], str]]:
        """Return the ids of a *sender*, and what it is called."""
        __tracebackhide__ = True
        if isinstance(sender, (str, Span)):
            spans = self._traces.of(sender)
            return [((span.trace_id, span.span_id), repr(span.name)) for span in spans]
        if isinstance(sender, TraceContext):
            return [((sender.trace_id, sender.span_id), "the given context")]
        carried = TracedMessage(sender, self._traces).must_carry_a_trace().context
        told = f"the sender of a {type(sender).__name__}"
        return [] if carried is None else [((carried.trace_id, carried.span_id), told)]


def _told_by_trace(by_trace: dict[str, list[Span]]) -> list[str]:
    return sides(
        *(
            (f"trace {trace_id}", listed(repr(span.name) for span in spans))
            for trace_id, spans in by_trace.items()
        )
    )
