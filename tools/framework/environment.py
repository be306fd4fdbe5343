"""The environment: the published packages, installed once, and our wheel, built for each run."""

import hashlib
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from brokers.quietly import run_quietly
from brokers.run import Report
from framework import pythons

PROJECT = Path(__file__).parents[2]
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
FOLDER = PROJECT / ".brokers" / "framework"
INSTALL_SECONDS = 600
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")


@dataclass(frozen=True)
class Environment:
    """A Python with the published packages, and ours in place of the published `spakky-tracing`.

    Attributes:
        python: Its interpreter.
        ours: The folder into which our wheel is installed, for the search path.
    """

    python: Path
    ours: Path

    def variables(self, **more: str) -> dict[str, str]:
        """Give the variables of a process: those of this one, less what would configure us there."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SPAKKY_")}
        return {**kept, "PYTHONPATH": str(self.ours), **more}


def prepare(ours: Path, report: Report) -> Environment:
    """Make the environment, or take the one that an earlier run made, and install our wheel into *ours*.

    Raises:
        Unavailable: There is no such Python, or the packages cannot be installed.
    """
    environment = Environment(_published(report), ours)
    with tempfile.TemporaryDirectory() as folder:
        _run(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder],
            "build our wheel",
        )
        (wheel,) = Path(folder).glob("*.whl")
        install = ["install", "--no-deps", "--target", str(ours), str(wheel)]
        _run([environment.python, *PIP, *install], "install our wheel")
    return environment


def _published(report: Report) -> Path:
    """Give the interpreter of the environment with the published packages."""
    python = pythons.find()
    key = hashlib.sha256(REQUIREMENTS.read_bytes() + str(python).encode()).hexdigest()[:16]
    complete = FOLDER / key
    if not complete.exists():
        report(f"Spakky Framework: installing its packages into {complete.relative_to(PROJECT)} ...")
        _install_into(complete, python)
    return complete / "bin" / "python"


def _install_into(complete: Path, python: Path) -> None:
    complete.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=complete.parent) as unfinished:
        # An environment may be moved, as long as nobody uses its scripts.
        folder = Path(unfinished, "venv")
        _run([python, "-m", "venv", folder], "create an environment")
        install = ["install", "--no-deps", "--requirement", str(REQUIREMENTS)]
        _run([folder / "bin" / "python", *PIP, *install], "install its packages")
        # Whoever installs at the same time may have been faster, with the same packages.
        with suppress(OSError):
            folder.rename(complete)


def _run(command: Sequence[str | Path], aim: str) -> None:
    run_quietly(command, aim, INSTALL_SECONDS, folder=PROJECT)
