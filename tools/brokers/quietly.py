"""Programs whose output matters only if they fail."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from brokers.guarded import last_lines
from brokers.unavailable import Failed


def run_quietly(
    command: Sequence[str | Path],
    aim: str,
    seconds: int,
    *,
    variables: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> None:
    """Run *command* to its end.

    Args:
        command: The program and its arguments.
        aim: What it is run for, such as `fetch Kafka`.
        seconds: How long it may take.
        variables: What is added to its environment; `None` for nothing.
        folder: Where it runs; `None` for here.

    Raises:
        Failed: It says that it failed, or takes longer.
    """
    name = Path(command[0]).name
    try:
        subprocess.run(
            command,
            check=True,
            cwd=folder,
            env={**os.environ, **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
    except subprocess.CalledProcessError as error:
        raise Failed(reason=f"{name} cannot {aim} ({last_lines(error.output)})") from error
    except subprocess.TimeoutExpired as error:
        raise Failed(reason=f"{name} did not {aim} in {seconds} seconds") from error
