"""One trace over Kafka, with confluent-kafka.

docker compose up --wait
python examples/confluent_kafka_example.py
"""

import os
from uuid import uuid4

from confluent_kafka import Consumer, Producer

from spakky.tracing import TraceContext
from spakky.tracing.integrations import confluent_kafka

KAFKA = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")
TOPIC = f"orders-{uuid4().hex}"
GROUP = f"shop-{uuid4().hex}"


def main() -> None:
    """Send a message within a trace, and receive it in the same trace."""
    with TraceContext.use(TraceContext.new_root()):
        send(b"order 1")
    receive()


def send(value: bytes) -> None:
    """Send one message; the wrapped producer puts the current trace into its headers."""
    producer = confluent_kafka.wrap(Producer({"bootstrap.servers": KAFKA}))
    producer.produce(TOPIC, value)
    producer.flush(timeout=30)
    print(f"sent     in trace {trace_id()}")


def receive() -> None:
    """Take one message; its trace is current in the body of the loop."""
    consumer = Consumer({"bootstrap.servers": KAFKA, "group.id": GROUP, "auto.offset.reset": "earliest"})
    consumer.subscribe([TOPIC])
    for message in confluent_kafka.iterate(consumer):
        if message.error():
            raise RuntimeError(message.error())
        print(f"received in trace {trace_id()}: {message.value()!r}")
        break
    consumer.close()


def trace_id() -> str:
    """Return the id of the current trace."""
    context = TraceContext.get()
    return context.trace_id if context else "-"


if __name__ == "__main__":
    main()
