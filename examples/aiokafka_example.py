"""One trace over Kafka, with aiokafka.

docker compose up --wait
python examples/aiokafka_example.py
"""

import asyncio
import os
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from spakky.tracing import TraceContext
from spakky.tracing.integrations import aiokafka

KAFKA = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")
TOPIC = f"orders-{uuid4().hex}"


async def main() -> None:
    """Send a record within a trace, and receive it in the same trace."""
    with TraceContext.use(TraceContext.new_root()):
        await send(b"order 1")
    await asyncio.wait_for(receive(), timeout=30)


async def send(value: bytes) -> None:
    """Send one record; the wrapped producer puts the current trace into its headers."""
    async with aiokafka.wrap(AIOKafkaProducer(bootstrap_servers=KAFKA)) as producer:
        await producer.send_and_wait(TOPIC, value)
    print(f"sent     in trace {trace_id()}")


async def receive() -> None:
    """Take one record; its trace is current in the body of the loop."""
    async with AIOKafkaConsumer(TOPIC, bootstrap_servers=KAFKA, auto_offset_reset="earliest") as consumer:
        async for record in aiokafka.iterate(consumer):
            print(f"received in trace {trace_id()}: {record.value!r}")
            break


def trace_id() -> str:
    """Return the id of the current trace."""
    context = TraceContext.get()
    return context.trace_id if context else "-"


if __name__ == "__main__":
    asyncio.run(main())
