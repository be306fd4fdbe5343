"""A dramatiq broker with a real worker in threads of this process, and the bare client beside it."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import uuid4

from dramatiq import Actor, Broker, Message, MessageProxy, Middleware, Worker
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import default_middleware

from contract.contexts import ambient
from spakky.tracing.integrations import dramatiq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

PATIENCE: Final = 15
TICK: Final = 20  # milliseconds that a consumer waits for a message before it looks around
OWN_OPTIONS: Final = frozenset(["eta", "redis_message_id", "pipe_target", "retries"])
AT_ONCE: Final[dict[str, Any]] = {"min_backoff": 1, "max_backoff": 1}


def new_broker(url: str, name: str, *middleware: Middleware) -> Broker:
    """Return a broker with dramatiq's own middlewares and these; *name* is a namespace in Redis."""
    given = [*(each() for each in default_middleware), *middleware]
    if url.startswith("amqp"):
        return RabbitmqBroker(url=url, middleware=given)
    return RedisBroker(url=url, namespace=name, middleware=given) if url else StubBroker(given)


def delete(broker: Broker, name: str) -> None:
    """Leave nothing of the queue *name*, or of the namespace, on the server."""
    if isinstance(broker, RabbitmqBroker):
        for queue in (name, f"{name}.DQ", f"{name}.XQ"):
            broker.channel.queue_delete(queue)
    elif isinstance(broker, RedisBroker):
        keys = list(broker.client.scan_iter(f"{name}*"))
        if keys:
            broker.client.delete(*keys)
    broker.close()


def actor(broker: Broker, queue: str, name: str = "", **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return what makes an actor of this broker alone."""

    def made(function: Callable[..., Any]) -> Any:
        from dramatiq import actor  # noqa: PLC0415 - of the same name

        return actor(
            function,  # type: ignore[call-overload] # dramatiq types a decorator with options without a function
            actor_name=name or function.__name__,
            queue_name=queue,
            broker=broker,
            **options,
        )

    return made


@contextlib.contextmanager
def traced(broker: Broker, **options: Any) -> Iterator[None]:
    middleware = dramatiq.TraceMiddleware(**options)
    broker.add_middleware(middleware)
    try:
        yield
    finally:
        broker.middleware.remove(middleware)


class Ends(Middleware):
    """Tells when a worker is done with a message."""

    def __init__(self) -> None:
        self._ended: dict[str, threading.Event] = {}

    def wait(self, message_id: str) -> None:
        assert self._event(message_id).wait(PATIENCE), "the worker is not done with the message"
        del self._ended[message_id]

    def after_ack(self, broker: Broker, message: MessageProxy) -> None:
        if "eta" not in message.options:
            self._event(message.message_id).set()

    def after_nack(self, broker: Broker, message: MessageProxy) -> None:
        self.after_ack(broker, message)

    def _event(self, message_id: str) -> threading.Event:
        return self._ended.setdefault(message_id, threading.Event())


class Works:
    """Runs what tests hand over in the one thread of a worker, in messages that no middleware has touched.

    Attributes:
        broker: The worker's broker, with no middleware of ours.
        queue: The name of its queue.
    """

    def __init__(self, url: str = "") -> None:
        self._name = self.queue = f"works-{uuid4().hex}"
        self._ends = Ends()
        self.broker = new_broker(url, self._name, self._ends)
        self._bare = new_broker(url, self._name) if url else None
        self._bodies: dict[str, Callable[[], object]] = {}

        @self.actor(max_retries=0)
        def call(key: str) -> None:
            self._bodies.pop(key)()

        @self.actor(name="quiet")
        def quiet(*_: object) -> None:
            """Do nothing."""

        self._call: Actor[Any, Any] = call

    def actor(self, name: str = "", **options: Any) -> Callable[[Callable[..., Any]], Any]:
        return actor(self.broker, self.queue, name, **options)

    @contextlib.contextmanager
    def open(self) -> Iterator[Self]:
        worker = Worker(self.broker, worker_timeout=TICK, worker_threads=1)
        worker.start()
        try:
            yield self
        finally:
            worker.stop()
            if self._bare is not None:
                self._bare.close()
            delete(self.broker, self._name)

    def deliver(self, message: Message[Any]) -> None:
        """Enqueue *message* by the bare client."""
        if self._bare is not None:
            self._bare.declare_queue(message.queue_name)
            self._bare.enqueue(message)
        else:
            self.broker.queues[message.queue_name].put(message.encode())

    def run(self, body: Callable[[], object], options: dict[str, Any] | None = None) -> Any:
        """Run *body* in the worker's thread and return or raise what it returned or raised."""
        returned: list[object] = []
        raised: list[BaseException] = []

        def observed() -> None:
            try:
                returned.append(body())
            except BaseException as error:
                raised.append(error)
                raise

        key = uuid4().hex
        self._bodies[key] = observed
        message = self._call.message_with_options(args=(key,), **(options or {}))
        self.deliver(message)
        self._ends.wait(message.message_id)
        if raised:
            raise raised.pop()
        return returned[0]

    def join(self) -> None:
        """Wait until the worker of a `StubBroker` is done with all there is, also with what that has sent."""
        assert isinstance(self.broker, StubBroker)
        self.broker.join(self.queue, timeout=PATIENCE * 1000, fail_fast=False)

    def ambient(self) -> AbstractContextManager[None]:
        """Make what is current in this thread so in the worker's; see `contract.contexts.ambient`."""
        return ambient(self.run)


class Mailbox:
    """A queue without a worker, and its broker; what arrives is read by the bare client.

    Attributes:
        broker: A broker with no middleware of ours.
        queue: The name of the queue.
    """

    def __init__(self, url: str) -> None:
        self.queue = self._name = f"orders-{uuid4().hex}"
        self.broker = new_broker(url, self._name)
        self._bare = new_broker(url, self._name)
        self.order = actor(self.broker, self.queue, "order")(lambda *_: None)

    @contextlib.contextmanager
    def open(self) -> Iterator[Self]:
        for broker in (self.broker, self._bare):
            broker.declare_queue(self.queue)
        self._consumers = {name: self._consumer(name) for name in (self.queue, f"{self.queue}.DQ")}
        yield self
        for consumer in self._consumers.values():
            consumer.close()
        self._bare.close()
        delete(self.broker, self._name)

    def message(self, *, delayed: bool = False) -> MessageProxy:
        consumer = self._consumers[f"{self.queue}.DQ" if delayed else self.queue]
        deadline = time.monotonic() + PATIENCE
        message: MessageProxy | None = None
        while message is None:
            assert time.monotonic() < deadline, "no message arrived"
            message = next(consumer)
        consumer.ack(message)
        return message

    def _consumer(self, name: str) -> Any:
        return self._bare.consume(name, prefetch=1, timeout=TICK)
