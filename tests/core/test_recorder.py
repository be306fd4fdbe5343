from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, get_args

import pytest

from spakky.tracing.context import TraceContext
from spakky.tracing.recorder import JsonLinesRecorder, MemoryRecorder, Span, SpanLink, read_spans
from spakky.tracing.tracer import Operation, Outcome, get_tracer, set_tracer

if TYPE_CHECKING:
    from pathlib import Path

PROCESSES = 8
SPANS_EACH = 200


class OrderError(Exception):
    """What a handler may raise; its message quotes the payload."""


def operation(**fields: Any) -> Operation:
    defaults: dict[str, Any] = {
        "name": "process orders",
        "kind": "consumer",
        "system": "kafka",
        "destination": "orders",
        "context": TraceContext.new_root(),
    }
    return Operation(**{**defaults, **fields})


def recorded(*, outcome: Outcome = "ok", error: BaseException | None = None, **fields: Any) -> Span:
    recorder = MemoryRecorder(process="shop")
    recorder.start(operation(**fields)).end(outcome, error)
    (span,) = recorder.spans
    return span


# --- spans


def test_a_span_says_what_was_done() -> None:
    sender, link = TraceContext.new_root(), TraceContext.new_root()
    context = sender.child()

    before = time.time_ns()
    span = recorded(context=context, parent=sender, links=(link,), attempt=2, kind="producer")
    after = time.time_ns()

    assert (span.name, span.kind, span.system, span.destination) == (
        "process orders",
        "producer",
        "kafka",
        "orders",
    )
    assert (span.trace_id, span.span_id) == (context.trace_id, context.span_id)
    assert span.parent_span_id == sender.span_id
    assert span.links == (SpanLink(link.trace_id, link.span_id),)
    assert (span.outcome, span.error, span.attempt) == ("ok", None, 2)
    assert (span.process, span.process_id) == ("shop", os.getpid())
    assert before <= span.start_unix_nano <= span.end_unix_nano <= after


def test_a_span_says_how_long_its_message_was_on_its_way() -> None:
    sent = time.time_ns() - 5_000_000_000
    before = time.time_ns()
    span = recorded(sent_unix_nano=sent, death_count=2, is_redelivered=True)

    assert span.queue_time_nano is not None
    assert before - sent <= span.queue_time_nano <= time.time_ns() - sent
    assert (span.death_count, span.is_redelivered) == (2, True)


def test_a_message_from_the_future_was_no_time_on_its_way() -> None:
    assert recorded(sent_unix_nano=time.time_ns() + 3_600_000_000_000).queue_time_nano == 0


def test_a_span_without_a_way_says_so() -> None:
    span = recorded()

    assert (span.queue_time_nano, span.death_count, span.is_redelivered) == (None, None, None)


def test_a_span_without_parent_links_and_attempt_says_so() -> None:
    span = recorded()

    assert (span.parent_span_id, span.links, span.attempt) == (None, (), None)


@pytest.mark.parametrize("outcome", get_args(Outcome))
def test_every_outcome_is_kept(outcome: Outcome) -> None:
    assert recorded(outcome=outcome).outcome == outcome


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ValueError("secret"), "ValueError"),
        (asyncio.CancelledError("secret"), "asyncio.exceptions.CancelledError"),
        (OrderError("secret"), f"{OrderError.__module__}.OrderError"),
    ],
    ids=repr,
)
def test_an_error_is_kept_by_its_name_and_never_by_its_message(error: BaseException, name: str) -> None:
    span = recorded(outcome="error", error=error)

    assert span.error == name
    assert "secret" not in repr(span)


def test_a_span_ends_once() -> None:
    recorder = MemoryRecorder()
    span = recorder.start(operation())

    span.end("ok")
    span.end("error", ValueError())

    assert [span.outcome for span in recorder.spans] == ["ok"]


def test_a_span_may_end_in_another_thread() -> None:
    recorder = MemoryRecorder()
    spans = [recorder.start(operation()) for _ in range(100)]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda span: span.end("ok"), spans))

    assert {span.span_id for span in recorder.spans} == {span.context.span_id for span in spans}


