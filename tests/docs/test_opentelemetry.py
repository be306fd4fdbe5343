"""The code of `docs/opentelemetry.md`, as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from docs.pages import ROOT, programs_of, text_of

PAGE = "docs/opentelemetry.md"


@pytest.mark.parametrize("code", programs_of(PAGE), ids=["install", "poll", "format"])
def test_a_block_runs(code: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (finished.returncode, finished.stderr) == (0, "")


def test_every_instrumentation_that_is_tested_beside_ours_is_in_the_table() -> None:
    for name in ("AIOKafka", "Kafka", "ConfluentKafka", "AioPika", "Pika", "Celery"):
        assert f"| `{name}Instrumentor` |" in text_of(PAGE)


def test_what_is_disabled_has_these_names() -> None:
    (disabled,) = re.findall("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=(\\S+)`", text_of(PAGE))

    assert set(disabled.split(",")) <= entry_points(group="opentelemetry_instrumentor").names
