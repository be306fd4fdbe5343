"""Spakky Framework's packages as they are published, on our `spakky-tracing`, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import pika
import pytest

from brokers.guarded import Guarded
from brokers.unavailable import Unavailable
from docs.pages import programs_of
from framework import pythons
from spakky.tracing.context import TraceContext

if TYPE_CHECKING:
    from collections.abc import Iterator

    from framework import Environment

APPS: Final = Path(__file__).parent / "spakky_apps"
PAGE: Final = "docs/spakky.md"
PATIENCE: Final = 90
PUBLISHED: Final = ["celery", "event", "fastapi", "grpc", "kafka", "outbox", "rabbitmq"]

# Installing the packages takes minutes where nobody did so before.
pytestmark = pytest.mark.timeout(900)


def run(framework: Environment, *arguments: str | Path, **variables: str) -> str:
    finished = subprocess.run(
        [framework.python, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        cwd=APPS,
        env=framework.variables(**variables),
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def lines_of(framework: Environment, *arguments: str, **variables: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(framework, *arguments, **variables).splitlines()]


def assert_continued(line: dict[str, Any]) -> None:
    """Check that the handler ran in a new span of the trace that was sent."""
    sent, seen = line["sent"], line["seen"]
    assert (seen["trace"], seen["parent"]) == (sent["trace"], sent["span"])
    assert seen["span"] != sent["span"]


@pytest.fixture
def event(amqp_url: str) -> Iterator[str]:
    """Name an event, whose queues are deleted afterwards."""
    name = f"sold-{uuid4().hex}"
    yield name
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        for queue in (name, f"{name}-async"):
            connection.channel().queue_delete(queue)


@pytest.fixture
def shop(framework: Environment, amqp_url: str) -> Iterator[dict[str, str]]:
    """Run a Celery worker of the framework's, and give the variables of its application."""
    variables = {
        "SPAKKY_CELERY__BROKER_URL": amqp_url,
        "SPAKKY_CELERY__RESULT_BACKEND": "rpc://",
        "SHOP_QUEUE": f"shop-{uuid4().hex}",
    }
    options = ["--workdir", APPS, "-A", "tasks", "worker", "--pool=solo", "--loglevel=warning"]
    with Guarded() as processes:
        environment = framework.variables(**variables)
        processes.start("worker", [framework.python, "-m", "celery", *map(str, options)], environment)
        yield variables
        assert "Traceback" not in processes.log("worker")
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        connection.channel().queue_delete(variables["SHOP_QUEUE"])


def test_pip_finds_our_package_to_be_what_the_published_ones_require(framework: Environment) -> None:
    assert run(framework, "-m", "pip", "check") == "No broken requirements found.\n"
    shown = run(framework, "-c", "import spakky.tracing; print(spakky.tracing.__file__)")
    assert Path(shown).is_relative_to(framework.ours)
    required = "from importlib.metadata import requires; print([requires('spakky-' + n) for n in {!r}])"
    assert run(framework, "-c", required.format(PUBLISHED)).count("spakky-tracing>=8.5.0") == len(PUBLISHED)


def test_core_finds_the_plugin_by_its_entry_point(framework: Environment) -> None:
    code = (
        "from importlib.metadata import entry_points\n"
        "(found,) = entry_points(group='spakky.plugins', name='spakky-tracing')\n"
        "import spakky.tracing.main\n"
        "print(found.value, found.load() is spakky.tracing.main.initialize)"
    )

    assert run(framework, "-c", code) == "spakky.tracing.main:initialize True\n"


def test_our_package_imports_nothing_of_core_beside_it(framework: Environment) -> None:
    code = (
        "import sys, spakky.tracing.main\n"
        "from spakky.tracing.boundaries import publish, process\n"
        "print([name for name in sys.modules if name.startswith('spakky') and 'tracing' not in name])"
    )

    assert run(framework, "-c", code) == "['spakky']\n"


def test_applications_of_one_process_are_injected_a_propagator_each(framework: Environment) -> None:
    (line,) = lines_of(framework, "plugins.py")

    assert line == {
        "loaded_here": False,
        "classes": ["W3CTracePropagator", "W3CTracePropagator", "ShopPropagator"],
        "each_has_its_own": True,
        "by_class": True,
        "by_name": True,
        "written": ["traceparent", "x-shop"],
    }


