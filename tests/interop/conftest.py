"""Topics, queues and processes for messages between two libraries."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING
from uuid import uuid4

import confluent_kafka
import pika
import pytest

from interop.peer import Peer
from interop.sides import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test for each way to consume that its class lists of the other process."""
    if "peer_way" in metafunc.fixturenames and metafunc.cls is not None:
        metafunc.parametrize("peer_way", metafunc.cls.peer_ways)


@pytest.fixture(scope="class")
def start_peer() -> Iterator[Callable[[str, str], Peer]]:
    """Start the process of a client for a broker, one for all tests of a class."""
    with ExitStack() as running:

        @cache
        def start(client: str, address: str) -> Peer:
            return running.enter_context(Peer(client, address))

        yield start


@pytest.fixture(scope="module")
def new_topic(kafka_address: str) -> Callable[[], str]:
    """Make a topic with a leader."""
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka_address, "log_level": 0})

    def make() -> str:
        name = f"interop-{uuid4().hex}"
        deadline = time.monotonic() + PATIENCE
        while producer.list_topics(name, PATIENCE).topics[name].error is not None:
            assert time.monotonic() < deadline, f"the topic {name} was not made"
            time.sleep(0.01)
        return name

    return make


@pytest.fixture(scope="module")
def new_queue(amqp_url: str) -> Iterator[Callable[[], str]]:
    """Make a queue that is gone when nobody has used it for a minute."""
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()

        def make() -> str:
            name = f"interop-{uuid4().hex}"
            channel.queue_declare(name, durable=True, arguments={"x-expires": 60_000})
            return name

        yield make
