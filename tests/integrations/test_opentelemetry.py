"""The bridge to OpenTelemetry: both have one current context."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import logging
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, SpanContext

import spakky.tracing
from contract.contexts import full_context
from integrations.bridged import Bridge, agreed, bridged, ids_here, ids_there
from spakky.tracing.baggage import Baggage
from spakky.tracing.context import Scope, TraceContext
from spakky.tracing.error import WrongUseError
from spakky.tracing.integrations import opentelemetry
from spakky.tracing.recorder import MemoryRecorder
from spakky.tracing.tracer import get_tracer, set_tracer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

SOURCES = Path(spakky.tracing.__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_complaint(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """OpenTelemetry logs an error where a token is used twice or in another task."""
    yield
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    with bridged() as bridge:
        yield bridge


def ids_of(span: trace.Span) -> tuple[str, str]:
    ids = span.get_span_context()
    return trace.format_trace_id(ids.trace_id), trace.format_span_id(ids.span_id)


def ids(of: TraceContext | None) -> tuple[str, str] | None:
    return None if of is None else (of.trace_id, of.span_id)


def pickled(context: TraceContext) -> object:
    return pickle.loads(pickle.dumps(context))  # noqa: S301 - our own


class TestFromOpenTelemetry:
    def test_a_current_span_is_the_current_context(self, bridge: Bridge) -> None:
        with bridge.tracer.start_as_current_span("a") as outer:
            with bridge.tracer.start_as_current_span("b") as inner:
                context = TraceContext.get()

                assert context is not None
                assert ids(context) == ids_of(inner)
                assert context.parent_span_id == ids_of(outer)[1]
                assert (context.trace_flags & 1, context.is_remote) == (1, False)
            assert agreed() == ids_of(outer)
        assert agreed() is None

    def test_it_is_the_same_object_until_something_else_is_current(self, bridge: Bridge) -> None:
        with bridge.tracer.start_as_current_span("a"):
            assert TraceContext.get() is TraceContext.get()

    def test_a_span_without_valid_ids_is_no_context(self, bridge: Bridge) -> None:
        for span in (INVALID_SPAN, NonRecordingSpan(SpanContext(1, 0, is_remote=False))):
            with trace.use_span(span):
                assert TraceContext.get() is None

    def test_a_remote_span_is_a_remote_context_with_its_state(self, bridge: Bridge) -> None:
        state = trace.TraceState([("congo", "t61")])
        remote = SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(0), trace_state=state)

        with trace.use_span(NonRecordingSpan(remote)):
            context = TraceContext.get()

        assert context is not None
        assert context.is_remote
        assert context.to_traceparent() == f"00-{1:032x}-{2:016x}-00"
        assert context.trace_state.to_header() == "congo=t61"

    def test_its_baggage_is_ours(self, bridge: Bridge) -> None:
        with bridge.tracer.start_as_current_span("a"):
            token = context.attach(baggage.set_baggage("tenant", "J\xfcrgen & Co"))

            assert dict(TraceContext.get().baggage) == {"tenant": "J\xfcrgen & Co"}  # type: ignore[union-attr]
            context.detach(token)
            assert not TraceContext.get().baggage  # type: ignore[union-attr]

    def test_baggage_that_w3c_has_no_place_for_is_left_out(self, bridge: Bridge) -> None:
        class Nameless:
            def __str__(self) -> str:
                raise RuntimeError

        current = context.get_current()
        for name, value in [("a b", "1"), ("ok", 7), ("bad", Nameless()), ("\xe9", "1"), ("lone", "\ud800")]:
            current = baggage.set_baggage(name, value, current)
        token = context.attach(current)

        with bridge.tracer.start_as_current_span("a"):
            assert dict(TraceContext.get().baggage) == {"ok": "7"}  # type: ignore[union-attr]
        context.detach(token)

    def test_what_is_derived_from_a_span_is_a_context_like_others(self, bridge: Bridge) -> None:
        with bridge.tracer.start_as_current_span("a") as span:
            current = TraceContext.get()
        assert current is not None

        for same in (copy.copy(current), copy.deepcopy(current), pickled(current)):
            assert same == current
        assert {type(pickled(current)), type(pickled(current.child()))} == {TraceContext}
        assert current.child().parent_span_id == ids_of(span)[1]
        with pytest.raises(AttributeError, match="immutable"):
            current.span_id = "0" * 16
        with pytest.raises(AttributeError, match="immutable"):
            current.span = INVALID_SPAN


class TestFromHere:
    def test_a_context_of_ours_is_the_current_span(self, bridge: Bridge) -> None:
        with TraceContext.use(full_context()) as ours:
            assert ours is not None
            assert agreed() == ids(ours)
            assert TraceContext.get() is ours
            assert dict(baggage.get_all()) == {"tenant": "acme"}
            assert trace.get_current_span().get_span_context().trace_state.to_header() == "congo=t61"
        assert agreed() is None
        assert dict(baggage.get_all()) == {}

    def test_a_span_started_in_it_is_its_child(self, bridge: Bridge) -> None:
        with TraceContext.use(full_context()) as ours, bridge.tracer.start_as_current_span("a") as span:
            current = TraceContext.get()
        (recorded,) = bridge.spans

        assert ours is not None
        assert current is not None
        assert recorded.parent is not None
        assert f"{recorded.parent.span_id:016x}" == ours.span_id == current.parent_span_id
        assert (ids(current), current.baggage) == (ids_of(span), ours.baggage)
        assert current.trace_state == ours.trace_state

    def test_afterwards_the_very_span_is_current_again(self, bridge: Bridge) -> None:
        with bridge.tracer.start_as_current_span("a") as span:
            before = TraceContext.get()
            with TraceContext.use(TraceContext.new_root()):
                pass

            assert trace.get_current_span() is span
            assert TraceContext.get() == before

    def test_the_context_of_a_span_made_current_again_is_the_very_span(self, bridge: Bridge) -> None:
        with bridge.tracer.start_as_current_span("a") as span:
            known = TraceContext.get()
            with TraceContext.use(TraceContext.new_root()), TraceContext.use(known):
                assert trace.get_current_span() is span
                assert TraceContext.get() is known

    def test_more_baggage_does_not_hide_the_very_span(self, bridge: Bridge) -> None:
        with bridge.tracer.start_as_current_span("a") as span:
            known = TraceContext.get()
            assert known is not None
            with TraceContext.use(known.with_baggage(Baggage({"tenant": "acme"}))):
                assert trace.get_current_span() is span
                assert baggage.get_baggage("tenant") == "acme"
            assert baggage.get_baggage("tenant") is None

    def test_no_trace_is_no_span_and_no_baggage(self, bridge: Bridge) -> None:
        with TraceContext.use(full_context()) as ours:
            with TraceContext.use(None):
                assert agreed() is None
                assert dict(baggage.get_all()) == {}
                with bridge.tracer.start_as_current_span("root") as span:
                    assert agreed() == ids_of(span)
            assert TraceContext.get() is ours

        assert bridge.spans[0].parent is None

    def test_set_and_clear_are_seen_there(self, bridge: Bridge) -> None:
        root = TraceContext.new_root()

        TraceContext.set(root)
        assert (agreed(), TraceContext.get() is root) == (ids(root), True)
        TraceContext.clear()

        assert agreed() is None

    def test_set_in_a_scope_or_a_span_ends_with_it(self, bridge: Bridge) -> None:
        with TraceContext.use(TraceContext.new_root()) as ours:
            TraceContext.set(TraceContext.new_root())
            with bridge.tracer.start_as_current_span("a"):
                TraceContext.clear()
                assert agreed() is None
            assert agreed() != ids(ours)
        assert agreed() is None

    def test_baggage_that_is_changed_there_is_changed_here(self, bridge: Bridge) -> None:
        with TraceContext.use(full_context()) as ours:
            assert ours is not None
            token = context.attach(baggage.set_baggage("user", "7"))
            current = TraceContext.get()
            assert current is not None
            assert dict(current.baggage) == {"tenant": "acme", "user": "7"}
            assert (ids(current), current.parent_span_id) == (ids(ours), ours.parent_span_id)
            context.detach(token)
            assert TraceContext.get() is ours

    def test_properties_of_baggage_stay_in_children_there(self, bridge: Bridge) -> None:
        """OpenTelemetry's own baggage has none; as long as it is not changed there, ours keeps them."""
        known = TraceContext.new_root(baggage=Baggage.parse("tenant=acme;ttl=5"))

        with TraceContext.use(known), bridge.tracer.start_as_current_span("a"):
            current = TraceContext.get()

        assert current is not None
        assert current.baggage.to_header() == "tenant=acme;ttl=5"

    def test_other_values_of_their_context_survive_our_scopes(self, bridge: Bridge) -> None:
        key = context.create_key("tests")
        token = context.attach(context.set_value(key, "kept"))

        with TraceContext.use(TraceContext.new_root()), TraceContext.use(None):
            assert context.get_value(key) == "kept"
            inner = context.attach(context.set_value(key, "inner"))
            with TraceContext.use(TraceContext.new_root()):
                assert context.get_value(key) == "inner"
            context.detach(inner)
            assert context.get_value(key) == "kept"
        assert context.get_value(key) == "kept"
        context.detach(token)

    def test_suppressed_instrumentation_stays_suppressed(self, bridge: Bridge) -> None:
        from opentelemetry.instrumentation.utils import (  # noqa: PLC0415 - for this test alone
            is_instrumentation_enabled,
            suppress_instrumentation,
        )

        with suppress_instrumentation(), TraceContext.use(TraceContext.new_root()):
            assert not is_instrumentation_enabled()
        assert is_instrumentation_enabled()


