"""Apache Kafka as a process: one node that is broker and controller."""

import time
from pathlib import Path

from brokers import kafka_jars
from brokers.executables import find_executable
from brokers.guarded import Guarded
from brokers.ports import free_port
from brokers.run import Report, Run
from brokers.unavailable import Failed, Unavailable

CLUSTER_ID = "4L6g3nShT-eMCtK--X86sw"
FORMAT_SECONDS = 60
# A machine that compiles little and collects simply starts sooner, which is what a short run wants. Its
# performance data would be left in /tmp.
JVM_OPTIONS = (
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.utils.AppInfoParser=info",
)


def prepare(report: Report) -> None:
    """Fetch Kafka's jars unless they are there.

    Raises:
        Unavailable: There is no Java, or the jars cannot be fetched.
    """
    _java()
    kafka_jars.fetch(report)


def start(guarded: Guarded, port: int, run: Run) -> str:
    """Format a store and start a node on it.

    Raises:
        Unavailable: There is no Java, the jars cannot be fetched, or the store cannot be formatted.
    """
    java = _java_command(guarded.folder, jars=kafka_jars.fetch(run.report))
    run.report(f"kafka: starting Apache Kafka {kafka_jars.version()} as a process ...")
    properties = _write_properties(guarded.folder, port)
    guarded.start("format", [*java, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", properties])
    _wait_for_format(guarded, run)
    guarded.start("kafka", [*java, "kafka.Kafka", properties])
    return str(kafka_jars.FOLDER.relative_to(kafka_jars.PROJECT))


def _java() -> Path:
    java = find_executable("java")
    if not java:
        raise Unavailable(reason="Java is not installed", remedy="install Java 17 or later and Maven")
    return java


def _java_command(folder: Path, *, jars: Path) -> list[str | Path]:
    return [_java(), *JVM_OPTIONS, f"-Djava.io.tmpdir={folder}", "-cp", f"{jars}/*"]


def _write_properties(folder: Path, port: int) -> Path:
    controller_port = free_port()
    properties = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "log.dirs": folder / "data",
        "num.partitions": 1,
        "auto.create.topics.enable": "true",
        "group.initial.rebalance.delay.ms": 0,
        "offsets.topic.num.partitions": 1,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.num.partitions": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
    }
    file = folder / "server.properties"
    file.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    return file


def _wait_for_format(guarded: Guarded, run: Run) -> None:
    deadline = time.monotonic() + FORMAT_SECONDS
    while (status := guarded.exit_status("format")) is None:
        run.pause(0.05)
        if time.monotonic() > deadline:
            raise Failed(reason=f"it did not format its store within {FORMAT_SECONDS} seconds")
    if status != "0":
        raise Failed(reason=f"it did not start: {guarded.excuse('format')}")
