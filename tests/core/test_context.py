"""W3C Trace Context Level 2, sections 3.2 and 3.4; TP, FL, MU and PR ids are the rules that are tested."""

from __future__ import annotations

import copy
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from spakky.tracing.baggage import Baggage
from spakky.tracing.context import (
    RANDOM_FLAG,
    SAMPLED_FLAG,
    TraceContext,
    generate_span_id,
    generate_trace_id,
)
from spakky.tracing.error import InvalidTraceparentError
from spakky.tracing.trace_state import TraceState

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"
PARENT_ID = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"

NOT_TRACE_IDS = [
    pytest.param("0" * 32, id="zeros"),
    pytest.param("a" * 31, id="short"),
    pytest.param("a" * 33, id="long"),
    pytest.param("A" * 32, id="upper-case"),
    pytest.param("g" * 32, id="no-hex"),
    pytest.param("a" * 31 + "\uff11", id="full-width-digit"),
    pytest.param("a" * 32 + "\n", id="final-newline"),
    pytest.param("", id="empty"),
    pytest.param(None, id="none"),
    pytest.param(0xA, id="number"),
    pytest.param(b"a" * 32, id="bytes"),
]
NOT_SPAN_IDS = [
    pytest.param("0" * 16, id="zeros"),
    pytest.param("a" * 15, id="short"),
    pytest.param("a" * 32, id="trace-id"),
    pytest.param("A" * 16, id="upper-case"),
    pytest.param("a" * 16 + "\n", id="final-newline"),
    pytest.param(7, id="number"),
    pytest.param(b"a" * 16, id="bytes"),
]


def full_context() -> TraceContext:
    return TraceContext(
        trace_id=TRACE_ID,
        span_id=SPAN_ID,
        parent_span_id=PARENT_ID,
        trace_flags=SAMPLED_FLAG | RANDOM_FLAG,
        trace_state=TraceState({"congo": "t61"}),
        baggage=Baggage({"tenant": "acme"}),
        is_remote=True,
    )


QUICK_START = """
from spakky.tracing.context import TraceContext
ctx = TraceContext.new_root(); TraceContext.set(ctx)
current = TraceContext.get(); current.to_traceparent()
child = current.child(); TraceContext.set(child)
TraceContext.from_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")

from spakky.tracing.w3c_propagator import W3CTracePropagator
propagator = W3CTracePropagator()
carrier: dict[str, str] = {}
propagator.inject(carrier)          # {"traceparent": "00-...-...-01"}
ctx = propagator.extract(carrier)   # TraceContext | None
"""


def test_the_published_quick_start_runs_as_it_stands() -> None:
    checks = """
assert list(carrier) == ["traceparent"]
assert carrier["traceparent"] == child.to_traceparent() == ctx.to_traceparent()
assert carrier["traceparent"].startswith("00-") and carrier["traceparent"].endswith("-01")
assert (child.trace_id, child.parent_span_id, child.trace_flags) == (current.trace_id, current.span_id, 1)

from spakky.tracing.propagator import ITracePropagator
from spakky.tracing.error import AbstractSpakkyTracingError, InvalidTraceparentError
assert isinstance(propagator, ITracePropagator)
assert ITracePropagator.__abstractmethods__ == {"inject", "extract", "fields"}
TraceContext.clear()
assert TraceContext.get() is None
print(len(TraceContext.generate_trace_id()), len(TraceContext.generate_span_id()))
"""

    assert _output_of(QUICK_START + checks) == "32 16"


# --- construction


def test_a_context_has_the_fields_it_was_made_of() -> None:
    context = full_context()

    assert (context.trace_id, context.span_id, context.parent_span_id) == (TRACE_ID, SPAN_ID, PARENT_ID)
    assert (context.trace_flags, context.is_sampled, context.is_random) == (3, True, True)
    assert context.trace_state == TraceState({"congo": "t61"})
    assert context.baggage == Baggage({"tenant": "acme"})
    assert context.is_remote


