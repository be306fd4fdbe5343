"""shop: takes orders over HTTP."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from spakky.tracing import TraceContext
from spakky.tracing.integrations import asgi

from .observing import observe
from .sending import Send, to_next

log = logging.getLogger("demo.shop")


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Send]]:
    """Stay connected as long as the service runs."""
    async with to_next() as send:
        yield {"send": send}


async def take_order(request: Request) -> JSONResponse:
    """Pass one order on, and answer with the id of the trace in which that happens."""
    order = (await request.json())["order"]
    log.info("took order %d over HTTP", order)
    await request.state.send(order)
    context = TraceContext.get()
    return JSONResponse({"trace_id": context.trace_id if context else None}, status_code=202)


app = Starlette(routes=[Route("/orders", take_order, methods=["POST"])], lifespan=lifespan)
app.add_middleware(asgi.TraceMiddleware)

if __name__ == "__main__":
    observe("shop")
    uvicorn.run(app, host="127.0.0.1", port=0, log_config=None, log_level="info", access_log=False)
