"""The code of the README and of `docs` as it stands, with addresses and names of queues put in."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

README = Path(__file__).parent.parent / "README.md"
DOCS = README.parent / "docs"


def blocks_of(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


BLOCKS = blocks_of(README)


def block(word: str) -> str:
    (found,) = [each for each in BLOCKS if word in each]
    return found


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "shop.py"
    script.write_text(code, encoding="utf-8")
    return subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False, cwd=folder
    )


def ids_of(finished: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert finished.returncode == 0, finished.stderr
    return dict(line.split() for line in finished.stdout.splitlines())


def test_every_block_has_its_test() -> None:
    words = ["AIOKafkaProducer", "aio_pika", "celery", "configure", "integrations.logging"]

    assert sorted(block(word) for word in words) == sorted(BLOCKS)
    assert {page.name: len(blocks) for page in DOCS.glob("*.md") if (blocks := blocks_of(page))} == {
        "celery.md": 1,
        "http.md": 3,
        "logging.md": 7,
        "opentelemetry.md": 3,
        "spakky.md": 2,  # tests/interop/test_spakky.py runs them
        "storage.md": 3,
        "subprocesses.md": 2,
    }


def test_kafka(kafka_address: str, tmp_path: Path) -> None:
    code = block("AIOKafkaProducer").replace("localhost:9092", kafka_address)

    ids = ids_of(run(code.replace('"orders"', f'"orders-{uuid4().hex}"'), tmp_path))

    assert ids["sent"] == ids["received"]


def test_rabbitmq(amqp_url: str, tmp_path: Path) -> None:
    code = block("aio_pika").replace("amqp://guest:guest@localhost/", amqp_url)

    ids = ids_of(run(code.replace('"orders"', f'"orders-{uuid4().hex}"'), tmp_path))

    assert ids["sent"] == ids["received"]


def test_celery(amqp_url: str, redis_url: str, tmp_path: Path) -> None:
    code = block("celery").replace("amqp://guest:guest@localhost/", amqp_url)
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


def test_options_of_celery(amqp_url: str, tmp_path: Path) -> None:
    (code,) = blocks_of(DOCS / "celery.md")
    named = code.replace("amqp://guest:guest@localhost/", amqp_url).replace(
        "celery.install(", f'app.conf.task_default_queue = "shop-{uuid4().hex}"\ncelery.install('
    )

    finished = run(named, tmp_path)

    assert (finished.stdout, finished.stderr) == ("sent\n", "")


def test_options(tmp_path: Path) -> None:
    finished = run(block("configure"), tmp_path)

    assert (finished.returncode, finished.stderr) == (0, "")


def test_logging(tmp_path: Path) -> None:
    finished = run(block("integrations.logging"), tmp_path)

    assert re.fullmatch(r"[0-9a-f]{32} every line of this request has the same id\n", finished.stderr)


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_the_two_commands_are_there(command: str) -> None:
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")

    assert f"    {command}\n" in README.read_text(encoding="utf-8")
    assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE)