def test_a_context_of_ids_alone_is_sampled_local_and_carries_nothing() -> None:
    context = TraceContext(trace_id=TRACE_ID, span_id=SPAN_ID)

    assert (context.trace_flags, context.parent_span_id, context.is_remote) == (SAMPLED_FLAG, None, False)
    assert not context.trace_state
    assert not context.baggage


@pytest.mark.parametrize("trace_id", NOT_TRACE_IDS)
def test_a_trace_id_outside_the_grammar_is_refused(trace_id: Any) -> None:
    with pytest.raises(InvalidTraceparentError, match="trace_id must be 32 lower-case hexadecimal digits"):
        TraceContext(trace_id=trace_id, span_id=SPAN_ID)


@pytest.mark.parametrize("span_id", NOT_SPAN_IDS)
def test_a_span_id_outside_the_grammar_is_refused(span_id: Any) -> None:
    with pytest.raises(InvalidTraceparentError, match=r"^span_id must be 16 lower-case hexadecimal digits"):
        TraceContext(trace_id=TRACE_ID, span_id=span_id)
    with pytest.raises(InvalidTraceparentError, match=r"^parent_span_id must be 16 lower-case"):
        TraceContext(trace_id=TRACE_ID, span_id=SPAN_ID, parent_span_id=span_id)


@pytest.mark.parametrize("flags", [-1, 256, 1.0, "01", None], ids=repr)
def test_flags_that_do_not_fit_a_byte_are_refused(flags: Any) -> None:
    with pytest.raises(InvalidTraceparentError, match="trace_flags must be an int from 0 to 255"):
        TraceContext(trace_id=TRACE_ID, span_id=SPAN_ID, trace_flags=flags)


def test_a_refusal_quotes_no_more_than_a_line() -> None:
    with pytest.raises(InvalidTraceparentError) as caught:
        TraceContext(trace_id="\n" * 1_000_000, span_id=SPAN_ID)

    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_fields_are_given_by_name_only() -> None:
    make: Any = TraceContext
    with pytest.raises(TypeError):
        make(TRACE_ID, SPAN_ID)


# --- immutability, rule PR-17


@pytest.mark.parametrize("name", [*TraceContext.__slots__, "something_new"])
def test_no_field_can_be_set_or_deleted(name: str) -> None:
    context = full_context()

    with pytest.raises(AttributeError, match="a TraceContext is immutable"):
        setattr(context, name, "x")
    with pytest.raises(AttributeError, match="a TraceContext is immutable"):
        delattr(context, name)
    assert context == full_context()


def test_a_context_has_no_dict_and_takes_no_other_attribute() -> None:
    assert not hasattr(full_context(), "__dict__")


# --- new roots


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ({}, "01"),
        ({"sampled": False}, "00"),
        ({"random": True}, "03"),
        ({"random": False}, "01"),
        ({"sampled": False, "random": True}, "02"),
    ],
    ids=str,
)
def test_a_new_root_has_the_flags_it_was_asked_for(arguments: dict[str, Any], flags: str) -> None:
    assert TraceContext.new_root(**arguments).to_traceparent().endswith(f"-{flags}")


def test_a_new_root_has_ids_of_its_own_and_nothing_else() -> None:
    first, second = TraceContext.new_root(), TraceContext.new_root()

    assert first.trace_id != second.trace_id
    assert first.span_id != second.span_id
    assert first.parent_span_id is None
    assert not first.is_remote
    assert not first.trace_state
    assert not first.baggage


def test_a_new_root_takes_baggage_along() -> None:
    assert TraceContext.new_root(baggage=Baggage({"a": "1"})).baggage == Baggage({"a": "1"})


@pytest.mark.parametrize("setting", ["1", "true", "TRUE", "yes", "on"])
def test_the_setting_adds_the_random_flag_to_new_roots(setting: str) -> None:
    assert _flags_under(setting) == "03"


@pytest.mark.parametrize("setting", ["", "0", "false", "no", "off", "2"])
def test_any_other_setting_adds_nothing(setting: str) -> None:
    assert _flags_under(setting) == "01"


