"""Draws when a span waited and when it was at work, as a bar on the time line of its trace."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Final

from rich.text import Text

if TYPE_CHECKING:
    from spakky.tracing.cli.view.traces import Node

__all__ = ["ASCII", "UNICODE", "Signs", "TimeLine"]


@dataclass(frozen=True, slots=True)
class Signs:
    """The characters that trees and bars are made of.

    Attributes:
        branch: Before a span that has others after it below the same parent.
        last: Before the last one.
        trunk: Where the tree goes on below.
        waiting: Time in a queue.
        working: Time at work.
        more: In the place of what is left out.
    """

    branch: str
    last: str
    trunk: str
    waiting: str
    working: str
    more: str

    def are_known_to(self, encoding: str) -> bool:
        """Tell whether they can be written in an encoding."""
        try:
            "".join(astuple(self)).encode(encoding)
        except (UnicodeEncodeError, LookupError):
            return False
        return True


UNICODE: Final = Signs("├", "└", "│", "░", "▓", "…")
ASCII: Final = Signs("+", "`", "|", ".", "#", "..")


@dataclass(frozen=True, slots=True)
class TimeLine:
    """The time of a trace, as wide as it is drawn.

    Attributes:
        start_unix_nano: Where it begins.
        end_unix_nano: Where it ends; not before.
        width: How many characters it has.
        signs: What bars are made of.
    """

    start_unix_nano: int
    end_unix_nano: int
    width: int
    signs: Signs

    def bar(self, node: Node) -> Text:
        """Return the bar of a span: the wait of its message, then its work, which is always to be seen."""
        span, wait = node.span, node.wait
        started = min(self._place(span.start_unix_nano), self.width - 1)
        began = span.start_unix_nano if wait is None else wait.start_unix_nano
        sent = min(self._place(began), started)
        ended = max(self._place(span.end_unix_nano), started + 1)
        return Text.assemble(
            " " * sent,
            (self.signs.waiting * (started - sent), "dim"),
            (self.signs.working * (ended - started), "red" if span.has_failed else "cyan"),
        )

    def _place(self, unix_nano: int) -> int:
        whole = max(1, self.end_unix_nano - self.start_unix_nano)
        return round((unix_nano - self.start_unix_nano) * self.width / whole)
