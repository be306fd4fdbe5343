"""A gRPC service, which is called over a port of this machine."""

# It runs where Spakky Framework is installed, which is not where it is checked.
# mypy: ignore-errors
# pyright: reportMissingImports=false, reportMissingModuleSource=false

import asyncio
import json
import os
import socket
from contextlib import closing

import grpc.aio
from pydantic import BaseModel
from saying import described, say

import spakky.plugins.grpc
import spakky.tracing
from spakky.core.application.application import SpakkyApplication
from spakky.core.application.application_context import ApplicationContext
from spakky.plugins.grpc.client import GrpcClient
from spakky.plugins.grpc.decorators.rpc import rpc
from spakky.plugins.grpc.stereotypes.grpc_controller import GrpcController
from spakky.tracing import TraceContext, W3CTracePropagator


class Question(BaseModel):
    """What is asked."""

    name: str


class Answer(BaseModel):
    """The context of a call."""

    trace: str
    span: str
    parent: str


@GrpcController(package="shop")
class Orders:
    """Answers with the context of the call."""

    @rpc()
    async def mine(self, question: Question) -> Answer:
        assert question.name == "acme"
        return Answer(**described(TraceContext.get()))


def free_address() -> str:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


async def ask(address: str) -> None:
    """Call the service in a trace, and say which one that was and what came back."""
    metadata = {}
    with TraceContext.use(TraceContext.new_root()) as sent:
        W3CTracePropagator().inject(metadata)
    async with grpc.aio.insecure_channel(address) as channel:
        call = GrpcClient(channel, Orders).unary_unary(Orders.mine)(
            Question(name="acme"), metadata=tuple(metadata.items())
        )
        answer = await call
        trailing = dict(await call.trailing_metadata())
    say(sent=described(sent), seen=answer.model_dump(), written=trailing)


def main() -> None:
    """Serve one call."""
    address = free_address()
    os.environ["SPAKKY_GRPC_BIND_ADDRESSES"] = json.dumps([address])
    plugins = spakky.tracing, spakky.plugins.grpc
    app = SpakkyApplication(ApplicationContext()).load_plugins(include={each.PLUGIN_NAME for each in plugins})
    app.add(Orders).start()
    try:
        asyncio.run(ask(address))
    finally:
        app.stop()


if __name__ == "__main__":
    main()
