"""A queue of its own on any transport of kombu, with the bare client at both ends."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from struct import pack
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit
from uuid import uuid4

from kombu.common import eventloop
from kombu.entity import Queue
from kombu.messaging import Producer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kombu.connection import Connection
    from kombu.message import Message

PATIENCE = 10.0


class Link:
    """A queue, and a channel to send and receive by."""

    def __init__(self, connection: Connection, **options: Any) -> None:
        self.connection = connection
        self.channel: Any = connection.channel()
        self.queue = self.declare(**options)

    @property
    def name(self) -> str:
        return str(self.queue.name)

    def declare(self, **options: Any) -> Any:
        queue = Queue(f"orders-{uuid4().hex}", **options)(self.channel)
        queue.declare()
        return queue

    def publish(self, headers: Any = None, body: object = "value", **properties: Any) -> None:
        producer = Producer(self.channel)
        properties.setdefault("routing_key", self.name)
        producer.publish(body, headers=headers, timestamp=int(time.time()), **properties)

    def message(self, *, no_ack: bool = True) -> Message:
        return message_in(self.queue, no_ack=no_ack)

    def deliver(self, headers: Any = None) -> Message:
        self.publish(headers)
        return self.message()

    def drain_until(self, done: Callable[[], object]) -> None:
        """Let callbacks run until *done*, as a program of kombu does."""
        for _ in eventloop(self.connection, limit=int(PATIENCE), timeout=1, ignore_timeouts=True):
            if done():
                return
        message = "nothing arrived"
        raise AssertionError(message)


def message_in(queue: Any, *, no_ack: bool = True) -> Message:
    """Return the next message in *queue*."""
    end = time.monotonic() + PATIENCE
    while (message := queue.get(no_ack=no_ack)) is None:
        assert time.monotonic() < end, "nothing arrived"
        time.sleep(0.002)
    found: Message = message
    return found


@contextlib.contextmanager
def open_link(connection: Connection, **options: Any) -> Iterator[Link]:
    """Open a link, and take its queue away afterwards; a connection that was lost comes back."""
    connection.ensure_connection(max_retries=3)
    link = Link(connection, **options)
    try:
        yield link
    finally:
        with contextlib.suppress(*connection.connection_errors, *connection.channel_errors):
            link.queue.delete()
            link.channel.close()


class SmallFrames:
    """A broker with small frames: what stands between changes the size that it offers in `connection.tune`.

    Attributes:
        url: Where to connect to.
    """

    def __init__(self, broker: str, frame_size: int) -> None:
        parts = urlsplit(broker)
        self._broker = (parts.hostname or "localhost", parts.port or 5672)
        self._size = pack(">I", frame_size)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        host, port = self._listener.getsockname()
        self.url = parts._replace(netloc=f"{parts.username}:{parts.password}@{host}:{port}").geturl()

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(self._broker)
        self._sockets += [client, server]
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
        self._pass_on(server, client)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(self._tuned(data))

    def _tuned(self, data: bytes) -> bytes:
        tune = data.find(b"\x00\x0a\x00\x1e")
        return data if tune < 0 else data[: tune + 6] + self._size + data[tune + 10 :]
