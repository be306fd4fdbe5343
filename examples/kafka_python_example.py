"""One trace over Kafka, with kafka-python.

docker compose up --wait
python examples/kafka_python_example.py
"""

import os
from contextlib import closing
from uuid import uuid4

from kafka import KafkaConsumer, KafkaProducer

from spakky.tracing import TraceContext
from spakky.tracing.integrations import kafka_python

KAFKA = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")
TOPIC = f"orders-{uuid4().hex}"


def main() -> None:
    """Send a record within a trace, and receive it in the same trace."""
    with TraceContext.use(TraceContext.new_root()):
        send(b"order 1")
    receive()


def send(value: bytes) -> None:
    """Send one record; the wrapped producer puts the current trace into its headers."""
    with closing(kafka_python.wrap(KafkaProducer(bootstrap_servers=KAFKA))) as producer:
        producer.send(TOPIC, value).get(timeout=30)
    print(f"sent     in trace {trace_id()}")


def receive() -> None:
    """Take one record; its trace is current in the body of the loop."""
    consumer = KafkaConsumer(
        TOPIC, bootstrap_servers=KAFKA, auto_offset_reset="earliest", consumer_timeout_ms=30_000
    )
    with closing(consumer):
        for record in kafka_python.iterate(consumer):
            print(f"received in trace {trace_id()}: {record.value!r}")
            break


def trace_id() -> str:
    """Return the id of the current trace."""
    context = TraceContext.get()
    return context.trace_id if context else "-"


if __name__ == "__main__":
    main()
