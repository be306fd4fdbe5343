"""Free ports on the loopback interface."""

import random
import socket
from collections.abc import Iterator
from itertools import islice

# Linux gives outgoing connections higher ports: none of them can take one of these before its broker does.
CANDIDATES = range(20_000, 32_000)


def free_port() -> int:
    """Pick a port that nothing listens on."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Pick several different ports that nothing listens on."""
    return list(islice(_free_ports(), count))


def _free_ports() -> Iterator[int]:
    for port in random.sample(CANDIDATES, len(CANDIDATES)):
        if _is_free(port):
            yield port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
