"""Watches a topic of Kafka with aiokafka, without a consumer group and without commits.

Facts:
- aiokafka asks for the metadata of the topics that it was given, and a broker may create a topic that is
  asked for (`auto.create.topics.enable`). Subscribed to a pattern, it asks for all, which creates none.
- Without a group, a subscribed consumer is assigned all partitions, new ones too, as soon as the metadata
  tell of them. It then forgets where it was in each of them.
- `seek_to_end` and `seek_to_beginning` may be overtaken by the reset that a new assignment has begun; `seek`
  is not.
- It tells in its log, not to its caller, that no broker can be reached while it fetches; then its `stop`
  raises a `CancelledError` of its own.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from spakky.tracing._extras import raise_missing_extra
from spakky.tracing.carriers.kafka import CARRIER, delivery_from
from spakky.tracing.cli.refusal import Refusal
from spakky.tracing.cli.tail.address import KafkaAddress, kafka_address
from spakky.tracing.cli.tail.watched import Watched

try:
    from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
    from aiokafka.errors import KafkaError, UnsupportedCodecError
except ModuleNotFoundError as error:
    raise_missing_extra("cli,aiokafka", {"aiokafka"}, error)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Collection
    from typing import TypeVar

    ResultT = TypeVar("ResultT")

__all__ = ["KafkaWatcher", "watcher"]

_PATIENCE_SECONDS: Final = 10
_CLOSING_SECONDS: Final = 5
_METADATA_MILLISECONDS: Final = 5_000
_WAIT_MILLISECONDS: Final = 500
_FETCH_MILLISECONDS: Final = 100  # for which Kafka answers nothing else on that connection
_QUIET_SECONDS: Final = 5
_MOST_RECORDS: Final = 2_000

_Record: TypeAlias = "ConsumerRecord[Any, Any]"


def watcher(url: str, *, from_beginning: bool) -> KafkaWatcher:
    """Return what watches the topic of *url*.

    Args:
        url: `kafka://` or `kafka+ssl://`, see `kafka_address`.
        from_beginning: Whether the messages that are there already are seen, too.

    Raises:
        Refusal: The URL is wrong.
    """
    return KafkaWatcher(kafka_address(url), from_beginning=from_beginning)


class KafkaWatcher:
    """Watches one topic, whose partitions may become more."""

    def __init__(self, address: KafkaAddress, *, from_beginning: bool) -> None:
        """Prepare, and connect to nothing yet; the arguments are those of `watcher`."""
        self._address = address
        self._from_beginning = from_beginning
        self._positions: dict[TopicPartition, int] = {}
        self._highest: dict[TopicPartition, int] = {}
        self._answered_at = time.monotonic()

    @property
    def watches(self) -> str:
        """What is watched, for people."""
        return f"topic {self._address.topic} of Kafka at {self._servers}"

    @property
    def behind(self) -> int:
        """How many messages are in the topic and have not been seen yet."""
        return sum(max(self._highest.get(each, 0) - at, 0) for each, at in self._positions.items())

    async def messages(self) -> AsyncGenerator[list[Watched]]:
        """Yield messages as `IWatcher` has it."""
        _keep_quiet()
        consumer = self._consumer()
        try:
            await self._start(consumer)
            yield []
            while True:
                yield list(map(_watched, await self._records(consumer)))
        except UnsupportedCodecError as error:
            sentence = (
                f"The {self.watches} is compressed in a way that aiokafka alone cannot read: "
                "pip install 'aiokafka[lz4,snappy,zstd]'."
            )
            raise Refusal(sentence) from error
        except (KafkaError, UnicodeDecodeError) as error:
            sentence = f"The {self.watches} cannot be read any longer: {error}."
            raise Refusal(sentence) from error
        finally:
            with suppress(TimeoutError, KafkaError, OSError, asyncio.CancelledError):
                await asyncio.wait_for(consumer.stop(), _CLOSING_SECONDS)

    def _consumer(self) -> AIOKafkaConsumer:
        is_encrypted, user = self._address.is_encrypted, self._address.user
        protocol = ("SASL_" if user else "") + ("SSL" if is_encrypted else "PLAINTEXT")
        return AIOKafkaConsumer(
            bootstrap_servers=",".join(self._address.servers),
            enable_auto_commit=False,
            auto_offset_reset="latest",
            fetch_max_wait_ms=_FETCH_MILLISECONDS,
            metadata_max_age_ms=_METADATA_MILLISECONDS,
            request_timeout_ms=_PATIENCE_SECONDS * 1_000,
            security_protocol=protocol,
            ssl_context=ssl.create_default_context() if is_encrypted else None,
            sasl_plain_username=user,
            sasl_plain_password=self._address.password,
        )

    async def _start(self, consumer: AIOKafkaConsumer) -> None:
        """Be at the end of each partition, or at its beginning.

        Raises:
            Refusal: No broker answers, or there is no such topic.
        """
        consumer.subscribe(pattern=f"{re.escape(self._address.topic)}$")
        await self._answer(consumer.start())
        if self._address.topic not in await self._answer(consumer.topics()):
            sentence = f"Kafka at {self._servers} has no topic {self._address.topic}, or does not show it."
            raise Refusal(sentence)
        await self._answer(self._seek(consumer, consumer.assignment(), to_beginning=self._from_beginning))

    async def _answer(self, request: Awaitable[ResultT]) -> ResultT:
        try:
            return await asyncio.wait_for(request, _PATIENCE_SECONDS)
        except (TimeoutError, KafkaError, OSError) as error:
            raise Refusal(self._unanswered(error)) from error

    def _unanswered(self, error: Exception) -> str:
        is_open = self._address.user is None and not self._address.is_encrypted
        doubt = "" if is_open else ", and are user, password and certificate right"
        why = type(error).__name__
        return f"Kafka at {self._servers} does not answer ({why}): is it there, and reachable{doubt}?"

    async def _seek(
        self, consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition], *, to_beginning: bool
    ) -> None:
        at = list(partitions)
        offsets = await (consumer.beginning_offsets(at) if to_beginning else consumer.end_offsets(at))
        for partition, offset in offsets.items():
            consumer.seek(partition, offset)
            self._positions[partition] = offset

    async def _records(self, consumer: AIOKafkaConsumer) -> list[_Record]:
        """Return the next records, none if none comes for a while.

        Raises:
            Refusal: Kafka does not answer any longer, or the topic is gone.
        """
        found = await consumer.getmany(timeout_ms=_WAIT_MILLISECONDS, max_records=_MOST_RECORDS)
        if consumer.assignment() != self._positions.keys():
            await self._take_over(consumer)
            return []
        if found:
            self._answered_at = time.monotonic()
        elif time.monotonic() - self._answered_at > _QUIET_SECONDS:
            await self._make_sure(consumer)
        for partition, records in found.items():
            self._positions[partition] = records[-1].offset + 1
            self._highest[partition] = consumer.highwater(partition) or 0
        return [record for records in found.values() for record in records]

    async def _take_over(self, consumer: AIOKafkaConsumer) -> None:
        """Go on where it was in the partitions that are known, and at the beginning of new ones."""
        assigned = consumer.assignment()
        if not assigned:
            await self._make_sure(consumer)
            return
        for gone in self._positions.keys() - assigned:
            del self._positions[gone]
        for partition, position in self._positions.items():
            consumer.seek(partition, position)
        new = assigned - self._positions.keys()
        await self._answer(self._seek(consumer, new, to_beginning=True))

    async def _make_sure(self, consumer: AIOKafkaConsumer) -> None:
        """Ask whether the topic is still there.

        Raises:
            Refusal: It is not, or nobody has answered for a while.
        """
        try:
            topics = await asyncio.wait_for(consumer.topics(), _PATIENCE_SECONDS)
        except (TimeoutError, KafkaError, OSError) as error:
            if time.monotonic() - self._answered_at > _PATIENCE_SECONDS:
                raise Refusal(self._unanswered(error)) from error
            return
        self._answered_at = time.monotonic()
        if self._address.topic not in topics:
            sentence = f"The {self.watches} is gone."
            raise Refusal(sentence)

    @property
    def _servers(self) -> str:
        return ", ".join(self._address.servers)


def _keep_quiet() -> None:
    """Let aiokafka say nothing: what matters is said in a sentence of our own."""
    logger = logging.getLogger("aiokafka")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False


def _watched(record: _Record) -> Watched:
    return Watched(
        headers=record.headers,
        carrier=CARRIER,
        place=f"{record.topic} {record.partition}:{record.offset}",
        producer=record.topic,
        delivery=delivery_from(record.headers, record.timestamp),
    )
