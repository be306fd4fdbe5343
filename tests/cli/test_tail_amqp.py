"""`spakky-tracing tail amqp://` on a real RabbitMQ."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pika
import pytest
from kombu.entity import Exchange, Queue
from pika.exceptions import ChannelClosedByBroker, UnroutableError

from cli.celery_shop import open_shop
from cli.running import piped
from cli.tailing import Station, TailContract, tail, traceparents
from integrations.celery_office import wait_until
from integrations.tcp_proxy import TcpProxy
from spakky.tracing.cli.tail.amqp import watcher
from spakky.tracing.cli.tail.amqp_message import AmqpMessage, traced_from, watched_from

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pika.adapters.blocking_connection import BlockingChannel

    from cli.tailing import Headers


class Place(Station):
    """An exchange of a type, and an ordinary consumer's queue that gets everything."""

    def __init__(self, amqp_url: str, channel: BlockingChannel, kind: str = "fanout", key: str = "") -> None:
        self.name = f"tail-{uuid4().hex}"
        self.server = amqp_url.rstrip("/")
        self.channel = channel
        self._key = key
        channel.exchange_declare(self.name, kind)
        self.queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(self.queue, self.name, key)

    @property
    def url(self) -> str:
        return f"{self.server}/{self.name}"

    def send(self, *messages: Headers) -> None:
        for headers in messages:
            self.publish(self._key, headers=dict(headers))

    def publish(self, key: str, **properties: Any) -> None:
        self.channel.basic_publish(self.name, key, b"value", pika.BasicProperties(**properties))

    def send_twice(self, name: str, *values: str) -> None:
        """AMQP has a name only once, but another casing is another name."""
        self.publish(self._key, headers=dict(zip([name, name.title(), name.upper()], values, strict=False)))

    def receive(self, count: int) -> list[dict[str, str]]:
        received: list[dict[str, str]] = []

        def all_are_there() -> bool:
            _, properties, _ = self.channel.basic_get(self.queue, auto_ack=True)
            headers: Any = None if properties is None else dict(properties.headers or {})
            received.extend([] if headers is None else [headers])
            return len(received) == count

        wait_until(all_are_there, f"{len(received)} messages arrived")
        return received

    def leftovers(self) -> object:
        """Return whether any other queue is bound to the exchange."""
        self.channel.queue_unbind(self.queue, self.name, self._key)
        try:
            self.channel.basic_publish(self.name, self._key, b"", mandatory=True)
        except UnroutableError:
            return "no other queue"
        finally:
            self.channel.queue_bind(self.queue, self.name, self._key)
        return "another queue"

    def close(self) -> None:
        self.channel.exchange_delete(self.name)
        self.channel.queue_delete(self.queue)


@pytest.fixture(scope="module")
def connection(amqp_url: str) -> Iterator[pika.BlockingConnection]:
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        yield connection


@pytest.fixture
def channel(connection: pika.BlockingConnection) -> Iterator[BlockingChannel]:
    channel = connection.channel()
    channel.confirm_delivery()
    yield channel
    if channel.is_open:
        channel.close()


@contextmanager
def place(amqp_url: str, channel: BlockingChannel, kind: str, key: str = "") -> Iterator[Place]:
    place = Place(amqp_url, channel, kind, key)
    try:
        yield place
    finally:
        place.close()


@contextmanager
def queue_of(channel: BlockingChannel, **arguments: Any) -> Iterator[str]:
    name = f"tail-{uuid4().hex}"
    channel.queue_declare(name, durable=True, arguments=arguments)
    try:
        yield name
    finally:
        channel.queue_delete(name)


def refusal(*arguments: str) -> str:
    """Run a command that is refused, and return its one sentence."""
    ended = piped("tail", *arguments)
    assert (ended.code, ended.output, ended.errors.count("\n")) == (2, "", 1), ended
    return ended.errors


class TestTailOfAnExchange(TailContract):
    @pytest.fixture
    def station(self, amqp_url: str, channel: BlockingChannel) -> Iterator[Station]:
        with place(amqp_url, channel, "fanout") as station:
            yield station


@pytest.mark.parametrize(
    ("kind", "keys", "seen"),
    [
        ("topic", [], ["orders.new", "orders.paid", "bills"]),
        ("topic", ["orders.*"], ["orders.new", "orders.paid"]),
        ("topic", ["orders.new", "bills"], ["orders.new", "bills"]),
        ("direct", ["bills"], ["bills"]),
        ("headers", [], ["orders.new", "orders.paid", "bills"]),
        ("fanout", [], ["orders.new", "orders.paid", "bills"]),
    ],
)
def test_what_is_seen_follows_type_and_keys(
    amqp_url: str, channel: BlockingChannel, kind: str, keys: list[str], seen: list[str]
) -> None:
    chosen = [f"--key={key}" for key in keys]

    with (
        place(amqp_url, channel, kind) as there,
        tail("--json", f"--count={len(seen)}", *chosen, there.url) as running,
    ):
        for key in ("orders.new", "orders.paid", "bills"):
            there.publish(key, headers={"traceparent": traceparents(1)[0]})
        found = running.messages()

    assert [each["producer"] for each in found] == seen
    assert [each["place"] for each in found] == [f"{there.name}:{key}" for key in seen]


