"""Integrations are mirror images: the same verbs, the same options, the same company."""

from __future__ import annotations

import ast
import importlib
import inspect
import types
from typing import TYPE_CHECKING, Any

import pytest

from architecture.project import ROOT, settings, short_names
from spakky.tracing.error import WrongUseError

if TYPE_CHECKING:
    from collections.abc import Callable

    from spakky.tracing.carriers import ICarrier

INTEGRATIONS = short_names("integrations")
CARRIERS = short_names("carriers")

# Libraries with objects to wrap and messages to receive.
CLIENTS = {"aiokafka", "aio_pika", "confluent_kafka", "kafka_python", "kombu", "pika"}
AMQP = {"aio_pika", "kombu", "pika"}
CONTRACTS = {
    "ChoosingContract",
    "FittingContract",
    "HandlerContract",
    "PullingContract",
    "RetryingContract",
    "SendingContract",
    "VerbsReceivingContract",
}
FRAMEWORKS = {"celery"}  # they call the user's code, by hooks of their own
QUEUES = {"arq"}  # with an object to wrap that sends, and settings to hook of what runs jobs
CLASSES = {"rq"}  # they take the class of what they make
MIDDLEWARE = {"asgi", "dramatiq", "faststream", "taskiq", "wsgi"}
HTTP_CLIENTS = {"aiohttp", "httpx"}  # they send requests, by what the library has for that
PROCESSES = {"environ"}  # nothing is sent: a process starts another one
BRIDGES = {"opentelemetry"}  # another library's context and spans become ours
LOGS = {"logging", "loguru", "structlog"}  # they send nothing, and say where a line of a log was written
WITHOUT_EXTRA = {"asgi", "environ", "logging", "wsgi"}
OTHER_EXTRAS = {"all", "spakky", "cli", "redis"}  # the plugin, the commands, what one of them watches
WITH_EXAMPLE = [name for name in INTEGRATIONS if name not in LOGS]

VERBS = {
    "wrap": {"SendOptions", "Options"},
    "unwrap": set[str](),
    "configure": {"Options"},
    "headers": {"SendOptions"},
    "call_headers": {"CallOptions"},
    "retry_headers": {"SendOptions"},
    "consumer": {"ReceiveOptions"},
    "batch_consumer": {"ReceiveOptions"},
    "iterate": {"ReceiveOptions"},
    "process": {"ReceiveOptions"},
    "process_batch": {"ReceiveOptions"},
    "context_from": {"ReceiveOptions"},
    "install": {"Options"},
    "uninstall": set[str](),
    "TraceMiddleware": {"ReceiveOptions", "Options"},
    "TraceJob": {"ReceiveOptions"},
    "TraceQueue": {"SendOptions"},
    "TraceTransport": {"SendOptions"},
    "trace_config": {"SendOptions"},
}
INHERITED = {"TraceJob", "TraceQueue"}  # options are those of a class of one's own
OF_FEW = {
    "install",
    "uninstall",
    "call_headers",
    "trace_config",
    "TraceMiddleware",
    "TraceJob",
    "TraceQueue",
    "TraceTransport",
}
OFFERED = {
    **{name: VERBS.keys() - OF_FEW for name in CLIENTS},
    "celery": {"install", "uninstall", "headers", "call_headers", "context_from"},
    "aiohttp": {"trace_config", "headers"},
    "httpx": {"TraceTransport", "headers"},
    "arq": {"wrap", "unwrap", "install", "uninstall", "context_from"},
    "environ": {"headers", "context_from", "process"},
    "opentelemetry": {"install", "uninstall", "OpenTelemetryTracer", "OpenTelemetryPropagator"},
    "logging": {"TraceFilter", "install", "uninstall"},
    "loguru": {"add_trace_context"},
    "structlog": {"add_trace_context"},
    "rq": {"TraceJob", "TraceQueue", "headers", "context_from"},
    **{name: {"TraceMiddleware", "context_from"} for name in MIDDLEWARE},
    "taskiq": {"TraceMiddleware", "headers", "context_from"},  # schedules pass no middleware
    "faststream": {"TraceMiddleware", "context_from", "process"},  # it has messages to pull as well
}