def test_the_context_of_an_open_span_is_that_of_the_operation() -> None:
    wanted = operation()

    assert MemoryRecorder().start(wanted).context is wanted.context


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("/usr/bin/celery", "celery"),
        ("shop.py", "shop.py"),
        ("/usr/lib/python3/dist-packages/celery/__main__.py", "celery"),
        ("__main__.py", "__main__.py"),
        ("", "python"),
    ],
)
def test_a_process_without_a_name_has_that_of_its_program(
    program: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    recorder = MemoryRecorder()
    recorder.start(operation()).end("ok")

    assert recorder.spans[0].process == name


# --- in memory


def test_the_newest_spans_are_kept_and_older_ones_dropped() -> None:
    recorder = MemoryRecorder(capacity=3)
    for number in range(5):
        recorder.start(operation(name=str(number))).end("ok")

    assert [span.name for span in recorder.spans] == ["2", "3", "4"]


def test_spans_are_kept_in_the_order_in_which_they_ended() -> None:
    recorder = MemoryRecorder()
    outer, inner = recorder.start(operation(name="outer")), recorder.start(operation(name="inner"))
    inner.end("ok")
    outer.end("ok")

    assert [span.name for span in recorder.spans] == ["inner", "outer"]


# --- in a file


def test_a_file_gives_back_the_spans_that_were_written(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    memory, file = MemoryRecorder(process="shop"), JsonLinesRecorder(path, process="shop")
    link = TraceContext.new_root()
    for wanted in (
        operation(),
        operation(name="J\xfcrgen\n\u2028\ud800", links=(link, link), attempt=1, destination=""),
        operation(parent=TraceContext.new_root(), kind="server"),
    ):
        memory.start(wanted).end("error", ValueError("x"))
        file.record(memory.spans[-1])
    file.close()

    assert list(read_spans(path)) == list(memory.spans)


def test_a_line_is_one_ascii_json_object(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    recorder = JsonLinesRecorder(path)
    recorder.start(operation(name="a\nb\u20ac")).end("ok")
    recorder.close()

    (line,) = path.read_bytes().splitlines(keepends=True)
    assert line.isascii()
    assert line.endswith(b"\n")
    assert json.loads(line)["name"] == "a\nb\u20ac"


def test_spans_are_appended_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    for name in ("first", "second"):
        recorder = JsonLinesRecorder(path)
        recorder.start(operation(name=name)).end("ok")
        recorder.close()

    assert [span.name for span in read_spans(path)] == ["first", "second"]


WRITE_SPANS = """
import sys
from spakky.tracing.context import TraceContext
from spakky.tracing.recorder import JsonLinesRecorder
from spakky.tracing.tracer import Operation

recorder = JsonLinesRecorder(sys.argv[1], process=sys.argv[2])
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    recorder.start(Operation(
        name="x" * (number * 37 % 3000), kind="producer", system="kafka", destination=str(number),
        context=TraceContext.new_root(),
    )).end("ok")
"""


def test_many_processes_write_into_one_file_and_break_no_line(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE_SPANS, str(path), f"process-{number}", str(SPANS_EACH)],
            env=environment,
            stdin=subprocess.PIPE,
        )
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.communicate(b"start\n", timeout=60)

    assert [process.returncode for process in processes] == [0] * PROCESSES
    lines = path.read_text(encoding="ascii").splitlines()
    written = {(span["process"], int(span["destination"])) for span in map(json.loads, lines)}
    assert len(lines) == PROCESSES * SPANS_EACH
    assert written == {
        (f"process-{number}", span) for number in range(PROCESSES) for span in range(SPANS_EACH)
    }
    assert len(list(read_spans(path))) == PROCESSES * SPANS_EACH


def test_a_forked_process_writes_into_the_same_file_under_its_own_number(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    code = (
        "import os, sys\n"
        "from spakky.tracing.context import TraceContext\n"
        "from spakky.tracing.recorder import JsonLinesRecorder\n"
        "from spakky.tracing.tracer import Operation\n"
        "recorder = JsonLinesRecorder(sys.argv[1])\n"
        "def record():\n"
        "    recorder.start(Operation(name='x', kind='server', system='http', destination='/',\n"
        "        context=TraceContext.new_root())).end('ok')\n"
        "record()\n"
        "children = []\n"
        "for _ in range(4):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        record()\n"
        "        os._exit(0)\n"
        "    children.append(child)\n"
        "for child in children: os.waitpid(child, 0)\n"
        "record()\n"
        "print(os.getpid(), *children)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    parent, *children = map(int, run.stdout.split())
    assert sorted(span.process_id for span in read_spans(path)) == sorted([parent, parent, *children])
    assert len({span.span_id for span in read_spans(path)}) == 6


def test_lines_that_are_no_span_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "spans.jsonl"
    recorder = JsonLinesRecorder(path)
    recorder.start(operation(name="first")).end("ok")
    good = path.read_bytes()
    bad = [b"", b"{", b"null", b"[]", b"7", b"{}", b'{"links": 7}', b'{"links": [7]}', b"\xff\xfe", good[:40]]
    unknown = json.dumps({**json.loads(good), "colour": "red"}).encode()
    with path.open("ab") as file:
        file.write(b"\n".join([*bad, unknown, b""]))
    recorder.start(operation(name="last")).end("ok")
    recorder.close()
    caplog.set_level(logging.DEBUG, "spakky.tracing")

    assert [span.name for span in read_spans(path)] == ["first", "last"]
    assert len(caplog.records) == len([*bad, unknown])
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


def test_a_file_that_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_spans(tmp_path / "nothing"))


def test_a_file_that_cannot_be_opened_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        JsonLinesRecorder(tmp_path / "nowhere" / "spans.jsonl")


def test_a_full_disk_loses_spans_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    recorder = JsonLinesRecorder("/dev/full")

    for _ in range(3):
        recorder.start(operation()).end("ok")

    (record,) = caplog.records
    assert (record.name, record.levelno) == ("spakky.tracing", logging.WARNING)
    assert record.getMessage().startswith("spans are lost, /dev/full cannot be written: ")
    recorder.close()


def test_a_disk_that_is_almost_full_loses_spans_and_says_so_once(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    code = (
        "import logging, resource, sys\n"
        "from spakky.tracing.context import TraceContext\n"
        "from spakky.tracing.recorder import JsonLinesRecorder\n"
        "from spakky.tracing.tracer import Operation\n"
        "logging.basicConfig(format='%(message)s', stream=sys.stdout)\n"
        "recorder = JsonLinesRecorder(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "for _ in range(3):\n"
        "    recorder.start(Operation(name='x', kind='server', system='http', destination='/',\n"
        "        context=TraceContext.new_root())).end('ok')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    (line,) = run.stdout.splitlines()
    assert line.startswith(f"spans are lost, {path} cannot be written: 100 of ")
    assert list(read_spans(path)) == []


def test_a_closed_file_loses_spans_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "spans.jsonl"
    recorder = JsonLinesRecorder(path)
    recorder.close()
    recorder.close()

    for _ in range(3):
        recorder.start(operation()).end("ok")

    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert path.read_bytes() == b""


# --- the process-wide setting


def test_what_set_tracer_sets_is_what_get_tracer_returns() -> None:
    recorder = MemoryRecorder()
    assert get_tracer() is None

    set_tracer(recorder)
    try:
        assert get_tracer() is recorder
    finally:
        set_tracer(None)
    assert get_tracer() is None


@pytest.mark.parametrize("is_scheduled", [True, False])
def test_what_a_clock_started_is_told_from_the_rest_in_a_file(tmp_path: Path, *, is_scheduled: bool) -> None:
    recorder = JsonLinesRecorder(tmp_path / "spans.jsonl")
    recorder.start(operation(is_scheduled=is_scheduled)).end("ok")
    recorder.close()

    assert [span.is_scheduled for span in read_spans(tmp_path / "spans.jsonl")] == [is_scheduled]


def test_a_file_from_before_clocks_were_told_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    recorder = JsonLinesRecorder(path)
    recorder.start(operation()).end("ok")
    recorder.close()
    fields = json.loads(path.read_text())
    del fields["is_scheduled"]
    path.write_text(json.dumps(fields))

    assert [(span.name, span.is_scheduled) for span in read_spans(path)] == [("process orders", False)]