def test_an_application_names_itself(amqp_url: str, channel: BlockingChannel) -> None:
    with place(amqp_url, channel, "fanout") as there, tail("--json", "--count=1", there.url) as running:
        there.publish("orders", app_id="shop", message_id="m-1")
        (found,) = running.messages()

    assert (found["producer"], found["message_id"]) == ("shop", "m-1")


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("internal", [True, False])
def test_an_exchange_is_told_whatever_else_it_is_like(
    amqp_url: str, channel: BlockingChannel, *, durable: bool, internal: bool
) -> None:
    name = f"tail's 'current is '-{uuid4().hex}"
    channel.exchange_declare(
        name, "topic", durable=durable, internal=internal, arguments={"alternate-exchange": "amq.fanout"}
    )

    with tail(f"{amqp_url.rstrip('/')}/{name}") as running:
        ended = running.end()

    channel.exchange_delete(name)
    assert ended.errors.startswith(f"Watching topic exchange {name} of RabbitMQ at ")


def test_a_direct_exchange_wants_keys(amqp_url: str, channel: BlockingChannel) -> None:
    with place(amqp_url, channel, "direct", "bills") as there:
        sentence = refusal(there.url)

    assert "say which routing keys to watch" in sentence
    assert "Celery" not in sentence


def test_a_direct_exchange_of_celery_says_that_tasks_go_past_it(
    amqp_url: str, channel: BlockingChannel
) -> None:
    with queue_of(channel) as name:
        channel.exchange_declare(name, "direct")
        sentence = refusal(f"{amqp_url.rstrip('/')}/{name}")
        channel.exchange_delete(name)

    assert f"--key {name}" in sentence
    assert "What Celery sends" in sentence
    assert f"amq.rabbitmq.trace --key deliver.{name}" in sentence


@pytest.mark.parametrize("kind", ["fanout", "headers"])
def test_keys_are_refused_where_nothing_looks_at_them(
    amqp_url: str, channel: BlockingChannel, kind: str
) -> None:
    with place(amqp_url, channel, kind) as there:
        assert "leave out --key" in refusal("--key=orders", there.url)


def test_an_exchange_that_would_be_deleted_with_us_is_refused(
    amqp_url: str, channel: BlockingChannel
) -> None:
    name = f"tail-{uuid4().hex}"
    channel.exchange_declare(name, "fanout", auto_delete=True)

    sentence = refusal(f"{amqp_url.rstrip('/')}/{name}")

    channel.exchange_declare(name, passive=True)
    channel.exchange_delete(name)
    assert "deleted with its last binding" in sentence


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_queue_is_refused_and_untouched(amqp_url: str, channel: BlockingChannel, kind: str) -> None:
    with queue_of(channel, **{"x-queue-type": kind}) as name:
        channel.basic_publish("", name, b"value")
        sentence = refusal(f"{amqp_url.rstrip('/')}/{name}")
        method, _, body = channel.basic_get(name, auto_ack=True)

    assert "without taking its messages" in sentence
    assert "rabbitmqctl trace_on" in sentence
    assert method is not None
    assert (body, method.redelivered) == (b"value", False)


def test_a_queue_of_another_connection_is_refused(amqp_url: str, channel: BlockingChannel) -> None:
    queue = channel.queue_declare("", exclusive=True).method.queue

    assert "without taking its messages" in refusal(f"{amqp_url.rstrip('/')}/{queue}")


def test_an_unknown_name_is_refused_and_not_created(amqp_url: str, channel: BlockingChannel) -> None:
    name = f"tail-{uuid4().hex}"

    sentence = refusal(f"{amqp_url.rstrip('/')}/{name}")

    assert f"no exchange and no queue {name}" in sentence
    with pytest.raises(ChannelClosedByBroker, match="NOT_FOUND"):
        channel.queue_declare(name, passive=True)


STREAMS: list[dict[str, Any]] = [
    {},
    {"x-max-length-bytes": 1_000_000, "x-max-age": "1h", "x-stream-max-segment-size-bytes": 500_000},
]


