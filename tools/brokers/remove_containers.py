"""Removes the containers of a run; a script that the run's guard starts when the run is over."""

import sys
import time

LABEL = "spakky-tracing.brokers"
LATE_SECONDS = 2


def main(mark: str) -> None:
    """Remove the containers that carry a mark, also one that the engine is still about to create."""
    if not remove(mark):
        time.sleep(LATE_SECONDS)
        remove(mark)


def remove(mark: str) -> int:
    """Remove the containers that carry a mark now, and count them."""
    import docker  # noqa: PLC0415 - the package has to import without it

    engine = docker.from_env()
    containers = engine.containers.list(all=True, filters={"label": f"{LABEL}={mark}"})
    for container in containers:
        container.remove(force=True, v=True)
    return len(containers)


if __name__ == "__main__":
    main(sys.argv[1])
