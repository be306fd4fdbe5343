"""A TCP proxy between a client and a broker, which cuts connections, holds answers back or changes bytes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_CHUNK = 65_536


class TcpProxy:
    """Forwards connections to the broker at an address, until it is left.

    Attributes:
        heard: How many bytes the clients have sent so far.
    """

    def __init__(
        self, url: str, *, host: str = "127.0.0.1", from_broker: Callable[[bytes], bytes] | None = None
    ) -> None:
        """Stand in front of the broker at *url*.

        Args:
            url: The broker's address.
            host: The address to listen at.
            from_broker: Changes what the broker sends; nothing unless given.
        """
        self.heard = 0
        self._broker = urlsplit(url)
        self._host = host
        self._from_broker = from_broker or (lambda data: data)
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._answers = asyncio.Event()
        self._answers.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self._host, 0)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """The address that clients connect to, with the user and the path of the broker's."""
        user = self._broker.netloc.rpartition("@")[0]
        host = f"[{self._host}]" if ":" in self._host else self._host
        return self._broker._replace(netloc=f"{user}@{host}:{self._port}").geturl()

    def cut(self) -> None:
        """Break all connections that there are, as a network does; new ones are taken."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def hold_answers(self) -> None:
        """Forward nothing of what the broker sends until `cut` or `release_answers`."""
        self._answers.clear()

    def release_answers(self) -> None:
        """Forward what was held back, and all that follows."""
        self._answers.set()

    async def hear_more_than(self, heard: int) -> None:
        """Return when the clients have sent more than so many bytes."""
        async with asyncio.timeout(10):
            while self.heard <= heard:  # noqa: ASYNC110 - as simple as it gets
                await asyncio.sleep(0.001)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_connection(self._broker.hostname, self._broker.port)
        self._writers |= {writer, broker_writer}
        for pump in (self._pump(reader, broker_writer), self._pump_answers(broker_reader, writer)):
            task = asyncio.create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_CHUNK):
                self.heard += len(data)
                writer.write(data)
        writer.close()

    async def _pump_answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_CHUNK):
                await self._answers.wait()
                writer.write(self._from_broker(data))
        writer.close()
