"""What the plugin does to a run of pytest: nothing, but for who asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from testing.nested import errors_in

if TYPE_CHECKING:
    from pathlib import Path

    from testing.nested import Project

TRACES = """
    from spakky.tracing import TraceContext
    from spakky.tracing.boundaries.client import Client
    from spakky.tracing.boundaries.verbs import Verbs
    from spakky.tracing.carriers.mapping import CARRIER

    SHOP = Verbs(Client(
        system="shop", carrier=CARRIER, message_type=dict, headers=lambda message: message,
        destination=lambda _: "orders", name=lambda _: "process orders",
    ))
"""


def _told_under(heading: str, output: str) -> list[str]:
    """Return all that pytest prints between this heading and the next one."""
    lines = output.splitlines()
    headings = [number for number, line in enumerate(lines) if line.startswith(("___", "==="))]
    start = next(number for number in headings if lines[number].strip("_ ") == heading)
    end = next(number for number in headings if number > start)
    return lines[start + 1 : end]


def test_it_is_there_by_installing_the_package(project: Project) -> None:
    project.write("test_shop.py", "def test_shop(traces):\n    assert traces.spans == []\n")

    assert "registered: <module 'spakky.tracing.testing._plugin'" in project.passes("--trace-config")


def test_it_loads_the_core_and_nothing_besides(project: Project) -> None:
    project.write(
        "test_shop.py",
        """
        import sys

        def test_shop():
            ours = {name for name in sys.modules if name.startswith("spakky.")}
            assert "spakky.tracing.testing._plugin" in ours
            assert not [name for name in ours if "integrations" in name or "boundaries" in name]
            assert not [name for name in ours if "recorder" in name or "_carrier_contract" in name]
        """,
    )

    project.passes()


def test_a_test_that_does_not_use_it_is_left_alone(project: Project) -> None:
    project.write(
        "test_shop.py",
        """
        import os
        from spakky.tracing import TraceContext
        from spakky.tracing.tracer import get_tracer

        def test_nothing_is_set():
            assert get_tracer() is None
            assert "SPAKKY_TRACING_RECORD" not in os.environ

        def test_a_context_may_be_left_behind():
            TraceContext.set(TraceContext.new_root())
        """,
    )

    with_plugin = project.passes()
    without = project.passes("-p", "no:spakky-tracing")
    assert [line.partition(" in ")[0] for line in with_plugin.splitlines()] == [
        line.partition(" in ")[0] for line in without.splitlines()
    ]


def test_the_tracer_and_the_environment_are_put_back(project: Project) -> None:
    project.write(
        "test_shop.py",
        """
        import os
        import pytest
        from spakky.tracing import TraceContext
        from spakky.tracing.recorder import MemoryRecorder
        from spakky.tracing.tracer import get_tracer, set_tracer

        theirs = MemoryRecorder()

        @pytest.fixture(autouse=True, scope="module")
        def recording():
            set_tracer(theirs)

        def test_it_records(traces):
            assert get_tracer() is not theirs
            assert os.environ["SPAKKY_TRACING_RECORD"] == str(traces.file)
            set_tracer(MemoryRecorder())

        def test_it_is_as_before():
            assert get_tracer() is theirs
            assert "SPAKKY_TRACING_RECORD" not in os.environ
        """,
    )

    project.passes()


def test_a_tracer_that_was_there_goes_on_recording(project: Project) -> None:
    project.write(
        "test_shop.py",
        TRACES
        + """
    from spakky.tracing.recorder import MemoryRecorder
    from spakky.tracing.tracer import set_tracer

    def test_shop(request):
        theirs = MemoryRecorder()
        set_tracer(theirs)
        traces = request.getfixturevalue("traces")
        with SHOP.process({}):
            pass
        assert [span.span_id for span in theirs.spans] == [span.span_id for span in traces.spans]
        assert len(traces.spans) == 1
    """,
    )

    project.passes()


def test_a_tracer_that_was_there_and_fails_leaves_nothing_open(project: Project) -> None:
    project.write(
        "test_shop.py",
        TRACES
        + """
    from types import SimpleNamespace
    from spakky.tracing.tracer import set_tracer

    class Failing:
        def start(self, operation):
            return SimpleNamespace(context=operation.context, end=lambda *_: 1 / 0)

    def test_shop(request):
        set_tracer(Failing())
        traces = request.getfixturevalue("traces")
        with SHOP.process({}):
            pass
        assert len(traces.spans) == 1
    """,
    )

    project.passes()


def test_what_the_user_s_variable_says_stays_so_and_nothing_is_recorded_twice(
    project: Project, tmp_path: Path
) -> None:
    project.write(
        "test_shop.py",
        TRACES
        + """
    import os
    import subprocess
    import sys

    def test_shop(traces):
        assert os.environ["SPAKKY_TRACING_RECORD"] == str(traces.file) == "FILE"
        with SHOP.process({}):
            pass
        code = "import test_shop; test_shop.SHOP.process({}).open().close('ok')"
        subprocess.run([sys.executable, "-c", code], check=True)
        assert len(traces.wait_for("process orders", count=2)) == 2
    """.replace("FILE", str(tmp_path / "theirs.jsonl")),
    )

    project.passes(SPAKKY_TRACING_RECORD=str(tmp_path / "theirs.jsonl"))

    assert len((tmp_path / "theirs.jsonl").read_text().splitlines()) == 2


def test_what_is_first_imported_by_a_test_is_recorded_once(project: Project) -> None:
    project.write("shop.py", TRACES)
    project.write(
        "test_shop.py",
        """
        def test_shop(traces):
            from shop import SHOP
            with SHOP.process({}):
                pass
            assert len(traces.spans) == 1
            assert traces.file.read_text() == ""
        """,
    )

    project.passes()


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_what_an_async_test_leaves_in_its_task_is_seen(project: Project, mode: str) -> None:
    project.write(
        "test_shop.py",
        TRACES
        + """
    import asyncio
    import pytest

    @pytest.mark.asyncio
    async def test_left(traces):
        await asyncio.sleep(0)
        TraceContext.set(TraceContext.new_root())

    @pytest.mark.asyncio(loop_scope="module")  # so that nothing is cancelled when the test has ended
    async def test_kept(traces):
        async def late():
            with SHOP.process({}):
                begun.set()
                await asyncio.sleep(0.05)

        begun = asyncio.Event()
        task = asyncio.create_task(late())
        await begun.wait()
    """,
    )

    output = project.fails("-o", f"asyncio_mode={mode}")

    said, now, before = _told_under("test_left", output)
    assert said == "a trace context leaked: what is current now is not what was before:"
    assert now.startswith("  now     00-")
    assert before == "  before  no trace"
    assert "1 failed, 1 passed" in output


def test_other_ways_to_run_async_tests_are_seen_too(project: Project) -> None:
    project.write(
        "test_shop.py",
        TRACES
        + """
    import unittest
    import pytest

    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    @pytest.mark.anyio
    async def test_by_anyio(traces):
        TraceContext.set(TraceContext.new_root())

    class TestCase(unittest.IsolatedAsyncioTestCase):
        @pytest.fixture(autouse=True)
        def recorded(self, traces):
            self.traces = traces

        async def test_by_unittest(self):
            TraceContext.set(TraceContext.new_root())
    """,
    )

    output = project.fails()

    assert "2 failed" in output
    for name in ("test_by_anyio", "TestCase.test_by_unittest"):
        assert _told_under(name, output)[0].startswith("a trace context leaked")


def test_tests_that_run_in_trio_wait_as_well(project: Project) -> None:
    project.write(
        "test_shop.py",
        TRACES
        + """
    import threading
    import anyio
    import pytest

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend():
        return "trio"

    async def late(begun):
        with SHOP.process({}):
            begun.set()
            await anyio.sleep(0.05)

    async def test_another_task_is_waited_for(traces):
        async with anyio.create_task_group() as group:
            group.start_soon(late, anyio.Event())
            await traces.wait_for_async("process orders")

    async def test_a_thread_has_time_to_end_its_span(traces):
        begun = threading.Event()
        threading.Thread(target=anyio.run, args=[late, begun]).start()
        begun.wait()
    """,
    )

    assert "2 passed" in project.passes()


def test_what_a_test_leaves_open_fails_it_unless_that_is_off(project: Project) -> None:
    project.write(
        "test_shop.py",
        TRACES
        + """
    def test_a_context(traces):
        TraceContext.set(TraceContext.new_root())

    def test_a_span(traces):
        SHOP.process({}).open()
        TraceContext.clear()

    def test_what_has_failed_already(traces):
        SHOP.process({}).open()
        assert not "the only thing that is told"

    def test_the_next_one(traces):
        assert TraceContext.get() is None
    """,
    )

    output = project.fails()
    without = project.fails("-o", "spakky_tracing_leaks=off")

    assert "2 failed, 2 passed, 1 error" in output
    assert "a trace context leaked" in output
    said, span = _told_under("ERROR at teardown of test_a_span", output)
    assert said == "a span was started and never ended:"
    assert span.startswith("  'process orders' (consumer), started in the thread 'MainThread', trace ")
    assert "1 failed, 3 passed" in without


@pytest.mark.parametrize("style", ["auto", "long", "short", "native"])
def test_a_leak_is_told_without_a_traceback(project: Project, style: str) -> None:
    project.write(
        "test_shop.py",
        TRACES
        + """
    import unittest
    import pytest

    def test_a_context(traces):
        TraceContext.set(TraceContext.new_root())

    class TestCase(unittest.TestCase):
        @pytest.fixture(autouse=True)
        def recorded(self, traces):
            self.traces = traces

        def test_a_context(self):
            TraceContext.set(TraceContext.new_root())
    """,
    )

    output = project.fails(f"--tb={style}")

    for name in ("test_a_context", "TestCase.test_a_context"):
        assert len(_told_under(name, output)) == len(["what leaked", "now", "before"])


def test_a_test_whose_setup_has_failed_is_not_told_what_is_open(project: Project) -> None:
    project.write(
        "test_shop.py",
        TRACES
        + """
    import pytest

    @pytest.fixture
    def shop(traces):
        SHOP.process({}).open()
        raise OSError("closed")

    def test_shop(shop):
        pass
    """,
    )

    assert "1 error in" in project.fails()


def test_a_choice_that_is_none_is_refused(project: Project) -> None:
    finished = project.run("-o", "spakky_tracing_leaks=warn")

    assert finished.returncode == pytest.ExitCode.USAGE_ERROR
    assert "spakky_tracing_leaks takes error or off, got 'warn'" in finished.stderr


def test_test_cases_of_unittest_can_have_it(project: Project) -> None:
    project.write(
        "test_shop.py",
        TRACES
        + """
    import asyncio
    import unittest
    import pytest
    from spakky.tracing.testing import recorded_traces

    class TestByFixture(unittest.TestCase):
        @pytest.fixture(autouse=True)
        def recorded(self, traces):
            self.traces = traces

        def test_shop(self):
            with SHOP.process({}):
                pass
            self.traces.span("process orders")

    class TestByContextManager(unittest.TestCase):
        def setUp(self):
            self.traces = self.enterContext(recorded_traces())

        def test_shop(self):
            with SHOP.process({}):
                pass
            self.traces.span("process orders")

    class TestAsync(unittest.IsolatedAsyncioTestCase):
        async def asyncSetUp(self):
            self.traces = await self.enterAsyncContext(recorded_traces())

        async def test_shop(self):
            async def late():
                with SHOP.process({}):
                    begun.set()
                    await asyncio.sleep(0.05)

            begun = asyncio.Event()
            self.task = asyncio.create_task(late())
            await begun.wait()
    """,
    )

    assert "3 passed" in project.passes()
    assert "Ran 2 tests" in project.python("-m", "unittest", "-k", "ByContext", "-k", "Async", "test_shop")


def test_a_trace_shows_the_user_s_line_and_none_of_ours(project: Project) -> None:
    project.write("test_shop.py", "def test_shop(traces):\n    traces.span('process orders')\n")

    output = project.fails()

    assert errors_in(output) == [
        "AssertionError: no recorded span is 'process orders' by its name or destination; recorded were:",
        "nothing",
    ]
    assert "test_shop.py:2: AssertionError" in output
    assert "_traces.py" not in output


@pytest.mark.parametrize(
    "line", ["", 'import pytest; pytest.register_assert_rewrite("spakky.tracing.testing")']
)
def test_the_contract_of_a_carrier_tells_both_sides_in_a_project_with_nothing_else(
    project: Project, line: str
) -> None:
    project.write("conftest.py", line)
    project.write(
        "test_carrier.py",
        """
        from spakky.tracing.carriers.mapping import MappingCarrier
        from spakky.tracing.testing import CarrierContract

        class TestMine(CarrierContract[dict[str, str]]):
            carrier = MappingCarrier()

            def native(self, headers):
                return dict(headers)

        class Forgetful(MappingCarrier):
            def keys(self, carrier):
                return super().keys(carrier)[:1]

        class TestForgetful(TestMine):
            carrier = Forgetful()
        """,
    )

    output = project.fails()

    assert "AssertionError: assert ['app'] == ['app', 'X-Ot...'traceparent']" in errors_in(output)
    assert {
        line.split(" ")[1].split("::")[1] for line in output.splitlines() if line.startswith("FAILED")
    } == {"TestForgetful"}
