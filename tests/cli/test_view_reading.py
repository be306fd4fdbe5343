"""What `view` reads: our own files, those of OpenTelemetry, and what is neither."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from cli.exported import LINK, WAITED, as_otlp, as_protobuf
from cli.running import piped
from cli.spans import MILLISECOND, START, TRACE, line_of, span_id, written
from spakky.tracing.cli.refusal import Refusal
from spakky.tracing.cli.view.spans import read
from spakky.tracing.cli.view.traces import DrawnSpan, traces_of
from spakky.tracing.context import TraceContext
from spakky.tracing.recorder import JsonLinesRecorder, SpanLink, read_spans
from spakky.tracing.tracer import Operation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOOD = line_of(1)


def bad_lines(path: Path) -> list[str]:
    return [str(bad).removeprefix(f"{path}: ") for bad in read([str(path)]).bad]


def reason_of(folder: Path, line: dict[str, Any] | bytes) -> str:
    """Return why *line* is no span, which is between two that are."""
    path = written(folder, GOOD, line, line_of(2))
    reading = read([str(path)])
    assert [span.span_id for span in reading.spans] == [span_id(1), span_id(2)]
    assert reading.bad_count == 1
    (bad,) = reading.bad
    return f"{bad.place}: {bad.reason}"


# --- our own lines


def test_what_a_recorder_has_written_is_read_with_all_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    recorder = JsonLinesRecorder(path, process="shop")
    other = TraceContext.new_root()
    for links in ((), (other, other)):
        operation = Operation(
            name="process J\xfcrgen\n\ud800",
            kind="consumer",
            system="kafka",
            destination="orders",
            context=TraceContext.new_root(),
            parent=other,
            links=links,
            attempt=3,
            sent_unix_nano=START,
        )
        recorder.start(operation).end("error", ValueError())
    recorder.close()

    assert read([str(path)]).spans == [DrawnSpan.of(span) for span in read_spans(path)]


def test_a_line_of_an_older_or_a_newer_version_is_a_span(tmp_path: Path) -> None:
    needed = ("trace_id", "span_id", "start_unix_nano", "end_unix_nano")
    old = {name: GOOD[name] for name in needed}
    new = line_of(
        2,
        outcome="sublime",
        kind="oracle",
        colour="red",
        links=[{"trace_id": TRACE.upper(), "span_id": span_id(9), "why": 1}],
    )

    first, second = read([str(written(tmp_path, old, new))]).spans

    assert (first.name, first.kind, first.outcome, first.process_id, first.links) == (
        "",
        "internal",
        "ok",
        None,
        (),
    )
    assert (second.outcome, second.kind, second.links) == (
        "unknown",
        "internal",
        (SpanLink(TRACE, span_id(9)),),
    )


def test_numbers_of_programs_that_have_only_floating_ones_are_read(tmp_path: Path) -> None:
    (span,) = read(
        [str(written(tmp_path, line_of(1, start_unix_nano=1.5e18, end_unix_nano=1.6e18, attempt="2")))]
    ).spans

    assert (span.start_unix_nano, span.end_unix_nano, span.attempt) == (15 * 10**17, 16 * 10**17, 2)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"name": "x\n', "it is cut off"),
        (b'{"name": "x",\n', "it is cut off"),
        (b"Error: disk full\n", "it is no JSON"),
        (b"\xff\xfe\x00\n", "it is no text in UTF-8"),
        (b"[" * 100_000 + b"\n", "it is nested too deeply"),
        (b"7\n", "it is no JSON object"),
        (b"null\n", "it is no JSON object"),
        (b"{}\n", "it has no trace_id"),
        (b'{"attempt": ' + b"9" * 5_000 + b"}\n", "it has a number with too many digits"),
        (line_of(3, trace_id="0" * 32), "it has no trace_id"),
        (line_of(3, trace_id=7), "its trace_id is not 32 hexadecimal digits"),
        (line_of(3, trace_id="x" * 32), "its trace_id is not 32 hexadecimal digits"),
        (line_of(3, span_id="\x1b[31mred"), "its span_id is not 16 hexadecimal digits"),
        (line_of(3, span_id=None), "it has no span_id"),
        (line_of(3, parent_span_id="abc"), "its parent_span_id is not 16 hexadecimal digits"),
        (line_of(3, start_unix_nano=None), "it has no start_unix_nano"),
        (line_of(3, start_unix_nano=-1), "its start_unix_nano is no whole number that makes sense"),
        (line_of(3, start_unix_nano=10**300), "its start_unix_nano is no whole number that makes sense"),
        (line_of(3, end_unix_nano=float("nan")), "its end_unix_nano is no whole number that makes sense"),
        (line_of(3, end_unix_nano=float("inf")), "its end_unix_nano is no whole number that makes sense"),
        (line_of(3, end_unix_nano=True), "its end_unix_nano is no whole number that makes sense"),
        (line_of(3, end_unix_nano=1), "it ends before it starts"),
        (line_of(3, queue_time_nano=START * 2), "it was sent before 1970"),
        (line_of(3, attempt="two"), "its attempt is no whole number that makes sense"),
        (line_of(3, name=["x"]), "its name is no text"),
        (line_of(3, name="x" * 70_000), "its name has 70,000 characters"),
        (line_of(3, is_redelivered="yes"), "its is_redelivered is neither true nor false"),
        (line_of(3, links={"trace_id": TRACE}), "its links are no list of ids"),
        (line_of(3, links=[7]), "its links are no list of ids"),
        (line_of(3, links=[{"trace_id": TRACE}]), "it has no span_id"),
    ],
)
def test_a_bad_line_is_passed_over_with_its_number_and_the_reason(
    tmp_path: Path, line: dict[str, Any] | bytes, reason: str
) -> None:
    assert reason_of(tmp_path, line) == f"line 2: {reason}"


def test_a_last_line_that_is_being_written_is_said_to_be_so(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD, json.dumps(line_of(2)).encode()[:90])

    assert bad_lines(path) == ["line 2 is no span: it is not written to its end yet"]


def test_a_last_line_without_an_end_is_a_span(tmp_path: Path) -> None:
    assert len(read([str(written(tmp_path, GOOD, json.dumps(line_of(2)).encode()))]).spans) == 2


def test_a_line_that_is_too_long_is_passed_over_without_being_kept(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    with path.open("wb") as file:
        file.truncate(200 << 20)  # a hole, which takes no room
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + json.dumps(GOOD).encode())

    assert bad_lines(path) == ["line 1 is no span: it is longer than 64 MiB"]


def test_empty_lines_a_byte_order_mark_and_windows_ends_of_lines_are_no_matter(tmp_path: Path) -> None:
    lines: list[dict[str, Any] | bytes] = [
        b"\xef\xbb\xbf",
        b"\r\n\r\n",
        json.dumps(GOOD).encode() + b"\r\n",
        line_of(2),
    ]
    reading = read([str(written(tmp_path, *lines))])

    assert (len(reading.spans), reading.bad_count) == (2, 0)


def test_objects_over_several_lines_are_read(tmp_path: Path) -> None:
    text = "\n".join(json.dumps(line_of(number), indent=2) for number in range(1, 1_001))
    reading = read([str(written(tmp_path, text.encode()))])

    assert (len(reading.spans), reading.bad_count) == (1_000, 0)


def test_a_list_of_spans_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps([GOOD, {}, line_of(2)], indent=1).encode())

    assert len(read([str(path)]).spans) == 2
    assert bad_lines(path) == ["object 1, item 2 is no span: it has no trace_id"]


def test_a_first_line_that_is_cut_after_a_comma_costs_no_other_line(tmp_path: Path) -> None:
    path = written(tmp_path, b'{"name": "x",\n', GOOD, line_of(2))

    assert len(read([str(path)]).spans) == 2
    assert bad_lines(path) == ["line 1 is no span: it is cut off"]


# --- OTLP


def hexadecimal_lines(folder: Path) -> Path:
    return written(folder, as_otlp())


def hexadecimal_document(folder: Path) -> Path:
    return written(folder, json.dumps(as_otlp(), indent=2).encode())


def base64_line(folder: Path) -> Path:
    return written(folder, as_protobuf())


def snake_case_line(folder: Path) -> Path:
    return written(folder, as_protobuf(snake_case=True))


@pytest.mark.parametrize(
    "write",
    [hexadecimal_lines, hexadecimal_document, base64_line, snake_case_line],
    ids=lambda write: write.__name__,
)
def test_spans_of_opentelemetry_are_read_in_each_form_of_otlp(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    reading = read([str(write(tmp_path))])
    query, order = traces_of(reading.spans)

    assert reading.bad_count == 0
    assert [(s.does, s.kind, s.system) for s in query.spans] == [("query", "internal", "postgresql")]
    rows = [
        (depth, n.span.kind, n.span.does, n.span.system, n.span.destination, n.span.outcome)
        for depth, n in order.walk()
    ]
    assert rows == [
        (0, "server", "POST", "http", "/orders", "ok"),
        (1, "producer", "send", "kafka", "orders", "ok"),
        (2, "consumer", "process", "kafka", "orders", "error"),
        (1, "client", "GET", "http", "stock:80", "cancelled"),
    ]
    assert {(s.process, s.process_id) for s in reading.spans} == {("shop", 4711)}
    failed = next(s for s in order.spans if s.has_failed)
    assert (failed.error, failed.attempt, failed.death_count) == ("LookupError", 2, 1)
    assert (failed.is_redelivered, failed.is_scheduled) == (True, True)
    assert failed.queue_time_nano == WAITED
    assert failed.links == (SpanLink(LINK.trace_id, LINK.span_id),)


def otlp(*spans: object, **resource: object) -> dict[str, Any]:
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": list(spans)}]}]}


def otlp_span(**changes: Any) -> dict[str, Any]:
    return {
        "traceId": TRACE,
        "spanId": span_id(1),
        "name": "process orders",
        "startTimeUnixNano": str(START),
        "endTimeUnixNano": START + MILLISECOND,
        **changes,
    }


def attributes(**values: str) -> list[dict[str, Any]]:
    return [{"key": key.replace("_", "."), "value": {"stringValue": value}} for key, value in values.items()]


def read_one(folder: Path, **changes: Any) -> DrawnSpan:
    (span,) = read([str(written(folder, otlp(otlp_span(**changes))))]).spans
    return span


def test_what_otlp_leaves_out_has_defaults(tmp_path: Path) -> None:
    span = read_one(tmp_path)

    assert (span.kind, span.process, span.process_id, span.parent_span_id) == ("internal", "", None, None)
    assert (span.start_unix_nano, span.end_unix_nano) == (START, START + MILLISECOND)


@pytest.mark.parametrize("parent", ["", "0" * 16, None])
def test_an_empty_parent_is_none(parent: str | None, tmp_path: Path) -> None:
    assert read_one(tmp_path, parentSpanId=parent).parent_span_id is None


@pytest.mark.parametrize("code", [2, "STATUS_CODE_ERROR"])
def test_an_error_is_named_by_its_exception_where_no_attribute_names_it(code: object, tmp_path: Path) -> None:
    events = [
        {"name": "exception", "attributes": attributes(exception_type=name)} for name in ("Early", "Late")
    ]
    span = read_one(
        tmp_path, status={"code": code}, events=events, attributes=attributes(error_type="_OTHER")
    )

    assert (span.outcome, span.error) == ("error", "Late")


def test_an_exception_of_a_span_that_did_not_fail_is_no_error(tmp_path: Path) -> None:
    events = [{"attributes": attributes(exception_type="Handled")}]
    assert read_one(tmp_path, events=events, status={"code": 1}).error is None


def test_a_clock_that_was_put_back_costs_no_span(tmp_path: Path) -> None:
    span = read_one(tmp_path, endTimeUnixNano=str(START - 5))
    assert (span.start_unix_nano, span.end_unix_nano) == (START, START)


def test_attributes_that_are_none_are_left_out(tmp_path: Path) -> None:
    odd = [
        7,
        {"key": 7, "value": {"stringValue": "x"}},
        {"key": "messaging.system"},
        {"key": "error.type", "value": 7},
    ]
    span = read_one(tmp_path, attributes=odd, kind="?", status=[7], links=7, events={"attributes": 7})
    assert (span.system, span.error, span.kind, span.outcome) == ("", None, "internal", "ok")


@pytest.mark.parametrize("waited", ["-1", "soon", str(START + 1)])
def test_a_queue_time_that_cannot_be_costs_no_span(waited: str, tmp_path: Path) -> None:
    told = [{"key": "spakky.queue_time_nano", "value": {"intValue": waited}}]
    assert read_one(tmp_path, attributes=told).queue_time_nano is None


def test_a_bad_span_is_named_within_its_line(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        GOOD,
        otlp(otlp_span(), otlp_span(spanId="x"), otlp_span(startTimeUnixNano=0, endTimeUnixNano="")),
    )

    assert bad_lines(path) == [
        "line 2, span 2 is no span: its span_id is not 16 hexadecimal digits",
        "line 2, span 3 is no span: its end_time_unix_nano is no whole number that makes sense",
    ]


def test_metrics_and_logs_in_the_file_of_a_collector_are_no_bad_lines(tmp_path: Path) -> None:
    path = written(
        tmp_path, {"resourceMetrics": []}, otlp(otlp_span()), {"resourceLogs": []}, {"resourceSpans": []}
    )
    reading = read([str(path)])

    assert (len(reading.spans), reading.bad_count) == (1, 0)


# --- files


def test_files_of_several_services_and_formats_are_one_trace(tmp_path: Path) -> None:
    ours = written(tmp_path, line_of(2, 1), name="ours.jsonl")
    theirs = written(tmp_path, otlp(otlp_span()), name="theirs.json")

    (trace,) = traces_of(read([str(ours), str(theirs), str(ours)]).spans)

    assert [depth for depth, _ in trace.walk()] == [0, 1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no spans yet."),
        (b"\n \n", "has no spans yet."),
        (b'{"resourceLogs": []}', "has no spans yet."),
        (b"PNG\x00\xff\n", "has no spans: line 1 is none, it is no text in UTF-8."),
        (b"\x00" * 5_000, "has no spans: line 1 is none, it is no JSON."),
        (b"hello\n", "has no spans: line 1 is none, it is no JSON."),
        (b'{"name": "x"', "has no spans: line 1 is none, it is not written to its end yet."),
    ],
)
def test_a_file_without_spans_is_refused_with_the_reason(content: bytes, said: str, tmp_path: Path) -> None:
    path = written(tmp_path, content)
    ended = piped("view", path)

    assert (ended.code, ended.output) == (2, "")
    assert ended.errors == (
        f"Error: {path} {said} It reads what SPAKKY_TRACING_RECORD=FILE records, and OTLP/JSON.\n"
    )


def test_a_file_that_cannot_be_read_is_refused_even_beside_one_that_can(tmp_path: Path) -> None:
    good = str(written(tmp_path, GOOD))

    with pytest.raises(Refusal, match=r"nothing cannot be read: No such file or directory\.$"):
        read([good, str(tmp_path / "nothing")])
    with pytest.raises(Refusal, match=r"cannot be read: Is a directory\.$"):
        read([good, str(tmp_path)])


def test_a_file_without_spans_beside_one_that_has_some_is_named(tmp_path: Path) -> None:
    empty, good = written(tmp_path, b"", name="empty.jsonl"), written(tmp_path, GOOD)
    ended = piped("view", empty, good)

    assert ended.code == 0
    assert ended.errors == f"{empty} has no spans yet.\n"


def test_three_bad_lines_of_a_file_are_named_and_the_others_counted(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD, *[b"bad \x1b[31m\n"] * 2_000)
    ended = piped("view", path.name, folder=tmp_path)

    assert ended.errors.splitlines() == [
        *(f"spans.jsonl: line {number} is no span: it is no JSON" for number in (2, 3, 4)),
        "and 1,997 more",
    ]
    assert ended.output.splitlines()[-1] == "Read: 1 trace, 1 span, 1 process, no failures, 2,000 bad lines."


def test_standard_input_is_read() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "spakky.tracing", "view", "-"],
        input=json.dumps(GOOD),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    assert shown.stdout.startswith(f"Trace {TRACE}\n")


def test_a_named_pipe_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(json.dumps(GOOD, indent=1),))
    writer.start()
    try:
        assert len(read([str(pipe)]).spans) == 1
    finally:
        writer.join()
