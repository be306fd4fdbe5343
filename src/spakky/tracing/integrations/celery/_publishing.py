"""A recorded sending between the two signals that Celery sends of it.

One that fails sends no second signal. The next thing that happens in its thread or task tells, or its end.
"""

from __future__ import annotations

import atexit
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from spakky.tracing.boundaries.publish import Publishing
    from spakky.tracing.tracer import Outcome

__all__ = ["begin_publishing", "end_at_exit", "end_publishing", "forget_exit"]


class _OpenPublishing:
    """A recorded sending that no signal has ended yet.

    If none ever does, it failed. It ends once, also if several contexts have inherited it.
    """

    def __init__(self, publishing: Publishing[dict[str, Any]]) -> None:
        self._publishing: Publishing[dict[str, Any]] | None = publishing

    def end(self, outcome: Outcome) -> None:
        """Say how it ended; a second call does nothing."""
        publishing, self._publishing = self._publishing, None
        if publishing is not None:
            publishing.end_as(outcome)

    def __del__(self) -> None:
        self.end("error")


_open: Final[ContextVar[_OpenPublishing | None]] = ContextVar(
    "spakky.tracing.celery.publishing", default=None
)


def begin_publishing(publishing: Publishing[dict[str, Any]]) -> None:
    """Keep *publishing* until it ends, if it is recorded."""
    _open.set(_OpenPublishing(publishing) if publishing.is_recorded else None)


def end_publishing(outcome: Outcome) -> None:
    """Say how the sending ended that began last in this thread or task, if it has not ended yet."""
    publishing = _open.get()
    if publishing is not None:
        _open.set(None)
        publishing.end(outcome)


def end_at_exit() -> None:
    """End a sending that is still open when the program ends."""
    forget_exit()
    atexit.register(end_publishing, "error")


def forget_exit() -> None:
    """Undo `end_at_exit`."""
    atexit.unregister(end_publishing)
