"""The code of the README as it stands, with addresses and names of queues put in."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from docs.pages import program_with, programs_of, text_of
from docs.running import run

if TYPE_CHECKING:
    from pathlib import Path

PAGE = "README.md"


def ids_of(finished: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert finished.returncode == 0, finished.stderr
    return dict(line.split() for line in finished.stdout.splitlines())


def test_every_block_has_its_test() -> None:
    words = ["AIOKafkaProducer", "aio_pika", "celery", "configure", "integrations.logging", "traces"]

    assert sorted(program_with(PAGE, word) for word in words) == sorted(programs_of(PAGE))


def test_kafka(kafka_address: str, tmp_path: Path) -> None:
    code = program_with(PAGE, "AIOKafkaProducer").replace("localhost:9092", kafka_address)

    ids = ids_of(run(code.replace('"orders"', f'"orders-{uuid4().hex}"'), tmp_path))

    assert ids["sent"] == ids["received"]


def test_rabbitmq(amqp_url: str, tmp_path: Path) -> None:
    code = program_with(PAGE, "aio_pika").replace("amqp://guest:guest@localhost/", amqp_url)

    ids = ids_of(run(code.replace('"orders"', f'"orders-{uuid4().hex}"'), tmp_path))

    assert ids["sent"] == ids["received"]


def test_celery(amqp_url: str, redis_url: str, tmp_path: Path) -> None:
    code = program_with(PAGE, "celery").replace("amqp://guest:guest@localhost/", amqp_url)
    code = code.replace("redis://localhost", redis_url)
    (tmp_path / "shop.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "celery", "-A", "shop", "worker", "--pool=solo", "--loglevel=warning"]
    with (tmp_path / "worker.log").open("w") as log:
        worker = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
    try:
        ids = ids_of(run(code, tmp_path))
    finally:
        worker.terminate()
        worker.wait(20)

    assert ids["sent"] == ids["received"]


def test_options(tmp_path: Path) -> None:
    finished = run(program_with(PAGE, "configure"), tmp_path)

    assert (finished.returncode, finished.stderr) == (0, "")


def test_a_test_of_a_user(tmp_path: Path) -> None:
    (tmp_path / "test_shop.py").write_text(program_with(PAGE, "traces"), encoding="utf-8")

    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )

    assert "1 passed" in finished.stdout


def test_logging(tmp_path: Path) -> None:
    finished = run(program_with(PAGE, "integrations.logging"), tmp_path)

    assert re.fullmatch(r"[0-9a-f]{32} every line of this request has the same id\n", finished.stderr)


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_the_two_commands_are_there(command: str) -> None:
    assert f"    {command}\n" in text_of(PAGE)
