"""How an operation ended, told from the exception it ended with."""

from asyncio import CancelledError

from spakky.tracing.tracer import Outcome

__all__ = ["outcome_of"]


def outcome_of(error: BaseException | None) -> Outcome:
    """Return `ok` without an *error*, `cancelled` for asyncio's cancellation, `error` for any other."""
    if error is None:
        return "ok"
    return "cancelled" if isinstance(error, CancelledError) else "error"
