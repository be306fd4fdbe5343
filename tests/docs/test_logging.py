"""The code of `docs/logging.md` as it stands, with addresses and names of queues put in."""

from __future__ import annotations

import json
import re
import sys
import time
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from brokers.guarded import Guarded
from docs.pages import program_with, programs_of
from docs.running import run

if TYPE_CHECKING:
    from pathlib import Path

PAGE = "docs/logging.md"
PATIENCE = 30

TRACE_ID, SPAN_ID = "[0-9a-f]{32}", "[0-9a-f]{16}"
SAID = {
    'basicConfig(format="%(levelname)s': (
        rf"WARNING trace={TRACE_ID} span={SPAN_ID} an order came in\nWARNING trace=- span=- nothing to do\n"
    ),
    "dictConfig": rf"{TRACE_ID} {SPAN_ID} 01 an order came in\nnone none none nothing to do\n",
    "QueueListener": rf"{TRACE_ID} an order came in\n",
    "loguru": rf"WARNING {TRACE_ID} {SPAN_ID} an order came in\nWARNING - - nothing to do\n",
    "OpenTelemetryNames": rf"{TRACE_ID} True an order came in\n0 False nothing to do\n",
}


def test_every_block_has_its_test() -> None:
    assert sorted(program_with(PAGE, word) for word in [*SAID, "structlog", "celery"]) == sorted(
        programs_of(PAGE)
    )


@pytest.mark.parametrize("word", SAID)
def test_a_block_writes_what_it_is_said_to(word: str, tmp_path: Path) -> None:
    assert re.fullmatch(SAID[word], run(program_with(PAGE, word), tmp_path).stderr)


def test_structlog(tmp_path: Path) -> None:
    in_trace, outside = map(json.loads, run(program_with(PAGE, "structlog"), tmp_path).stdout.splitlines())

    assert list(in_trace) == ["order", "event", "trace_id", "span_id", "trace_flags", "level"]
    assert outside == {"event": "nothing to do", "level": "warning"}


def test_celery(amqp_url: str, tmp_path: Path) -> None:
    code = program_with(PAGE, "celery").replace("amqp://guest:guest@localhost/", amqp_url)
    queue = f"shop-{uuid4().hex}"
    code = code.replace("celery.install(", f'app.conf.task_default_queue = "{queue}"\ncelery.install(')
    _, sent = run(code, tmp_path).stdout.split()
    command = [sys.executable, "-m", "celery", "--workdir", str(tmp_path), "-A", "shop", "worker"]
    quiet = ["--pool=solo", "--loglevel=warning", "--without-mingle", f"--hostname={queue}@%h"]

    with Guarded() as worker:
        worker.start("worker", [*command, *quiet])
        deadline = time.monotonic() + PATIENCE
        while f"WARNING {sent} shop.bill a bill is written\n" not in worker.log("worker"):
            assert worker.excuse("worker") is None, worker.log("worker")
            assert time.monotonic() < deadline, worker.log("worker")
            time.sleep(0.05)
