"""A message leaves: which context it carries, and into which headers that is written."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, cast

from spakky.tracing._current import baggage_elsewhere
from spakky.tracing.baggage import Baggage
from spakky.tracing.boundaries._guarded import (
    Recording,
    end_span,
    extract,
    extract_baggage,
    inject,
    start_span,
)
from spakky.tracing.boundaries.elsewhere import is_written_elsewhere
from spakky.tracing.boundaries.outcome import outcome_of
from spakky.tracing.boundaries.vendors import vendors_members, with_vendors_members
from spakky.tracing.carriers import RETRY_COUNT
from spakky.tracing.context import TraceContext
from spakky.tracing.trace_state import TraceState
from spakky.tracing.tracer import Operation
from spakky.tracing.w3c_propagator import BAGGAGE_HEADER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType

    from spakky.tracing.boundaries.client import Client
    from spakky.tracing.boundaries.options import Policy, Settings
    from spakky.tracing.tracer import Outcome

__all__ = ["Publishing", "Sender"]

HeadersT = TypeVar("HeadersT")
ResultT = TypeVar("ResultT")

_logger: Final = logging.getLogger("spakky.tracing")


class Sender(Generic[HeadersT]):
    """Sends by one client library under one policy.

    What is sent is the current context; if a tracer records, a span of the sending below it. Outside of any
    trace a valid context in the caller's headers stays as it is, and otherwise a new trace starts: it names
    the message, so that all who process it share one trace.

    What other tools have put into the baggage of the message stays in it, see `VENDOR_PREFIXES`.
    """

    def __init__(self, client: Client[Any, HeadersT], settings: Settings) -> None:
        self._client = client
        self._settings = settings

    @property
    def _policy(self) -> Policy:
        return self._settings.policy

    def writes_to(self, destination: str, names: Sequence[str] = ()) -> bool:
        """Return whether messages to *destination* get a context at all.

        Args:
            destination: Where they are sent to, for people.
            names: What options may call it, the most exact name first; the destination unless given.
        """
        return self._policy.enables(lambda: names or (destination,))

    def headers(self, existing: object = None) -> HeadersT:
        """Return new headers for a send by hand: *existing* ones, and the context.

        Raises:
            WrongUseError: *existing* cannot be the headers of a message.
        """
        headers = self._client.carrier.copy(existing)
        current = TraceContext.get()
        if not self._policy.enables(_no_names) or self._carried(current, headers) is not None:
            return headers
        context = current or self._root(headers)
        written, lighten = self._written(headers, context), partial(self._lighten, headers)
        publishing = Publishing(written, context, lighten=lighten)
        publishing.fit(self._client.room, self._size_of)
        return publishing.headers

    def retry_headers(self, existing: object, retry_count: int, names: Sequence[str]) -> HeadersT:
        """Return new headers for sending a message on: its own, the context, and how often it failed.

        Args:
            existing: Its own headers.
            retry_count: How often it failed.
            names: What options may call where it came from; switched off there, it keeps its own headers.

        Raises:
            WrongUseError: *existing* cannot be the headers of a message.
        """
        if not self._policy.enables(lambda: names):
            return self._client.carrier.copy(existing)
        headers = self.headers(self._client.carrier.copy(existing, self._client.of_a_delivery))
        self._client.carrier.set(headers, RETRY_COUNT, str(retry_count))
        return headers

    def publish(  # noqa: PLR0913 - one argument for each thing that only some clients know
        self,
        existing: object,
        destination: str,
        *,
        names: Sequence[str] = (),
        name: str | None = None,
        room: int | None = None,
        is_scheduled: bool = False,
        by: object = None,
    ) -> Publishing[HeadersT]:
        """Return the sending of a message, a `with` block around the client's own call.

        Args:
            existing: The caller's headers, which stay as they are; `None` for none.
            destination: Where it is sent to, for people.
            names: What options may call the destination, the most exact name first; itself unless given.
            name: The name of the sending; `send` and the destination unless given.
            room: How many bytes the headers may take, as the client counts their size; `None` if that is as
                usual.
            is_scheduled: Whether a clock sends it: it starts a trace, whatever is current or in its headers.
            by: The client that sends, where another tool may write the context into its sends.

        Raises:
            WrongUseError: *existing* cannot be the headers of a message.
        """
        if not self.writes_to(destination, names):
            return Publishing(cast("HeadersT", existing))
        if is_written_elsewhere(by):
            return Publishing(self._client.carrier.copy(existing, self._policy.fields))
        headers = self._client.carrier.copy(existing)
        current = None if is_scheduled else TraceContext.get()
        carried = None if is_scheduled else self._carried(current, headers)
        if carried is not None:
            span = self._span(carried.child(), carried, destination, name, links=(carried,))
            return Publishing(headers, carried, span)
        context = current.child() if current else self._root(headers)
        span = self._span(context, current, destination, name, is_scheduled=is_scheduled)
        sent = span.context if span else current or context
        written, lighten = self._written(headers, sent), partial(self._lighten, headers)
        publishing = Publishing(written, sent, span, lighten, destination)
        publishing.fit(self._client.room if room is None else room, self._size_of)
        return publishing

    def publish_batch(
        self, destination: str, contexts: tuple[TraceContext, ...], message_count: int | None = None
    ) -> Publishing[None]:
        """Return the sending of messages whose headers are written already.

        Args:
            destination: Where they are sent to, for people.
            contexts: What is in their headers; the sending links to them.
            message_count: How many there are, `None` if nobody knows.
        """
        if self._policy.active_tracer() is None or not self.writes_to(destination):
            return Publishing(None)
        current = TraceContext.get()
        context = current.child() if current else TraceContext.new_root()
        span = self._span(context, current, destination, links=contexts, message_count=message_count)
        return Publishing(None, span=span)

    def _carried(self, current: TraceContext | None, headers: HeadersT) -> TraceContext | None:
        """Return the context in the caller's headers if it is the one to send."""
        if current is not None and not self._policy.keep:
            return None
        return extract(self._policy, self._client.carrier, headers)

    def _root(self, headers: HeadersT) -> TraceContext:
        """Start a trace for a message, with the baggage that the caller put into its headers.

        Or else with what is current in another library, which has baggage outside of a trace too.
        """
        carried = extract_baggage(self._policy, self._client.carrier, headers)
        return TraceContext.new_root(baggage=carried or baggage_elsewhere())

    def _written(self, existing: HeadersT, context: TraceContext) -> HeadersT:
        headers, theirs = self._cleared(existing)
        if theirs:
            context = context.with_baggage(with_vendors_members(context.baggage, theirs))
        written = inject(self._policy, self._client.carrier, headers, context)
        return existing if written is None else written

    def _cleared(self, existing: HeadersT) -> tuple[HeadersT, Baggage]:
        """Return new headers less an earlier context, and the baggage of other tools that is left in them."""
        carrier, fields = self._client.carrier, self._policy.fields
        found = carrier.get(existing, BAGGAGE_HEADER) if existing and BAGGAGE_HEADER in fields else None
        theirs = vendors_members(found) if found else Baggage.EMPTY
        if not theirs:
            return carrier.copy(existing, fields), theirs
        # It stays wherever it is: the tool may look for it in another place than we do.
        headers = carrier.copy(existing, fields - {BAGGAGE_HEADER})
        carrier.set(headers, BAGGAGE_HEADER, theirs.to_header())
        return headers, theirs

    def _lighten(self, existing: HeadersT, context: TraceContext) -> tuple[HeadersT, TraceContext | None]:
        """Return *existing* headers with less of *context*: without trace state and baggage, or without all.

        Returns:
            The headers, and what of the context is left in them, `None` for nothing.
        """
        if context.trace_state or context.baggage:
            bare = context.with_trace_state(TraceState()).with_baggage(Baggage())
            return self._written(existing, bare), bare
        return self._cleared(existing)[0], None

    def _size_of(self, headers: HeadersT) -> int:
        """Return the bytes that *headers* take, 0 if nobody counts them."""
        return self._client.size(headers) if self._client.size is not None else 0

    def _span(  # noqa: PLR0913 - one argument for each thing that a span says
        self,
        context: TraceContext,
        parent: TraceContext | None,
        destination: str,
        name: str | None = None,
        links: tuple[TraceContext, ...] = (),
        *,
        is_scheduled: bool = False,
        message_count: int | None = None,
    ) -> Recording | None:
        tracer = self._policy.active_tracer()
        if tracer is None:
            return None
        return start_span(
            tracer,
            lambda: Operation(
                name=name or f"send {destination}",
                kind=self._client.sending_kind,
                system=self._client.system,
                destination=destination,
                context=context,
                parent=parent,
                links=links,
                is_scheduled=is_scheduled,
                message_count=message_count,
            ),
        )


