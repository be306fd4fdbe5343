"""What other tools have put into the headers of the very message that is about to be sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from spakky.tracing.baggage import Baggage

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["VENDOR_PREFIXES", "vendors_members", "with_vendors_members"]

VENDOR_PREFIXES: Final = ("sentry-",)
"""How the keys of baggage members begin that belong to another tool.

Such a tool writes headers that only it reads (`sentry-trace`) and, for the same message, members into the
common header `baggage` (`sentry-trace_id`, `sentry-public_key`, ...). The former stay in the message like
every header of the user's, so the latter must stay too: each is of no use, or wrong, without the other.
"""


def vendors_members(headers: Sequence[str]) -> Baggage:
    """Return what belongs to other tools in the values of a `baggage` header."""
    if not any(prefix in header for header in headers for prefix in VENDOR_PREFIXES):
        return Baggage.EMPTY
    baggage = Baggage.parse(headers)
    return _without(baggage, [key for key in baggage if not key.startswith(VENDOR_PREFIXES)])


def with_vendors_members(ours: Baggage, theirs: Baggage) -> Baggage:
    """Return *ours* with *theirs* in place of what it has of other tools, which is older.

    Where both are too much for one header, the user's own members stay and the other tools' are kept as they
    fit.
    """
    own = _without(ours, [key for key in ours if key.startswith(VENDOR_PREFIXES)])
    return Baggage.parse([own.to_header(), theirs.to_header()])


def _without(baggage: Baggage, keys: Sequence[str]) -> Baggage:
    for key in keys:
        baggage = baggage.delete(key)
    return baggage
