"""A program that says what it sees of its trace, as one line of JSON; more of it run in a chain."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from spakky.tracing.context import TraceContext
from spakky.tracing.integrations import environ


def seen() -> dict[str, object]:
    context = TraceContext.get()
    if context is None:
        return {"trace_id": None}
    return {
        "trace_id": context.trace_id,
        "span_id": context.span_id,
        "parent_span_id": context.parent_span_id,
        "trace_state": context.trace_state.to_header(),
        "baggage": dict(context.baggage),
    }


def main(children: list[str]) -> None:
    before, environment = seen(), dict(os.environ)
    with environ.process():
        line = json.dumps({**seen(), "before": before["trace_id"]})
        print(line, flush=True)  # noqa: T201 - this is how it answers
        if children:
            subprocess.run([sys.executable, __file__, *children[1:]], env=environ.headers(), check=True)
    assert TraceContext.get() is None
    assert dict(os.environ) == environment


if __name__ == "__main__":
    main(sys.argv[1:])
