"""What a search for a broker ends with."""

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit


class Broker(StrEnum):
    """A broker that tests and demo run on."""

    KAFKA = "kafka"
    RABBITMQ = "rabbitmq"
    REDIS = "redis"

    @property
    def label(self) -> str:
        """The broker's name as its makers write it."""
        return {Broker.KAFKA: "Kafka", Broker.RABBITMQ: "RabbitMQ", Broker.REDIS: "Redis"}[self]

    @property
    def variable(self) -> str:
        """The environment variable that names the broker's address."""
        return {
            Broker.KAFKA: "KAFKA_BOOTSTRAP_SERVERS",
            Broker.RABBITMQ: "AMQP_URL",
            Broker.REDIS: "REDIS_URL",
        }[self]

    def address_at(self, port: int) -> str:
        """Spell the address of a broker that listens here, in the form that its clients take."""
        return {
            Broker.KAFKA: f"127.0.0.1:{port}",
            Broker.RABBITMQ: f"amqp://guest:guest@127.0.0.1:{port}/",
            Broker.REDIS: f"redis://127.0.0.1:{port}/0",
        }[self]


@dataclass(frozen=True)
class Found:
    """A broker that answers.

    Attributes:
        broker: Which one it is.
        address: Where it is, as its clients take it: `host:port` for Kafka, a URL for the others.
        how: Where it comes from, in words for a person.
        embedded: Whether it is only librdkafka's mock cluster.
    """

    broker: Broker
    address: str
    how: str
    embedded: bool = False


@dataclass(frozen=True)
class Missing:
    """A broker that is not to be had.

    Attributes:
        broker: Which one it is.
        reason: One sentence: what is left out, why, and how to get it.
    """

    broker: Broker
    reason: str


Outcome = Found | Missing


def describe(outcome: Outcome) -> str:
    """Put an outcome into one line for the top of a run."""
    if isinstance(outcome, Missing):
        return outcome.reason
    return f"{outcome.broker.label} at {without_password(outcome.address)}: {outcome.how}"


def without_password(address: str) -> str:
    """Shorten an address to what may be shown: its hosts and ports."""
    return urlsplit(address).netloc.rpartition("@")[2] if "://" in address else address
