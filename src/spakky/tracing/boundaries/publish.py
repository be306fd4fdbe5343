"""A message leaves: which context it carries, and into which headers that is written."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from spakky.tracing.boundaries._guarded import (
    Recording,
    end_span,
    extract,
    extract_baggage,
    inject,
    start_span,
)
from spakky.tracing.boundaries.outcome import outcome_of
from spakky.tracing.context import TraceContext
from spakky.tracing.tracer import Operation

if TYPE_CHECKING:
    from types import TracebackType

    from spakky.tracing.boundaries.client import Client
    from spakky.tracing.boundaries.options import Policy
    from spakky.tracing.tracer import Outcome

__all__ = ["Publishing", "Sender"]

HeadersT = TypeVar("HeadersT")
ResultT = TypeVar("ResultT")


class Sender(Generic[HeadersT]):
    """Sends by one client library under one policy.

    What is sent is the current context; if a tracer records, a span of the sending below it. Outside of any
    trace a valid context in the caller's headers stays as it is, and otherwise a new trace starts: it names
    the message, so that all who process it share one trace.
    """

    def __init__(self, client: Client[Any, HeadersT], policy: Policy) -> None:
        self._client = client
        self._policy = policy

    def headers(self, existing: object = None) -> HeadersT:
        """Return new headers for a send by hand: *existing* ones, and the context.

        Raises:
            WrongUseError: *existing* cannot be the headers of a message.
        """
        headers = self._client.carrier.copy(existing)
        current = TraceContext.get()
        if not self._policy.enabled or self._carried(current, headers) is not None:
            return headers
        return self._written(headers, current or self._root(headers))

    def publish(self, existing: object, destination: str, *, name: str | None = None) -> Publishing[HeadersT]:
        """Return the sending of a message, a `with` block around the client's own call.

        Args:
            existing: The caller's headers, which stay as they are; `None` for none.
            destination: Where it is sent to, for people.
            name: The name of the sending; `send` and the destination unless given.

        Raises:
            WrongUseError: *existing* cannot be the headers of a message.
        """
        if not self._policy.enabled:
            return Publishing(cast("HeadersT", existing), None, None)
        headers = self._client.carrier.copy(existing)
        current = TraceContext.get()
        carried = self._carried(current, headers)
        if carried is not None:
            span = self._span(carried.child(), carried, destination, name)
            return Publishing(headers, carried, span)
        context = current.child() if current else self._root(headers)
        span = self._span(context, current, destination, name)
        sent = span.context if span else current or context
        return Publishing(self._written(headers, sent), sent, span)

    def publish_batch(self, destination: str, contexts: tuple[TraceContext, ...]) -> Publishing[None]:
        """Return the sending of messages whose headers are written already; it links to their *contexts*."""
        current = TraceContext.get()
        context = current.child() if current else TraceContext.new_root()
        enabled = self._policy.enabled
        span = self._span(context, current, destination, links=contexts) if enabled else None
        return Publishing(None, None, span)

    def _carried(self, current: TraceContext | None, headers: HeadersT) -> TraceContext | None:
        """Return the context in the caller's headers if it is the one to send."""
        if current is not None and not self._policy.keep:
            return None
        return extract(self._policy, self._client.carrier, headers)

    def _root(self, headers: HeadersT) -> TraceContext:
        """Start a trace for a message, with the baggage that the caller put into its headers."""
        return TraceContext.new_root(baggage=extract_baggage(self._policy, self._client.carrier, headers))

    def _written(self, headers: HeadersT, context: TraceContext) -> HeadersT:
        carrier = self._client.carrier
        written = inject(self._policy, carrier, carrier.copy(headers, self._policy.fields), context)
        return headers if written is None else written

    def _span(
        self,
        context: TraceContext,
        parent: TraceContext | None,
        destination: str,
        name: str | None = None,
        links: tuple[TraceContext, ...] = (),
    ) -> Recording | None:
        tracer = self._policy.active_tracer()
        if tracer is None:
            return None
        return start_span(
            tracer,
            lambda: Operation(
                name=name or f"send {destination}",
                kind="producer",
                system=self._client.system,
                destination=destination,
                context=context,
                parent=parent,
                links=links,
            ),
        )


class Publishing(Generic[HeadersT]):
    """A message on its way out: a `with` block around the client's own call.

    Attributes:
        headers: What to send, of the client's own type; what the caller gave if sending is switched off.
        context: The context in them, `None` if sending is switched off.
    """

    __slots__ = ("_span", "context", "headers")

    def __init__(self, headers: HeadersT, context: TraceContext | None, span: Recording | None) -> None:
        self.headers = headers
        self.context = context
        self._span = span

    def end(self, error: BaseException | None = None) -> None:
        """Say how the sending ended."""
        end_span(self._span, outcome_of(error), error)

    @property
    def is_recorded(self) -> bool:
        """Whether there is a span of the sending."""
        return self._span is not None

    def end_as(self, outcome: Outcome) -> None:
        """Say how the sending ended where no exception tells."""
        end_span(self._span, outcome)

    def end_with(self, delivery: asyncio.Future[ResultT]) -> asyncio.Future[ResultT]:
        """Let the sending end when *delivery* is done.

        Returns:
            What the caller gets in its place: *delivery* itself if nothing is recorded, or else a future that
            ends alike. Looking at a future's exception counts as handling it, so the caller needs one that
            nobody has looked at: asyncio then still reports an error that the caller ignores.
        """
        if self._span is None:
            return delivery
        return _followed(delivery, self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error)


def _followed(delivery: asyncio.Future[ResultT], publishing: Publishing[Any]) -> asyncio.Future[ResultT]:
    follower: asyncio.Future[ResultT] = delivery.get_loop().create_future()

    def delivered(delivery: asyncio.Future[ResultT]) -> None:
        error = asyncio.CancelledError() if delivery.cancelled() else delivery.exception()
        publishing.end(error)
        if follower.done():
            return
        if delivery.cancelled():
            follower.cancel()
        elif error is not None:
            follower.set_exception(error)
        else:
            follower.set_result(delivery.result())

    def given_up(follower: asyncio.Future[ResultT]) -> None:
        if follower.cancelled():
            delivery.cancel()

    delivery.add_done_callback(delivered)
    follower.add_done_callback(given_up)
    return follower
