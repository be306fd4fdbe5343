"""aio-pika on a real RabbitMQ."""

from __future__ import annotations

import asyncio
import copy
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import aio_pika as client
import pytest
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage
from aiormq import spec
from aiormq.abc import DeliveredMessage

from contract.amqp import AmqpContract
from contract.choosing import ChoosingContract
from contract.contexts import STALE, TRACEPARENT, full_context
from contract.delivery import Delivery, VerbsReceivingContract
from contract.fitting import FittingContract
from contract.handling import HandlerContract
from contract.pulling import PullingContract
from contract.retrying import RetryingContract
from contract.sending import SendingContract, Wire
from integrations.aio_pika_link import Link, next_message, open_link
from integrations.bare_amqp import READERS
from integrations.foreign_proxy import ForeignProxy
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import aio_pika
from spakky.tracing.recorder import MemoryRecorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aio_pika.abc import HeadersType


@pytest.fixture
async def link(amqp_url: str) -> AsyncIterator[Link]:
    async with open_link(amqp_url) as link:
        yield link


class Sending:
    """Sends through what is wrapped and looks at what arrives."""

    @pytest.fixture(autouse=True)
    async def _on(self, link: Link, amqp_url: str) -> AsyncIterator[None]:
        self.link = link
        async with await client.connect_robust(amqp_url) as robust:
            self.channels = {
                "robust channel": await robust.channel(),
                "unconfirmed": await link.connection.channel(publisher_confirms=False),
            }
            yield

    async def send(self, way: str, headers: Any, **options: Any) -> None:
        name = self.link.queue.name
        message = client.Message(b"value", headers=headers)
        if way == "headers":
            await self.link.publish(aio_pika.headers(headers, **options))
        elif way == "default exchange":
            await aio_pika.wrap(self.link.exchange, **options).publish(message, name)
        elif way == "named exchange":
            exchange = await self.link.channel.declare_exchange(f"x-{name}", auto_delete=True)
            await self.link.queue.bind(exchange, "key")
            await aio_pika.wrap(exchange, **options).publish(message, "key", mandatory=False)
        elif way == "declared exchange":
            channel = aio_pika.wrap(self.link.channel, **options)
            exchange = await channel.declare_exchange(f"x-{name}", "fanout", auto_delete=True)
            await self.link.queue.bind(exchange)
            await exchange.publish(message, "")
        elif way == "existing exchange":
            exchange = await aio_pika.wrap(self.link.channel, **options).get_exchange("amq.topic")
            await self.link.queue.bind("amq.topic", name)
            await exchange.publish(message, name)
        elif way == "keyword":
            await aio_pika.wrap(self.link.exchange, **options).publish(message=message, routing_key=name)
        else:
            channel = aio_pika.wrap(self.channels.get(way, self.link.channel), **options)
            await channel.default_exchange.publish(message, name)

    async def send_filled(self, way: str, filling: int, **options: Any) -> None:
        await self.send(way, {"x": "x" * filling}, **options)

    async def arrived(self) -> Wire:
        return {name: [value] for name, value in (await self.link.message()).headers.items()}

    def native(self, headers: dict[str, str]) -> dict[str, str]:
        return dict(headers)

    async def fail_to_send(self, way: str, **options: Any) -> BaseException:
        with pytest.raises(TypeError) as raised:
            await self.send(way, {"name": object()}, **options)
        return raised.value


class TestSending(Sending, SendingContract):
    recorded_ways = [
        "default exchange",
        "named exchange",
        "declared exchange",
        "existing exchange",
        "keyword",
        "channel",
        "robust channel",
        "unconfirmed",
    ]
    ways = [*recorded_ways, "headers"]
    foreign = {
        "a": bytearray(b"\x00\xff"),
        "b": 7,
        "c": [1, "two"],
        "d": {"nested": "table"},
        "e": None,
        "f": True,
        "g": "text",
    }


