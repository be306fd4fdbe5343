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

from cli.running import piped

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).parents[2]
SENT = "0af7651916cd43dd8448eb211c80319c"
SECONDS = 90
GOING_SECONDS = 5

ALL_HOPS = [
    ("shop", "POST http /orders", "ok"),
    ("shop", "└ send kafka orders", "ok"),
    ("billing", " └ process kafka orders", "ok"),
    ("billing", "  └ send rabbitmq paid", "ok"),
    ("shipping", "   └ process rabbitmq paid", "ok"),
    ("shipping", "    └ send pack celery tasks", "ok"),
    ("worker", "     ├ run pack celery tasks", "retry"),
    ("worker", "     └ run pack celery tasks", "ok"),
    ("worker", "      └ send notify celery tasks", "ok"),
    ("worker", "       └ run notify celery tasks", "ok"),
]
WITHOUT_RABBITMQ = [
    ("shop", "POST http /orders", "ok"),
    ("shop", "└ send kafka orders", "ok"),
    ("billing", " └ process kafka orders", "ok"),
    ("billing", "  └ send pack celery tasks", "ok"),
    ("worker", "   ├ run pack celery tasks", "retry"),
    ("worker", "   └ run pack celery tasks", "ok"),
    ("worker", "    └ send notify celery tasks", "ok"),
    ("worker", "     └ run notify celery tasks", "ok"),
]
WITHOUT_BROKERS = [
    ("shop", "POST http /orders", "ok"),
    ("shop", "└ send pack celery tasks", "ok"),
    ("worker", " ├ run pack celery tasks", "retry"),
    ("worker", " └ run pack celery tasks", "ok"),
    ("worker", "  └ send notify celery tasks", "ok"),
    ("worker", "   └ run notify celery tasks", "ok"),
]


@pytest.fixture
def with_brokers(kafka_address: str, amqp_url: str, tmp_path: Path) -> dict[str, str]:
    found = {"KAFKA_BOOTSTRAP_SERVERS": kafka_address, "AMQP_URL": amqp_url}
    return environment(tmp_path, "environment") | found


def environment(folder: Path, source: str) -> dict[str, str]:
    """Return an environment in which all that the demo writes goes to *folder*."""
    inherited = {name: value for name, value in os.environ.items() if name != "SPAKKY_TRACING_RECORD"}
    path = os.pathsep.join(map(str, [PROJECT, PROJECT / "src", PROJECT / "tools"]))
    return inherited | {"PYTHONPATH": path, "TMPDIR": str(folder), "BROKERS_SOURCE": source}


def kept_of(environment: dict[str, str]) -> Path:
    """Return the folder in which a demo leaves its files."""
    folder = Path(environment["TMPDIR"])
    folder = folder.with_name(f"{folder.name}-kept")
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def demo(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "examples.demo"],
        cwd=kept_of(environment),
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
    """Return the rows of each tree in *output*, without the lines between them and without durations.

    However much a level is indented, it is indented by one here.
    """
    found = re.findall(r"^(process .*)\n((?:.+\n)+)", output, flags=re.MULTILINE)
    return [
        [row(header, line, unit_of(header, lines)) for line in lines.splitlines() if not line.startswith(" ")]
        for header, lines in found
    ]


def unit_of(header: str, lines: str) -> int:
    spans = [line[header.index("span") :] for line in lines.splitlines() if not line.startswith(" ")]
    return min(filter(None, (len(span) - len(span.lstrip()) for span in spans)))


def row(header: str, line: str, unit: int) -> tuple[str, ...]:
    starts = [0, header.index("span"), header.index("outcome"), len(line)]
    process, span, rest = (line[start:end].rstrip() for start, end in pairwise(starts))
    indent = " " * ((len(span) - len(span.lstrip())) // unit)
    return process, indent + re.sub(r"-[0-9a-f]{6}$", "", span.lstrip()), rest.split()[0]


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
    assert "attempt 1, examples.demo.packing.BoxTooSmallError" in output
    assert output.splitlines()[-2].startswith("Seen: 2 orders in 2 traces, 20 spans and 12 log lines")
    assert_nothing_is_left(tmp_path)


def test_the_traces_are_kept_for_a_browser_and_for_view(with_brokers: dict[str, str]) -> None:
    said = finished(with_brokers).splitlines()[-1]
    assert (
        said == "Look further: open demo.html in a browser, or run .venv/bin/spakky-tracing view demo.jsonl"
    )
    assert SENT in (kept_of(with_brokers) / "demo.html").read_text(encoding="utf-8")
    viewed = piped("view", kept_of(with_brokers) / "demo.jsonl")
    assert viewed.output.splitlines()[-1] == "Read: 2 traces, 20 spans, 4 processes, no failures."


def test_a_folder_that_cannot_be_written_is_no_failure(with_brokers: dict[str, str]) -> None:
    (kept_of(with_brokers) / "demo.jsonl").mkdir()
    said = finished(with_brokers).splitlines()[-1]
    assert said == "  The traces are not kept, demo.jsonl cannot be written: Is a directory."


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
