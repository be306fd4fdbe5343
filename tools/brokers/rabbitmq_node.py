"""RabbitMQ as a process, with an Erlang port mapper of its own."""

import os
import socket
import time
from pathlib import Path

from brokers import debian
from brokers.executables import find_executable
from brokers.guarded import Guarded
from brokers.ports import free_ports
from brokers.run import Report, Run
from brokers.unavailable import Failed, Unavailable

PACKAGE = "rabbitmq-server"
# Debian's /usr/sbin/rabbitmq-server switches to a user of its own; what it wraps runs as anybody.
UNWRAPPED_BY_DEBIAN = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
PORT_MAPPER_SECONDS = 10


def prepare(report: Report) -> None:
    """Install RabbitMQ unless it is there.

    Raises:
        Unavailable: It is not there and cannot be installed.
    """
    if not _server():
        debian.install(PACKAGE, report)


def start(guarded: Guarded, port: int, run: Run) -> str:
    """Start a node whose every port is on the loopback interface and whose every file is in one folder.

    Raises:
        Unavailable: It is not installed.
    """
    server, port_mapper = _server(), find_executable("epmd")
    if not server:
        raise debian.not_installed(PACKAGE)
    if not port_mapper:
        raise Unavailable(reason="Erlang's epmd is not on the path", remedy="put epmd there")
    run.report(f"rabbitmq: starting {server} as a process ...")
    _write_configuration(guarded.folder, port)
    environment = _environment(guarded.folder)
    _start_port_mapper(guarded, port_mapper, environment, run)
    guarded.start("rabbitmq", [server], environment)
    return str(server)


def _server() -> Path | None:
    return UNWRAPPED_BY_DEBIAN if UNWRAPPED_BY_DEBIAN.exists() else find_executable("rabbitmq-server")


def _write_configuration(folder: Path, port: int) -> None:
    (folder / "rabbitmq.conf").write_text(
        # A full disk would otherwise block every publisher without a word.
        f"listeners.tcp.1 = 127.0.0.1:{port}\ndisk_free_limit.absolute = 1MB\n"
    )
    (folder / "enabled_plugins").write_text("[].\n")


def _environment(folder: Path) -> dict[str, str]:
    port_mapper_port, distribution_port = free_ports(2)
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "ERL_AFLAGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "ERL_CRASH_DUMP_SECONDS": "0",
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(port_mapper_port),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
        "RABBITMQ_DIST_PORT": str(distribution_port),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_NODENAME": "rabbit@127.0.0.1",
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        # An address in the node's name counts as a long name, and needs no resolver.
        "RABBITMQ_USE_LONGNAME": "true",
    }


def _start_port_mapper(guarded: Guarded, port_mapper: Path, environment: dict[str, str], run: Run) -> None:
    # A node that finds no port mapper starts one itself, which listens everywhere and stays for ever.
    guarded.start("epmd", [port_mapper], environment)
    deadline = time.monotonic() + PORT_MAPPER_SECONDS
    while not _listens(int(environment["ERL_EPMD_PORT"])):
        if excuse := guarded.excuse("epmd"):
            raise Failed(reason=f"it did not start: {excuse}")
        if time.monotonic() > deadline:
            raise Failed(reason="it did not start: its port mapper epmd does not answer")
        run.pause(0.02)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