class TestFitting(Sending, FittingContract):
    fitting_ways = TestSending.ways
    largest = 130_980

    async def test_without_room_a_stale_context_is_not_sent_instead(self, fitting_way: str) -> None:
        stale = {"x": "x" * (self.largest - 200), "traceparent": STALE, "baggage": "old=1"}

        with TraceContext.use(full_context()):
            await self.send(fitting_way, stale)

        assert list(await self.arrived()) == ["x"]


class OverRabbitMQ(Delivery):
    integration = aio_pika

    @pytest.fixture(autouse=True)
    def _on(self, link: Link) -> None:
        self.link = link

    @property
    def source(self) -> str:
        return str(self.link.queue.name)

    async def deliver(self, headers: dict[str, Any]) -> AbstractIncomingMessage:
        return await self.link.deliver(headers)

    async def deliver_native(self, headers: Any) -> AbstractIncomingMessage:
        return await self.link.deliver(headers)


class TestReceiving(OverRabbitMQ, VerbsReceivingContract):
    hostile_values = [
        "",
        bytearray(b"\xff\xfe"),
        "00-bad",
        "x" * 40_000,
        None,
        5,
        True,
        1.5,
        [TRACEPARENT],
        {"traceparent": TRACEPARENT},
        Decimal("1.5"),
        datetime(2026, 1, 2, tzinfo=UTC),
        f"{TRACEPARENT}\n",
    ]


class TestHandlers(OverRabbitMQ, HandlerContract): ...


class TestPulling(OverRabbitMQ, PullingContract): ...


class TestChoosing(OverRabbitMQ, ChoosingContract): ...


class TestRetrying(OverRabbitMQ, RetryingContract): ...


class TestBroker(AmqpContract):
    integration = aio_pika

    @pytest.fixture(autouse=True)
    def _on(self, link: Link) -> None:
        self.link = link

    async def declare_queue(self, name: str, arguments: dict[str, Any], *, durable: bool = False) -> None:
        await self.link.channel.declare_queue(name, durable=durable, arguments=arguments)

    async def publish_to(self, queue: str, headers: dict[str, Any]) -> None:
        await self.link.exchange.publish(client.Message(b"value", headers=headers), queue)

    async def get_from(self, queue: str, *, no_ack: bool = False) -> AbstractIncomingMessage:
        return await next_message(await self.link.channel.get_queue(queue, ensure=False), no_ack=no_ack)

    async def reject(self, message: AbstractIncomingMessage, *, requeue: bool) -> None:
        await message.reject(requeue=requeue)


SPELLINGS: dict[str, Callable[[AbstractExchange, client.Message, str], Awaitable[object]]] = {
    "both by position": lambda exchange, message, key: exchange.publish(message, key),
    "the key by name": lambda exchange, message, key: exchange.publish(message, routing_key=key),
    "both by name": lambda exchange, message, key: exchange.publish(routing_key=key, message=message),
    "mandatory": lambda exchange, message, key: exchange.publish(message, key, mandatory=True),
    "not mandatory": lambda exchange, message, key: exchange.publish(message, key, mandatory=False),
    "not immediate": lambda exchange, message, key: exchange.publish(message, key, immediate=False),
    "a timeout": lambda exchange, message, key: exchange.publish(message, key, timeout=5),
    "everything": lambda exchange, message, key: exchange.publish(
        message=message, routing_key=key, mandatory=True, immediate=False, timeout=5.0
    ),
}
WRONG_CALLS: dict[str, Callable[[Any], Awaitable[object]]] = {
    "mandatory by position": lambda exchange: exchange.publish(
        client.Message(b""),
        "nowhere",
        True,  # noqa: FBT003 - what is refused
    ),
    "no routing key": lambda exchange: exchange.publish(client.Message(b"")),
    "nothing": lambda exchange: exchange.publish(),
    "an unknown keyword": lambda exchange: exchange.publish(client.Message(b""), "nowhere", priority=1),
    "no message": lambda exchange: exchange.publish(b"value", "nowhere"),
    "a key that is no text": lambda exchange: exchange.publish(client.Message(b""), 7),
    "no key": lambda exchange: exchange.publish(client.Message(b""), None),
    "a key that is too long": lambda exchange: exchange.publish(client.Message(b""), "x" * 256),
    "a header that has no type": lambda exchange: exchange.publish(
        client.Message(b"", headers={"name": {1, 2}}),  # type: ignore[dict-item]
        "nowhere",
    ),
    "a header whose name is no text": lambda exchange: exchange.publish(
        client.Message(b"", headers={7: "x", "app": "1"}),  # type: ignore[dict-item]
        "nowhere",
    ),
}


