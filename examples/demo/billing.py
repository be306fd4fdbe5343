"""billing: takes orders from Kafka."""

import asyncio
import logging
import os

from aiokafka import AIOKafkaConsumer

from spakky.tracing.integrations import aiokafka

from .observing import observe
from .sending import to_next

log = logging.getLogger("demo.billing")


async def main() -> None:
    """Bill each order and pass it on, until the process is ended."""
    topic = os.environ["DEMO_TOPIC"]
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        group_id=f"{topic}-billing",
        auto_offset_reset="earliest",
    )
    async with to_next() as send, consumer:
        log.info("ready")
        async for record in aiokafka.iterate(consumer):
            order = int(record.value or b"")
            log.info("took order %d from Kafka", order)
            await send(order)


if __name__ == "__main__":
    observe("billing")
    asyncio.run(main())