def test_events_over_kafka_are_handled_in_their_trace(
    framework: Environment, apache_kafka_address: str
) -> None:
    """By a thread with confluent-kafka, and by a coroutine, which aiokafka sent to.

    The mock cluster lets two consumers of one group wait for each other for most of a minute.
    """
    variables = {
        "SHOP_EVENT": f"sold-{uuid4().hex}",
        "SPAKKY_KAFKA__GROUP_ID": f"shop-{uuid4().hex}",
        "SPAKKY_KAFKA__CLIENT_ID": "shop",
        "SPAKKY_KAFKA__BOOTSTRAP_SERVERS": apache_kafka_address,
    }

    lines = lines_of(framework, "events.py", "kafka", **variables)

    assert [line["mode"] for line in lines] == ["sync", "async"]
    for line in lines:
        assert_continued(line)


def test_events_over_rabbitmq_are_handled_in_their_trace(
    framework: Environment, amqp_url: str, event: str
) -> None:
    """By a thread with pika, and by a coroutine with aio-pika."""
    address = urlsplit(amqp_url)
    variables = {
        "SHOP_EVENT": event,
        "SPAKKY_RABBITMQ__USE_SSL": "false",
        "SPAKKY_RABBITMQ__HOST": str(address.hostname),
        "SPAKKY_RABBITMQ__PORT": str(address.port or 5672),
        "SPAKKY_RABBITMQ__USER": str(address.username),
        "SPAKKY_RABBITMQ__PASSWORD": str(address.password),
    }

    lines = lines_of(framework, "events.py", "rabbitmq", **variables)

    assert [line["mode"] for line in lines] == ["sync", "async"]
    for line in lines:
        assert_continued(line)


def test_tasks_of_celery_run_in_their_trace(framework: Environment, shop: dict[str, str]) -> None:
    lines = lines_of(framework, "-c", "import tasks; tasks.main()", **shop)

    assert [line["mode"] for line in lines] == ["sync", "async"]
    for line in lines:
        assert_continued(line)


def test_a_request_is_served_in_its_trace_and_answered_with_its_context(framework: Environment) -> None:
    inside, outside = lines_of(framework, "web.py")

    assert_continued(inside)
    written = TraceContext.from_traceparent(inside["written"]["traceparent"])
    assert written.span_id == inside["seen"]["span"]
    assert outside["seen"]["parent"] is None
    assert set(outside["written"]) == {"traceparent"}
    assert set(inside["written"]) == {"traceparent", "tracestate"}, "baggage is for services, not for clients"


def test_an_outbox_keeps_the_context_until_the_event_is_sent(framework: Environment) -> None:
    """In a table of the application's own, as that of a database is another package's."""
    lines = lines_of(framework, "outbox.py", SPAKKY_OUTBOX__POLLING_INTERVAL_SECONDS="0.05")

    assert [line["mode"] for line in lines] == ["sync", "async"]
    assert [line["written"] for line in lines] == [["traceparent"]] * 2
    for line in lines:
        assert (line["seen"]["trace"], line["seen"]["span"]) == (line["sent"]["trace"], line["sent"]["span"])


def test_a_call_over_grpc_is_served_in_its_trace(framework: Environment) -> None:
    (line,) = lines_of(framework, "rpc.py")

    assert_continued(line)
    assert TraceContext.from_traceparent(line["written"]["traceparent"]).span_id == line["seen"]["span"]


@pytest.mark.parametrize(("number", "printed"), [(0, "True\n"), (1, "tenant=acme\n")])
def test_the_page_of_the_framework_shows_code_that_runs(
    framework: Environment, tmp_path: Path, number: int, printed: str
) -> None:
    blocks = programs_of(PAGE)
    (tmp_path / "shop.py").write_text(blocks[number], encoding="utf-8")

    assert len(blocks) == 2
    assert run(framework, tmp_path / "shop.py") == printed


def test_no_variable_of_this_process_configures_the_others(
    framework: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPAKKY_TRACING_RECORD", "spans.jsonl")

    assert "SPAKKY_TRACING_RECORD" in os.environ
    assert "SPAKKY_TRACING_RECORD" not in framework.variables()


def test_without_a_python_for_it_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pythons, "VERSIONS", ("3.99", "3.98"))

    with pytest.raises(Unavailable, match=r"^there is no Python 3\.98 or 3\.99 with which") as caught:
        pythons.find()

    assert caught.value.remedy == "install one, so that it is on the path or pyenv has it"
