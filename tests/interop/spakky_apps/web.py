"""An HTTP service, which is asked by a client of its own process."""

# It runs where Spakky Framework is installed, which is not where it is checked.
# mypy: ignore-errors
# pyright: reportMissingImports=false

from fastapi import FastAPI
from fastapi.testclient import TestClient
from saying import described, say

import spakky.plugins.fastapi
import spakky.tracing
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
        return described(TraceContext.get())


def main() -> None:
    """Say what two requests are answered: one in a trace, one outside of any."""
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
        say(sent=described(sent), seen=response.json(), written=written)
    app.stop()


if __name__ == "__main__":
    main()
