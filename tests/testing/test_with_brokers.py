"""Tests of users over real brokers, with the client libraries themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from testing.nested import errors_in

if TYPE_CHECKING:
    from testing.nested import Project

KAFKA = """
    import asyncio
    import os
    from contextlib import asynccontextmanager
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
    from spakky.tracing.integrations import aiokafka

    TOPIC = os.environ["TOPIC"]
    ADDRESS = {"bootstrap_servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"]}

    @asynccontextmanager
    async def clients(topic):
        producer = AIOKafkaProducer(**ADDRESS)
        await producer.start()
        consumer = AIOKafkaConsumer(topic, **ADDRESS, auto_offset_reset="earliest")
        await consumer.start()
        try:
            yield producer, consumer
        finally:
            await consumer.stop()
            await producer.stop()

    async def test_an_order_is_processed_in_its_trace(traces):
        topic = f"{TOPIC}-one"
        async with clients(topic) as (producer, consumer):
            with traces.root():
                await aiokafka.wrap(producer).send_and_wait(topic, b"1")
                bare = await consumer.getone()
                traces.message(bare).must_carry_the_current_trace().must_come_from(f"send {topic}")
            with aiokafka.process(bare):
                pass
        traces.of(f"send {topic}", f"process {topic}").must_be_a_chain().must_be_one_trace()

    async def test_handlers_in_tasks_are_waited_for(traces):
        topic = f"{TOPIC}-task"
        async with clients(topic) as (producer, consumer):
            async def work():
                async for message in aiokafka.iterate(consumer):
                    await asyncio.sleep(0.01)

            task = asyncio.create_task(work())
            for _ in range(3):
                await aiokafka.wrap(producer).send_and_wait(topic, b"1")
            spans = await traces.wait_for_async(f"process {topic}", count=3)
            spans.must_be_separate_traces()
            task.cancel()
            await asyncio.wait([task])

    async def test_a_break_out_of_a_loop_leaks_nothing(traces):
        topic = f"{TOPIC}-break"
        async with clients(topic) as (producer, consumer):
            await aiokafka.wrap(producer).send_and_wait(topic, b"1")
            async for message in aiokafka.iterate(consumer):
                break

    async def test_a_batch_links_to_its_senders(traces):
        topic = f"{TOPIC}-batch"
        async with clients(topic) as (producer, consumer):
            for _ in range(2):
                await aiokafka.wrap(producer).send_and_wait(topic, b"1")
            records = [await consumer.getone(), await consumer.getone()]
            with aiokafka.process_batch(records):
                pass
        traces.of(f"process {topic}").must_link_to(f"send {topic}")
        traces.of(f"process {topic}").must_link_to(*records)

    async def test_a_producer_that_is_not_wrapped_is_found_out(traces):
        topic = f"{TOPIC}-bare"
        async with clients(topic) as (producer, consumer):
            with traces.root():
                await producer.send_and_wait(topic, b"1", headers=[("tenant", b"7")])
                message = await consumer.getone()
                traces.message(message).must_carry_the_current_trace()
"""

RABBITMQ = """
    import os
    import aio_pika as client
    import pytest
    from spakky.tracing.integrations import aio_pika

    QUEUE = os.environ["QUEUE"]

    @pytest.fixture
    async def channel(traces):
        async with await client.connect(os.environ["AMQP_URL"]) as connection:
            yield await connection.channel()

    async def test_three_attempts_are_one_trace(channel, traces):
        queue = await channel.declare_queue(QUEUE, exclusive=True)
        exchange = aio_pika.wrap(channel.default_exchange)
        with traces.root():
            await exchange.publish(client.Message(b"1"), QUEUE)
        for attempt in range(3):
            message = await queue.get(timeout=5)
            traces.message(message).must_carry_a_trace()
            with aio_pika.process(message):
                if attempt < 2:
                    headers = aio_pika.retry_headers(message)
                    await exchange.publish(client.Message(b"1", headers=headers), QUEUE)
            await message.ack()

        traces.of(f"process {QUEUE}").must_be_attempts(1, 2, 3).must_have_ended("ok")

    async def test_another_trace_is_told(channel, traces):
        queue = await channel.declare_queue(f"{QUEUE}-other", exclusive=True)
        exchange = aio_pika.wrap(channel.default_exchange)
        await exchange.publish(client.Message(b"1"), queue.name)
        message = await queue.get(timeout=5)
        await message.ack()
        with traces.root():
            traces.message(message).must_carry_the_current_trace()
