"""The code of `docs/opentelemetry.md`, as it stands."""

from __future__ import annotations

import re
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import pytest

from docs.pages import programs_of, text_of
from docs.running import run

if TYPE_CHECKING:
    from pathlib import Path

PAGE = "docs/opentelemetry.md"


@pytest.mark.parametrize("code", programs_of(PAGE), ids=["install", "poll", "format"])
def test_a_block_runs(code: str, tmp_path: Path) -> None:
    assert run(code, tmp_path).stderr == ""


def test_every_instrumentation_that_is_tested_beside_ours_is_in_the_table() -> None:
    for name in ("AIOKafka", "Kafka", "ConfluentKafka", "AioPika", "Pika", "Celery"):
        assert f"| `{name}Instrumentor` |" in text_of(PAGE)


def test_what_is_disabled_has_these_names() -> None:
    (disabled,) = re.findall("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=(\\S+)`", text_of(PAGE))

    assert set(disabled.split(",")) <= entry_points(group="opentelemetry_instrumentor").names
