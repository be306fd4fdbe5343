"""Each example runs as a file, ends by itself, and says that one trace was sent and received."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]
SECONDS = 60


def output_of(example: str, **addresses: str) -> str:
    finished = subprocess.run(
        [sys.executable, PROJECT / "examples" / f"{example}.py"],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src"), **addresses},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def assert_one_trace(output: str) -> None:
    sent, received = re.findall(r"in trace ([0-9a-f]{32})", output)
    assert sent == received, output


def test_a_record_is_received_in_the_trace_in_which_it_was_sent(kafka_address: str) -> None:
    assert_one_trace(output_of("aiokafka_example", KAFKA_BOOTSTRAP_SERVERS=kafka_address))


def test_a_message_is_consumed_in_the_trace_in_which_it_was_produced(kafka_address: str) -> None:
    assert_one_trace(output_of("confluent_kafka_example", KAFKA_BOOTSTRAP_SERVERS=kafka_address))


def test_a_record_of_kafka_python_is_received_in_the_trace_in_which_it_was_sent(kafka_address: str) -> None:
    assert_one_trace(output_of("kafka_python_example", KAFKA_BOOTSTRAP_SERVERS=kafka_address))


def test_a_message_is_received_in_the_trace_in_which_it_was_published(amqp_url: str) -> None:
    assert_one_trace(output_of("aio_pika_example", AMQP_URL=amqp_url))


def test_a_message_is_received_in_the_trace_in_which_its_channel_published_it(amqp_url: str) -> None:
    assert_one_trace(output_of("pika_example", AMQP_URL=amqp_url))


def test_a_message_is_received_in_the_trace_in_which_kombu_published_it(amqp_url: str) -> None:
    assert_one_trace(output_of("kombu_example", AMQP_URL=amqp_url))


def test_a_subscriber_runs_in_the_trace_in_which_its_message_was_published(amqp_url: str) -> None:
    assert_one_trace(output_of("faststream_example", AMQP_URL=amqp_url))


def test_a_task_runs_in_the_trace_in_which_it_was_started(redis_url: str) -> None:
    assert_one_trace(output_of("celery_example", REDIS_URL=redis_url))


def test_an_actor_runs_in_the_trace_in_which_its_message_was_sent(redis_url: str) -> None:
    assert_one_trace(output_of("dramatiq_example", REDIS_URL=redis_url))


def test_a_job_runs_in_the_trace_in_which_it_was_enqueued(redis_url: str) -> None:
    assert_one_trace(output_of("rq_example", REDIS_URL=redis_url))


def test_a_taskiq_task_runs_in_the_trace_in_which_it_was_sent(redis_url: str) -> None:
    assert_one_trace(output_of("taskiq_example", REDIS_URL=redis_url))


def test_an_arq_job_runs_in_the_trace_in_which_it_was_enqueued(redis_url: str) -> None:
    assert_one_trace(output_of("arq_example", REDIS_URL=redis_url))


def test_a_request_is_served_in_the_trace_of_its_client() -> None:
    assert_one_trace(output_of("asgi_example"))


def test_a_program_runs_in_the_trace_of_the_process_that_started_it() -> None:
    assert_one_trace(output_of("environ_example"))


def test_a_message_has_the_trace_in_which_its_row_was_written(kafka_address: str) -> None:
    assert_one_trace(output_of("outbox_example", KAFKA_BOOTSTRAP_SERVERS=kafka_address))


def test_a_wsgi_request_is_served_in_the_trace_of_its_client() -> None:
    assert_one_trace(output_of("wsgi_example"))


def test_httpx_sends_its_request_in_the_current_trace() -> None:
    assert_one_trace(output_of("httpx_example"))


def test_aiohttp_sends_its_request_in_the_current_trace() -> None:
    assert_one_trace(output_of("aiohttp_example"))
