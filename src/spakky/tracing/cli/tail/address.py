"""Where Kafka's brokers and a topic are, as a URL says it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, NoReturn
from urllib.parse import unquote, urlsplit

from spakky.tracing.cli.refusal import Refusal

__all__ = ["UNREADABLE", "KafkaAddress", "kafka_address", "without_credentials"]

UNREADABLE: Final = "cannot be read (special characters of a password are written %5B and the like)"
"""What is said of a URL that has no parts."""

_DEFAULT_PORT: Final = 9092
_MOST_PORTS: Final = 65_535
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:/@]+)(?::([0-9]*))?")
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")  # what Kafka's own check allows
_EXAMPLE: Final = "such as kafka://localhost:9092/orders"


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaAddress:
    """A topic, and brokers that know where it is.

    Attributes:
        servers: `host:port` of each broker that the URL names.
        topic: The name of the topic.
        is_encrypted: Whether the brokers are talked to by TLS.
        user: For SASL PLAIN; `None` for none.
        password: Likewise.
    """

    servers: tuple[str, ...]
    topic: str
    is_encrypted: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)


def kafka_address(url: str) -> KafkaAddress:
    """Read `kafka://[USER:PASSWORD@]HOST[:PORT][,HOST:PORT]/TOPIC`, or the same with `kafka+ssl`.

    Raises:
        Refusal: It is something else; the sentence has an example and no credentials.
    """
    if any(map(str.isspace, url)):
        _refuse(url, "has a space in it")
    try:
        parts = urlsplit(url)
    except ValueError:  # it quotes the password
        _refuse(url, UNREADABLE)
    if parts.query or parts.fragment:
        _refuse(url, "goes on after the topic")
    if "@" in parts.path:
        _refuse(url, "has a / before the @, which is written %2F")
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, has_password, password = credentials.partition(":")
    if bool(user) != bool(has_password):
        _refuse(url, "has a user without a password, or a password without a user")
    return KafkaAddress(
        servers=tuple(_server(host, url) for host in hosts.split(",")),
        topic=_topic(parts.path, url),
        is_encrypted=parts.scheme == "kafka+ssl",
        user=unquote(user) or None,
        password=unquote(password) if user else None,
    )


def without_credentials(url: str) -> str:
    """Return *url* without user and password, wherever they begin and whatever is in them."""
    before, has_credentials, after = url.rpartition("@")
    if not has_credentials:
        return url
    scheme, separator, _ = before.partition("://")
    return f"{scheme}{separator}{after}" if separator else after


def _server(text: str, url: str) -> str:
    if not text:
        _refuse(url, "names no host")
    match = _HOST.fullmatch(text)
    if match is None:
        _refuse(url, f"has {text!r} where a host and its port should be")
    host, port = match[1], _DEFAULT_PORT if match[2] is None else int(match[2] or 0)
    if not 0 < port <= _MOST_PORTS:
        _refuse(url, f"has a port that is not from 1 to {_MOST_PORTS}")
    return f"{host}:{port}"


def _topic(path: str, url: str) -> str:
    topic = path.removeprefix("/")
    if not topic:
        _refuse(url, "names no topic")
    if _TOPIC.fullmatch(topic) is None or topic in {".", ".."}:
        _refuse(url, f"names the topic {topic!r}, which Kafka does not allow")
    return topic


def _refuse(url: str, what: str) -> NoReturn:
    message = f"{without_credentials(url)!r} {what}: give a URL {_EXAMPLE}."
    raise Refusal(message)
