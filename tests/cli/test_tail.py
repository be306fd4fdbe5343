"""`spakky-tracing tail` on a topic of Kafka, with ordinary clients at both ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from cli.running import in_terminal, piped
from cli.tailing import Headers, Station, TailContract, tail, traceparents

PATIENCE = 30


class Topic(Station):
    """A topic with one partition."""

    def __init__(self, address: str, name: str) -> None:
        self.address = address
        self.name = name
        self.admin = AdminClient({"bootstrap.servers": address})
        self.producer = Producer({"bootstrap.servers": address, "linger.ms": 0})
        (created,) = self.admin.create_topics([NewTopic(name, 1)]).values()
        created.result(PATIENCE)

    @property
    def url(self) -> str:
        return f"kafka://{self.address}/{self.name}"

    def send(self, *messages: Headers) -> None:
        for headers in messages:
            self.produce(list(headers.items()))
        self.flush()

    def send_twice(self, name: str, *values: str) -> None:
        self.produce([(name, value) for value in values])
        self.flush()

    def produce(self, headers: list[tuple[str, Any]], value: bytes | None = b"value", **more: Any) -> None:
        self.producer.produce(self.name, value, headers=headers, **more)

    def flush(self) -> None:
        assert self.producer.flush(PATIENCE) == 0

    def receive(self, count: int) -> list[dict[str, str]]:
        settings = {
            "bootstrap.servers": self.address,
            "group.id": f"g-{uuid4()}",
            "auto.offset.reset": "earliest",
        }
        consumer = Consumer(settings)
        consumer.subscribe([self.name])
        try:
            messages = consumer.consume(count, PATIENCE)
        finally:
            consumer.close()
        assert len(messages) == count
        return [{name: value.decode() for name, value in each.headers() or []} for each in messages]

    def leftovers(self) -> object:
        groups = self.admin.list_consumer_groups().result(PATIENCE).valid
        return {group.group_id for group in groups}, self.topics()

    def topics(self) -> set[str]:
        return set(self.admin.list_topics(timeout=PATIENCE).topics)

    def delete(self) -> None:
        (deleted,) = self.admin.delete_topics([self.name]).values()
        deleted.result(PATIENCE)


@contextmanager
def a_topic(address: str) -> Iterator[Topic]:
    topic = Topic(address, f"tail-{uuid4()}")
    try:
        yield topic
    finally:
        topic.delete()


class TestKafka(TailContract):
    @pytest.fixture
    def station(self, apache_kafka_address: str) -> Iterator[Station]:
        with a_topic(apache_kafka_address) as topic:
            yield topic
