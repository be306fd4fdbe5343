"""An HTTP service, which is asked by a client of its own process."""

# It runs where Spakky Framework is installed, which is not where it is checked.
# mypy: ignore-errors
# pyright: reportMissingImports=false

import json

import spakky.actuator
import spakky.plugins.fastapi
import spakky.tracing
from fastapi import FastAPI
from fastapi.testclient import TestClient
from spakky.core.application.application import SpakkyApplication
from spakky.core.application.application_context import ApplicationContext
from spakky.plugins.fastapi.routes import get
from spakky.plugins.fastapi.stereotypes.api_controller import ApiController
from spakky.tracing import TraceContext


@ApiController("/orders")
class Orders:
    """Answers with the context of the request."""

    @get("/mine")
    async def mine(self) -> dict[str, str | None]:
        context = TraceContext.get()
        return {"trace": context.trace_id, "span": context.span_id, "parent": context.parent_span_id}


def main() -> None:
    """Print what two requests are answered: one in a trace, one outside of any."""
    plugins = spakky.tracing, spakky.plugins.fastapi
    app = SpakkyApplication(ApplicationContext()).load_plugins(include={each.PLUGIN_NAME for each in plugins})
    app.add(Orders).start()
    client = TestClient(app.container.get(FastAPI))
    sent = TraceContext.new_root()
    for headers in (
        {"traceparent": sent.to_traceparent(), "tracestate": "a=1", "baggage": "tenant=acme"},
        {},
    ):
        response = client.get("/orders/mine", headers=headers)
        names = ("traceparent", "tracestate", "baggage")
        written = {name: response.headers[name] for name in names if name in response.headers}
        print(
            json.dumps(
                {
                    "sent": {"trace": sent.trace_id, "span": sent.span_id, "parent": None},
                    "seen": response.json(),
                    "written": written,
                }
            )
        )
    app.stop()


if __name__ == "__main__":
    main()
