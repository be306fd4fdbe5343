"""Environment variables, with real child processes."""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from contract.contexts import STALE, TRACEPARENT, full_context
from contract.formats import B3Propagator, b3
from contract.sending import BrokenPropagator, BrokenTracer
from spakky.tracing.context import TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import environ
from spakky.tracing.recorder import MemoryRecorder, read_spans
from spakky.tracing.w3c_propagator import W3C

if TYPE_CHECKING:
    from collections.abc import Mapping

CHILD: Final = Path(__file__).parent / "environ_child.py"
PROGRAM: Final = [sys.executable, str(CHILD)]
FIELDS: Final = ("TRACEPARENT", "TRACESTATE", "BAGGAGE")
SENDER: Final = TraceContext.from_traceparent(TRACEPARENT)
STALE_VARIABLES: Final = {"TRACEPARENT": STALE, "TRACESTATE": "stale=1", "BAGGAGE": "stale=1"}

# It has never imported us, as the program of another team.
OF_OPENTELEMETRY: Final = """
import json, os, subprocess, sys
from opentelemetry import baggage, context, trace
from opentelemetry.propagate import extract, inject
from opentelemetry.propagators._envcarrier import EnvironmentGetter, EnvironmentSetter

context.attach(extract(os.environ, getter=EnvironmentGetter()))
span = trace.get_current_span().get_span_context()
print(json.dumps({
    "traceparent": f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}",
    "trace_state": span.trace_state.to_header(),
    "baggage": dict(baggage.get_all()),
}), flush=True)
assert not [name for name in sys.modules if name.startswith("spakky")]
environment = dict(os.environ)
inject(environment, setter=EnvironmentSetter())
subprocess.run(sys.argv[1:], env=environment, check=True)
"""

FORKS: Final = """
import json, multiprocessing
from spakky.tracing.context import TraceContext
from spakky.tracing.integrations import environ

def work(variables, parent):
    print(json.dumps(["fork", TraceContext.get() == parent]), flush=True)
    with environ.process(variables) as processing:
        is_child = processing.context.parent_span_id == parent.span_id
        print(json.dumps(["with process", is_child]), flush=True)

with TraceContext.use(TraceContext.new_root()) as current:
    arguments = environ.headers({}), current
    child = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    child.start()
    child.join()
"""

MALFORMED: Final = [
    {},
    {"TRACEPARENT": ""},
    {"TRACEPARENT": "garbage"},
    {"TRACEPARENT": TRACEPARENT.upper()},
    {"TRACEPARENT": f"{TRACEPARENT},{TRACEPARENT}"},
    {"TRACEPARENT": f'"{TRACEPARENT}"'},
    {"TRACEPARENT": "00-00000000000000000000000000000000-b7ad6b7169203331-01"},
    {"TRACEPARENT": f"{TRACEPARENT}\udcff"},
    {"TRACEPARENT": "\N{SNOWMAN}" * 55},
    {"TRACEPARENT": "0" * 1_000_000},
    {"TRACEPARENT": None},
    {"TRACEPARENT": 7},
    {"TRACEPARENT": [TRACEPARENT]},
    {b"TRACEPARENT": b"\xff" * 55},
    {"traceparent": TRACEPARENT},
    {"TRACESTATE": "a=1"},
    {7: 7, None: None},
]