class Publishing(Generic[HeadersT]):
    """A message on its way out: a `with` block around the client's own call.

    Attributes:
        headers: What to send, of the client's own type; what the caller gave if sending is switched off.
        context: The context in them, `None` if sending is switched off or there is no room for it.
    """

    __slots__ = (
        "_destination",
        "_has_ended",
        "_is_lighter",
        "_lighten_headers",
        "_span",
        "context",
        "headers",
    )

    def __init__(
        self,
        headers: HeadersT,
        context: TraceContext | None = None,
        span: Recording | None = None,
        lighten: Callable[[TraceContext], tuple[HeadersT, TraceContext | None]] | None = None,
        destination: str = "",
    ) -> None:
        """Send *headers*; where there is no room for them, what *lighten* makes of the caller's own."""
        self.headers = headers
        self.context = context
        self._span = span
        self._lighten_headers = lighten
        self._destination = destination
        self._has_ended = False
        self._is_lighter = False

    def fit(self, room: int | None, size_of: Callable[[HeadersT], int]) -> None:
        """Leave out of the headers what makes them larger than *room*.

        Args:
            room: How many bytes they may take; `None` for no limit.
            size_of: Gets how many they take.
        """
        if room is None or size_of(self.headers) <= room:
            return
        while self._lighten() and size_of(self.headers) > room:
            pass
        self._warn_if_lighter()

    def send(
        self, call: Callable[[HeadersT], ResultT], is_too_large: Callable[[BaseException], bool]
    ) -> ResultT:
        """Return what the client's own *call* returns, with less in the headers whenever it refuses the size.

        Args:
            call: Sends with these headers, or refuses before anything is sent.
            is_too_large: Tells a refusal of the size from any other error. What the last attempt raises is
                raised, with the refusals before it as its context.
        """
        try:
            result = call(self.headers)
        except Exception as error:
            if not is_too_large(error) or not self._lighten():
                raise
            return self.send(call, is_too_large)
        self._warn_if_lighter()
        return result

    async def send_async(
        self, call: Callable[[HeadersT], Awaitable[ResultT]], is_too_large: Callable[[BaseException], bool]
    ) -> ResultT:
        """Do as `send` with a *call* that is awaited."""
        try:
            result = await call(self.headers)
        except Exception as error:
            if not is_too_large(error) or not self._lighten():
                raise
            return await self.send_async(call, is_too_large)
        self._warn_if_lighter()
        return result

    def _lighten(self) -> bool:
        """Leave out of the headers what can be spared next; tell whether there was anything."""
        if self._lighten_headers is None or self.context is None:
            return False
        self.headers, self.context = self._lighten_headers(self.context)
        self._is_lighter = True
        return True

    def _warn_if_lighter(self) -> None:
        if not self._is_lighter:
            return
        self._is_lighter = False
        less = "trace context" if self.context is None else "trace state and baggage"
        _logger.warning(
            "a message to %s is sent without %s, which makes it too large",
            self._destination or "somewhere",
            less,
        )

    def end(self, error: BaseException | None = None) -> None:
        """Say how the sending ended; only the first word on that counts."""
        self._end(outcome_of(error), error)

    @property
    def is_recorded(self) -> bool:
        """Whether there is a span of the sending."""
        return self._span is not None

    def end_as(self, outcome: Outcome) -> None:
        """Say how the sending ended where no exception tells."""
        self._end(outcome)

    def _end(self, outcome: Outcome, error: BaseException | None = None) -> None:
        if not self._has_ended:
            self._has_ended = True
            end_span(self._span, outcome, error)

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


def _no_names() -> Sequence[str]:
    """Return no name: headers by hand are for nobody knows what."""
    return ()


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