@pytest.mark.parametrize("arguments", STREAMS)
@pytest.mark.parametrize("from_beginning", [True, False])
def test_a_stream_is_read(
    amqp_url: str, channel: BlockingChannel, arguments: dict[str, Any], *, from_beginning: bool
) -> None:
    old, new = traceparents(2)
    options = ["--from-beginning", "--count=2"] if from_beginning else ["--count=1"]

    with queue_of(channel, **{"x-queue-type": "stream"}, **arguments) as name:
        channel.basic_publish("", name, b"", pika.BasicProperties(headers={"traceparent": old}))
        with tail("--json", *options, f"{amqp_url.rstrip('/')}/{name}") as running:
            channel.basic_publish("", name, b"", pika.BasicProperties(headers={"traceparent": new}))
            found = running.messages()

    expected = [(f"{name} 0", old[3:35]), (f"{name} 1", new[3:35])]
    assert [(each["place"], each["trace_id"]) for each in found] == expected[0 if from_beginning else 1 :]


def test_a_stream_that_is_deleted_ends_the_watch(amqp_url: str, channel: BlockingChannel) -> None:
    with (
        queue_of(channel, **{"x-queue-type": "stream"}) as name,
        tail(f"{amqp_url.rstrip('/')}/{name}") as running,
    ):
        channel.queue_delete(name)
        ended = running.ended()

    assert ended.code == 2
    assert "was deleted" in ended.errors


def test_an_exchange_that_is_deleted_ends_the_watch(amqp_url: str, channel: BlockingChannel) -> None:
    with place(amqp_url, channel, "fanout") as there, tail(there.url) as running:
        channel.exchange_delete(there.name)
        ended = running.ended()

    assert (ended.code, f"Exchange {there.name} was deleted" in ended.errors) == (2, True)


async def test_a_lost_connection_is_one_sentence(amqp_url: str, channel: BlockingChannel) -> None:
    async with TcpProxy(amqp_url) as proxy:
        with (
            place(amqp_url, channel, "fanout") as there,
            tail(f"{proxy.url.rstrip('/')}/{there.name}", until_watching=False) as running,
        ):
            await asyncio.to_thread(running.wait_until_watching)
            proxy.cut()
            ended = await asyncio.to_thread(running.ended)

    assert ended.code == 2
    assert ended.errors.splitlines()[-1].startswith("Error: The connection to RabbitMQ at ")
    assert len(ended.errors.splitlines()) == 2


async def test_a_header_that_pika_cannot_read_is_one_sentence(
    amqp_url: str, channel: BlockingChannel
) -> None:
    def broken(data: bytes) -> bytes:
        return data.replace(b"\x03oddS\x00\x00\x00\x05value", b"\x03oddZ\x00\x00\x00\x05value")

    async with TcpProxy(amqp_url, from_broker=broken) as proxy:
        with (
            place(amqp_url, channel, "fanout") as there,
            tail(f"{proxy.url.rstrip('/')}/{there.name}", until_watching=False) as running,
        ):
            await asyncio.to_thread(running.wait_until_watching)
            there.send({"odd": "value"})
            ended = await asyncio.to_thread(running.ended)

    assert ended.code == 2
    assert "Traceback" not in ended.errors


def test_wrong_addresses_are_one_sentence(amqp_url: str) -> None:
    server = amqp_url.rstrip("/").rpartition("@")[2]

    assert "refuses user 'guest'" in refusal(f"amqp://guest:wrong-password@{server}/orders")
    assert "into virtual host 'no/such'" in refusal(f"{amqp_url.rstrip('/')}/no%2Fsuch/orders")
    assert "connection refused" in refusal("amqp://127.0.0.1:1/orders")
    assert "no address is known for host 'broker.invalid'" in refusal("amqp://broker.invalid/orders")
    assert "keeps no messages" in refusal("--from-beginning", f"{amqp_url.rstrip('/')}/amq.topic")
    assert "default exchange" in refusal(f"{amqp_url.rstrip('/')}/amq.default")
    assert "cannot be talked to by TLS" in refusal(f"amqps://{server}/orders")


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("amqp://localhost", "names nothing to watch"),
        ("amqp://user:secret@localhost/", "names nothing to watch"),
        ("amqp:///orders", "names no host"),
        ("amqp://localhost:0/orders", "has a port that is not from 1 to 65535"),
        ("amqp://localhost:http/orders", "has a port that is not from 1 to 65535"),
        ("amqp://localhost/orders@home", "a name with @, %40"),
        ("amqp://localhost/orders#1", "written %23"),
        ("amqp://localhost/orders?1", "an option that is not known"),
        ("amqp://localhost/orders?verify=verify_none", "for amqps:// only"),
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url: str, what: str) -> None:
    sentence = refusal(url)

    assert what in sentence
    assert "secret" not in sentence