class TestPublisher:
    @pytest.mark.parametrize("spelling", SPELLINGS)
    async def test_a_call_may_be_spelled_as_the_client_takes_it(self, link: Link, spelling: str) -> None:
        """A-09: and it returns what the client returns."""
        publish = SPELLINGS[spelling]
        bare = await publish(link.exchange, client.Message(b"value"), link.queue.name)
        await link.message()

        with TraceContext.use(TraceContext.new_root()) as context:
            wrapped = await publish(aio_pika.wrap(link.exchange), client.Message(b"value"), link.queue.name)

        assert context is not None
        assert type(wrapped) is type(bare)
        assert (await link.message()).headers == {"traceparent": context.to_traceparent()}

    @pytest.mark.parametrize("call", WRONG_CALLS)
    async def test_a_wrong_call_raises_what_the_client_raises(self, link: Link, call: str) -> None:
        """A-09: no more and no less is taken than by the client."""
        with pytest.raises(Exception) as bare:  # noqa: PT011 - whatever it is
            await WRONG_CALLS[call](link.exchange)
        with pytest.raises(Exception) as wrapped:  # noqa: PT011 - the same
            await WRONG_CALLS[call](aio_pika.wrap(link.exchange))

        assert wrapped.type is bare.type
        await link.publish()
        assert (await link.message()).body == b"value"

    async def test_a_wrapped_exchange_is_an_exchange(self, link: Link) -> None:
        exchange = aio_pika.wrap(link.exchange)

        assert isinstance(exchange, AbstractExchange)
        assert exchange.name == link.exchange.name
        assert aio_pika.unwrap(exchange) is link.exchange
        assert aio_pika.unwrap(link.exchange) is link.exchange

    async def test_a_layer_of_somebody_else_stays(self, link: Link) -> None:
        foreign: Any = ForeignProxy(link.exchange, "publish")

        await aio_pika.wrap(foreign).publish(client.Message(b"value"), link.queue.name)

        assert foreign.calls == 1
        assert aio_pika.unwrap(foreign) is foreign
        assert aio_pika.unwrap(aio_pika.wrap(foreign)) is foreign

    async def test_wrapping_twice_is_wrapping_once(self, link: Link) -> None:
        """A-13, T-02: one traceparent, one span."""
        recorder = MemoryRecorder()
        channel = aio_pika.wrap(aio_pika.wrap(link.channel, tracer=recorder), tracer=recorder)
        exchange = aio_pika.wrap(channel.default_exchange, tracer=recorder)

        await exchange.publish(client.Message(b"value"), link.queue.name)

        assert list((await link.message()).headers) == ["traceparent"]
        assert len(recorder.spans) == 1

    async def test_what_is_unwrapped_sends_nothing(self, link: Link) -> None:
        """A-13: wrapping can be undone, at any depth."""
        channel = aio_pika.unwrap(aio_pika.wrap(aio_pika.wrap(link.channel)))

        assert channel is link.channel
        await channel.default_exchange.publish(client.Message(b"value"), link.queue.name)
        assert (await link.message()).headers == {}

    async def test_the_client_library_stays_as_it_was(self, link: Link) -> None:
        """A-13, A-14: nothing is patched, whatever is wrapped and unwrapped."""
        publish, consume = client.Exchange.publish, client.Queue.consume

        aio_pika.wrap(link.channel)

        assert client.Exchange.publish is type(link.exchange).publish is publish
        assert client.Queue.consume is type(link.queue).consume is consume

    async def test_a_shared_message_published_concurrently_carries_each_context(self, link: Link) -> None:
        """A-10: the message and its headers are the caller's."""
        message = client.Message(b"value", headers={"app": "1"})

        sent = await self.published_concurrently(link, lambda: message)

        arrived = [(await link.message()).headers["traceparent"] for _ in sent]
        assert sorted(map(str, arrived)) == sorted(sent)
        assert message.headers == {"app": "1"}

    async def test_shared_headers_of_several_messages_carry_each_context(self, link: Link) -> None:
        """A-10: a message keeps the very dict that it was made with."""
        headers: HeadersType = {"app": "1"}

        sent = await self.published_concurrently(link, lambda: client.Message(b"value", headers=headers))

        arrived = [(await link.message()).headers for _ in sent]
        assert sorted(str(each["traceparent"]) for each in arrived) == sorted(sent)
        assert headers == {"app": "1"}

    async def published_concurrently(self, link: Link, message: Callable[[], client.Message]) -> list[str]:
        exchange = aio_pika.wrap(link.exchange)

        async def publish() -> str:
            with TraceContext.use(TraceContext.new_root()) as context:
                await exchange.publish(message(), link.queue.name)
            assert context is not None
            return context.to_traceparent()

        return list(await asyncio.gather(*(publish() for _ in range(20))))

    async def test_all_properties_of_a_message_arrive(self, link: Link) -> None:
        message = client.Message(
            b"value",
            content_type="text/plain",
            content_encoding="utf-8",
            correlation_id="c",
            delivery_mode=client.DeliveryMode.PERSISTENT,
            expiration=60,
            message_id="m",
            priority=3,
            reply_to="r",
            type="t",
            user_id="guest",
            app_id="a",
            timestamp=1_700_000_000,
        )
        await link.exchange.publish(copy.copy(message), link.queue.name)
        await aio_pika.wrap(link.exchange).publish(message, link.queue.name)

        bare, wrapped = [(await link.message()).info() for _ in range(2)]
        for per_delivery in ("headers", "delivery_tag", "consumer_tag", "message_count"):
            bare.pop(per_delivery, None)  # type: ignore[misc]
            wrapped.pop(per_delivery, None)  # type: ignore[misc]
        assert wrapped == bare

    async def test_a_message_of_the_user_s_own_class_is_sent_as_it_is(self, link: Link) -> None:
        class Stamped(client.Message):
            @property
            def properties(self) -> Any:
                properties = super().properties
                properties.app_id = "stamped"
                return properties

        await aio_pika.wrap(link.exchange).publish(Stamped(b"value"), link.queue.name)

        arrived = await link.message()
        assert (arrived.app_id, list(arrived.headers)) == ("stamped", ["traceparent"])

    async def test_an_exchange_of_the_user_s_own_class_may_copy_a_message(self, link: Link) -> None:
        class Copying(client.Exchange):
            async def publish(self, message: Any, *args: Any, **kwargs: Any) -> Any:
                copied = copy.copy(message)
                copied.app_id = "copied"
                return await super().publish(copied, *args, **kwargs)

        link.channel.EXCHANGE_CLASS = Copying
        exchange = await link.channel.get_exchange("amq.direct", ensure=False)
        await link.queue.bind(exchange, link.queue.name)
        message = client.Message(b"value", headers={"app": "1"})

        await aio_pika.wrap(exchange).publish(message, link.queue.name)

        arrived = await link.message()
        assert (arrived.app_id, list(arrived.headers)) == ("copied", ["app", "traceparent"])
        assert (message.app_id, message.headers) == (None, {"app": "1"})

    async def test_headers_that_are_none_are_none_of_a_problem(self, link: Link) -> None:
        """A-12: a message may have `headers = None`."""
        message = client.Message(b"value")
        message.headers = None  # type: ignore[assignment]

        await aio_pika.wrap(link.exchange).publish(message, link.queue.name)

        assert list((await link.message()).headers) == ["traceparent"]
        assert message.headers is None

    async def test_a_received_message_can_be_forwarded(self, link: Link) -> None:
        """A-10, A-11: it is locked, and stays as it was; the copy carries the current context."""
        await link.publish({"traceparent": STALE, "tracestate": "old=1", "baggage": "old=1", "app": "1"})
        old = await link.message()
        before = dict(old.headers)

        with TraceContext.use(TraceContext.new_root()) as context:
            await aio_pika.wrap(link.exchange).publish(old, link.queue.name)
        new = await link.message()

        assert context is not None
        assert new.headers == {"traceparent": context.to_traceparent(), "app": "1"}
        assert old.locked
        assert old.headers == before

    async def test_a_received_message_forwarded_while_it_is_processed_stays_in_its_trace(
        self, link: Link
    ) -> None:
        old = await link.deliver({"traceparent": STALE, "tracestate": "old=1", "app": "1"})

        with aio_pika.process(old) as processing:
            await aio_pika.wrap(link.exchange).publish(old, link.queue.name)

        assert processing.context is not None
        current = processing.context.to_traceparent()
        assert (await link.message()).headers == {"traceparent": current, "tracestate": "old=1", "app": "1"}

    @pytest.mark.parametrize("read", READERS)
    async def test_other_clients_read_what_is_written(
        self, link: Link, amqp_url: str, read: Callable[[str, str], dict[str, Any]]
    ) -> None:
        """A-19, A-21: flat ASCII text, for pika and kombu as it is for aio-pika."""
        with TraceContext.use(full_context()) as context:
            await aio_pika.wrap(link.exchange).publish(client.Message(b"value"), link.queue.name)

        headers = await asyncio.to_thread(read, amqp_url, link.queue.name)
        assert context is not None
        assert headers == {
            "traceparent": context.to_traceparent(),
            "tracestate": "congo=t61",
            "baggage": "tenant=acme",
        }
        assert {type(value) for value in headers.values()} == {str}

    async def test_what_is_no_exchange_is_refused(self) -> None:
        with pytest.raises(
            WrongUseError, match=r"wrap\(\) takes an exchange, a queue or a channel of aio-pika, got object"
        ):
            aio_pika.wrap(object())  # type: ignore[type-var]

    async def test_what_cannot_be_headers_is_refused(self) -> None:
        with pytest.raises(
            WrongUseError, match="headers must be a mapping of names to values or None, got list"
        ):
            aio_pika.headers([("app", "1")])