class TestOrders:
    """Scopes and spans that do not end in the order in which they began."""

    def test_a_span_left_open_is_not_current_after_the_scope(self, bridge: Bridge) -> None:
        with TraceContext.use(TraceContext.new_root()):
            left = trace.use_span(bridge.tracer.start_span("left"), end_on_exit=True)
            left.__enter__()
        assert agreed() is None

        with TraceContext.use(None):  # a token puts back what it found: that of the scope
            left.__exit__(None, None, None)
        assert agreed() is None

    def test_scopes_closed_in_another_order_put_back_what_was_first(self, bridge: Bridge) -> None:
        with bridge.tracer.start_as_current_span("a") as span:
            first, second = Scope(TraceContext.new_root()), Scope(TraceContext.new_root())
            first.open()
            second.open()

            first.close()
            assert agreed() == ids(second.context)
            second.close()

            assert agreed() == ids_of(span)
            assert trace.get_current_span() is span

    def test_a_scope_closed_in_another_thread_leaves_both_sides_there_alone(self, bridge: Bridge) -> None:
        scope = Scope(TraceContext.new_root()).open()

        def close() -> tuple[object, object]:
            with bridge.tracer.start_as_current_span("there") as span:
                scope.close()
                return agreed(), ids_of(span)

        with ThreadPoolExecutor(1) as pool:
            seen, there = pool.submit(close).result()

        assert seen == there
        assert ids_here() is None
        assert ids_there() is None

    async def test_a_task_that_closes_its_parents_scope_keeps_what_it_inherited(self, bridge: Bridge) -> None:
        scope = Scope(TraceContext.new_root()).open()

        async def close() -> object:
            scope.close()
            await asyncio.sleep(0)
            return agreed()

        seen = await asyncio.create_task(close())

        assert seen == ids(scope.context)
        assert ids_here() is None
        assert ids_there() is None

    def test_a_generator_may_be_finished_by_another_thread(self, bridge: Bridge) -> None:
        def steps() -> Generator[object, None, None]:
            with TraceContext.use(TraceContext.new_root()):
                yield agreed()

        generator = steps()
        assert next(generator) is not None
        thread = threading.Thread(target=generator.close)
        thread.start()
        thread.join()

        assert ids_here() is None
        assert ids_there() is None

    async def test_an_async_generator_given_up_leaves_nothing(self, bridge: Bridge) -> None:
        closed = asyncio.Event()

        async def steps() -> AsyncIterator[object]:
            try:
                with TraceContext.use(TraceContext.new_root()):
                    yield agreed()
                    yield None
            finally:
                closed.set()

        generator = steps()
        assert await anext(generator) is not None
        del generator
        await closed.wait()

        assert ids_here() is None
        assert ids_there() is None


