"""`docs/how-to/retries-and-dead-letters.md`; what brokers do is in the contracts `retrying` and `amqp`."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from docs.pages import programs_by_heading
from docs.running import environment, printed_by, with_names

if TYPE_CHECKING:
    from pathlib import Path

CODE: Final = programs_by_heading("docs/how-to/retries-and-dead-letters.md")


def block(heading: str, name: str | None = None, **addresses: str) -> str:
    (blocks,) = [blocks for found, blocks in CODE.items() if found.startswith(heading)]
    name = name or f"orders-{uuid4().hex}"
    written = {
        "kafka": "localhost:9092",
        "amqp": "amqp://guest:guest@localhost/",
        "redis": "redis://localhost",
    }
    code = with_names(blocks[0], {written[broker]: there for broker, there in addresses.items()})
    return re.sub('"orders(?=["-])', f'"{name}', code)


def create_topics(kafka_address: str, *names: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka_address})
    for created in admin.create_topics([NewTopic(name, num_partitions=1) for name in names]).values():
        created.result(30)


def test_every_block_has_its_test() -> None:
    assert [name.split(":")[0] for name in CODE] == ["Kafka", "RabbitMQ", "Celery", "Replay weeks later"]
    assert {len(blocks) for blocks in CODE.values()} == {1}


def test_three_attempts_and_a_dead_letter_of_kafka_are_one_trace(kafka_address: str, tmp_path: Path) -> None:
    name = f"orders-{uuid4().hex}"
    create_topics(kafka_address, name, f"{name}-retry", f"{name}-dead")

    said = [line.split() for line in printed_by(block("Kafka", name, kafka=kafka_address), tmp_path)]

    assert [what.rpartition("-")[2] for what, _ in said] == ["placed", "retry", "retry", "dead", "dead"]
    assert len({trace_id for _, trace_id in said}) == 1


def test_attempts_over_rabbitmq_are_children_of_the_sender(amqp_url: str, tmp_path: Path) -> None:
    assert printed_by(block("RabbitMQ", amqp=amqp_url), tmp_path) == [
        "attempt 1 after 0 deaths, child",
        "attempt 2 after 2 deaths, child",
        "attempt 3 after 4 deaths, child",
        "attempt 4 after 4 deaths, grandchild",
    ]


def test_a_task_is_tried_again_in_its_trace(amqp_url: str, redis_url: str, tmp_path: Path) -> None:
    code = block("Celery", amqp=amqp_url, redis=redis_url).replace(
        "celery.install(", f'app.conf.task_default_queue = "brew-{uuid4().hex}"\ncelery.install('
    )
    (tmp_path / "shop.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "celery", "-A", "shop", "worker", "--pool=solo", "--loglevel=warning"]
    quiet = ["--without-mingle", "--without-gossip", f"--hostname={uuid4().hex}@%h"]
    with (tmp_path / "worker.log").open("w") as log:
        worker = subprocess.Popen([*command, *quiet], cwd=tmp_path, stdout=log, stderr=log, env=environment())
    try:
        (_, sent), (_, attempt, brewed) = map(str.split, printed_by(code, tmp_path))
    finally:
        worker.terminate()
        worker.wait(20)

    assert (attempt, brewed) == ("3", sent)


def test_a_replay_is_a_trace_of_its_own_that_links_to_the_old_one(amqp_url: str, tmp_path: Path) -> None:
    assert printed_by(block("Replay", amqp=amqp_url), tmp_path) == ["True {'customer': 'acme'}", "[True]"]
