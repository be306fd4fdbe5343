"""What the packages of Spakky Framework use of the tracing plugin that was published, as they use it."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module, reload
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

import spakky.tracing
from spakky.tracing.context import TraceContext
from spakky.tracing.error import AbstractSpakkyTracingError, InvalidTraceparentError, MissingExtraError
from spakky.tracing.propagator import ITracePropagator
from spakky.tracing.w3c_propagator import TRACEPARENT_HEADER, W3CTracePropagator

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADER = f"00-{TRACE_ID}-{SPAN_ID}-01"
SOURCES = str(Path(spakky.tracing.__file__).parents[2])


def install(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> None:
    """Put a stand-in for a module of `spakky` core in its place, which Python 3.11 cannot have."""
    parts = name.split(".")
    for count in range(3, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:count]), ModuleType(name))
    monkeypatch.setitem(sys.modules, "spakky.core", ModuleType("spakky.core"))
    vars(sys.modules[name]).update(attributes)


class NotInstalled(MetaPathFinder):
    """Finds no `spakky` core, wherever it is."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "spakky.core":
            raise ModuleNotFoundError(name=name)


class Annotation:
    """A stand-in for what marks a Pod, or names a plugin."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, pod: Any) -> Any:
        pod.name = self.name
        return pod


class Application:
    """A stand-in for an application, which keeps what is added."""

    def __init__(self) -> None:
        self.added: list[Any] = []

    def add(self, obj: Any) -> None:
        self.added.append(obj)


@pytest.fixture
def main() -> Iterator[Any]:
    """Return the plugin's module as it is before anybody called it."""
    module = import_module("spakky.tracing.main")
    yield reload(module)
    reload(module)


def test_the_package_offers_what_the_published_one_does() -> None:
    published = {
        "AbstractSpakkyTracingError",
        "ITracePropagator",
        "InvalidTraceparentError",
        "TraceContext",
        "W3CTracePropagator",
    }

    assert published <= set(spakky.tracing.__all__)
    assert TRACEPARENT_HEADER == "traceparent"


def test_inject_writes_into_the_dict_and_extract_takes_it_by_position() -> None:
    carrier: dict[str, str] = {"app": "1"}
    propagator = W3CTracePropagator()

    assert propagator.extract(carrier) is None
    with TraceContext.use(TraceContext(trace_id=TRACE_ID, span_id=SPAN_ID)):
        propagator.inject(carrier)

    assert carrier == {"app": "1", "traceparent": HEADER}
    found = propagator.extract(carrier)
    assert found is not None
    assert (found.trace_id, found.span_id, found.parent_span_id) == (TRACE_ID, SPAN_ID, None)


def test_inject_outside_of_a_trace_leaves_the_dict_alone() -> None:
    carrier: dict[str, str] = {}

    W3CTracePropagator().inject(carrier)

    assert carrier == {}


@pytest.mark.parametrize("value", ["", "what is this", HEADER.upper(), "00" + HEADER], ids=repr)
def test_extract_returns_none_for_what_is_malformed(value: str) -> None:
    assert W3CTracePropagator().extract({"traceparent": value}) is None


def test_a_context_is_made_of_keywords_with_the_published_defaults() -> None:
    context = TraceContext(trace_id=TRACE_ID, span_id=SPAN_ID)

    assert (context.parent_span_id, context.trace_flags) == (None, 1)
    other = TraceContext(trace_id=TRACE_ID, span_id=SPAN_ID, parent_span_id="1" * 16, trace_flags=0)
    assert (other.parent_span_id, other.trace_flags) == ("1" * 16, 0)


def test_what_is_set_is_what_get_returns_until_it_is_cleared() -> None:
    context = TraceContext.new_root()

    TraceContext.set(context)
    assert TraceContext.get() is context
    TraceContext.clear()
    assert TraceContext.get() is None


def test_a_child_is_a_new_span_of_the_same_trace() -> None:
    parent = TraceContext.new_root()
    child = parent.child()

    assert (child.trace_id, child.parent_span_id) == (parent.trace_id, parent.span_id)
    assert (child.trace_flags, child.span_id == parent.span_id) == (parent.trace_flags, False)


def test_the_error_needs_no_argument_and_has_its_message() -> None:
    error = InvalidTraceparentError()

    assert error.message == InvalidTraceparentError.message == "Invalid traceparent header format"
    assert isinstance(error, AbstractSpakkyTracingError)
    with pytest.raises(InvalidTraceparentError):
        TraceContext.from_traceparent("what is this")


def test_a_propagator_of_the_published_shape_is_one() -> None:
    class Published(ITracePropagator):
        def inject(self, carrier: dict[str, str]) -> None:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride] # as it is published
            carrier["a"] = "1"

        def extract(self, carrier: dict[str, str]) -> TraceContext | None:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride] # likewise
            return TraceContext.new_root() if "a" in carrier else None

        def fields(self) -> list[str]:
            return ["a"]

    carrier: dict[str, str] = {}
    Published().inject(carrier)

    assert Published().extract(carrier) is not None


# --- the plugin, with stand-ins for core


def test_initialize_adds_one_pod_for_all_applications(main: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "spakky.core.pod.annotations.pod", Pod=Annotation)
    applications = Application(), Application()
    for application in applications:
        main.initialize(application)

    (first,), (second,) = applications[0].added, applications[1].added

    assert first is second
    assert first.name == "w3_c_trace_propagator"
    assert first.__annotations__["return"] is W3CTracePropagator
    assert type(first()) is W3CTracePropagator
    assert first() is not first()


def test_the_plugin_has_its_published_name(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "spakky.core.application.plugin", Plugin=Annotation)

    assert spakky.tracing.PLUGIN_NAME.name == "spakky-tracing"
    assert "PLUGIN_NAME" not in spakky.tracing.__all__


def test_there_is_no_other_attribute_in_the_package() -> None:
    with pytest.raises(AttributeError, match=r"^module 'spakky.tracing' has no attribute 'PLUGIN'$"):
        _ = spakky.tracing.PLUGIN  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue] # this is what it is about


def test_without_core_one_sentence_names_the_command(main: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [NotInstalled(), *sys.meta_path])
    sentence = r"^spakky\.core is not installed: pip install 'spakky-tracing\[spakky\]'$"

    with pytest.raises(MissingExtraError, match=sentence):
        main.initialize(Application())
    with pytest.raises(MissingExtraError, match=sentence):
        _ = spakky.tracing.PLUGIN_NAME


def test_importing_the_plugin_imports_nothing_of_core() -> None:
    code = (
        "import sys, spakky.tracing.main\n"
        "print([name for name in sys.modules if name.startswith('spakky') and 'tracing' not in name])"
    )

    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": SOURCES}
    )

    assert finished.stdout == "['spakky']\n"
