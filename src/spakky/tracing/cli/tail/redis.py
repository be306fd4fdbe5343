"""Watches a queue that Celery keeps in Redis, by MONITOR.

A worker that is idle takes a message at once, so nothing but MONITOR shows all of them. Redis keeps what a
MONITOR has not read in its own memory, without a limit. So a thread reads all the time, whatever the terminal
does; and the watch ends before what is read fills our memory instead.

Facts (redis-py 8.1):
- Its own parser of MONITOR's lines joins the arguments with spaces and undoes one of the escapes.
- Read line by line, its connections take a third of the time in a thread that they take in asyncio.
"""

from __future__ import annotations

import asyncio
import re
import signal
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.cli.refusal import Refusal
from spakky.tracing.cli.tail.broker_url import broker_url, refuse_url
from spakky.tracing.cli.tail.kombu_message import (
    BINDINGS,
    is_key_of,
    keys_of,
    queue_in,
    watched_in,
)
from spakky.tracing.cli.tail.redis_monitor import arguments_in, has_echo, push_in

try:
    import redis
    from redis.backoff import NoBackoff
    from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
    from redis.retry import Retry
except ModuleNotFoundError as error:
    raise_missing_extra("cli,redis", {"redis"}, error)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from spakky.tracing.cli.tail.broker_url import BrokerUrl
    from spakky.tracing.cli.tail.watched import Watched

__all__ = ["RedisWatcher", "watcher"]

_EXAMPLE: Final = "redis://localhost/celery or, in database 1, redis://localhost/1/celery"
_SCHEMES: Final = {"redis", "rediss"}
_OPTIONS: Final = frozenset(
    ["ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile"]
)
_PORT: Final = 6379
_PATIENCE_SECONDS: Final = 10
_LOOK_SECONDS: Final = 0.2
_ASKING_SECONDS: Final = 2.5
_MOST_UNREAD: Final = 50_000
_MOST_WAITING: Final = 10_000
_SCAN_COUNT: Final = 1_000
_MOST_SCANS: Final = 100
_MOST_NAMES: Final = 10
_OWN: Final = re.compile("pidbox|celeryev")  # what Celery has for itself
_OTHERS: Final = {"rq:": "RQ", "dramatiq:": "Dramatiq", "arq:": "arq"}


def watcher(url: str, *, from_beginning: bool = False) -> RedisWatcher:
    """Return what watches the queue of *url*.

    Args:
        url: `redis[s]://[[USER]:PASSWORD@]HOST[:PORT]/[DATABASE/]QUEUE`; a `/` in a name is written `%2F`.
            The database is 0 unless it is given. With kombu's `global_keyprefix`, the name begins with it.
            `rediss` takes redis-py's options `ssl_ca_certs`, `ssl_cert_reqs`, `ssl_certfile`, `ssl_keyfile`
            and `ssl_check_hostname`.
        from_beginning: Whether messages that wait already are seen, too: the 10,000 oldest of each priority.

    Raises:
        Refusal: The URL is wrong.
    """
    given = broker_url(url, port=_PORT, example=_EXAMPLE, options=_OPTIONS)
    if given.scheme not in _SCHEMES:
        refuse_url(url, "is no URL of Redis", _EXAMPLE)
    if given.options and given.scheme != "rediss":
        refuse_url(url, "has options that are for rediss:// only", _EXAMPLE)
    if given.place is None and given.name.isdigit():
        refuse_url(url, f"names database {given.name}, and no queue", _EXAMPLE)
    if given.place and not (given.place.isascii() and given.place.isdigit()):
        refuse_url(url, f"has {given.place!r} where the number of a database should be", _EXAMPLE)
    return RedisWatcher(url, given, from_beginning=from_beginning)