"""

CELERY_APP = """
    import os
    from celery import Celery
    from spakky.tracing.integrations import celery

    app = Celery("shop", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
    app.conf.task_default_queue = os.environ["QUEUE"]
    app.conf.worker_enable_remote_control = False
    celery.install(app)

    @app.task(name="bill", bind=True, max_retries=2)
    def bill(self, order, fails=0):
        if self.request.retries < fails:
            raise self.retry(countdown=0)
        pack.delay(order)
        return order

    @app.task(name="pack")
    def pack(order):
        return order
"""

CELERY = """
    import subprocess
    import sys
    import pytest
    from celery.contrib.testing.worker import start_worker
    from shop import app, bill, pack

    def test_eagerly(traces):
        app.conf.task_always_eager = True
        try:
            with traces.root() as root:
                bill.delay(1)
        finally:
            app.conf.task_always_eager = False
        traces.of("run bill", "run pack").must_be_one_trace()
        assert traces.span("run pack").trace_id == root.trace_id

    @pytest.fixture
    def own_worker():
        command = [sys.executable, "-m", "celery", "-q", "-A", "shop", "worker", "-c", "1", "-P", "prefork"]
        with subprocess.Popen([*command, "--without-gossip", "--without-mingle"]) as process:
            yield
            process.terminate()

    def test_in_a_worker_of_its_own(traces, own_worker):
        with traces.root():
            bill.delay(1, fails=2)
        traces.wait_for("run bill", count=3, timeout=60)
        traces.wait_for("run pack", timeout=60)
        traces.of("run bill").must_be_attempts(1, 2, 3)
        everything = traces.of("send bill", "run bill", "send pack", "run pack")
        everything.must_be_one_trace().must_be_in_this_order()
        here = traces.of("send bill", process="test")[0]
        assert {span.process_id for span in traces.of("run *")}.isdisjoint({here.process_id})

    def test_in_a_worker_of_this_process(traces):
        with start_worker(app, perform_ping_check=False, shutdown_timeout=30):
            with traces.root():
                assert bill.delay(1).get(timeout=30) == 1
            traces.wait_for("run pack")
        traces.of("run bill", "run pack").must_be_one_trace()
"""


def test_kafka(project: Project, kafka_address: str) -> None:
    project.write("test_shop.py", KAFKA)
    topic = f"orders-{uuid4().hex}"

    output = project.fails("-o", "asyncio_mode=auto", KAFKA_BOOTSTRAP_SERVERS=kafka_address, TOPIC=topic)

    assert "1 failed, 4 passed" in output, output
    told, there, current = errors_in(output)
    assert told == (
        "AssertionError: this ConsumerRecord must carry the current trace, but it has no header traceparent:"
    )
    assert there == "in the message     the headers 'tenant'"
    assert current.startswith("the current trace  trace ")


def test_rabbitmq(project: Project, amqp_url: str) -> None:
    project.write("test_shop.py", RABBITMQ)

    output = project.fails("-o", "asyncio_mode=auto", AMQP_URL=amqp_url, QUEUE=f"orders-{uuid4().hex}")

    assert "1 failed, 1 passed" in output, output
    told, there, current = errors_in(output)
    assert (
        told == "AssertionError: this IncomingMessage must carry the current trace, but carries another one:"
    )
    assert there.startswith("in the message     trace ")
    assert current.startswith("the current trace  trace ")


def test_celery(project: Project, redis_url: str) -> None:
    project.write("shop.py", CELERY_APP)
    project.write("test_shop.py", CELERY)

    deprecated = "-Wignore:Call to deprecated:DeprecationWarning"  # redis-py, of what Celery's backend calls
    output = project.passes(deprecated, REDIS_URL=redis_url, QUEUE=f"orders-{uuid4().hex}")

    assert "3 passed" in output
