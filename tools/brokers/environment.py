"""Brokers whose address is in the environment."""

import os

from brokers.outcome import Broker, Found, without_password
from brokers.readiness import answers
from brokers.run import Run
from brokers.unavailable import Unanswered, Unavailable


def prepare(broker: Broker, run: Run) -> None:
    """Leave the machine as it is: a broker that the environment names is somebody else's to start."""
    run.report(f"{broker}: at {without_password(_address(broker))}, says {broker.variable}")


def find(broker: Broker, run: Run) -> Found:  # noqa: ARG001 - nothing is started, so nothing is reported
    """Give the broker that the environment names.

    Raises:
        Unavailable: None is named; or nothing answers there, which is not for other sources to cover up.
    """
    address = _address(broker)
    if answers(broker, address):
        return Found(broker, address, how=f"from {broker.variable}")
    raise Unanswered(
        reason=f"no {broker.label} answers at {without_password(address)}, which {broker.variable} names",
        remedy=f"start it there or unset {broker.variable}",
    )


def _address(broker: Broker) -> str:
    address = os.environ.get(broker.variable, "").strip()
    if not address:
        raise Unavailable(reason=f"{broker.variable} is not set", remedy=f"set {broker.variable}")
    return address
