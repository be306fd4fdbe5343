"""Brokers in Docker containers, started through testcontainers."""

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit
from uuid import uuid4

from brokers import remove_containers
from brokers.guarded import Guarded, last_lines
from brokers.outcome import Broker, Found
from brokers.ports import free_port
from brokers.readiness import wait_until_it_answers
from brokers.run import Run
from brokers.unavailable import Failed, Unavailable

if TYPE_CHECKING:
    from docker import DockerClient
    from testcontainers.core.container import DockerContainer

# docker-compose.yml names the same ones.
IMAGES = {
    Broker.KAFKA: "apache/kafka:4.1.1",
    Broker.RABBITMQ: "rabbitmq:4.1-management-alpine",
    Broker.REDIS: "redis:7-alpine",
}
DEFAULT_ENGINE = "unix:///var/run/docker.sock"
ENGINE_SECONDS = 10
SILENT_PULL_SECONDS = 30
PULL_SECONDS = 300


def prepare(broker: Broker, run: Run) -> None:
    """Pull the broker's image unless it is there.

    Raises:
        Unavailable: No Docker engine answers, or the image cannot be pulled.
    """
    image = IMAGES[broker]
    with _engine(ENGINE_SECONDS) as engine, _failing_to(f"look for {image}"):
        if engine.images.list(name=image):
            return
    run.report(f"{broker}: pulling Docker image {image} ...")
    with _engine(SILENT_PULL_SECONDS) as engine, _failing_to(f"pull {image}"):
        _pull(engine, image, run)


def find(broker: Broker, run: Run) -> Found:
    """Start a container and wait until the broker in it answers.

    Raises:
        Unavailable: There is no engine or no image, or the broker did not start.
    """
    prepare(broker, run)
    run.report(f"{broker}: starting Docker image {IMAGES[broker]} ...")
    port = free_port()
    address = broker.address_at(port)
    with ExitStack() as attempt:
        guarded = attempt.enter_context(Guarded())
        with _failing_to(f"run {IMAGES[broker]}"), _started(broker, port, guarded) as container:
            wait_until_it_answers(broker, address, excuse=lambda: _excuse(container), run=run)
        run.started.push(attempt.pop_all())
    return Found(broker, address, how=f"Docker image {IMAGES[broker]}")


@contextmanager
def _engine(timeout: int) -> Iterator["DockerClient"]:
    if find_spec("testcontainers") is None:
        raise Unavailable(reason="testcontainers is not installed", remedy="run `pip install testcontainers`")
    from docker.errors import DockerException  # noqa: PLC0415 - the package has to import without it
    from testcontainers.core.docker_client import DockerClient, get_docker_host  # noqa: PLC0415 - likewise

    _refuse_unless_something_listens(get_docker_host() or DEFAULT_ENGINE)
    try:
        engine = DockerClient(timeout=timeout).client
    except DockerException as error:
        raise _no_engine() from error
    with closing(engine):
        yield engine


def _refuse_unless_something_listens(host: str) -> None:
    # The client would find that out, too, but leave a socket behind that Python warns about.
    url = urlsplit(host)
    if url.scheme != "unix":
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(url.path)
        except OSError as error:
            raise _no_engine() from error


def _no_engine() -> Unavailable:
    return Unavailable(reason="no Docker engine answers", remedy="start a Docker engine")


@contextmanager
def _failing_to(act: str) -> Iterator[None]:
    from docker.errors import APIError, DockerException  # noqa: PLC0415 - the package has to import without it
    from requests.exceptions import RequestException  # noqa: PLC0415 - likewise

    try:
        yield
    except (DockerException, RequestException) as error:
        explanation = error.explanation if isinstance(error, APIError) else None
        raise Failed(reason=f"Docker cannot {act} ({last_lines(explanation or str(error))})") from error


def _pull(engine: "DockerClient", image: str, run: Run) -> None:
    repository, _, tag = image.rpartition(":")
    deadline = time.monotonic() + PULL_SECONDS
    for progress in engine.api.pull(repository, tag, stream=True, decode=True):
        run.pause(0)
        if "error" in progress:
            raise Failed(reason=f"Docker cannot pull {image} ({last_lines(progress['error'])})")
        if time.monotonic() > deadline:
            raise Failed(reason=f"Docker did not pull {image} within {PULL_SECONDS} seconds")


@contextmanager
def _started(broker: Broker, port: int, guarded: Guarded) -> Iterator["DockerContainer"]:
    from testcontainers.core.config import testcontainers_config  # noqa: PLC0415 - the package has to import without it
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - likewise

    # The guard removes the container, so testcontainers' own way, one more image to pull, is not needed.
    testcontainers_config.ryuk_disabled = True
    mark = uuid4().hex
    guarded.at_end([sys.executable, "-P", remove_containers.__file__, mark])
    container = DockerContainer(IMAGES[broker], env=_settings(broker, port))
    container.with_kwargs(labels={remove_containers.LABEL: mark})
    # Docker takes an address with the port; testcontainers' type for it leaves the address out.
    cast("dict[str, tuple[str, int]]", container.ports)[f"{_inner_port(broker, port)}/tcp"] = (
        "127.0.0.1",
        port,
    )
    with closing(container.get_docker_client().client):
        yield container.start()


def _inner_port(broker: Broker, port: int) -> int:
    # Kafka tells its clients where it is, and itself too; the same port inside and outside is right for both.
    return {Broker.KAFKA: port, Broker.RABBITMQ: 5672, Broker.REDIS: 6379}[broker]


def _settings(broker: Broker, port: int) -> dict[str, str]:
    if broker is not Broker.KAFKA:
        return {}
    return {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "KAFKA_LISTENERS": f"PLAINTEXT://:{port},CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "KAFKA_NUM_PARTITIONS": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "1",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_NUM_PARTITIONS": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
    }


def _excuse(container: "DockerContainer") -> str | None:
    wrapped = container.get_wrapped_container()
    wrapped.reload()
    if wrapped.status in {"created", "running", "restarting"}:
        return None
    return f"its container ended ({last_lines(wrapped.logs().decode(errors='replace'))})"
