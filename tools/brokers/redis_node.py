"""Redis as a process."""

from brokers import debian
from brokers.executables import find_executable
from brokers.guarded import Guarded
from brokers.run import Report, Run

PACKAGE = "redis-server"


def prepare(report: Report) -> None:
    """Install Redis unless it is there.

    Raises:
        Unavailable: It is not there and cannot be installed.
    """
    if not find_executable("redis-server"):
        debian.install(PACKAGE, report)


def start(guarded: Guarded, port: int, run: Run) -> str:
    """Start a server that stores nothing.

    Raises:
        Unavailable: It is not installed.
    """
    server = find_executable("redis-server")
    if not server:
        raise debian.not_installed(PACKAGE)
    run.report(f"redis: starting {server} as a process ...")
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(guarded.folder),
        "save": "",
        "appendonly": "no",
    }
    guarded.start(
        "redis", [server, *(part for name, value in options.items() for part in (f"--{name}", value))]
    )
    return str(server)