class TestThreadsAndTasks:
    async def test_tasks_inherit_and_keep_to_themselves(self, bridge: Bridge) -> None:
        async def handle(own: TraceContext) -> bool:
            assert agreed() == ids(outer)
            with TraceContext.use(own):
                await asyncio.sleep(0)
                with bridge.tracer.start_as_current_span("inside") as span:
                    await asyncio.sleep(0)
                    assert agreed() == ids_of(span)
                return agreed() == ids(own)

        with TraceContext.use(TraceContext.new_root()) as outer:
            results = await asyncio.gather(*(handle(TraceContext.new_root()) for _ in range(20)))

        assert all(results)
        assert {span.parent.trace_id == span.context.trace_id for span in bridge.spans} == {True}  # type: ignore[union-attr]

    async def test_a_task_outlives_the_scope_in_which_it_started(self, bridge: Bridge) -> None:
        goes_on = asyncio.Event()

        async def later() -> object:
            await goes_on.wait()
            return agreed()

        with TraceContext.use(TraceContext.new_root()) as ours:
            task = asyncio.create_task(later())
            await asyncio.sleep(0)
        goes_on.set()

        assert await task == ids(ours)

    def test_a_thread_with_a_copied_context_inherits_both(self, bridge: Bridge) -> None:
        with TraceContext.use(TraceContext.new_root()) as ours, ThreadPoolExecutor(1) as pool:
            bare = pool.submit(agreed).result()
            copied = pool.submit(contextvars.copy_context().run, agreed).result()

        assert (bare, copied) == (None, ids(ours))

    async def test_to_thread_inherits_both(self, bridge: Bridge) -> None:
        with bridge.tracer.start_as_current_span("a") as span:
            assert await asyncio.to_thread(agreed) == ids_of(span)

    def test_nothing_grows_in_a_thread_that_lives_long(self, bridge: Bridge) -> None:
        from contract.sending import kept  # noqa: PLC0415 - for this test alone

        for _ in range(100):
            with bridge.tracer.start_as_current_span("a"), TraceContext.use(full_context()):
                TraceContext.set(full_context())
        bridge.clear()

        assert kept(Scope) == []
        assert agreed() is None
        assert len(context.get_current()) <= 1