class TestUnroutable:
    """A message for which the broker has no queue comes back to its publisher."""

    async def test_it_is_returned_as_by_the_client_and_recorded_as_rejected(self, link: Link) -> None:
        recorder = MemoryRecorder()

        result = await aio_pika.wrap(link.exchange, tracer=recorder).publish(client.Message(b"v"), "nowhere")

        assert isinstance(result, DeliveredMessage)
        assert isinstance(result.delivery, spec.Basic.Return)
        assert [span.outcome for span in recorder.spans] == ["rejected"]

    async def test_where_it_raises_the_exception_is_the_client_s(self, link: Link) -> None:
        recorder = MemoryRecorder()
        channel = await link.connection.channel(on_return_raises=True)

        with pytest.raises(client.exceptions.PublishError) as raised:
            await aio_pika.wrap(channel, tracer=recorder).default_exchange.publish(
                client.Message(b"value"), "nowhere"
            )

        assert isinstance(raised.value.message, DeliveredMessage)
        assert [(span.outcome, span.error) for span in recorder.spans] == [
            ("error", "aiormq.exceptions.PublishError")
        ]

    async def test_a_callback_for_returned_messages_can_be_a_consumer(self, link: Link) -> None:
        recorder, returned = MemoryRecorder(), asyncio.Event()

        @aio_pika.consumer(tracer=recorder)
        def handle(channel: object, message: AbstractIncomingMessage) -> None:
            returned.set()

        link.channel.return_callbacks.add(handle)
        with TraceContext.use(TraceContext.new_root()) as context:
            await aio_pika.wrap(link.exchange).publish(client.Message(b"value"), "nowhere")
        await asyncio.wait_for(returned.wait(), 10)

        (span,) = recorder.spans
        assert context is not None
        assert (span.trace_id, span.parent_span_id) == (context.trace_id, context.span_id)

    @pytest.mark.parametrize("confirms", [True, False])
    async def test_it_is_dropped_where_it_is_not_mandatory(self, link: Link, *, confirms: bool) -> None:
        channel = await link.connection.channel(publisher_confirms=confirms)

        results = [
            await exchange.publish(client.Message(b"value"), "nowhere", mandatory=False)
            for exchange in (channel.default_exchange, aio_pika.wrap(channel).default_exchange)
        ]

        assert [type(result) for result in results] == [spec.Basic.Ack if confirms else type(None)] * 2


