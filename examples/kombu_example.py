"""One trace over RabbitMQ, with kombu.

docker compose up --wait
python examples/kombu_example.py
"""

import os
from uuid import uuid4

from kombu.connection import Connection
from kombu.entity import Queue
from kombu.message import Message
from kombu.messaging import Consumer, Producer

from spakky.tracing import TraceContext
from spakky.tracing.integrations import kombu

AMQP_URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost/")
QUEUE = Queue(f"orders-{uuid4().hex}", durable=False, auto_delete=True)


def main() -> None:
    """Publish a message within a trace, and receive it in the same trace."""
    with Connection(AMQP_URL) as connection, Consumer(connection, [QUEUE], callbacks=[handle]):
        with TraceContext.use(TraceContext.new_root()):
            publish(connection, "order 1")
        connection.drain_events(timeout=10)


def publish(connection: Connection, body: str) -> None:
    """Publish one message; the wrapped producer puts the current trace into its headers."""
    producer = kombu.wrap(Producer(connection))
    producer.publish(body, routing_key=QUEUE.name)
    print(f"sent     in trace {trace_id()}")


@kombu.consumer
def handle(body: str, message: Message) -> None:
    """Take one message; its trace is current in the handler."""
    print(f"received in trace {trace_id()}: {body!r}")
    message.ack()


def trace_id() -> str:
    """Return the id of the current trace."""
    context = TraceContext.get()
    return context.trace_id if context else "-"


if __name__ == "__main__":
    main()
