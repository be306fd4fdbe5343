"""How an operation ended, told from the exception it ended with."""

from asyncio import CancelledError

from spakky.tracing.tracer import Outcome

__all__ = ["outcome_of"]


def outcome_of(error: BaseException | None) -> Outcome:
    """Return how an operation ended.

    `ok` without an *error*, `cancelled` for asyncio's cancellation, `unknown` for a generator that is given
    up, `error` for any other.
    """
    if error is None:
        return "ok"
    if isinstance(error, GeneratorExit):
        return "unknown"
    return "cancelled" if isinstance(error, CancelledError) else "error"