@pytest.mark.parametrize(
    ("url", "watches"),
    [
        ("amqp://h/orders", "orders of RabbitMQ at h:5672"),
        ("amqps://h/orders", "orders of RabbitMQ at h:5671"),
        ("amqp://h//orders", "orders of RabbitMQ at h:5672"),
        ("amqp://h/%2F/orders", "orders of RabbitMQ at h:5672"),
        ("amqp://h/shop/orders", "orders of RabbitMQ at h:5672, virtual host shop"),
        ("amqp://u:p%40@[::1]:7/a%2Fb/c%2Fd", "c/d of RabbitMQ at [::1]:7, virtual host a/b"),
    ],
)
def test_a_url_tells_virtual_host_and_name_apart(url: str, watches: str) -> None:
    assert watcher(url).watches == watches


def test_without_pika_the_extra_is_named() -> None:
    code = "import sys; sys.modules['pika'] = None; from spakky.tracing.__main__ import main; main()"
    finished = subprocess.run(
        [sys.executable, "-c", code, "tail", "amqp://localhost/orders"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (finished.returncode, finished.stderr) == (
        2,
        "Error: pika is not installed: pip install 'spakky-tracing[cli,pika]'\n",
    )


async def test_a_watcher_that_does_not_read_loses_the_oldest_and_fills_no_broker(
    amqp_url: str, connection: pika.BlockingConnection, channel: BlockingChannel
) -> None:
    sent, prefetched, kept = 53_000, 2_000, 50_000
    seen: list[str] = []
    with place(amqp_url, channel, "fanout") as there:
        channel.queue_unbind(there.queue, there.name)
        unconfirmed = connection.channel()
        async with aclosing(watcher(there.url).messages()) as lists:
            await anext(lists)
            for number in range(sent):
                unconfirmed.basic_publish(there.name, str(number), b"")
            unconfirmed.close()  # all are there
            async for messages in lists:
                seen += [message.producer for message in messages]
                if seen[-1] == str(sent - 1):
                    break

    assert prefetched <= len(seen) <= prefetched + kept
    assert seen[-kept:] == [str(number) for number in range(sent - kept, sent)]


def test_tasks_of_celery_are_watched_while_a_worker_gets_each(
    amqp_url: str, channel: BlockingChannel
) -> None:
    name = f"shop-{uuid4().hex}"
    queue = Queue(name, Exchange(name, "topic", durable=False), "orders.#", auto_delete=True, durable=False)
    with (
        open_shop(amqp_url, queue) as shop,
        tail("--json", "--count=4", f"{amqp_url.rstrip('/')}/{name}") as running,
    ):
        sent = [shop.pay.apply_async([number]) for number in (1, 2, -3)]
        shop.wait_for(1, 2, -3)
        found = running.messages()
    channel.exchange_delete(name)

    assert {each["verdict"] for each in found} == {"valid"}
    assert [each["message_id"] for each in found] == [*(each.id for each in sent), sent[-1].id]  # a retry
    assert {each["producer"][:3] for each in found} == {"gen"}


def test_an_id_that_would_fill_the_memory_is_none() -> None:
    headers = {"task": "shop.pay", "id": "x" * 256, "parent_id": "y" * 256}

    watched = watched_from(AmqpMessage(headers, "orders", "order.new"))

    assert (watched.message_id, watched.parent_id) == (None, None)


def test_the_tracer_tells_the_original_message() -> None:
    (traceparent,) = traceparents(1)
    copied = {
        "exchange_name": "",
        "routing_keys": ["celery"],
        "properties": {
            "content_type": "application/json",
            "headers": {"task": "pay", "id": "t-1", "origin": "gen1@shop", "traceparent": traceparent},
            "delivery_mode": 2,
            "timestamp": datetime(2024, 1, 1, tzinfo=UTC),
        },
        "node": "rabbit@127.0.0.1",
        "redelivered": 1,
    }

    seen = watched_from(traced_from(copied))

    assert seen.carrier.get(seen.headers, "traceparent") == [traceparent]
    assert (seen.place, seen.producer, seen.message_id) == ("celery", "gen1@shop", "t-1")
    assert seen.delivery.is_redelivered is True


@pytest.mark.parametrize(
    "headers", [{}, {"properties": 1, "routing_keys": "x"}, {"properties": {"headers": []}}]
)
def test_a_strange_trace_has_no_context(headers: dict[str, Any]) -> None:
    seen = watched_from(traced_from(headers))

    assert seen.carrier.get(seen.headers, "traceparent") is None


def test_the_tracer_can_be_watched(amqp_url: str) -> None:
    with tail(f"{amqp_url.rstrip('/')}/amq.rabbitmq.trace") as running:
        ended = running.end()

    assert ended.errors.startswith("Watching the tracer (keys publish.#), which is silent until")
