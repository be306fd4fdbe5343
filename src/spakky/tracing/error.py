"""The errors that wrong use of this library raises.

Data that comes from outside (headers of a message) never raises: it yields no context and a debug log.

    Exception
    └── AbstractSpakkyTracingError
        ├── InvalidTraceparentError     also a ValueError
        ├── InvalidTraceStateError      also a ValueError
        ├── InvalidBaggageError         also a ValueError
        ├── WrongUseError               also a TypeError
        └── MissingExtraError           also a ModuleNotFoundError
"""

from abc import ABC

__all__ = [
    "AbstractSpakkyTracingError",
    "InvalidBaggageError",
    "InvalidTraceStateError",
    "InvalidTraceparentError",
    "MissingExtraError",
    "WrongUseError",
]


class AbstractSpakkyTracingError(Exception, ABC):
    """The base of every error of this library.

    Attributes:
        message: What went wrong, in one sentence; the class's own sentence unless one was given.
    """

    message: str = "Tracing error"

    def __init__(self, message: str | None = None) -> None:
        if message is not None:
            self.message = message
        super().__init__(self.message)


class InvalidTraceparentError(AbstractSpakkyTracingError, ValueError):
    """A traceparent, or a part of one, is not what W3C Trace Context Level 2 section 3.2 allows."""

    message = "Invalid traceparent header format"


class InvalidTraceStateError(AbstractSpakkyTracingError, ValueError):
    """A tracestate, or a member of one, is not what W3C Trace Context Level 2 section 3.3 allows."""

    message = "Invalid tracestate header format"


class InvalidBaggageError(AbstractSpakkyTracingError, ValueError):
    """A baggage, or a member of one, is not what W3C Baggage section 3 allows."""

    message = "Invalid baggage header format"


class WrongUseError(AbstractSpakkyTracingError, TypeError):
    """A function of this library was given something that it does not take; the message names the remedy."""

    message = "Wrong use of spakky.tracing"


class MissingExtraError(AbstractSpakkyTracingError, ModuleNotFoundError):
    """An integration was imported and its client library is not installed; the message names the command."""

    message = "A client library is not installed"