def test_the_setting_is_overruled_by_the_argument_and_touches_no_received_trace() -> None:
    code = (
        "from spakky.tracing.context import TraceContext\n"
        "print(TraceContext.new_root(random=False).to_traceparent()[-2:])\n"
        f"print(TraceContext.from_traceparent({TRACEPARENT!r}).child().to_traceparent()[-2:])\n"
    )

    assert _output_of(code, SPAKKY_TRACING_RANDOM_FLAG="1") == "01\n01"


def _flags_under(setting: str) -> str:
    code = "from spakky.tracing import TraceContext; print(TraceContext.new_root().to_traceparent()[-2:])"
    return _output_of(code, SPAKKY_TRACING_RANDOM_FLAG=setting)


def _output_of(code: str, **settings: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **settings}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


# --- ids (TP-22, TP-23, FL-06, SE-02)


def test_generated_ids_are_valid_and_unique() -> None:
    trace_ids = [generate_trace_id() for _ in range(10_000)]
    span_ids = [generate_span_id() for _ in range(10_000)]

    assert len(set(trace_ids)) == len(set(span_ids)) == 10_000
    assert all(re.fullmatch(r"(?!0{32})[0-9a-f]{32}", trace_id) for trace_id in trace_ids)
    assert all(re.fullmatch(r"(?!0{16})[0-9a-f]{16}", span_id) for span_id in span_ids)


def test_every_digit_of_a_generated_id_is_random() -> None:
    trace_ids = [generate_trace_id() for _ in range(10_000)]

    for position in range(32):
        digits = Counter(trace_id[position] for trace_id in trace_ids)
        assert set(digits) == set("0123456789abcdef")
        assert all(400 < number < 850 for number in digits.values())  # 625 each, give or take 9 sigma


def test_forked_processes_share_no_id() -> None:
    code = (
        "import os\n"
        "from spakky.tracing.context import TraceContext\n"
        "TraceContext.new_root()\n"  # a generator that keeps state has it by now
        "for _ in range(8):\n"
        "    if os.fork() == 0:\n"
        "        roots = [TraceContext.new_root() for _ in range(50)]\n"
        "        text = ''.join(f'{root.trace_id}\\n{root.child().span_id}\\n' for root in roots)\n"
        "        os.write(1, text.encode())\n"
        "        os._exit(0)\n"
        "for _ in range(8):\n"
        "    os.wait()\n"
    )

    ids = _output_of(code).split()

    assert len(ids) == len(set(ids)) == 8 * 50 * 2


# --- children (FL-04, FL-05, FL-09, MU-04, PR-18)


def test_a_child_is_a_new_span_of_the_same_trace() -> None:
    parent = full_context()
    child = parent.child()

    assert (child.trace_id, child.parent_span_id) == (parent.trace_id, parent.span_id)
    assert child.span_id not in {parent.span_id, parent.parent_span_id}
    assert (child.trace_state, child.baggage) == (parent.trace_state, parent.baggage)
    assert not child.is_remote


def test_children_of_one_parent_are_different_spans() -> None:
    parent = full_context()

    assert len({parent.child().span_id for _ in range(10_000)}) == 10_000


@pytest.mark.parametrize("flags", ["00", "01", "02", "03"])
def test_a_child_keeps_the_flags_as_they_were_received(flags: str) -> None:
    received = TraceContext.from_traceparent(f"00-{TRACE_ID}-{SPAN_ID}-{flags}")

    assert received.child().child().to_traceparent().endswith(f"-{flags}")


@pytest.mark.parametrize(
    ("flags", "sampled", "expected"), [("02", True, "03"), ("03", False, "02"), ("00", True, "01")]
)
def test_sampling_changes_only_together_with_the_span_id(flags: str, sampled: bool, expected: str) -> None:  # noqa: FBT001
    received = TraceContext.from_traceparent(f"00-{TRACE_ID}-{SPAN_ID}-{flags}")
    child = received.child(sampled=sampled)

    assert child.to_traceparent().endswith(f"-{expected}")
    assert child.span_id != received.span_id
    assert not hasattr(received, "with_sampled")


