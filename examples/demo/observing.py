"""What each process does first: log with the trace id, and record its spans."""

import logging
import os

from spakky.tracing import TraceContext
from spakky.tracing.recorder import JsonLinesRecorder
from spakky.tracing.tracer import set_tracer


class TraceIdFilter(logging.Filter):
    """Gives each log record the id of the current trace."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        context = TraceContext.get()
        record.trace_id = context.trace_id if context else "-"
        return True


def observe(process: str) -> None:
    """Log to standard error, and append finished spans to the file that all processes share."""
    handler = logging.StreamHandler()
    handler.addFilter(TraceIdFilter())
    logging.basicConfig(format="%(created).6f %(trace_id)s %(message)s", handlers=[handler])
    logging.getLogger("demo").setLevel(logging.INFO)
    set_tracer(JsonLinesRecorder(os.environ["DEMO_SPANS"], process=process))
