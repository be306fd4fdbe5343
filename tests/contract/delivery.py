"""Messages of a real broker, for the contracts of integrations that offer the verbs."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from contract.receiving import ReceivingContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class Delivery(ABC):
    """Brings messages to a contract.

    Attributes:
        integration: The module with the verbs.
    """

    integration: Any

    @abstractmethod
    async def deliver(self, headers: dict[str, Any]) -> Any:
        """Return a message with *headers*, sent and received by the bare client."""


class VerbsReceivingContract(Delivery, ReceivingContract):
    """The receiving contract, in each way that the verbs offer."""

    ways = ["async handler", "sync handler", "method", "with block", "iterate"]
    sees_errors = ["async handler", "sync handler", "method", "with block"]

    async def receive(
        self, way: str, headers: dict[str, Any], body: Callable[[], None], **options: Any
    ) -> None:
        message = await self.deliver(headers)
        consumer = self.integration.consumer(**options)
        if way == "async handler":

            async def handle(message: Any) -> None:
                await asyncio.sleep(0)
                body()

            await consumer(handle)(message)
        elif way == "sync handler":
            consumer(lambda message: body())(message)
        elif way == "method":
            await service(consumer, body).handle("session", message=message)
        elif way == "with block":
            with self.integration.process(message, **options):
                body()
        else:
            await iterate_to_the_end(self.integration.iterate(source_of([message]), **options), body)


def service(consumer: Callable[..., Any], body: Callable[[], None]) -> Any:
    async def handle(self: object, session: str, *, message: Any) -> None:
        body()

    return type("Service", (), {"handle": consumer(handle)})()


async def iterate_to_the_end(messages: AsyncIterator[Any], body: Callable[[], None]) -> None:
    async for _ in messages:
        body()


async def source_of(messages: list[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message
