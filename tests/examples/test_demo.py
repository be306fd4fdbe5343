"""The demo as a person runs it: on real brokers, on what is to be had without any, and when it is stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).parents[2]
SENT = "0af7651916cd43dd8448eb211c80319c"
SECONDS = 90
GOING_SECONDS = 5

ALL_HOPS = [
    ("shop", "POST", "http /orders", "ok"),
    ("shop", "└ send", "kafka orders", "ok"),
    ("billing", "  └ process", "kafka orders", "ok"),
    ("billing", "    └ send", "rabbitmq paid", "ok"),
    ("shipping", "      └ process", "rabbitmq paid", "1 ok"),
    ("shipping", "        └ send pack", "celery tasks", "ok"),
    ("worker", "          ├ run pack", "celery tasks", "1 retry"),
    ("worker", "          └ run pack", "celery tasks", "2 ok"),
    ("worker", "            └ send notify", "celery tasks", "ok"),
    ("worker", "              └ run notify", "celery tasks", "1 ok"),
]
WITHOUT_RABBITMQ = [
    ("shop", "POST", "http /orders", "ok"),
    ("shop", "└ send", "kafka orders", "ok"),
    ("billing", "  └ process", "kafka orders", "ok"),
    ("billing", "    └ send pack", "celery tasks", "ok"),
    ("worker", "      ├ run pack", "celery tasks", "1 retry"),
    ("worker", "      └ run pack", "celery tasks", "2 ok"),
    ("worker", "        └ send notify", "celery tasks", "ok"),
    ("worker", "          └ run notify", "celery tasks", "1 ok"),
]
WITHOUT_BROKERS = [
    ("shop", "POST", "http /orders", "ok"),
    ("shop", "└ send pack", "celery tasks", "ok"),
    ("worker", "  ├ run pack", "celery tasks", "1 retry"),
    ("worker", "  └ run pack", "celery tasks", "2 ok"),
    ("worker", "    └ send notify", "celery tasks", "ok"),
    ("worker", "      └ run notify", "celery tasks", "1 ok"),
]


@pytest.fixture
def with_brokers(kafka_address: str, amqp_url: str, tmp_path: Path) -> dict[str, str]:
    found = {"KAFKA_BOOTSTRAP_SERVERS": kafka_address, "AMQP_URL": amqp_url}
    return environment(tmp_path, "environment") | found


def environment(folder: Path, source: str) -> dict[str, str]:
    """Return an environment in which all that the demo writes goes to *folder*."""
    inherited = {name: value for name, value in os.environ.items() if name != "SPAKKY_TRACING_RECORD"}
    path = os.pathsep.join([str(PROJECT / "src"), str(PROJECT / "tools")])
    return inherited | {"PYTHONPATH": path, "TMPDIR": str(folder), "BROKERS_SOURCE": source}


@contextmanager
def demo(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "examples.demo"],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(output: IO[str] | None, words: str) -> str:
    assert output is not None
    read = ""
    while words not in read:
        line = output.readline()
        assert line, f"the demo ended before {words!r}:\n{read}"
        read += line
    return read


def processes_below(folder: Path) -> dict[int, str]:
    """Return the commands of all processes that were given *folder* for what they write."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "environ").read_bytes():
                found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ").strip()
        except OSError:
            continue
    return {pid: command for pid, command in found.items() if pid != os.getpid()}


