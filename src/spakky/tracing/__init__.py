"""One W3C trace over HTTP, Kafka, RabbitMQ and Celery.

Importing this package loads the standard library and nothing else. The integrations are imported by name,
for example `from spakky.tracing.integrations import aiokafka`.

`PLUGIN_NAME` is there besides, where the core of Spakky Framework is installed: the name of this plugin for
`load_plugins(include={...})`.
"""

from typing import TYPE_CHECKING

from spakky.tracing._extras import spakky_core
from spakky.tracing.baggage import Baggage
from spakky.tracing.context import TraceContext
from spakky.tracing.error import AbstractSpakkyTracingError, InvalidTraceparentError
from spakky.tracing.propagator import ITracePropagator
from spakky.tracing.trace_state import TraceState
from spakky.tracing.w3c_propagator import W3CTracePropagator

if TYPE_CHECKING:
    from typing import Any

    PLUGIN_NAME: Any  # core's Plugin

__all__ = [
    "AbstractSpakkyTracingError",
    "Baggage",
    "ITracePropagator",
    "InvalidTraceparentError",
    "TraceContext",
    "TraceState",
    "W3CTracePropagator",
]

if not TYPE_CHECKING:  # type checkers would take it for a module that has any attribute

    def __getattr__(name: str) -> object:
        """Make `PLUGIN_NAME` when it is asked for, as its type is core's."""
        if name != "PLUGIN_NAME":
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message)
        return spakky_core("application.plugin").Plugin(name="spakky-tracing")