def test_the_trace_state_of_a_running_trace_changes_in_a_child() -> None:
    child = full_context().child(trace_state=TraceState({"rojo": "1"}))

    assert child.trace_state == TraceState({"rojo": "1"})
    assert full_context().child(trace_state=TraceState.EMPTY).trace_state == TraceState.EMPTY


def test_baggage_and_trace_state_are_replaced_in_a_context_that_is_otherwise_the_same() -> None:
    context = full_context()

    other = context.with_baggage(Baggage({"a": "1"})).with_trace_state(TraceState({"b": "2"}))

    assert (other.baggage, other.trace_state) == (Baggage({"a": "1"}), TraceState({"b": "2"}))
    assert other.to_traceparent() == context.to_traceparent()
    assert (other.parent_span_id, other.is_remote) == (context.parent_span_id, context.is_remote)
    assert context == full_context()
    assert not context.with_baggage(Baggage()).baggage


def test_a_subclass_stays_one() -> None:
    class Own(TraceContext):
        __slots__ = ()

    root = Own.new_root()
    for made in (root, root.child(), root.with_baggage(Baggage()), Own.from_traceparent(TRACEPARENT)):
        assert type(made) is Own


# --- the header


@pytest.mark.parametrize("flags", ["00", "01", "02", "03"])
def test_a_header_comes_back_as_it_was_read(flags: str) -> None:
    header = f"00-{TRACE_ID}-{SPAN_ID}-{flags}"
    context = TraceContext.from_traceparent(header)

    assert context.to_traceparent() == header
    assert (context.trace_id, context.span_id) == (TRACE_ID, SPAN_ID)
    assert context.parent_span_id is None
    assert context.is_remote


@pytest.mark.parametrize(("flags", "kept"), [("ff", "03"), ("04", "00"), ("fe", "02"), ("09", "01")])
def test_unknown_flags_are_dropped(flags: str, kept: str) -> None:
    received = TraceContext.from_traceparent(f"00-{TRACE_ID}-{SPAN_ID}-{flags}")

    assert received.trace_flags == int(kept, 16)


def test_unknown_flags_that_a_caller_set_are_not_written() -> None:
    context = TraceContext(trace_id=TRACE_ID, span_id=SPAN_ID, trace_flags=0xFF)

    assert context.to_traceparent() == f"00-{TRACE_ID}-{SPAN_ID}-03"


def test_a_higher_version_is_sent_on_as_version_00() -> None:
    context = TraceContext.from_traceparent(f"cc-{TRACE_ID}-{SPAN_ID}-01-what-the-future-brings")

    assert context.to_traceparent() == TRACEPARENT


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        pytest.param("", "has 0 characters, fewer than 55", id="empty"),
        pytest.param(TRACEPARENT[:-1], "has 54 characters, fewer than 55", id="short"),
        pytest.param("ff" + TRACEPARENT[2:], "has the forbidden version ff", id="version-ff"),
        pytest.param(f"00-{'0' * 32}-{SPAN_ID}-01", "has a trace-id of zeros", id="zero-trace-id"),
        pytest.param(f"00-{TRACE_ID}-{'0' * 16}-01", "has a parent-id of zeros", id="zero-parent-id"),
        pytest.param(TRACEPARENT + "-x", "of version 00 goes on after the flags", id="version-00-goes-on"),
        pytest.param(TRACEPARENT.upper(), "in lower-case hexadecimal digits", id="upper-case"),
        pytest.param(TRACEPARENT + "\n", "in lower-case hexadecimal digits", id="final-newline"),
        pytest.param("x" * 513, "has 513 characters, more than 512", id="too-long"),
        pytest.param(None, "must be a str, got NoneType", id="none"),
        pytest.param(TRACEPARENT.encode(), "must be a str, got bytes", id="bytes"),
        pytest.param(7, "must be a str, got int", id="number"),
        pytest.param([TRACEPARENT], "must be a str, got list", id="list"),
    ],
)
def test_a_header_is_refused_with_the_reason(header: Any, reason: str) -> None:
    with pytest.raises(InvalidTraceparentError, match=f"^traceparent .*{reason}"):
        TraceContext.from_traceparent(header)