@pytest.fixture(autouse=True)
def outside_of_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take out what the tests themselves were started with; children have to find the library."""
    for name in FIELDS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))


def lines_of(command: list[str], environment: Mapping[str, str] | None = None) -> list[Any]:
    """Run *command* and return what its programs say."""
    finished = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert finished.returncode == 0, finished.stderr
    return [json.loads(line) for line in finished.stdout.splitlines()]


def only_line_of(command: list[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    line: dict[str, Any]
    (line,) = lines_of(command, environment)
    return line


def seen_in(environment: Mapping[Any, Any], **options: Any) -> TraceContext:
    """Return what is current in a program with that *environment*."""
    with environ.process(environment, **options) as processing:
        context = TraceContext.get()
    assert context is not None
    assert context is processing.context
    return context


class TestAChildProcess:
    def test_is_a_child_of_what_is_current_where_it_is_started(self) -> None:
        with TraceContext.use(full_context()) as current:
            child = only_line_of(PROGRAM, environ.headers())

        assert current is not None
        assert (child["trace_id"], child["parent_span_id"]) == (current.trace_id, current.span_id)
        assert (child["trace_state"], child["baggage"]) == ("congo=t61", {"tenant": "acme"})

    def test_is_in_no_trace_before_it_asks_for_it(self) -> None:
        """Nothing is read from the environment by importing."""
        assert only_line_of(PROGRAM, environ.headers())["before"] is None

    def test_hands_the_trace_on_to_children_of_its_own(self) -> None:
        with TraceContext.use(full_context()) as current:
            lines = lines_of([*PROGRAM, "child", "grandchild"], environ.headers())

        assert current is not None
        assert {line["trace_id"] for line in lines} == {current.trace_id}
        ids = [current.span_id, *(line["span_id"] for line in lines)]
        assert [line["parent_span_id"] for line in lines] == ids[:-1]
        assert [line["baggage"] for line in lines] == [{"tenant": "acme"}] * 3

    def test_is_reached_through_a_shell(self) -> None:
        program = shlex.join(PROGRAM)
        script = f"{program} && ({program} | cat) && env -u TRACEPARENT -u BAGGAGE {program}"

        with TraceContext.use(full_context()) as current:
            direct, piped, without = lines_of(["sh", "-c", script], environ.headers())

        assert current is not None
        assert direct["parent_span_id"] == piped["parent_span_id"] == current.span_id
        assert direct["span_id"] != piped["span_id"]
        assert without["trace_id"] not in {None, current.trace_id}
        assert without["parent_span_id"] is None

    async def test_is_started_by_asyncio(self) -> None:
        async def start() -> tuple[TraceContext, dict[str, Any]]:
            context = TraceContext.new_root()
            TraceContext.set(context)
            child = await asyncio.create_subprocess_exec(
                *PROGRAM, env=environ.headers(), stdout=asyncio.subprocess.PIPE
            )
            output, _ = await child.communicate()
            return context, json.loads(output)

        pairs = await asyncio.gather(*(asyncio.create_task(start()) for _ in range(3)))

        assert [child["parent_span_id"] for _, child in pairs] == [context.span_id for context, _ in pairs]

    def test_is_started_by_threads_each_in_its_own_trace(self) -> None:
        def start(_: int) -> tuple[TraceContext | None, dict[str, Any]]:
            with TraceContext.use(TraceContext.new_root()) as current:
                return current, only_line_of(PROGRAM, environ.headers())

        with ThreadPoolExecutor(3) as threads:
            pairs = list(threads.map(start, range(3)))

        assert [child["parent_span_id"] for _, child in pairs] == [each and each.span_id for each, _ in pairs]

    def test_may_take_the_place_of_its_parent(self) -> None:
        replaced = (
            "import os, sys; from spakky.tracing.integrations import environ\n"
            "with environ.process(): os.execve(sys.argv[1], sys.argv[1:], environ.headers())"
        )

        child = only_line_of(
            [sys.executable, "-c", replaced, *PROGRAM], environ.headers(STALE_VARIABLES | os.environ)
        )

        assert child["trace_id"] == STALE.split("-")[1]
        assert child["baggage"] == {"stale": "1"}

    def test_with_variables_that_are_no_text_starts_a_trace(self) -> None:
        values = {
            b"TRACEPARENT": b"\xff\xfe",
            b"TRACESTATE": b"x" * 100_000,
            b"BAGGAGE": b"\x80=1,a=" + b"b" * 100,
        }
        finished = subprocess.run(PROGRAM, env={**os.environb, **values}, capture_output=True, check=False)

        assert (finished.returncode, finished.stderr) == (0, b"")
        child = json.loads(finished.stdout)
        assert child["trace_id"] is not None
        assert child["parent_span_id"] is None

    def test_of_no_environment_at_all_starts_a_trace(self) -> None:
        path = os.environ["PYTHONPATH"]

        child = only_line_of(["env", "-i", f"PYTHONPATH={path}", *PROGRAM])

        assert child["trace_id"] is not None
        assert child["parent_span_id"] is None

    def test_records_a_span_of_its_run(self, tmp_path: Path) -> None:
        record = tmp_path / "spans.jsonl"

        with TraceContext.use(full_context()) as current:
            variables = environ.headers({**os.environ, "SPAKKY_TRACING_RECORD": str(record)})
            lines = lines_of([*PROGRAM, "child"], variables)

        assert current is not None
        inner, outer = read_spans(record)
        assert (outer.name, outer.system, outer.outcome) == ("run environ_child.py", "environ", "ok")
        assert (outer.parent_span_id, inner.parent_span_id) == (current.span_id, outer.span_id)
        assert [line["span_id"] for line in lines] == [outer.span_id, inner.span_id]


class TestMultiprocessing:
    @pytest.mark.parametrize("method", ["spawn", "forkserver"])
    def test_gets_the_variables_as_an_argument(self, method: str) -> None:
        processes: Any = multiprocessing.get_context(method)
        reader, writer = processes.Pipe(duplex=False)
        with TraceContext.use(full_context()) as current:
            worker = processes.Process(target=work, args=(environ.headers({}), writer))
            worker.start()

        with reader, writer:
            seen = reader.recv()
        worker.join(60)
        worker.close()

        assert current is not None
        assert seen == [current.trace_id, current.span_id, {"tenant": "acme"}]

    def test_that_forks_inherits_what_is_current(self) -> None:
        """In a program of its own: a process with threads, as this one may be, had better not fork."""
        assert lines_of([sys.executable, "-c", FORKS]) == [["fork", True], ["with process", True]]


def work(variables: dict[str, str], answers: Any) -> None:
    with environ.process(variables) as processing:
        context = processing.context
        assert context is not None
        answers.send([context.trace_id, context.parent_span_id, dict(context.baggage)])


class TestOpenTelemetry:
    """Its own carriers for environment variables, in a process that never imports us."""

    def test_goes_on_with_our_trace_and_we_with_its(self) -> None:
        command = [sys.executable, "-c", OF_OPENTELEMETRY, *PROGRAM]

        with TraceContext.use(full_context()) as current:
            theirs, ours = lines_of(command, environ.headers())

        assert current is not None
        assert theirs == {
            "traceparent": current.to_traceparent(),
            "trace_state": "congo=t61",
            "baggage": {"tenant": "acme"},
        }
        assert (ours["trace_id"], ours["parent_span_id"]) == (current.trace_id, current.span_id)
        assert (ours["trace_state"], ours["baggage"]) == ("congo=t61", {"tenant": "acme"})


class TestHeaders:
    def test_are_the_environment_of_this_process_with_the_context(self) -> None:
        before = dict(os.environ)
        with TraceContext.use(full_context()) as current:
            variables = environ.headers()

        assert {name: variables.pop(name) for name in FIELDS} == fields_of(current)
        assert variables == before == dict(os.environ)

    def test_are_those_of_the_caller_with_the_context(self) -> None:
        given = {"HOME": "/", "lower": "case", "RAW": os.fsdecode(b"\xff")}
        with TraceContext.use(full_context()) as current:
            assert environ.headers(given) == {**given, **fields_of(current)}
            assert environ.headers({}) == fields_of(current)
            assert environ.headers({b"RAW": b"\xff"}) == {"RAW": given["RAW"], **fields_of(current)}

        assert given == {"HOME": "/", "lower": "case", "RAW": os.fsdecode(b"\xff")}

    def test_have_nothing_left_of_an_earlier_context(self) -> None:
        """A process that was started in a trace starts children in another one."""
        with TraceContext.use(SENDER):
            assert environ.headers(STALE_VARIABLES) == {"TRACEPARENT": TRACEPARENT}

    def test_keep_what_the_process_was_started_with_outside_of_any_trace(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in STALE_VARIABLES.items():
            monkeypatch.setenv(name, value)

        assert environ.headers() == dict(os.environ)

    @pytest.mark.parametrize("variables", MALFORMED, ids=lambda each: repr(each)[:40])
    def test_start_a_trace_where_there_is_no_valid_one(self, variables: dict[Any, Any]) -> None:
        written = environ.headers(variables)

        context = environ.context_from(written)
        assert context is not None
        assert context.trace_id != SENDER.trace_id
        assert "TRACESTATE" not in written

    def test_leave_a_valid_context_as_it_is_on_request(self) -> None:
        with TraceContext.use(TraceContext.new_root()):
            assert environ.headers(STALE_VARIABLES, keep=True) == STALE_VARIABLES

    def test_are_a_copy_where_it_is_switched_off(self) -> None:
        with TraceContext.use(TraceContext.new_root()):
            written = environ.headers(STALE_VARIABLES, enabled=False)

        assert written == STALE_VARIABLES
        assert written is not STALE_VARIABLES

    def test_are_of_another_format_on_request(self) -> None:
        with TraceContext.use(SENDER):
            written = environ.headers({"TRACEPARENT": STALE}, propagator=B3Propagator())

        assert written == {"TRACEPARENT": STALE, "B3": b3(SENDER)}
        assert seen_in(written, propagator=B3Propagator()).parent_span_id == SENDER.span_id

    def test_are_those_of_the_caller_if_a_propagator_fails(self) -> None:
        with TraceContext.use(TraceContext.new_root()):
            assert environ.headers({"HOME": "/"}, propagator=BrokenPropagator()) == {"HOME": "/"}

    @pytest.mark.parametrize("wrong", [7, "TRACEPARENT=", b"", [("HOME", "/")]], ids=repr)
    def test_are_made_of_a_mapping_only(self, wrong: Any) -> None:
        with pytest.raises(WrongUseError, match=r"^an environment must be a mapping .* got \w+$"):
            environ.headers(wrong)


class TestProcess:
    def test_reads_the_environment_of_this_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRACEPARENT", TRACEPARENT)

        with environ.process() as processing:
            assert processing.context is not None
            assert processing.context.parent_span_id == SENDER.span_id
        assert environ.context_from() == environ.context_from(os.environb) == SENDER

    @pytest.mark.parametrize("variables", MALFORMED, ids=lambda each: repr(each)[:40])
    def test_starts_a_trace_where_the_variables_are_malformed(self, variables: dict[Any, Any]) -> None:
        context = seen_in(variables)

        assert context.parent_span_id is None
        assert context.trace_id != SENDER.trace_id
        assert environ.context_from(variables) is None

    def test_says_why_a_variable_is_refused(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG, "spakky.tracing"):
            seen_in({"TRACEPARENT": "\udcff"})

        assert caplog.messages == ["no trace context: traceparent has 1 characters, fewer than 55: '\\udcff'"]

    @pytest.mark.parametrize("field", ["TRACESTATE", "BAGGAGE"])
    @pytest.mark.parametrize(
        "value", ["", "=", "\udcff", "x" * 1_000_000, "a=1," * 250_000, None, 7], ids=lambda v: repr(v)[:20]
    )
    def test_keeps_the_trace_where_another_field_is_malformed(self, field: str, value: Any) -> None:
        context = seen_in({"TRACEPARENT": TRACEPARENT, field: value})

        assert (context.trace_id, context.parent_span_id) == (SENDER.trace_id, SENDER.span_id)
        assert len(context.baggage.to_header()) <= 8192

    def test_keeps_the_baggage_where_there_is_no_trace(self) -> None:
        assert dict(seen_in({"BAGGAGE": "tenant=acme"}).baggage) == {"tenant": "acme"}

    def test_is_no_child_of_what_happens_to_be_current(self) -> None:
        with TraceContext.use(full_context()) as current:
            context = seen_in({})
            assert TraceContext.get() is current

        assert current is not None
        assert context.trace_id != current.trace_id

    @pytest.mark.parametrize(("relation", "links"), [("link", 1), ("root", 0)])
    def test_starts_a_trace_on_request(self, relation: Any, links: int) -> None:
        with environ.process({"TRACEPARENT": TRACEPARENT}, relation=relation) as processing:
            assert processing.context is not None
            assert processing.context.trace_id != SENDER.trace_id
            assert len(processing.links) == links

    def test_changes_nothing_where_it_is_switched_off(self) -> None:
        with environ.process({"TRACEPARENT": TRACEPARENT}, enabled=False) as processing:
            assert processing.context is None
            assert TraceContext.get() is None
        assert environ.context_from({"TRACEPARENT": TRACEPARENT}, enabled=False) is None

    @pytest.mark.parametrize(
        ("status", "outcome"),
        [(None, "ok"), (0, "ok"), (3, "error"), ("no space left", "error"), ("", "error"), ([], "error")],
        ids=repr,
    )
    def test_ends_as_the_program_exits(self, status: Any, outcome: str) -> None:
        recorder = MemoryRecorder()

        with pytest.raises(SystemExit) as caught, environ.process({}, tracer=recorder):
            sys.exit(status)

        assert caught.value.code is status
        assert [(span.outcome, span.kind) for span in recorder.spans] == [(outcome, "consumer")]

    def test_ends_as_an_error_with_an_exception(self) -> None:
        recorder = MemoryRecorder()

        with pytest.raises(KeyboardInterrupt), environ.process({}, tracer=recorder):
            raise KeyboardInterrupt

        assert [span.error for span in recorder.spans] == ["KeyboardInterrupt"]
        assert TraceContext.get() is None

    def test_runs_also_if_a_tracer_or_a_propagator_fails(self) -> None:
        variables = {"TRACEPARENT": TRACEPARENT}

        assert seen_in(variables, tracer=BrokenTracer()).trace_id == SENDER.trace_id
        assert seen_in(variables, propagator=BrokenPropagator()).parent_span_id is None

    def test_takes_options_by_the_name_of_the_program(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["/usr/local/bin/backup", "--all"])

        with environ.process({}, enabled={"backup": False}) as processing:
            assert processing.context is None

    def test_is_inherited_by_what_the_program_starts(self) -> None:
        with environ.process({"TRACEPARENT": TRACEPARENT}), ThreadPoolExecutor(1) as threads:
            inside = threads.submit(copy_context().run, TraceContext.get).result()
            assert inside is TraceContext.get()

    @pytest.mark.parametrize("wrong", [None, 7, "TRACEPARENT=", [("HOME", "/")]], ids=repr)
    def test_takes_a_mapping_only(self, wrong: Any) -> None:
        with pytest.raises(WrongUseError, match=r"^this takes an environment, .* got \w+$"):
            environ.process(wrong)
        with pytest.raises(WrongUseError, match=r"^this takes a received environment, got \w+$"):
            environ.context_from(wrong)


def fields_of(context: TraceContext | None) -> dict[str, str]:
    """Return the variables of a *context*."""
    carrier: dict[str, str] = {}
    W3C.inject(carrier, context)
    return {name.upper(): value for name, value in carrier.items()}