def assert_nothing_is_left(folder: Path) -> None:
    deadline = time.monotonic() + GOING_SECONDS
    while processes_below(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_below(folder) == {}
    assert list(folder.iterdir()) == []


def trees(output: str) -> list[list[tuple[str, ...]]]:
    """Return the rows of each tree in *output*, without ids and durations."""
    found = re.findall(r"^(process .*)\n((?:.+\n)+)", output, flags=re.MULTILINE)
    return [[row(header, line) for line in lines.splitlines()] for header, lines in found]


def row(header: str, line: str) -> tuple[str, ...]:
    starts = [header.index(name) for name in ("process", "boundary", "destination", "span id")]
    process, boundary, destination, rest = (
        line[start:end].rstrip() for start, end in pairwise([*starts, len(line)])
    )
    _span_id, *attempt_and_outcome, _duration = rest.split()
    return process, boundary, re.sub(r"-[0-9a-f]{6}$", "", destination), " ".join(attempt_and_outcome)


def finished(environment: dict[str, str]) -> str:
    """Run the demo to its good end, and return what it printed."""
    with demo(environment) as process:
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    return output


def assert_two_traces(output: str) -> None:
    first, second = re.findall(r"^Order \d, trace ([0-9a-f]{32})", output, flags=re.MULTILINE)
    assert first == SENT
    assert second != SENT


def test_two_orders_cross_all_hops_each_in_its_own_trace(
    with_brokers: dict[str, str], tmp_path: Path
) -> None:
    output = finished(with_brokers)
    assert_two_traces(output)
    assert trees(output) == [ALL_HOPS, ALL_HOPS]
    assert output.splitlines()[-1].startswith("Seen: 2 orders in 2 traces, 20 spans and 12 log lines")
    assert_nothing_is_left(tmp_path)


def test_the_output_has_no_colour_and_fits_100_columns_when_piped(with_brokers: dict[str, str]) -> None:
    output = finished(with_brokers)
    assert "\033" not in output
    assert [line for line in output.partition("Processes")[2].splitlines() if len(line) > 100] == []


def test_the_log_lines_of_each_process_are_shown_with_their_trace(with_brokers: dict[str, str]) -> None:
    lines = finished(with_brokers).splitlines()
    assert "  shop      0af76519..  took order 1 over HTTP" in lines
    assert "  billing   0af76519..  took order 1 from Kafka" in lines
    assert "  shipping  0af76519..  took order 1 from RabbitMQ" in lines
    assert "  worker    0af76519..  packed order 1" in lines


def test_two_demos_at_once_do_not_see_each_other(with_brokers: dict[str, str]) -> None:
    with demo(with_brokers) as one, demo(with_brokers) as other:
        outputs = [process.communicate(timeout=SECONDS)[0] for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0), outputs


def test_without_a_server_it_runs_on_the_mock_cluster_and_on_files(tmp_path: Path) -> None:
    pytest.importorskip("confluent_kafka")
    output = finished(environment(tmp_path, "embedded"))
    assert_two_traces(output)
    assert trees(output) == [WITHOUT_RABBITMQ, WITHOUT_RABBITMQ]
    assert "Apache Kafka is left out" in output
    assert "RabbitMQ is left out" in output
    assert_nothing_is_left(tmp_path)


def test_without_any_broker_it_runs_what_is_left(tmp_path: Path) -> None:
    nothing_named = environment(tmp_path, "environment")
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "AMQP_URL"):
        nothing_named.pop(name, None)
    output = finished(nothing_named)
    assert_two_traces(output)
    assert trees(output) == [WITHOUT_BROKERS, WITHOUT_BROKERS]
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
@pytest.mark.parametrize("moment", ["Brokers", "shop  ", "took order 1"])
def test_a_stopped_demo_leaves_nothing_behind(
    sent: signal.Signals, status: int, moment: str, tmp_path: Path
) -> None:
    with demo(environment(tmp_path, "embedded")) as process:
        read_until(process.stdout, moment)
        process.send_signal(sent)
        process.communicate(timeout=SECONDS)
    assert process.returncode == status
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("victim", ["shop", "billing", "packing"])
def test_a_process_that_dies_ends_the_demo_with_its_last_lines(victim: str, tmp_path: Path) -> None:
    with demo(environment(tmp_path, "embedded")) as process:
        read_until(process.stdout, "worker  ")
        for pid, command in processes_below(tmp_path).items():
            if f"examples.demo.{victim}" in command:
                os.kill(pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert re.search(r"^(shop|billing|worker) ended with status -9\.\n    ", output, re.MULTILINE), output
    assert re.search(r"^    (shop|billing|worker): .*(ready|Uvicorn running)", output, re.MULTILINE), output
    assert_nothing_is_left(tmp_path)
