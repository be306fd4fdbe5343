"""The URL of a broker, with the name of what is watched there as the last part of its path."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NoReturn
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from spakky.tracing.cli.refusal import Refusal
from spakky.tracing.cli.tail.address import UNREADABLE, without_credentials

__all__ = ["BrokerUrl", "broker_url", "refuse_url"]

_MOST_PORTS: Final = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerUrl:
    """What a URL says.

    Attributes:
        text: The URL without user and password.
        scheme: In lower case.
        host: The host's name or address.
        port: The port, given or the usual one.
        user: Percent-decoded; `None` for none.
        password: Likewise.
        place: All of the path but its last part, percent-decoded: a virtual host or the number of a database.
            `None` if there is only one part.
        name: The last part of the path, percent-decoded: what is watched. Never empty.
        options: What follows `?`.
    """

    text: str
    scheme: str
    host: str
    port: int
    user: str | None
    password: str | None = field(repr=False)
    place: str | None
    name: str
    options: dict[str, str]

    @property
    def server(self) -> str:
        """Host and port, for people."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def broker_url(url: str, *, port: int, example: str, options: frozenset[str]) -> BrokerUrl:
    """Read `SCHEME://[USER[:PASSWORD]@]HOST[:PORT]/[PLACE/]NAME[?OPTION=VALUE&...]`.

    Args:
        url: What was given.
        port: The port of a URL that has none.
        example: A right URL, for people.
        options: The options that it may have.

    Raises:
        Refusal: It is something else; the sentence has the example and no credentials.
    """
    parts = _parts(url, example)
    if not parts.hostname:
        refuse_url(url, "names no host", example)
    given_port = _port(parts, url, example)
    if parts.fragment:
        refuse_url(url, "has a # in it, which is written %23 in a name", example)
    place, name = _split(parts.path)
    if not name:
        refuse_url(url, "names nothing to watch", example)
    return BrokerUrl(
        text=without_credentials(url),
        scheme=parts.scheme,
        host=parts.hostname,
        port=port if given_port is None else given_port,
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
        place=place,
        name=name,
        options=_options(url, parts.query, options, example),
    )


def refuse_url(url: str, what: str, example: str) -> NoReturn:
    """Say what is wrong with a URL.

    Raises:
        Refusal: Always.
    """
    message = f"{without_credentials(url)!r} {what}: give a URL such as {example}."
    raise Refusal(message)


def _parts(url: str, example: str) -> SplitResult:
    """Return the parts of *url*; the errors of `urlsplit` are not told, since they quote passwords."""
    try:
        parts = urlsplit(url)
    except ValueError:
        refuse_url(url, UNREADABLE, example)
    if "@" in parts.path + parts.query + parts.fragment:
        refuse_url(
            url, "has a /, ? or # before the @, written %2F, %3F or %23, or a name with @, %40", example
        )
    return parts


def _port(parts: SplitResult, url: str, example: str) -> int | None:
    with suppress(ValueError):
        if parts.port is None or parts.port > 0:
            return parts.port
    refuse_url(url, f"has a port that is not from 1 to {_MOST_PORTS}", example)


def _split(path: str) -> tuple[str | None, str]:
    place, slash, name = path.removeprefix("/").rpartition("/")
    return unquote(place) if slash else None, unquote(name)


def _options(url: str, query: str, allowed: frozenset[str], example: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(set(options) - allowed):
        refuse_url(url, f"has an option that is not known, {unknown[0]!r} (? in a name is %3F)", example)
    return options