def test_a_refusal_is_a_value_error_that_shows_no_raw_control_character() -> None:
    with pytest.raises(ValueError, match=r"traceparent") as caught:
        TraceContext.from_traceparent("00-\x00\x1b[31m\r\n\u202e" + "x" * 60)

    assert str(caught.value).isprintable()
    assert str(caught.value).isascii()


def test_a_higher_version_may_have_512_characters_and_no_more() -> None:
    longest = f"cc-{TRACE_ID}-{SPAN_ID}-01-".ljust(512, "x")

    assert TraceContext.from_traceparent(longest).to_traceparent() == TRACEPARENT
    with pytest.raises(InvalidTraceparentError, match="has 513 characters, more than 512"):
        TraceContext.from_traceparent(longest + "x")


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("0" * 10_000_000, id="zeros"),
        pytest.param("cc-" + "-" * 10_000_000, id="dashes"),
        pytest.param(" " * 10_000_000, id="spaces"),
        pytest.param(f"cc-{TRACE_ID}-{SPAN_ID}-01-" + "x" * 10_000_000, id="valid-start"),
    ],
)
def test_a_huge_header_is_refused_by_its_length_alone(header: str) -> None:
    with pytest.raises(InvalidTraceparentError, match=r"has 10\d+ characters, more than 512") as caught:
        TraceContext.from_traceparent(header)

    assert len(str(caught.value)) < 100


# --- as a value


def test_contexts_are_equal_if_they_say_the_same_about_the_same_span() -> None:
    context = full_context()

    assert context == full_context()
    assert hash(context) == hash(full_context())
    assert context == TraceContext(
        trace_id=TRACE_ID,
        span_id=SPAN_ID,
        parent_span_id=PARENT_ID,
        trace_flags=3,
        trace_state=context.trace_state,
        baggage=context.baggage,
        is_remote=False,
    )


@pytest.mark.parametrize(
    "other",
    [
        TraceContext(trace_id=TRACE_ID, span_id=SPAN_ID, trace_flags=3),
        full_context().child(),
        full_context().with_baggage(Baggage()),
        full_context().with_trace_state(TraceState()),
        full_context().with_baggage(Baggage({"tenant": "other"})),
        full_context().to_traceparent(),
        None,
    ],
    ids=repr,
)
def test_contexts_that_differ_are_not_equal(other: object) -> None:
    assert full_context() != other


def test_a_context_can_be_a_key() -> None:
    assert {full_context(): 1}[full_context()] == 1


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_context_is_pickled_whole(protocol: int) -> None:
    again = pickle.loads(pickle.dumps(full_context(), protocol))  # noqa: S301 - pickled here

    assert again == full_context()
    assert type(again) is TraceContext
    assert again.is_remote
    assert again.baggage == full_context().baggage


def test_a_copy_is_the_context_itself() -> None:
    context = full_context()

    assert copy.copy(context) is context
    assert copy.deepcopy([context])[0] is context


def test_the_repr_shows_the_header_and_no_baggage() -> None:
    shown = repr(full_context().with_baggage(Baggage({"password": "secret"})))

    assert shown == f"<TraceContext 00-{TRACE_ID}-{SPAN_ID}-03 parent={PARENT_ID}>"


def test_a_child_may_have_an_id_that_is_known_already() -> None:
    parent = TraceContext.new_root(baggage=Baggage({"tenant": "acme"}))

    child = parent.child(span_id=SPAN_ID)

    assert (child.trace_id, child.span_id, child.parent_span_id) == (parent.trace_id, SPAN_ID, parent.span_id)
    assert child.baggage == parent.baggage


@pytest.mark.parametrize("span_id", ["0" * 16, "a" * 15, "a" * 17, "A" * 16, "", 7, b"a" * 16])
def test_a_child_with_an_id_that_cannot_be_is_refused(span_id: Any) -> None:
    with pytest.raises(InvalidTraceparentError, match="span_id must be 16 lower-case hexadecimal digits"):
        TraceContext.new_root().child(span_id=span_id)
