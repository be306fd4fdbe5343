"""Sends into which another tool writes the current context itself.

Its patch of the client library is nearer to the wire than we are, and where it adds a header instead of
replacing ours, a message would have two. So such a send is left to it, as long as both share one context.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ask_about_sends", "is_written_elsewhere"]

_asked: Callable[[object], bool] | None = None


def ask_about_sends(asked: Callable[[object], bool] | None) -> None:
    """Let *asked* tell of a client, such as a producer, whether its sends are left to another tool.

    `None` leaves none to anybody.
    """
    global _asked  # noqa: PLW0603 - the one process-wide setting
    _asked = asked


def is_written_elsewhere(client: object) -> bool:
    """Tell whether the sends of a client are left to another tool; those of `None` are not."""
    return _asked is not None and client is not None and _asked(client)
