"""Which services an order passes, as far as the brokers are to be had."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from brokers import Found, Missing, Outcome

PROJECT = Path(__file__).parents[2]
WORKER = ("celery", "--quiet", "--app", "examples.demo.packing", "worker")
WORKER_OPTIONS = ("--pool", "prefork", "--concurrency", "2", "--without-gossip", "--without-mingle")


@dataclass(frozen=True)
class Service:
    """One process, and where it takes orders from.

    Attributes:
        name: Its name in spans and logs.
        summary: What it is, in words for a person.
        system: What it receives from: `http`, `kafka`, `rabbitmq` or `celery`.
        destination: The path, topic or queue there.
        module: The module that Python runs, and its arguments.
    """

    name: str
    summary: str
    system: str
    destination: str
    module: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        """The command that runs it."""
        return [sys.executable, "-m", *self.module]


@dataclass(frozen=True)
class Route:
    """The services in the order in which they are passed.

    Attributes:
        run: Makes the names of topics and queues different from those of every other run.
        kafka: What was found of Kafka.
        rabbitmq: What was found of RabbitMQ.
    """

    run: str
    kafka: Outcome
    rabbitmq: Outcome

    @property
    def services(self) -> list[Service]:
        """The services; those without a broker are left out."""
        shop = _service("shop", "an ASGI application on uvicorn", "http", "/orders")
        billing = _service("billing", "an aiokafka consumer", "kafka", f"orders-{self.run}")
        shipping = _service("shipping", "an aio-pika consumer", "rabbitmq", f"paid-{self.run}")
        worker = Service(
            "worker", "a Celery worker (prefork)", "celery", f"tasks-{self.run}", WORKER + WORKER_OPTIONS
        )
        return [
            shop,
            *([billing] if isinstance(self.kafka, Found) else []),
            *([shipping] if isinstance(self.rabbitmq, Found) else []),
            worker,
        ]

    def sentences(self) -> list[str]:
        """Say what is left out and how to get it; empty if all brokers are there."""
        said = []
        if isinstance(self.kafka, Missing):
            said.append(f"{self.kafka.reason} So there is no billing, and shop sends to what comes next.")
        elif self.kafka.embedded:
            said.append(
                f"Apache Kafka is left out, and in its place is {self.kafka.how}; to have it, {_remedy()}."
            )
        if isinstance(self.rabbitmq, Missing):
            said.append(
                f"{self.rabbitmq.reason} So there is no shipping, and Celery's messages are files in a "
                "temporary folder."
            )
        return said

    def environment(self, service: Service, folder: Path) -> dict[str, str]:
        """Give the environment that a service runs in; what it writes goes to *folder*."""
        transport, options = self._celery_transport(folder)
        return {
            **os.environ,
            **{found.broker.variable: found.address for found in self._found()},
            "CELERY_BROKER_URL": transport,
            "DEMO_CELERY_TRANSPORT": json.dumps(options),
            "DEMO_NEXT": self._next(service),
            "DEMO_QUEUE": f"paid-{self.run}",
            "DEMO_SPANS": str(folder / "spans.jsonl"),
            "DEMO_TASKS": f"tasks-{self.run}",
            "DEMO_TOPIC": f"orders-{self.run}",
            "PYTHONPATH": os.pathsep.join(map(str, _import_path())),
            "TMPDIR": str(folder),
        }

    def _found(self) -> list[Found]:
        return [outcome for outcome in (self.kafka, self.rabbitmq) if isinstance(outcome, Found)]

    def _next(self, service: Service) -> str:
        following = self.services[self.services.index(service) + 1 :]
        return following[0].system if following else "celery"

    def _celery_transport(self, folder: Path) -> tuple[str, dict[str, object]]:
        if isinstance(self.rabbitmq, Found):
            return self.rabbitmq.address, {}
        tasks = folder / "tasks"
        tasks.mkdir(exist_ok=True)
        folders = ("data_folder_in", "data_folder_out", "control_folder")
        return "files://localhost", {**dict.fromkeys(folders, str(tasks)), "polling_interval": 0.1}


def _import_path() -> list[Path]:
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [PROJECT, *(Path(folder).resolve() for folder in inherited if folder)]


def _remedy() -> str:
    if "BROKERS_SOURCE" in os.environ:
        return "unset BROKERS_SOURCE"
    return "start a Docker engine, install Java 17 and Maven, or set KAFKA_BOOTSTRAP_SERVERS"


def _service(name: str, summary: str, system: str, destination: str) -> Service:
    return Service(name, summary, system, destination, (f"examples.demo.{name}",))