class RedisWatcher:
    """Watches one queue, in all of its priorities."""

    def __init__(self, url: str, given: BrokerUrl, *, from_beginning: bool) -> None:
        """Prepare, and connect to nothing yet."""
        self._url = given
        self._database = int(given.place or 0)
        self._address = _address(url, self._database)
        self._from_beginning = from_beginning
        self._feed: _Feed | None = None

    @property
    def watches(self) -> str:
        """What is watched, for people."""
        database = f", database {self._database}" if self._database else ""
        return f"queue {self._url.name} of Celery in Redis at {self._url.server}{database}"

    @property
    def behind(self) -> int:
        """How many messages were read from Redis and not handed out yet."""
        return 0 if self._feed is None else len(self._feed)

    async def messages(self) -> AsyncGenerator[list[Watched]]:
        """Yield messages as `IWatcher` has it."""
        self._feed = feed = _Feed(asyncio.get_running_loop())
        listener = threading.Thread(target=self._listen, args=(feed,), daemon=True)
        with _not_suspended():
            listener.start()
            try:
                while True:
                    yield await feed.take()
            finally:
                feed.close()
                await asyncio.to_thread(listener.join, _PATIENCE_SECONDS)

    def _listen(self, feed: _Feed) -> None:
        """Read, in a thread of its own, until the *feed* is closed."""
        try:
            with redis.Redis.from_url(self._address, **_connecting()) as client:
                missing = self._missing(client)
                self._monitor(client, feed, missing)
        except Refusal as refusal:
            feed.fail(refusal)
        except (RedisError, OSError) as error:
            feed.fail(Refusal(self._why(error)))

    def _missing(self, client: redis.Redis) -> Refusal | None:
        """Return what is said if nobody asks for the queue soon, `None` if it is known.

        Raises:
            Refusal: It cannot be watched.
        """
        name, queue = self._url.name, self._url.name.encode()
        for prefix, library in _OTHERS.items():
            if name.startswith(prefix):
                sentence = f"{name} is a queue of {library}'s; in Redis, only Celery's queues can be watched."
                raise Refusal(sentence)
        if _is_cluster(client):
            sentence = f"Redis at {self._url.server} is a cluster, which Celery does not use as a broker."
            raise Refusal(sentence)
        kind: Any = client.type(queue)
        if kind not in {b"none", b"list"}:
            sentence = f"{name} in Redis at {self._url.server} is no queue of Celery's, but a {_text(kind)}."
            raise Refusal(sentence)
        if kind == b"list" or client.exists(*keys_of(queue)) or queue in _members(client, BINDINGS + queue):
            return None
        known, has_all = _bound_queues(client)
        return None if queue in known or not has_all else self._unknown(known)

    def _unknown(self, known: set[bytes]) -> Refusal:
        names = [name for name in map(_text, sorted(known)) if not _OWN.search(name)]
        others = f"; it has {', '.join(names[:_MOST_NAMES])}" if names else ""
        sentence = (
            f"Redis at {self._url.server} has no queue {self._url.name} in database {self._database}{others}"
            ". A queue is there once a worker consumes from it, or a message was sent."
        )
        return Refusal(sentence)

    def _monitor(self, client: redis.Redis, feed: _Feed, missing: Refusal | None) -> None:
        connection: Any = client.connection_pool.make_connection()
        try:
            connection.connect()
            connection.send_command("MONITOR")
            connection.read_response()
            if missing is not None and not self._is_asked_for(connection, feed):
                raise missing
            waiting = self._waiting(client, connection) if self._from_beginning else []
            feed.put(waiting)
            self._follow(connection, feed)
        finally:
            connection.disconnect()

    def _is_asked_for(self, connection: Any, feed: _Feed) -> bool:  # noqa: ANN401 - see redis-py
        """Tell whether any command names the queue soon: a worker that waits asks every second."""
        queue = self._url.name.encode()
        deadline = time.monotonic() + _ASKING_SECONDS
        while not feed.is_closed and time.monotonic() < deadline:
            if connection.can_read(timeout=_LOOK_SECONDS) and queue in arguments_in(
                connection.read_response(disable_decoding=True)
            ):
                return True
        return False

    def _waiting(self, client: redis.Redis, connection: Any) -> list[Watched]:  # noqa: ANN401 - see redis-py
        """Return what waits, the next one first; and read up to where MONITOR saw the question."""
        token = uuid4().hex
        keys = keys_of(self._url.name.encode())
        with client.pipeline(transaction=True) as pipeline:
            pipeline.echo(token)
            for key in keys:
                pipeline.lrange(key, -_MOST_WAITING, -1)
            _, *lists = pipeline.execute()
        while not has_echo(connection.read_response(disable_decoding=True), token.encode()):
            pass
        return [watched_in(value, self._url.name) for values in lists for value in reversed(values)]

    def _follow(self, connection: Any, feed: _Feed) -> None:  # noqa: ANN401 - see redis-py
        queue = self._url.name.encode()
        while not feed.is_closed:
            if not connection.can_read(timeout=_LOOK_SECONDS):
                continue
            push = push_in(connection.read_response(disable_decoding=True))
            if push is None or push.database != self._database or not is_key_of(queue, push.key):
                continue
            feed.put([watched_in(value, self._url.name) for value in push.values])
            if len(feed) > _MOST_UNREAD:
                sentence = (
                    f"{_MOST_UNREAD} messages wait to be shown: the watch of {self._url.name} ended, "
                    "since they would fill the memory. Write into a file, or use --totals."
                )
                raise Refusal(sentence)

    def _why(self, error: Exception) -> str:
        """Return in one sentence what has gone wrong."""
        at = f"Redis at {self._url.server}"
        if isinstance(error, NoPermissionError):
            return (
                f"{at} does not allow it ({error}): the user needs the right to MONITOR, +monitor in its ACL."
            )
        if isinstance(error, AuthenticationError) or "NOAUTH" in str(error):
            return f"{at} refuses user or password: the URL is redis://USER:PASSWORD@HOST/QUEUE."
        if isinstance(error, ResponseError):
            return f"{at} refuses it: {str(error).rstrip('.')}."
        if self._feed is not None and self._feed.has_begun:
            return f"The connection to {at} was lost."
        return f"{at} cannot be reached: {_reason(error)}."