class TestInstalling:
    def test_twice_is_once(self, bridge: Bridge) -> None:
        opentelemetry.install(tracer_provider=bridge.provider)
        opentelemetry.uninstall()
        opentelemetry.uninstall()

        with bridge.tracer.start_as_current_span("a"):
            assert TraceContext.get() is None

    def test_uninstalled_the_tracer_before_is_back(self) -> None:
        recorder = MemoryRecorder()
        set_tracer(recorder)
        with bridged():
            assert get_tracer() is not recorder
        assert get_tracer() is recorder
        set_tracer(None)

    def test_a_tracer_that_was_set_since_stays(self) -> None:
        recorder = MemoryRecorder()
        with bridged():
            set_tracer(recorder)
        assert get_tracer() is recorder
        set_tracer(None)

    @pytest.mark.parametrize("option", ["tracer_provider", "propagator"])
    def test_something_else_is_refused_at_once(self, option: str) -> None:
        arguments: dict[str, Any] = {option: object()}

        with pytest.raises(WrongUseError, match=f"{option}= takes a .* of OpenTelemetry, got object"):
            opentelemetry.install(**arguments)
        with pytest.raises(WrongUseError, match="got object"):
            opentelemetry.OpenTelemetryTracer(arguments[option])
        with pytest.raises(WrongUseError, match="got object"):
            opentelemetry.OpenTelemetryPropagator(arguments[option])

        assert get_tracer() is None

    def test_in_open_scopes_what_is_current_stays_so_and_both_get_it(self) -> None:
        with TraceContext.use(TraceContext.new_root()) as outer, TraceContext.use(full_context()) as inner:
            with bridged():
                assert TraceContext.get() is inner
                assert agreed() == ids(inner)
            assert TraceContext.get() is inner
        assert outer is not None
        assert agreed() is None

    def test_a_span_of_theirs_is_not_current_here_when_it_ends(self) -> None:
        with bridged() as bridge:
            span = trace.use_span(bridge.tracer.start_span("a"))
            span.__enter__()
            assert TraceContext.get() is not None
            opentelemetry.uninstall()
            assert TraceContext.get() is None
            assert ids_there() is not None
            span.__exit__(None, None, None)

    def test_what_they_have_put_out_of_place_is_not_current_either(self) -> None:
        with bridged() as bridge:
            with bridge.tracer.start_as_current_span("a"):
                TraceContext.set(TraceContext.new_root())
            assert agreed() is None
            opentelemetry.uninstall()
            assert TraceContext.get() is None

    def test_scopes_that_were_open_before_end_on_both_sides(self) -> None:
        before = context.attach(Context())
        with TraceContext.use(TraceContext.new_root()) as outer:
            with TraceContext.use(full_context()):
                TraceContext.set(TraceContext.new_root())
                set_inside = TraceContext.get()
                opentelemetry.install()
                assert agreed() == ids(set_inside)
            assert agreed() == ids(outer)
        assert agreed() is None
        opentelemetry.uninstall()
        context.detach(before)

    def test_scopes_that_are_open_when_it_ends_end_on_both_sides(self) -> None:
        before = context.attach(Context())
        opentelemetry.install()
        with TraceContext.use(TraceContext.new_root()) as ours:
            opentelemetry.uninstall()
            assert TraceContext.get() is ours
        assert ids_here() is None
        assert ids_there() is None
        context.detach(before)


