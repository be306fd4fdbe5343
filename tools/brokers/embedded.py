"""Kafka without Kafka: the mock cluster that ships inside librdkafka."""

import sys
from contextlib import ExitStack
from importlib.util import find_spec

from brokers import mock_kafka
from brokers.guarded import Guarded
from brokers.outcome import Broker, Found
from brokers.run import Run
from brokers.unavailable import Failed, Unavailable

NAME = "mock-kafka"


def prepare(broker: Broker, run: Run) -> None:
    """Check that the mock cluster can run; there is nothing to fetch for it."""
    _refuse_unless_installed()
    run.report(f"{broker}: only librdkafka's mock cluster is to be had here")


def find(broker: Broker, run: Run) -> Found:
    """Start the mock cluster.

    Raises:
        Unavailable: confluent-kafka is not installed, or cannot run it.
    """
    _refuse_unless_installed()
    run.report(f"{broker}: starting librdkafka's mock cluster ...")
    with ExitStack() as attempt:
        guarded = attempt.enter_context(Guarded())
        guarded.start(NAME, [sys.executable, "-P", mock_kafka.__file__])
        address = _printed_address(guarded, run)
        run.started.push(attempt.pop_all())
    return Found(broker, address, how="librdkafka's mock cluster", embedded=True)


def _refuse_unless_installed() -> None:
    if find_spec("confluent_kafka") is None:
        raise Unavailable(
            reason="confluent-kafka is not installed", remedy="run `pip install confluent-kafka`"
        )


def _printed_address(guarded: Guarded, run: Run) -> str:
    while not guarded.log(NAME).endswith("\n"):
        if excuse := guarded.excuse(NAME):
            raise Failed(reason=f"librdkafka's mock cluster did not start: {excuse}")
        run.pause(0.05)
    return guarded.log(NAME).splitlines()[-1]
