"""The brokers of the run, and the watch over leaked contexts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import pytest

import browser as browsers
from brokers import Broker, Brokers, Found, Missing, describe
from brokers.unavailable import Unavailable
from cli.browsing import start
from framework import Environment, prepare
from spakky.tracing.context import TraceContext

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome

pytest.register_assert_rewrite("spakky.tracing.testing")

_BROKERS: Final = pytest.StashKey[Brokers]()
_NEEDS: Final = {
    "kafka_address": Broker.KAFKA,
    "amqp_url": Broker.RABBITMQ,
    "redis_url": Broker.REDIS,
}
_LISTED: Final = {
    "way": "ways",
    "recorded_way": "recorded_ways",
    "fitting_way": "fitting_ways",
    "loop": "loops",
    "hostile": "hostile_values",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--missing-brokers",
        choices=["fail", "leave-out"],
        default="fail",
        help="what becomes of the tests of a broker that is not to be had (default: fail)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_BROKERS] = Brokers(report=_say_nothing)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Find the brokers that the selected tests need, and say at the top of the run which they are."""
    if session.config.option.collectonly:
        return
    needed = {_NEEDS[name] for item in session.items for name in _fixtures(item) if name in _NEEDS}
    brokers = session.config.stash[_BROKERS]
    brokers.start(*needed)
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    assert isinstance(reporter, pytest.TerminalReporter)
    for broker in sorted(needed):
        reporter.write_line(f"broker: {describe(brokers.find(broker))}")


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_BROKERS].stop()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a contract's test for each of what its class lists."""
    for name, attribute in _LISTED.items():
        if name in metafunc.fixturenames and metafunc.cls is not None:
            values = getattr(metafunc.cls, attribute)
            metafunc.parametrize(name, [pytest.param(value, id=repr(value)[:40]) for value in values])


@pytest.fixture(autouse=True)
def no_leaked_context() -> Iterator[None]:
    assert TraceContext.get() is None, "an earlier test leaked a trace context"
    yield
    assert TraceContext.get() is None, "this test leaked a trace context"


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config) -> Found:
    """Kafka, which may be librdkafka's mock cluster."""
    return _found(pytestconfig, Broker.KAFKA)


@pytest.fixture(scope="session")
def kafka_address(kafka: Found) -> str:
    return kafka.address


@pytest.fixture(scope="session")
def apache_kafka_address(pytestconfig: pytest.Config, kafka: Found, kafka_address: str) -> str:
    """Kafka as it is in production, for what the mock cluster does not do."""
    if kafka.embedded:
        _leave_out(pytestconfig, f"This needs Apache Kafka; there is only {kafka.how}.")
    return kafka_address


@pytest.fixture(scope="session")
def amqp_url(pytestconfig: pytest.Config) -> str:
    return _found(pytestconfig, Broker.RABBITMQ).address


@pytest.fixture(scope="session")
def redis_url(pytestconfig: pytest.Config) -> str:
    return _found(pytestconfig, Broker.REDIS).address


@pytest.fixture(scope="session")
def framework(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Spakky Framework's published packages, with ours among them."""
    found = _environment(tmp_path_factory.mktemp("ours"))
    if isinstance(found, str):
        _leave_out(pytestconfig, found)
    return found


@pytest.fixture(scope="session")
def browser(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Chromium without a window."""
    try:
        found = browsers.find()
    except Unavailable as refusal:
        _leave_out(pytestconfig, browsers.explain(refusal))
    chromium = start(found, tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.quit()


def _environment(ours: Path) -> Environment | str:
    """Return the framework's environment, or in one sentence why there is none."""
    try:
        return prepare(ours, _say_nothing)
    except Unavailable as refusal:
        remedy = f"; to have it, {refusal.remedy}" if refusal.remedy else ""
        return f"Spakky Framework is left out, because {refusal.reason}{remedy}."


def _fixtures(item: pytest.Item) -> list[str]:
    return item.fixturenames if isinstance(item, pytest.Function) else []


def _found(config: pytest.Config, broker: Broker) -> Found:
    outcome = config.stash[_BROKERS].find(broker)
    if isinstance(outcome, Missing):
        _leave_out(config, outcome.reason)
    return outcome


def _say_nothing(line: str) -> None:
    """Drop what is said of the set-up: the top of the run says what came of it."""


def _leave_out(config: pytest.Config, reason: str) -> NoReturn:
    if config.getoption("--missing-brokers") == "leave-out":
        pytest.skip(reason)
    pytest.fail(reason, pytrace=False)