class _Feed:
    """Hands messages from the thread that reads to the one that shows."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_closed = False
        self.has_begun = False
        self._loop = loop
        self._messages: deque[Watched] = deque()
        self._failure: Refusal | None = None
        self._news = asyncio.Event()
        self._is_told = False

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, messages: list[Watched]) -> None:
        """Add messages; the first time says that the watch has begun."""
        self.has_begun = True
        self._messages.extend(messages)
        self._tell()

    def fail(self, refusal: Refusal) -> None:
        """Say that nothing will come any more."""
        self._failure = refusal
        self._tell()

    async def take(self) -> list[Watched]:
        """Return what has come, once there is something; the first time as soon as the watch has begun.

        Raises:
            Refusal: Nothing will come any more.
        """
        await self._news.wait()
        self._news.clear()
        self._is_told = False
        messages = [self._messages.popleft() for _ in range(len(self._messages))]
        if self._failure is not None:
            if not messages:
                raise self._failure
            self._news.set()
        return messages

    def close(self) -> None:
        """Say that nobody wants any more."""
        self.is_closed = True

    def _tell(self) -> None:
        if not self._is_told:
            self._is_told = True
            with suppress(RuntimeError):  # the loop is closed: nobody wants to know
                self._loop.call_soon_threadsafe(self._news.set)


@contextmanager
def _not_suspended() -> Iterator[None]:
    """Have Ctrl-Z ignored: what we did not read would fill Redis' memory."""
    stop = getattr(signal, "SIGTSTP", None)
    if stop is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(stop, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(stop, before)


def _address(url: str, database: int) -> str:
    """Return the URL that redis-py takes: the queue is not part of it."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def _connecting() -> dict[str, Any]:
    return {
        "protocol": 2,
        "socket_connect_timeout": _PATIENCE_SECONDS,
        "socket_keepalive": True,
        "socket_timeout": _PATIENCE_SECONDS,
        "retry": Retry(NoBackoff(), 0),
    }


def _is_cluster(client: redis.Redis) -> bool:
    try:
        return bool(client.info("cluster").get("cluster_enabled"))
    except ResponseError:  # forbidden, or no longer there
        return False


def _bound_queues(client: redis.Redis) -> tuple[set[bytes], bool]:
    """Return the queues that kombu has bound in a database, and whether these are all.

    A large database is not read to its end.
    """
    queues: set[bytes] = set()
    cursor = 0
    for _ in range(_MOST_SCANS):
        cursor, keys = client.scan(cursor, match=b"*%b*" % BINDINGS, count=_SCAN_COUNT)
        for key in keys:
            queues |= _members(client, key)
        if not cursor:
            return queues, True
    return queues, False


def _members(client: redis.Redis, exchange: bytes | str) -> set[bytes]:
    """Return the queues of an exchange's set, none if the key is something else."""
    try:
        members: Any = client.smembers(exchange)
    except ResponseError:
        return set()
    return {queue_in(each) for each in members}


def _reason(error: BaseException) -> str:
    """Return the operating system's own words, if it has any."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return str(error).rstrip(".").lower()


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
