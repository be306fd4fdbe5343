"""One W3C trace over HTTP, Kafka, RabbitMQ and Celery.

Importing this package loads the standard library and nothing else. The integrations are imported by name,
for example `from spakky.tracing.integrations import aiokafka`.
"""

from spakky.tracing.baggage import Baggage
from spakky.tracing.context import TraceContext
from spakky.tracing.propagator import ITracePropagator
from spakky.tracing.trace_state import TraceState
from spakky.tracing.w3c_propagator import W3CTracePropagator

__all__ = ["Baggage", "ITracePropagator", "TraceContext", "TraceState", "W3CTracePropagator"]
