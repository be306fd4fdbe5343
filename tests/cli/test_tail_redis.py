"""`spakky-tracing tail redis://` on a real Redis, and a real Celery."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import redis
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.messaging import Producer

from cli.celery_shop import open_shop
from cli.running import piped
from cli.tailing import Station, TailContract, tail, traceparents
from integrations.celery_office import wait_until
from integrations.tcp_proxy import TcpProxy
from spakky.tracing.cli.tail.kombu_message import is_key_of, watched_in
from spakky.tracing.cli.tail.redis import watcher
from spakky.tracing.cli.tail.redis_monitor import has_echo, push_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cli.tailing import Headers


class Place(Station):
    """A queue that kombu keeps in Redis, and kombu at both ends."""

    def __init__(self, redis_url: str, connection: Connection) -> None:
        self.name = f"tail-{uuid4().hex}"
        self.server = redis_url
        self.client = redis.Redis.from_url(redis_url)
        self.queue = Queue(self.name, Exchange(self.name), self.name)(connection.default_channel)
        self.queue.declare()
        self._producer = Producer(connection.default_channel)

    @property
    def url(self) -> str:
        return f"{self.server}/{self.name}"

    def send(self, *messages: Headers) -> None:
        for headers in messages:
            self.publish(dict(headers))

    def publish(self, headers: dict[str, Any], **properties: Any) -> None:
        self._producer.publish(b"value", routing_key=self.name, headers=headers, **properties)

    def send_twice(self, name: str, *values: str) -> None:
        """JSON has a name only once, but another casing is another name."""
        self.send(dict(zip([name, name.title(), name.upper()], values, strict=False)))

    def receive(self, count: int) -> list[dict[str, str]]:
        received: list[dict[str, str]] = []

        def all_are_there() -> bool:
            message: Any = self.queue.get(no_ack=True)
            received.extend([] if message is None else [message.headers])
            return len(received) == count

        wait_until(all_are_there, f"{len(received)} messages arrived")
        return received

    def leftovers(self) -> object:
        """Return the clients that watch, and what is stored of this queue."""
        watching = [each for each in self.client.client_list() if each["cmd"] == "monitor"]
        return [each["id"] for each in watching if self.is_ours(each)], sorted(
            self.client.keys(f"*{self.name}*")
        )

    def is_ours(self, client: dict[str, str]) -> bool:
        """Take every MONITOR for ours that began after the station."""
        return int(client["age"]) < 30

    def close(self) -> None:
        self.queue.delete()
        self.client.close()


@pytest.fixture(scope="module")
def connection(redis_url: str) -> Iterator[Connection]:
    with Connection(redis_url) as connection:
        yield connection


@pytest.fixture
def there(redis_url: str, connection: Connection) -> Iterator[Place]:
    place = Place(redis_url, connection)
    yield place
    place.close()


def refusal(*arguments: str) -> str:
    """Run a command that is refused, and return its one sentence."""
    ended = piped("tail", *arguments)
    assert (ended.code, ended.output, ended.errors.count("\n")) == (2, "", 1), ended
    return ended.errors


class TestTailOfAQueue(TailContract):
    @pytest.fixture
    def station(self, there: Place) -> Place:
        return there


@pytest.mark.parametrize("protocol", [1, 2])
def test_tasks_of_celery_are_watched_while_a_worker_gets_each(redis_url: str, protocol: int) -> None:
    name = f"shop-{uuid4().hex}"
    with (
        open_shop(redis_url, Queue(name), protocol=protocol) as shop,
        tail("--json", "--count=4", f"{redis_url}/{name}") as running,
    ):
        sent = [shop.pay.apply_async([number]) for number in (1, 2, -3)]
        shop.wait_for(1, 2, -3)
        found = running.messages()

    assert {each["verdict"] for each in found} == {"valid"}
    assert [each["message_id"] for each in found] == [*(each.id for each in sent), sent[-1].id]  # a retry
    assert {each["producer"][:3] for each in found} == {"gen" if protocol == 2 else name[:3]}


def test_each_priority_is_watched(there: Place) -> None:
    with tail("--json", "--count=4", there.url) as running:
        for priority in (0, 3, 6, 9):
            there.publish({"traceparent": traceparents(1)[0]}, priority=priority)
        found = running.messages()

    assert [each["verdict"] for each in found] == ["valid"] * 4


def test_a_queue_that_only_a_worker_knows_is_watched(there: Place) -> None:
    name = f"{there.name}-unbound"
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            there.client.brpop([name], timeout=1)

    with ThreadPoolExecutor() as threads:
        threads.submit(work)
        try:
            with tail("--json", "--count=1", f"{there.server}/{name}") as running:
                there.client.lpush(name, json.dumps({"headers": {}, "properties": {}}))
                assert len(running.messages()) == 1
        finally:
            ended.set()


def test_scripts_and_transactions_are_watched(there: Place) -> None:
    value = json.dumps({"headers": {"traceparent": traceparents(1)[0]}, "properties": {}})

    with tail("--json", "--count=3", there.url) as running:
        with there.client.pipeline(transaction=True) as pipeline:
            pipeline.lpush(there.name, value)
            pipeline.rpush(there.name, value)
            pipeline.execute()
        there.client.eval("redis.call('lpush', KEYS[1], ARGV[1])", 1, there.name, value)
        found = running.messages()

    assert [each["verdict"] for each in found] == ["valid"] * 3


def test_other_queues_databases_and_commands_are_not_seen(there: Place) -> None:
    value = json.dumps({"headers": {}, "properties": {"app_id": "elsewhere"}})

    with tail("--json", "--count=1", there.url) as running:
        with redis.Redis.from_url(f"{there.server.rpartition(chr(47))[0]}/1") as other:
            other.lpush(there.name, value)
            other.delete(there.name)
        there.client.lpush(f"{there.name}-2", value)
        there.client.set(f"{there.name}-3", value)
        there.client.delete(f"{there.name}-2", f"{there.name}-3")
        there.publish({}, app_id="here")
        (found,) = running.messages()

    assert found["producer"] == "here"


def test_what_waits_comes_first_and_nothing_comes_twice(there: Place) -> None:
    sent = traceparents(40)
    there.send(*({"traceparent": each} for each in sent[:20]))

    with tail("--json", "--from-beginning", "--count=40", there.url) as running:
        there.send(*({"traceparent": each} for each in sent[20:]))
        found = running.messages()

    assert [each["trace_id"] for each in found] == [each[3:35] for each in sent]
    assert there.client.llen(there.name) == 40


def test_what_is_sent_while_it_begins_is_seen_once(there: Place) -> None:
    value = json.dumps({"headers": {"traceparent": traceparents(1)[0]}, "properties": {}})
    is_watched = threading.Event()

    def send() -> int:
        sent = 0
        with redis.Redis.from_url(there.server) as client:
            while not is_watched.is_set() and sent < 8_000:
                client.lpush(there.name, value)
                sent += 1
        return sent

    with ThreadPoolExecutor() as threads:
        sending = threads.submit(send)
        with tail("--json", "--from-beginning", there.url) as running:
            is_watched.set()
            sent = sending.result()
            there.publish({}, app_id="the last one")
            seen = list(iter(lambda: json.loads(running.read_line())["producer"], "the last one"))

    assert len(seen) == sent


def test_a_message_that_is_given_back_is_a_redelivery(there: Place) -> None:
    there.publish({"traceparent": traceparents(1)[0]})
    message: Any = there.queue.get()

    async def seen() -> Any:
        lists = watcher(there.url).messages()
        await anext(lists)
        message.requeue()
        (found,) = await anext(lists)
        await lists.aclose()
        return found

    assert asyncio.run(seen()).delivery.is_redelivered is True


def test_a_message_that_is_not_celerys_has_no_context(there: Place) -> None:
    strange = [b"\xff", b"", b"[]", b"{}", b'{"properties": []}', b"[" * 100_000]

    with tail("--json", f"--count={len(strange)}", there.url) as running:
        for value in strange:
            there.client.lpush(there.name, value)
        found = running.messages()

    assert {(each["verdict"], each["producer"]) for each in found} == {("missing", "(not Celery's)")}


HOSTILE = [
    b"plain",
    b"",
    b'"quotes" and \\backslashes\\ \\" \\\\"',
    b"line\r\nbreaks\ttabs\a\b\x00\x7f\xff",
    b'[0 lua] "LPUSH" "other" "value"',
    b"\\u1234 \\N{BULLET} \\x41 \\101",
    bytes(range(256)),
    "Größe \N{SNOWMAN} \N{PILE OF POO}".encode(),
]


@pytest.mark.parametrize("key", HOSTILE)
def test_keys_and_values_are_read_as_they_were_sent(redis_url: str, key: bytes) -> None:
    name = b"tail-" + uuid4().hex.encode() + key
    token = uuid4().hex.encode()
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        monitoring: Any = client.connection_pool.make_connection()
        monitoring.connect()
        monitoring.send_command("MONITOR")
        monitoring.read_response()
        client.rpush(name, *HOSTILE)
        client.echo(token)
        client.delete(name)
        lines: list[bytes] = []
        while not (lines and has_echo(lines[-1], token)):
            lines.append(monitoring.read_response(disable_decoding=True))
        monitoring.disconnect()

    pushes = [push for push in map(push_in, lines) if push is not None and push.key == name]
    assert [push.values for push in pushes] == [HOSTILE]


def test_a_key_is_of_a_queue_or_of_its_priorities() -> None:
    keys = [b"q", b"q\x06\x163", b"q\x06\x16", b"q\x06\x16x", b"q3", b"other\x06\x163"]

    assert [key for key in keys if is_key_of(b"q", key)] == [b"q", b"q\x06\x163"]


def test_an_envelope_may_hold_anything() -> None:
    envelope = {"headers": 1, "properties": {"delivery_info": 1, "app_id": {}, "correlation_id": 7}}

    seen = watched_in(json.dumps(envelope).encode(), "celery")

    assert (seen.producer, seen.place, seen.message_id) == ("celery", "celery", None)


async def test_a_lost_connection_is_one_sentence(there: Place) -> None:
    async with TcpProxy(there.server) as proxy:
        with tail(f"{proxy.url}/{there.name}", until_watching=False) as running:
            await asyncio.to_thread(running.wait_until_watching)
            proxy.cut()
            ended = await asyncio.to_thread(running.ended)

    assert ended.code == 2
    assert ended.errors.splitlines()[-1].startswith("Error: The connection to Redis at ")
    assert len(ended.errors.splitlines()) == 2


@contextmanager
def user_of(client: redis.Redis, *rights: str) -> Iterator[str]:
    name = f"user{uuid4().hex}"
    client.acl_setuser(name, enabled=True, passwords=["+secret"], keys=["*"], commands=list(rights))
    try:
        yield name
    finally:
        client.acl_deluser(name)


def test_a_user_without_the_right_is_told_which(there: Place) -> None:
    with user_of(there.client, "+@all", "-monitor") as user:
        sentence = refusal(there.url.replace("redis://", f"redis://{user}:secret@"))

    assert "+monitor" in sentence
    assert "secret" not in sentence


def test_a_user_with_few_rights_can_watch(there: Place) -> None:
    rights = ["+monitor", "+type", "+exists", "+smembers", "+scan", "+select"]
    with (
        user_of(there.client, *rights) as user,
        tail("--json", "--count=1", there.url.replace("redis://", f"redis://{user}:secret@")) as running,
    ):
        there.send({})
        assert len(running.messages()) == 1


def test_unknown_queues_and_wrong_servers_are_one_sentence(there: Place) -> None:
    server = there.server.rpartition("/")[0]
    there.client.set(f"{there.name}-text", "value")

    unknown = refusal(f"{there.server}/{there.name}-unknown")
    wrong_kind = refusal(f"{there.server}/{there.name}-text")
    there.client.delete(f"{there.name}-text")

    assert f"has no queue {there.name}-unknown in database 0" in unknown
    assert "no queue of Celery's, but a string" in wrong_kind
    assert "DB index is out of range" in refusal(f"{server}/99999/{there.name}")
    assert "connection refused" in refusal("redis://127.0.0.1:1/celery")
    assert "broker.invalid:6379 cannot be reached" in refusal("redis://broker.invalid/celery")
    assert "refuses user or password" in refusal(server.replace("redis://", "redis://u:p@") + "/celery")
    assert "a queue of RQ's" in refusal(f"{there.server}/rq:queue:default")


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("redis://user:secret@localhost/", "names nothing to watch"),
        ("redis://localhost/1", "names database 1, and no queue"),
        ("redis://localhost/one/celery", "has 'one' where the number of a database should be"),
        ("redis:///celery", "names no host"),
        ("redis://localhost/celery?ssl_cert_reqs=none", "for rediss:// only"),
        ("redis://localhost/celery?db=1", "an option that is not known"),
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url: str, what: str) -> None:
    sentence = refusal(url)

    assert what in sentence
    assert "secret" not in sentence


@pytest.mark.parametrize(
    ("url", "watches"),
    [
        ("redis://h/celery", "queue celery of Celery in Redis at h:6379"),
        ("redis://h//celery", "queue celery of Celery in Redis at h:6379"),
        ("rediss://:pw@h:7/2/celery", "queue celery of Celery in Redis at h:7, database 2"),
        ("redis://h/0/12", "queue 12 of Celery in Redis at h:6379"),
        ("redis://h/a%2Fb", "queue a/b of Celery in Redis at h:6379"),
    ],
)
def test_a_url_tells_database_and_queue_apart(url: str, watches: str) -> None:
    assert watcher(url).watches == watches


def test_without_redis_the_extra_is_named() -> None:
    code = "import sys; sys.modules['redis'] = None; from spakky.tracing.__main__ import main; main()"
    finished = subprocess.run(
        [sys.executable, "-c", code, "tail", "redis://localhost/celery"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (finished.returncode, finished.stderr) == (
        2,
        "Error: redis is not installed: pip install 'spakky-tracing[cli,redis]'\n",
    )