class TestRefusing:
    """What cannot be published is refused by the client itself, as without the wrapping."""

    async def test_a_closed_channel(self, link: Link) -> None:
        exchange = link.exchange
        await link.channel.close()

        await self.refuses(exchange, client.exceptions.ChannelInvalidStateError)

    async def test_a_closed_connection(self, link: Link) -> None:
        exchange = link.exchange
        await link.connection.close()

        await self.refuses(exchange, client.exceptions.ChannelInvalidStateError)

    async def test_a_deleted_exchange(self, link: Link) -> None:
        exchange = await link.channel.declare_exchange(f"x-{uuid4().hex}", auto_delete=True)
        await exchange.delete()

        await self.refuses(exchange, AttributeError)

    async def test_an_internal_exchange(self, link: Link) -> None:
        exchange = await link.channel.declare_exchange(f"x-{uuid4().hex}", auto_delete=True, internal=True)

        await self.refuses(exchange, ValueError)
        await exchange.delete()

    async def test_an_exchange_that_is_not_there(self, link: Link) -> None:
        for wrap in (aio_pika.unwrap, aio_pika.wrap):
            channel = await link.connection.channel()
            exchange = wrap(await channel.get_exchange(f"x-{uuid4().hex}", ensure=False))
            with pytest.raises(client.exceptions.ChannelNotFoundEntity):
                await exchange.publish(client.Message(b"value"), "key")

    async def refuses(self, exchange: AbstractExchange, error: type[Exception]) -> None:
        recorder = MemoryRecorder()
        for publisher in (exchange, aio_pika.wrap(exchange, tracer=recorder)):
            with pytest.raises(error) as raised:
                await publisher.publish(client.Message(b"value"), "key")
            assert raised.type is error
        assert [span.outcome for span in recorder.spans] == ["error"]


class TestTransactions:
    async def test_what_is_committed_carries_its_context(self, link: Link) -> None:
        channel = aio_pika.wrap(await link.connection.channel(publisher_confirms=False))

        async with channel.transaction():
            with TraceContext.use(TraceContext.new_root()) as context:
                await channel.default_exchange.publish(client.Message(b"value"), link.queue.name)

        assert context is not None
        assert (await link.message()).headers == {"traceparent": context.to_traceparent()}

    async def test_what_is_rolled_back_does_not_arrive(self, link: Link) -> None:
        channel = aio_pika.wrap(await link.connection.channel(publisher_confirms=False))

        transaction = channel.transaction()
        await transaction.select()
        await channel.default_exchange.publish(client.Message(b"lost"), link.queue.name)
        await transaction.rollback()
        await link.publish(body=b"next")

        assert (await link.message()).body == b"next"
