"""One trace over processes; it needs no broker.

python examples/environ_example.py
"""

import subprocess
import sys

from spakky.tracing import TraceContext
from spakky.tracing.integrations import environ


def main() -> None:
    """Start a program within a trace; it goes on with the trace of its environment."""
    with TraceContext.use(TraceContext.new_root()):
        print(f"sent     in trace {trace_id()}", flush=True)
        subprocess.run([sys.executable, __file__, "backup"], env=environ.headers(), check=True)


def backup() -> None:
    """Run in the process that was started; the trace of its caller is current."""
    with environ.process():
        print(f"received in trace {trace_id()}")


def trace_id() -> str:
    """Return the id of the current trace."""
    context = TraceContext.get()
    return context.trace_id if context else "-"


if __name__ == "__main__":
    backup() if sys.argv[1:] == ["backup"] else main()
