"""One trace over RabbitMQ, with pika.

docker compose up --wait
python examples/pika_example.py
"""

import os
from uuid import uuid4

from pika import BasicProperties, BlockingConnection, URLParameters
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic

from spakky.tracing import TraceContext
from spakky.tracing.integrations import pika

AMQP_URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost/")
QUEUE = f"orders-{uuid4().hex}"


def main() -> None:
    """Publish a message within a trace, and receive it in the same trace."""
    with BlockingConnection(URLParameters(AMQP_URL)) as connection:
        channel = pika.wrap(connection.channel())
        channel.queue_declare(QUEUE, exclusive=True)
        channel.basic_consume(QUEUE, handle)
        with TraceContext.use(TraceContext.new_root()):
            publish(channel, b"order 1")
        connection.call_later(10, channel.stop_consuming)
        channel.start_consuming()


def publish(channel: BlockingChannel, body: bytes) -> None:
    """Publish one message; the wrapped channel puts the current trace into its headers."""
    channel.basic_publish("", QUEUE, body)
    print(f"sent     in trace {trace_id()}")


def handle(channel: BlockingChannel, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
    """Take one message; its trace is current in a callback of the wrapped channel."""
    del properties
    print(f"received in trace {trace_id()}: {body!r}")
    channel.basic_ack(method.delivery_tag)
    channel.stop_consuming()


def trace_id() -> str:
    """Return the id of the current trace."""
    context = TraceContext.get()
    return context.trace_id if context else "-"


if __name__ == "__main__":
    main()
