"""For tests: what was recorded of a trace, sentences about it that fail, and the contract of a carrier.

Installing the package gives pytest a fixture `traces`; `recorded_traces` is the same for any other framework.
Nothing here needs pytest, and nothing is loaded before it is asked for: each run of pytest in an environment
that has this package loads the plugin, which is one of the modules here.

PYTEST_DONT_REWRITE: no assertion is made in this very module, and the plugin names the one that has some.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spakky.tracing.testing._carrier_contract import CarrierContract
    from spakky.tracing.testing._message import TracedMessage
    from spakky.tracing.testing._recording import RecordedTraces, recorded_traces
    from spakky.tracing.testing._selection import SpanFilters
    from spakky.tracing.testing._spans import Spans
    from spakky.tracing.testing._traces import Traces

__all__ = [
    "CarrierContract",
    "RecordedTraces",
    "SpanFilters",
    "Spans",
    "TracedMessage",
    "Traces",
    "recorded_traces",
]

_MODULES = {
    "CarrierContract": "_carrier_contract",
    "RecordedTraces": "_recording",
    "SpanFilters": "_selection",
    "Spans": "_spans",
    "TracedMessage": "_message",
    "Traces": "_traces",
    "recorded_traces": "_recording",
}

if not TYPE_CHECKING:  # type checkers would take it for a module that has any attribute

    def __getattr__(name: str) -> object:
        """Load what is asked for."""
        if name not in _MODULES:
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message)
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