class TestOtherSurroundings:
    def test_another_runtime_of_their_context(self, tmp_path: Path) -> None:
        """What `OTEL_PYTHON_CONTEXT` names keeps the context in a place of its own."""
        (tmp_path / "runtime.py").write_text(RUNTIME)
        metadata = tmp_path / "runtime-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: runtime\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text("[opentelemetry_context]\nown = runtime:Runtime\n")

        output = run(IN_ANOTHER_RUNTIME, tmp_path, OTEL_PYTHON_CONTEXT="own")

        assert output == "Runtime agreed\n"

    def test_without_an_sdk_contexts_are_ours_and_nothing_is_recorded(self, tmp_path: Path) -> None:
        assert run(WITHOUT_SDK, tmp_path) == "the current context itself is sent\n"

    def test_an_sdk_that_is_set_up_after_the_bridge_records(self, tmp_path: Path) -> None:
        assert run(SDK_LATER, tmp_path) == "send orders\n"

    def test_without_opentelemetry_a_sentence_says_what_to_install(self, tmp_path: Path) -> None:
        assert run(WITHOUT_API, tmp_path) == (
            "opentelemetry is not installed: pip install 'spakky-tracing[opentelemetry]'\n"
        )

    def test_a_context_of_a_span_is_unpickled_where_there_is_no_opentelemetry(
        self, bridge: Bridge, tmp_path: Path
    ) -> None:
        with bridge.tracer.start_as_current_span("a"):
            current = TraceContext.get()
        assert current is not None

        output = run(UNPICKLE.format(data=pickle.dumps(current)), tmp_path)

        assert output == f"{current.to_traceparent()}\n"


RUNTIME = """
import threading
from opentelemetry.context import Context

class Runtime:
    def __init__(self):
        self._local = threading.local()
    def get_current(self):
        return getattr(self._local, "current", None) or Context()
    def attach(self, context):
        before, self._local.current = self.get_current(), context
        return before
    def detach(self, token):
        self._local.current = token
"""

IN_ANOTHER_RUNTIME = """
from opentelemetry import context, trace
from opentelemetry.sdk.trace import TracerProvider
from spakky.tracing import TraceContext
from spakky.tracing.integrations import opentelemetry
opentelemetry.install()
tracer = TracerProvider().get_tracer("app")
with tracer.start_as_current_span("a") as a:
    assert TraceContext.get().span_id == f"{a.get_span_context().span_id:016x}"
    with TraceContext.use(TraceContext.new_root()) as ours:
        assert f"{trace.get_current_span().get_span_context().span_id:016x}" == ours.span_id
        assert TraceContext.get() is ours
    assert trace.get_current_span() is a
assert TraceContext.get() is None
print(type(context._RUNTIME_CONTEXT).__name__, "agreed")
"""

HIDDEN = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.startswith({name!r}):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""

WITHOUT_SDK = (
    HIDDEN.format(name="opentelemetry.sdk")
    + """
from opentelemetry import trace
from spakky.tracing import TraceContext
from spakky.tracing.boundaries.options import Policy, SendOptions, Settings
from spakky.tracing.boundaries.publish import Sender
from spakky.tracing.integrations import aiokafka, opentelemetry
opentelemetry.install()
with trace.get_tracer("app").start_as_current_span("a"):
    assert TraceContext.get() is None
sender = Sender(aiokafka._CLIENT, Settings(SendOptions))
with sender.publish(None, "orders") as outside:
    assert outside.context.parent_span_id is None
with TraceContext.use(TraceContext.new_root()) as ours:
    assert TraceContext.get() is ours
    with sender.publish(None, "orders") as sent:
        assert sent.headers == [("traceparent", ours.to_traceparent().encode())], sent.headers
    with trace.get_tracer("app").start_as_current_span("a"):
        assert TraceContext.get() == ours
print("the current context itself is sent")
"""
)

SDK_LATER = """
from spakky.tracing.integrations import aiokafka, opentelemetry
opentelemetry.install()
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from spakky.tracing.boundaries.options import SendOptions, Settings
from spakky.tracing.boundaries.publish import Sender
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
with Sender(aiokafka._CLIENT, Settings(SendOptions)).publish(None, "orders"):
    pass
for span in exporter.get_finished_spans():
    print(span.name)
"""

WITHOUT_API = (
    HIDDEN.format(name="opentelemetry")
    + """
from spakky.tracing.error import MissingExtraError
try:
    import spakky.tracing.integrations.opentelemetry
except MissingExtraError as error:
    print(error)
"""
)

UNPICKLE = (
    HIDDEN.format(name="opentelemetry").replace("{", "{{").replace("}", "}}")
    + """
import pickle
print(pickle.loads({data!r}).to_traceparent())
"""
)


def run(code: str, folder: Path, **environment: str) -> str:
    """Run a program in a process of its own and return what it prints."""
    paths = os.pathsep.join([str(folder), str(SOURCES)])
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    return finished.stdout