# What a verb looks at before its options, made without a broker.
SUITABLE = {
    ("arq", "wrap"): "arq.ArqRedis",
    ("aiokafka", "wrap"): "aiokafka.AIOKafkaProducer",
    ("confluent_kafka", "wrap"): "confluent_kafka.Producer",
    ("kafka_python", "wrap"): "kafka.KafkaProducer",
    ("httpx", "TraceTransport"): "httpx.HTTPTransport",
}
BARE = {(name, "TraceMiddleware") for name in ("dramatiq", "faststream", "taskiq")}  # takes options only

every_integration = pytest.mark.parametrize("name", INTEGRATIONS)


def verb(name: str, function: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(
        importlib.import_module(f"spakky.tracing.integrations.{name}"), function
    )
    return found


def taker_of_options(name: str, function: str) -> Callable[..., Any]:
    """Return what takes the options of a verb: a class to inherit from takes them as keywords of a class."""
    made = verb(name, function)
    if inspect.isclass(made):
        return made.__init_subclass__ if "__init_subclass__" in vars(made) else made.__init__
    return made


def give_options(name: str, function: str, *positional: object, **options: object) -> None:
    made = verb(name, function)
    if function in INHERITED:
        types.new_class("Own", (made,), options)
    else:
        made(*positional, **options)


def every_verb() -> list[Any]:
    return [
        pytest.param(name, function, id=f"{name}.{function}")
        for name in INTEGRATIONS
        if name not in BRIDGES | LOGS
        for function in sorted(OFFERED.get(name, ()))
    ]


def test_every_integration_is_of_a_known_kind() -> None:
    assert (
        set(INTEGRATIONS)
        == CLIENTS | FRAMEWORKS | QUEUES | CLASSES | MIDDLEWARE | HTTP_CLIENTS | PROCESSES | BRIDGES | LOGS
    )


@every_integration
def test_an_integration_offers_the_verbs_of_its_kind_and_no_others(name: str) -> None:
    module = importlib.import_module(f"spakky.tracing.integrations.{name}")

    assert set(module.__all__) == OFFERED[name]


@pytest.mark.parametrize(("name", "function"), every_verb())
def test_a_verb_takes_the_same_options_everywhere(name: str, function: str) -> None:
    signature = inspect.signature(taker_of_options(name, function))
    options = [each for each in signature.parameters.values() if each.kind is each.VAR_KEYWORD]

    taken = {str(each.annotation).removeprefix("Unpack[").removesuffix("]") for each in options}
    assert taken <= VERBS[function]
    assert bool(taken) == bool(VERBS[function])


@pytest.mark.parametrize(("name", "function"), [case for case in every_verb() if VERBS[case.values[1]]])
def test_a_verb_refuses_an_option_that_is_not_known(name: str, function: str) -> None:
    free = {"configure", "headers", "call_headers", "consumer", "batch_consumer", "trace_config"}
    bare = function in free or (name, function) in BARE or function in INHERITED
    positional = [] if bare else [_suitable(name, function)]

    with pytest.raises(WrongUseError, match=r"^there is no option 'relations' here; the options are "):
        give_options(name, function, *positional, relations="child")


def _suitable(name: str, function: str) -> Any:
    """Return something that a verb takes, as far as it looks at it before the options."""
    if (name, function) == ("arq", "install"):
        return {}
    if (name, function) == ("celery", "install"):
        celery = importlib.import_module("celery")
        return celery.Celery(set_as_current=False)
    if (name, function) in SUITABLE:
        module, _, cls = SUITABLE[name, function].rpartition(".")
        wanted: type[Any] = getattr(importlib.import_module(module), cls)
        unmade: type[Any] = type(cls, (wanted,), {"__del__": lambda self: None})  # it has nothing to close
        made: object = wanted.__new__(unmade)  # type: ignore[call-overload] # what a class is made by is not known
        return made
    if function == "TraceMiddleware":
        return print
    return None


@pytest.mark.parametrize(
    ("name", "function"),
    [
        case
        for case in every_verb()
        if case.values[1] in {"process", "context_from", "iterate", "wrap", "install"}
    ],
)
@pytest.mark.parametrize("wrong", [None, 7, "x", object()], ids=repr)
def test_a_verb_refuses_what_is_of_the_wrong_kind_in_one_sentence(
    name: str, function: str, wrong: object
) -> None:
    with pytest.raises(WrongUseError) as caught:
        verb(name, function)(wrong)

    assert str(caught.value).endswith(f", got {type(wrong).__name__}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "function"), every_verb())
def test_a_verb_says_what_it_takes_and_what_it_refuses(name: str, function: str) -> None:
    made = verb(name, function)
    documented = taker_of_options(name, function)
    text = inspect.getdoc(made) or ""

    assert text.splitlines()[0].endswith(".")
    if VERBS[function]:
        assert "Raises:\n    WrongUseError:" in (inspect.getdoc(documented) or "")


# --- company


@pytest.mark.parametrize("name", [name for name in INTEGRATIONS if name not in WITHOUT_EXTRA])
def test_an_integration_has_an_extra_which_is_in_all(name: str) -> None:
    extras = settings()["optional-dependencies"]
    extra = name.replace("_", "-")

    assert extra in extras
    (everything,) = extras["all"]
    assert extra in everything.partition("[")[2].rstrip("]").split(",")


def test_an_extra_is_there_for_an_integration() -> None:
    extras = {extra.replace("-", "_") for extra in settings()["optional-dependencies"]} - OTHER_EXTRAS

    assert extras == set(INTEGRATIONS) - WITHOUT_EXTRA


def test_the_library_itself_depends_on_nothing() -> None:
    assert settings()["dependencies"] == []


@every_integration
def test_an_integration_has_a_test_file(name: str) -> None:
    assert (ROOT / "tests" / "integrations" / f"test_{name}.py").is_file()


@pytest.mark.parametrize("name", sorted(CLIENTS))
def test_a_client_inherits_every_contract(name: str) -> None:
    inherited = {
        base.id
        for path in (ROOT / "tests" / "integrations").glob(f"test_{name}*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if isinstance(base, ast.Name)
    }

    assert CONTRACTS | ({"AmqpContract"} if name in AMQP else set()) <= inherited


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_an_integration_has_an_example(name: str) -> None:
    path = ROOT / "examples" / f"{name}_example.py"

    assert path.is_file()
    assert f"from spakky.tracing.integrations import {name}" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(LOGS))
def test_what_logs_has_its_code_in_the_docs(name: str) -> None:
    page = (ROOT / "docs" / "logging.md").read_text(encoding="utf-8")

    assert f"from spakky.tracing.integrations.{name} import" in page


@every_integration
def test_an_integration_has_a_row_in_the_readme(name: str) -> None:
    extra = "none" if name in WITHOUT_EXTRA else f"`{name.replace('_', '-')}`"
    rows = [
        line
        for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|") and f"`spakky.tracing.integrations.{name}`" in line
    ]

    assert len(rows) == 1
    assert f"| {extra} |" in rows[0]
    assert ("`docs/logging.md`" if name in LOGS else f"`examples/{name}_example.py`") in rows[0]


@pytest.mark.parametrize("name", CARRIERS)
def test_a_carrier_has_an_instance_and_passes_the_contract(name: str) -> None:
    carrier: ICarrier[Any] = importlib.import_module(f"spakky.tracing.carriers.{name}").CARRIER
    test = ROOT / "tests" / "carriers" / f"test_{name}.py"

    assert all(callable(getattr(carrier, method)) for method in ("get", "keys", "set", "remove", "copy"))
    assert "(CarrierContract[" in test.read_text(encoding="utf-8")
