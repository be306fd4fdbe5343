"""Brokers as plain processes of this machine."""

import re
from contextlib import ExitStack
from typing import Protocol

from brokers import kafka_node, rabbitmq_node, redis_node
from brokers.guarded import Guarded
from brokers.outcome import Broker, Found
from brokers.ports import free_port
from brokers.readiness import wait_until_it_answers
from brokers.run import Report, Run


class Node(Protocol):
    """How one broker runs as a process; a module with these two functions."""

    def prepare(self, report: Report) -> None:
        """Install what is missing, or raise `Unavailable`."""

    def start(self, guarded: Guarded, port: int, run: Run) -> str:
        """Start it on a port of 127.0.0.1 under its own name, and say where it was started from."""
        ...


NODES: dict[Broker, Node] = {
    Broker.KAFKA: kafka_node,
    Broker.RABBITMQ: rabbitmq_node,
    Broker.REDIS: redis_node,
}


def prepare(broker: Broker, run: Run) -> None:
    """Install what the broker needs to run as a process.

    Raises:
        Unavailable: It can not be installed here.
    """
    NODES[broker].prepare(run.report)


def find(broker: Broker, run: Run) -> Found:
    """Start the broker as a process and wait until it answers.

    Raises:
        Unavailable: It is not installed, or did not start.
    """
    port = free_port()
    address = broker.address_at(port)
    with ExitStack() as attempt:
        guarded = attempt.enter_context(Guarded())
        place = NODES[broker].start(guarded, port, run)
        wait_until_it_answers(broker, address, excuse=lambda: guarded.excuse(broker), run=run)
        run.started.push(attempt.pop_all())
    return Found(broker, address, how=f"process started from {place}{_version(broker, guarded.log(broker))}")


def _version(broker: Broker, log: str) -> str:
    named = re.search(rf"{broker.label}(?: version)?[ =:]+(\d+(?:\.\d+)+)", log)
    return f" ({broker.label} {named[1]})" if named else ""
