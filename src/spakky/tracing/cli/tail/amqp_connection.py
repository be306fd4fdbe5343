"""pika's connection and channels, whose calls are awaited.

Facts:
- pika logs each failure on its way, whoever handles it, and the last resort of `logging` is standard error.
- A channel that the broker closes takes its reason along, and so does each channel of a connection that ends.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.cli.refusal import Refusal

try:
    import pika
    from pika.adapters.asyncio_connection import AsyncioConnection
    from pika.adapters.utils.connection_workflow import AMQPConnectorStackTimeout
    from pika.exceptions import (
        AMQPError,
        AuthenticationError,
        ChannelClosedByBroker,
        ConnectionClosed,
        ConnectionClosedByBroker,
        ProbableAccessDeniedError,
        ProbableAuthenticationError,
    )
except ModuleNotFoundError as error:
    raise_missing_extra("cli,pika", {"pika"}, error)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pika.channel import Channel as PikaChannel

    from spakky.tracing.cli.tail.broker_url import BrokerUrl

__all__ = [
    "PATIENCE_SECONDS",
    "AMQPError",
    "Channel",
    "ChannelClosedByBroker",
    "Connection",
    "ConnectionClosed",
    "connect",
]

PATIENCE_SECONDS: Final = 10
"""How long a broker may take to answer."""

_CLOSING_SECONDS: Final = 5
_DENIED: Final = (AuthenticationError, ProbableAuthenticationError)


class Channel:
    """A channel; `closed` is its reason as soon as it is closed."""

    def __init__(self, bare: PikaChannel) -> None:
        """Wrap a channel of pika that is open."""
        self.bare = bare
        self.closed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        bare.add_on_close_callback(lambda _, reason: _settle(self.closed, reason))

    async def ask(self, method: Callable[..., Any], **arguments: object) -> Any:  # noqa: ANN401 - as pika has it
        """Call a method of pika's channel, and return the broker's answer.

        Raises:
            pika.exceptions.AMQPError: The broker refuses it, and has closed the channel; or it went away.
        """
        answer = asyncio.get_running_loop().create_future()
        method(**arguments, callback=partial(_settle, answer))
        await asyncio.wait([answer, self.closed], return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise self.closed.result()


class Connection:
    """A connection that is open.

    Attributes:
        server: Host and port, for people.
    """

    def __init__(self, bare: AsyncioConnection, server: str) -> None:
        """Wrap a connection of pika that is open."""
        self.server = server
        self._bare = bare
        self._closed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        bare.add_on_close_callback(lambda _, reason: _settle(self._closed, reason))

    @property
    def product(self) -> object:
        """What the broker calls itself."""
        properties: dict[str, object] = self._bare.server_properties or {}
        return properties.get("product")

    async def channel(self) -> Channel:
        """Open another channel."""
        opened = asyncio.get_running_loop().create_future()
        self._bare.channel(on_open_callback=partial(_settle, opened))
        await asyncio.wait([opened, self._closed], return_when=asyncio.FIRST_COMPLETED)
        if opened.done():
            return Channel(opened.result())
        raise self._closed.result()

    async def close(self) -> None:
        """Close it with all of its channels, and wait until the broker knows."""
        if self._bare.is_open:
            self._bare.close()
            await asyncio.wait([self._closed], timeout=_CLOSING_SECONDS)


async def connect(url: BrokerUrl, virtual_host: str) -> Connection:
    """Open a connection.

    Raises:
        Refusal: The broker cannot be reached, or does not let us in.
    """
    logging.getLogger("pika").addHandler(logging.NullHandler())
    opened = asyncio.get_running_loop().create_future()
    workflow: Any = AsyncioConnection.create_connection(
        [_parameters(url, virtual_host)],
        on_done=partial(_settle, opened),
        custom_ioloop=asyncio.get_running_loop(),
    )
    try:
        bare = await asyncio.wait_for(asyncio.shield(opened), PATIENCE_SECONDS)
    except TimeoutError:
        sentence = f"RabbitMQ at {url.server} does not answer."
        raise Refusal(sentence) from None
    finally:
        if not opened.done():
            with suppress(AssertionError, AMQPError):  # pika asserts the contrary once it shakes hands
                workflow.abort()
    if isinstance(bare, BaseException):
        raise Refusal(_why_not(bare, url, virtual_host)) from bare
    return Connection(bare, url.server)


def _parameters(url: BrokerUrl, virtual_host: str) -> pika.ConnectionParameters:
    user = "guest" if url.user is None else url.user
    password = "guest" if url.password is None and url.user is None else url.password or ""
    return pika.ConnectionParameters(
        host=url.host,
        port=url.port,
        virtual_host=virtual_host,
        credentials=pika.PlainCredentials(user, password),
        ssl_options=pika.SSLOptions(_encryption(url), url.host) if url.scheme == "amqps" else None,
        socket_timeout=PATIENCE_SECONDS,
        stack_timeout=PATIENCE_SECONDS,
        client_properties={"connection_name": "spakky-tracing tail"},
    )


def _encryption(url: BrokerUrl) -> ssl.SSLContext:
    """Return what RabbitMQ's own options of a URL ask for.

    Raises:
        Refusal: A file cannot be read.
    """
    options = url.options
    try:
        context = ssl.create_default_context(cafile=options.get("cacertfile"))
        if options.get("verify") == "verify_none":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if "certfile" in options:
            context.load_cert_chain(options["certfile"], options.get("keyfile"))
    except (OSError, ssl.SSLError) as error:
        sentence = f"A certificate or key of {url.text!r} cannot be read: {error}."
        raise Refusal(sentence) from error
    return context


def _why_not(error: BaseException, url: BrokerUrl, virtual_host: str) -> str:
    """Return in one sentence why there is no connection."""
    cause = _cause(error)
    broker, user = f"RabbitMQ at {url.server}", "guest" if url.user is None else url.user
    if isinstance(cause, _DENIED):
        return f"{broker} refuses user {user!r}: the URL is amqp://USER:PASSWORD@HOST/NAME."
    if isinstance(cause, ProbableAccessDeniedError):
        return f"{broker} does not let {user!r} into virtual host {virtual_host!r}, or has none such."
    if isinstance(cause, ConnectionClosedByBroker):
        return f"{broker} refuses the connection of user {user!r}: {cause.reply_text}."
    return f"{broker} {_unreachable(cause, url)}."


def _unreachable(cause: BaseException, url: BrokerUrl) -> str:
    if isinstance(cause, socket.gaierror):
        return f"cannot be reached: no address is known for host {url.host!r}"
    if isinstance(cause, ssl.SSLError):
        return f"cannot be talked to by TLS: {cause.reason or cause}"
    if isinstance(cause, (TimeoutError, AMQPConnectorStackTimeout)):
        return "does not answer"
    if isinstance(cause, OSError):
        return f"cannot be reached: {(cause.strerror or str(cause)).lower()}"
    return f"does not answer as AMQP 0-9-1 has it ({type(cause).__name__})"


def _cause(error: BaseException) -> BaseException:
    """Return the first cause that pika has wrapped, maybe more than once."""
    while True:
        wrapped = getattr(error, "exceptions", None)
        inner = wrapped[-1] if wrapped else getattr(error, "exception", None)
        if not isinstance(inner, BaseException):
            return error
        error = inner


def _settle(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)
