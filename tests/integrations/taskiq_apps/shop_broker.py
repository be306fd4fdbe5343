"""A broker on RabbitMQ or Redis, as the environment of a worker says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskiq_aio_pika import AioPikaBroker, Exchange, Queue, QueueType
from taskiq_redis import RedisStreamBroker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pamqp.common import FieldValue
    from taskiq import AsyncBroker

IDLE: dict[str, FieldValue] = {"x-expires": 60_000}  # the broker deletes a queue after an idle minute


def broker_of(environment: Mapping[str, str]) -> AsyncBroker:
    """Return the broker that the environment names, without any middleware."""
    address, queue = environment["SHOP_ADDRESS"], environment["SHOP_QUEUE"]
    if environment["SHOP_SYSTEM"] == "redis":
        return RedisStreamBroker(address, queue_name=queue, xread_block=200)
    return AioPikaBroker(
        address,
        exchange=Exchange(name=queue, auto_delete=True),
        task_queues=[Queue(name=queue, type=QueueType.CLASSIC, arguments=IDLE)],
        dead_letter_queue=Queue(name=f"{queue}.dead", type=QueueType.CLASSIC, arguments=IDLE),
    )
