"""Whether a broker really answers, asked in its own protocol with nothing but the standard library."""

import socket
import ssl
import struct
import time
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

from brokers.outcome import Broker
from brokers.run import Run
from brokers.unavailable import Failed

ANSWER_SECONDS = 5.0
START_SECONDS = 90.0
PAUSE_SECONDS = 0.1

AMQP_PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
AMQP_METHOD_FRAME = b"\x01"
# Metadata (key 3) in version 1, correlation id 1, no client id, about no topic: who are the brokers?
KAFKA_METADATA_REQUEST = struct.pack(">ihhihi", 14, 3, 1, 1, -1, 0)


def wait_until_it_answers(
    broker: Broker, address: str, *, excuse: Callable[[], str | None], run: Run
) -> None:
    """Wait for a broker that was just started.

    Args:
        broker: Which one it is.
        address: Where it will answer.
        excuse: Tells why it will not answer any more, or `None` while there is hope.
        run: The run that needs it.

    Raises:
        Unavailable: It ended, or it took too long, or the run is over.
    """
    deadline = time.monotonic() + START_SECONDS
    while not answers(broker, address):
        if reason := excuse():
            raise Failed(reason=f"it did not start: {reason}")
        if time.monotonic() > deadline:
            raise Failed(reason=f"it started but did not answer for {START_SECONDS:.0f} seconds")
        run.pause(PAUSE_SECONDS)


def answers(broker: Broker, address: str) -> bool:
    """Tell whether a broker of this kind is ready for clients at an address."""
    ask = {Broker.KAFKA: _kafka_answers, Broker.RABBITMQ: _rabbitmq_answers, Broker.REDIS: _redis_answers}
    return any(_try(ask[broker], url) for url in _urls(address))


def _urls(address: str) -> list[str]:
    return [address] if "://" in address else [f"kafka://{server.strip()}" for server in address.split(",")]


def _try(ask: Callable[[socket.socket], bool], url: str) -> bool:
    try:
        with _connect(urlsplit(url)) as connection:
            return ask(connection)
    except (OSError, ValueError, struct.error):
        return False


def _connect(url: SplitResult) -> socket.socket:
    host = url.hostname or "localhost"
    port = url.port or {"kafka": 9092, "amqp": 5672, "amqps": 5671}.get(url.scheme, 6379)
    connection = socket.create_connection((host, port), timeout=ANSWER_SECONDS)
    if url.scheme not in {"amqps", "rediss"}:
        return connection
    return ssl.create_default_context().wrap_socket(connection, server_hostname=host)


def _kafka_answers(connection: socket.socket) -> bool:
    connection.sendall(KAFKA_METADATA_REQUEST)
    with connection.makefile("rb") as stream:
        _size, _correlation_id, brokers = struct.unpack(">iii", stream.read(12))
    return bool(brokers > 0)


def _rabbitmq_answers(connection: socket.socket) -> bool:
    connection.sendall(AMQP_PROTOCOL_HEADER)
    return connection.recv(1) == AMQP_METHOD_FRAME


def _redis_answers(connection: socket.socket) -> bool:
    connection.sendall(b"PING\r\n")
    # A server that wants a password is there, too; the clients have it from the address.
    return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
