"""Messages of a real broker, for the contracts of integrations that offer the verbs."""

from __future__ import annotations

import asyncio
import functools
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from contract.receiving import ReceivingContract

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable


class Delivery(ABC):
    """Brings messages to a contract.

    Attributes:
        integration: The module with the verbs.
    """

    integration: Any

    @property
    @abstractmethod
    def source(self) -> str:
        """The name of the topic or queue that messages come from, by which options choose."""

    @abstractmethod
    async def deliver(self, headers: dict[str, Any]) -> Any:
        """Return a message with *headers*, sent and received by the bare client."""

    @abstractmethod
    async def deliver_native(self, headers: Any) -> Any:
        """Do as `deliver` with headers in the client's own shape, as the verbs return them."""


class VerbsReceivingContract(Delivery, ReceivingContract):
    """The receiving contract, in each way that the verbs offer."""

    ways = [
        "async handler",
        "sync handler",
        "generator",
        "async generator",
        "callable object",
        "partial",
        "method",
        "with block",
        "iterate",
        "sync iterate",
        "batch member",
    ]
    sees_errors = [way for way in ways if "iterate" not in way]

    async def receive(
        self, way: str, headers: dict[str, Any], body: Callable[[], None], **options: Any
    ) -> None:
        message = await self.deliver(headers)
        handlers: dict[str, Callable[[], Any]] = {
            "async handler": lambda: async_handler(body),
            "sync handler": lambda: lambda message: body(),
            "generator": lambda: generator_handler(body),
            "async generator": lambda: async_generator_handler(body),
            "callable object": lambda: HandlerObject(body),
            "partial": lambda: functools.partial(handler_with_session(body), "session"),
        }
        if way in handlers:
            await run_to_the_end(self.integration.consumer(**options)(handlers[way]()), message)
        elif way == "method":
            await service(self.integration.consumer(**options), body).handle("session", message=message)
        elif way == "with block":
            with self.integration.process(message, **options):
                body()
        elif way == "batch member":
            with self.integration.process_batch([], **options) as batch, batch.process(message):
                body()
        elif way == "iterate":
            await iterate_to_the_end(self.integration.iterate(source_of([message]), **options), body)
        else:
            for _ in self.integration.iterate([message], **options):
                body()


def async_handler(body: Callable[[], None]) -> Callable[[Any], Any]:
    async def handle(message: Any) -> None:
        await asyncio.sleep(0)
        body()

    return handle


def generator_handler(body: Callable[[], None]) -> Callable[[Any], Any]:
    def handle(message: Any) -> Generator[str, None, None]:
        yield "before"
        body()
        yield "after"

    return handle


def async_generator_handler(body: Callable[[], None]) -> Callable[[Any], Any]:
    async def handle(message: Any) -> AsyncGenerator[str, None]:
        yield "before"
        await asyncio.sleep(0)
        body()
        yield "after"

    return handle


class HandlerObject:
    def __init__(self, body: Callable[[], None]) -> None:
        self._body = body

    async def __call__(self, message: Any) -> None:
        await asyncio.sleep(0)
        self._body()


def handler_with_session(body: Callable[[], None]) -> Callable[[str, Any], Any]:
    async def handle(session: str, message: Any) -> None:
        await asyncio.sleep(0)
        body()

    return handle


def service(consumer: Callable[..., Any], body: Callable[[], None]) -> Any:
    async def handle(self: object, session: str, *, message: Any) -> None:
        body()

    return type("Service", (), {"handle": consumer(handle)})()


async def run_to_the_end(handler: Callable[[Any], Any], message: Any) -> None:
    result = handler(message)
    if hasattr(result, "__aiter__"):
        assert [item async for item in result] == ["before", "after"]
    elif hasattr(result, "__iter__"):
        assert list(result) == ["before", "after"]
    elif result is not None:
        await result


async def iterate_to_the_end(messages: AsyncIterator[Any], body: Callable[[], None]) -> None:
    async for _ in messages:
        body()


async def source_of(messages: Iterable[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message
