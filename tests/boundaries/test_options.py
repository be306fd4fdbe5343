"""The options of the verbs: what they may be, and the sentence about what they may not be."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from spakky.tracing.boundaries.default import DEFAULT
from spakky.tracing.boundaries.options import Options, Policy, ReceiveOptions, SendOptions, Settings
from spakky.tracing.error import WrongUseError
from spakky.tracing.recorder import MemoryRecorder, read_spans
from spakky.tracing.tracer import set_tracer
from spakky.tracing.w3c_propagator import W3C, W3CTracePropagator

if TYPE_CHECKING:
    from pathlib import Path

every_kind = pytest.mark.parametrize("allowed", [SendOptions, ReceiveOptions, Options])


@every_kind
def test_without_options_it_is_w3c_switched_on_and_a_child(allowed: type[Any]) -> None:
    policy = Policy.of(allowed, {})

    assert policy == Policy()
    assert (policy.propagator, policy.relation, policy.enabled, policy.keep) == (
        DEFAULT,
        "child",
        True,
        False,
    )
    assert DEFAULT.fields() == W3C.fields()
    assert policy.fields == {"traceparent", "tracestate", "baggage"}
    assert policy.active_tracer() is None


@every_kind
@pytest.mark.parametrize("name", ["relations", "Propagator", ""])
def test_an_unknown_option_is_refused_with_the_names_of_the_options(allowed: type[Any], name: str) -> None:
    names = ", ".join(sorted(allowed.__annotations__))

    with pytest.raises(WrongUseError) as caught:
        Policy.of(allowed, {name: "x"})

    assert str(caught.value) == f"there is no option {name!r} here; the options are {names}"


def test_senders_have_no_relation_and_receivers_nothing_to_keep() -> None:
    assert set(SendOptions.__annotations__) == {"propagator", "enabled", "tracer", "keep"}
    assert set(ReceiveOptions.__annotations__) == {"propagator", "relation", "enabled", "tracer"}
    assert set(Options.__annotations__) == {*SendOptions.__annotations__, *ReceiveOptions.__annotations__}
    with pytest.raises(WrongUseError, match="there is no option 'relation' here"):
        Policy.of(SendOptions, {"relation": "child"})
    with pytest.raises(WrongUseError, match="there is no option 'keep' here"):
        Policy.of(ReceiveOptions, {"keep": True})


@every_kind
@pytest.mark.parametrize("wrong", [None, "w3c", W3CTracePropagator, object()], ids=repr)
def test_what_is_no_propagator_is_refused(allowed: type[Any], wrong: object) -> None:
    with pytest.raises(WrongUseError, match=r"^propagator= takes an ITracePropagator, got \w+$"):
        Policy.of(allowed, {"propagator": wrong})


@pytest.mark.parametrize("wrong", [None, "parent", "CHILD", 7, ["child"]], ids=repr)
def test_what_is_no_relation_is_refused(wrong: object) -> None:
    with pytest.raises(WrongUseError) as caught:
        Policy.of(ReceiveOptions, {"relation": wrong})

    assert str(caught.value) == f"relation= takes 'child', 'link' or 'root', got {wrong!r}"


def test_a_tracer_of_one_s_own_goes_before_the_one_of_the_process() -> None:
    own, process_wide = MemoryRecorder(), MemoryRecorder()
    policy = Policy()

    set_tracer(process_wide)
    try:
        assert policy.active_tracer() is process_wide
        assert Policy(tracer=own).active_tracer() is own
    finally:
        set_tracer(None)
    assert policy.active_tracer() is None


def test_an_environment_variable_records_a_whole_process(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    code = (
        "from spakky.tracing.boundaries.client import Client\n"
        "from spakky.tracing.boundaries.options import SendOptions, Settings\n"
        "from spakky.tracing.boundaries.publish import Sender\n"
        "from spakky.tracing.carriers.mapping import CARRIER\n"
        "client = Client(system='post', carrier=CARRIER, message_type=dict, headers=dict,\n"
        "    destination=str, name=str)\n"
        "with Sender(client, Settings(SendOptions)).publish(None, 'orders') as publishing:\n"
        "    print(publishing.headers['traceparent'][36:52])\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "SPAKKY_TRACING_RECORD": str(path),
    }
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert [span.span_id for span in read_spans(path)] == run.stdout.split()


def test_a_file_that_cannot_be_opened_is_named_with_its_variable(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "spans.jsonl"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "SPAKKY_TRACING_RECORD": str(missing),
    }
    run = subprocess.run(
        [sys.executable, "-c", "import spakky.tracing.boundaries.options"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    sentence = f"SPAKKY_TRACING_RECORD={missing} cannot be opened for appending: No such file or directory"
    assert run.stderr.splitlines()[-1] == f"spakky.tracing.error.WrongUseError: {sentence}"


# --- choices


def names(*of: str) -> Any:
    return lambda: of


def not_asked() -> Any:
    message = "nobody has to know the names"
    raise AssertionError(message)


def test_one_relation_for_all_asks_for_no_names() -> None:
    assert Policy(relation="link").relation_of(object(), not_asked) == "link"
    assert Policy().enables(not_asked)
    assert not Policy(enabled=False).enables(not_asked)


def test_a_relation_by_name_takes_the_most_exact_name() -> None:
    policy = Policy(relation={"orders": "link", "exchange": "root"})

    assert policy.relation_of(object(), names("orders", "exchange")) == "link"
    assert policy.relation_of(object(), names("exchange:key", "key", "exchange")) == "root"
    assert policy.relation_of(object(), names("another")) == "child"


def test_a_destination_by_name_takes_the_most_exact_name() -> None:
    policy = Policy(enabled={"orders": True, "exchange": False})

    assert policy.enables(names("orders", "exchange"))
    assert not policy.enables(names("key", "exchange"))
    assert policy.enables(names("another"))


def test_the_name_of_all_others_stands_for_what_is_not_named() -> None:
    policy = Policy(enabled={"shop": True, "*": False}, relation={"shop": "child", "*": "root"})

    assert policy.enables(names("shop:8000", "shop"))
    assert not policy.enables(names("elsewhere:8000", "elsewhere"))
    assert not policy.enables(names())
    assert policy.relation_of(object(), names("shop")) == "child"
    assert policy.relation_of(object(), names("elsewhere")) == "root"


def test_a_relation_by_function_is_asked_with_the_message() -> None:
    message = object()
    asked: list[object] = []

    def choose(message: object) -> Any:
        asked.append(message)
        return "link"

    assert Policy(relation=choose).relation_of(message, not_asked) == "link"
    assert asked == [message]


@pytest.mark.parametrize("answer", ["parent", None, ["child"]], ids=repr)
def test_a_function_that_answers_with_something_else_makes_a_root(answer: Any) -> None:
    assert Policy(relation=lambda message: answer).relation_of(object(), not_asked) == "root"


def test_a_function_that_fails_makes_a_root() -> None:
    def fail(message: object) -> Any:
        raise LookupError

    assert Policy(relation=fail).relation_of(object(), not_asked) == "root"


@pytest.mark.parametrize("wrong", ["", {"orders": "parent"}, {"orders": None}], ids=repr)
def test_what_is_no_relation_by_name_is_refused(wrong: Any) -> None:
    with pytest.raises(WrongUseError, match=r"^relation= takes 'child', 'link' or 'root', got "):
        Policy(relation=wrong)


@pytest.mark.parametrize("wrong", [None, 0, 1, "no", {"orders": 0}, {"orders": None}], ids=repr)
def test_what_is_neither_on_nor_off_is_refused(wrong: Any) -> None:
    with pytest.raises(WrongUseError, match=r"^enabled= takes True, False or a mapping of names to"):
        Policy(enabled=wrong)


@pytest.mark.parametrize("wrong", [0, 5, "spans.jsonl", object()], ids=["0", "5", "path", "object"])
def test_what_records_nothing_is_refused(wrong: Any) -> None:
    with pytest.raises(WrongUseError, match=r"^tracer= takes an ITracer, such as a recorder, got \w+$"):
        Policy(tracer=wrong)


@pytest.mark.parametrize("wrong", [None, 0, 1, "no"], ids=repr)
def test_what_is_neither_kept_nor_not_is_refused(wrong: Any) -> None:
    with pytest.raises(WrongUseError, match=r"^keep= takes True or False, got "):
        Policy(keep=wrong)


# --- settings


def test_the_options_of_a_call_are_put_on_top_of_those_of_the_integration() -> None:
    integration = Settings(Options, {"relation": "link", "keep": True})
    call = Settings(ReceiveOptions, {"relation": "root"}, integration)

    assert (call.policy.relation, call.policy.keep) == ("root", True)


def test_a_call_follows_when_the_integration_changes() -> None:
    integration = Settings(Options)
    call = Settings(ReceiveOptions, {"enabled": False}, integration)

    integration.change({"relation": "link"})
    assert (call.policy.relation, call.policy.enabled) == ("link", False)
    integration.change({})
    assert (call.policy.relation, call.policy.enabled) == ("child", False)


def test_what_is_refused_changes_nothing() -> None:
    integration = Settings(Options, {"relation": "link"})

    for wrong in ({"relation": "parent"}, {"relations": "child"}, {"enabled": None}):
        with pytest.raises(WrongUseError):
            integration.change(wrong)

    assert integration.policy.relation == "link"


def test_settings_may_be_fixed() -> None:
    policy = Policy(relation="link")

    assert Settings.fixed(policy).policy is policy


def test_threads_that_look_while_options_change_see_the_new_ones_afterwards() -> None:
    integration = Settings(Options)
    calls = [Settings(ReceiveOptions, {"enabled": True}, integration) for _ in range(50)]
    relations: list[Any] = ["child", "link", "root"]
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for call in calls:
                assert call.policy.relation in relations

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(300):
        integration.change({"relation": relations[number % 3]})
    done.set()
    for thread in threads:
        thread.join()

    assert [call.policy.relation for call in calls] == [integration.policy.relation] * len(calls)
