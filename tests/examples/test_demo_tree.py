"""The demo's tree: branches, links, and spans whose parent nobody recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from examples.demo.tree import draw
from spakky.tracing.recorder import Span, SpanLink

if TYPE_CHECKING:
    from collections.abc import Sequence


def span(name: str, parent: str | None = None, links: Sequence[SpanLink] = ()) -> Span:
    """Return a span that is named like its id and starts in the order of the names."""
    return Span(
        name=f"do {name}",
        kind="consumer",
        system="kafka",
        destination="",
        trace_id="a" * 32,
        span_id=name * 16,
        parent_span_id=None if parent is None else parent * 16,
        links=tuple(links),
        start_unix_nano=ord(name),
        end_unix_nano=ord(name) + 1_500_000,
        outcome="ok",
        error=None,
        attempt=None,
        process="shop",
        process_id=1,
    )


def boundaries(lines: Sequence[str]) -> list[str]:
    header, *rows = lines
    start, end = header.index("boundary"), header.index("destination")
    return [row[start:end].rstrip() for row in rows]


def test_children_hang_below_their_parents_in_the_order_in_which_they_started() -> None:
    drawn = draw([span("e", "a"), span("c", "b"), span("d", "b"), span("b", "a"), span("a")])
    assert boundaries(drawn) == ["do a", "├ do b", "│ ├ do c", "│ └ do d", "└ do e"]


def test_a_span_whose_parent_is_not_there_is_a_root() -> None:
    assert boundaries(draw([span("a"), span("c", "b")])) == ["do a", "do c"]


def test_links_are_shown_below_their_span() -> None:
    linked = draw([span("a"), span("b", "a", [SpanLink("f" * 32, "e" * 16)])])
    assert boundaries(linked) == ["do a", "└ do b", "  linked to"]
    assert "trace ffffffff.." in linked[-1]
    assert "e" * 16 in linked[-1]


def test_columns_are_aligned() -> None:
    assert draw([span("a")]) == [
        "process  boundary  destination  span id           attempt  outcome   ms",
        "shop     do a      kafka        aaaaaaaaaaaaaaaa           ok       1.5",
    ]
