"""The example for OpenTelemetry, whose spans go to a collector."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from integrations.collector import Collector

PROJECT = Path(__file__).parents[2]


def run_example(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, PROJECT / "examples" / "opentelemetry_example.py"],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src"), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_its_spans_are_one_trace_at_the_collector(amqp_url: str) -> None:
    with Collector() as collector:
        finished = run_example(AMQP_URL=amqp_url, OTEL_EXPORTER_OTLP_ENDPOINT=collector.address)
        spans = collector.spans()

    assert (finished.returncode, finished.stderr) == (0, "")
    sent, received = re.findall(r"in trace ([0-9a-f]{32})", finished.stdout)
    assert sent == received
    assert {span.trace_id.hex() for span in spans} == {sent}
    names = [re.sub(r"-[0-9a-f]{32}", "", span.name) for span in spans]
    assert sorted(names) == ["order", "pack", "process orders", "send orders"]
    by_name = dict(zip(names, spans, strict=True))
    for child, parent in [
        ("send orders", "order"),
        ("process orders", "send orders"),
        ("pack", "process orders"),
    ]:
        assert by_name[child].parent_span_id == by_name[parent].span_id


def test_where_nobody_listens_it_says_so_in_a_sentence() -> None:
    with Collector() as collector:
        address = collector.address

    finished = run_example(OTEL_EXPORTER_OTLP_ENDPOINT=address)

    assert finished.returncode == 1
    assert finished.stderr == (
        f"Nobody listens at {address}; `docker compose up --wait` starts a Jaeger there.\n"
    )
