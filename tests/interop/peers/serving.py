"""A process that sends and receives on request by a client library which OpenTelemetry instruments.

Usage: `python -m interop.peers.<client> ADDRESS`. Requests come as lines of JSON on the standard input, each
`{"verb": "send" | "receive" | "forward" | "modules", ...}`; each is answered by a line with an `Answer`. The
process ends with its input.

Nothing of this project's library is imported here: what is under test is the other one's view of a message.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from interop.seen import Answer
from interop.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PATIENCE", "Client", "Received", "current_baggage", "run"]

PATIENCE: Final = 10
"""How long a message may take to arrive, in seconds."""

_TRACER: Final = trace.get_tracer("interop")
_TELEMETRY: Final = Telemetry()


@dataclass
class Received:
    """A message, as the instrumented client handed it out.

    Attributes:
        headers: In the shape in which the client sends them.
        baggage: What was current where the instrumentation calls code of the user.
    """

    headers: Any
    baggage: dict[str, str] = field(default_factory=dict)


class Client(ABC):
    """A client library, instrumented and connected."""

    @abstractmethod
    async def send(self, destination: str, headers: Any) -> None:
        """Send a message with *headers*; `None` for none."""

    @abstractmethod
    async def receive(self, source: str, way: str) -> Received:
        """Take the first message of *source*, in one of the ways that the client library has."""


def run(connect: Callable[[str], AbstractAsyncContextManager[Client]]) -> None:
    """Answer requests by the client that *connect* opens for the address on the command line."""
    trace.set_tracer_provider(_TELEMETRY.provider)
    asyncio.run(_serve(connect, sys.argv[1]))


def current_baggage() -> dict[str, str]:
    """Return the baggage of the current context."""
    return {name: str(value) for name, value in baggage.get_all().items()}


async def _serve(connect: Callable[[str], AbstractAsyncContextManager[Client]], address: str) -> None:
    async with connect(address) as client:
        while request := await asyncio.to_thread(sys.stdin.readline):
            # A task of its own: what an instrumentation leaves current must not reach the next request.
            answer = await asyncio.create_task(_answer(client, json.loads(request)))
            print(json.dumps(asdict(answer)), flush=True)  # noqa: T201 - the protocol


async def _answer(client: Client, request: dict[str, Any]) -> Answer:
    received, error = Received([]), None
    try:
        received = await _fulfil(client, **request)
    except Exception:  # noqa: BLE001 - whatever it is, the test shows it
        error = traceback.format_exc()
    headers = _texts(received.headers)
    return Answer(_TELEMETRY.take_spans(), headers, received.baggage, sorted(sys.modules), error)


async def _fulfil(client: Client, verb: str, **request: Any) -> Received:
    if verb == "send":
        with _application_span(request["trace_state"], request["baggage"]):
            await client.send(request["destination"], None)
    elif verb == "receive":
        return await client.receive(request["source"], request["way"])
    elif verb == "forward":
        received = await client.receive(request["source"], request["way"])
        with _application_span({}, {}):
            await client.send(request["destination"], received.headers)
    return Received([])


@contextmanager
def _application_span(trace_state: dict[str, str], entries: dict[str, str]) -> Iterator[None]:
    """Be in a span of an application that was itself called from elsewhere."""
    ids = RandomIdGenerator()
    caller = SpanContext(
        ids.generate_trace_id(),
        ids.generate_span_id(),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
        trace_state=TraceState(list(trace_state.items())),
    )
    extracted = trace.set_span_in_context(NonRecordingSpan(caller))
    for name, value in entries.items():
        extracted = baggage.set_baggage(name, value, extracted)
    token = context.attach(extracted)
    try:
        with _TRACER.start_as_current_span("application"):
            yield
    finally:
        context.detach(token)


def _texts(headers: Any) -> list[tuple[str, str]]:
    pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
    return [
        (name, value.decode("latin-1") if isinstance(value, bytes) else str(value)) for name, value in pairs
    ]
