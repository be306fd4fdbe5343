"""pytest on the small project of a user, who has the package installed and has done nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Final

import spakky.tracing

if TYPE_CHECKING:
    from collections.abc import Mapping

_ROOT: Final = Path(__file__).parents[2]
_SOURCES: Final = Path(spakky.tracing.__file__).parents[2]


class Project:
    """A folder with tests of a user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._installed = folder.parent / f"{folder.name}-installed"
        _install_entry_point(self._installed)
        self.write("pytest.ini", "[pytest]\nasyncio_default_fixture_loop_scope = function\n")

    def write(self, name: str, source: str) -> Path:
        path = self.folder / name
        path.write_text(dedent(source), encoding="utf-8")
        return path

    def run(
        self, *arguments: str, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run pytest; warnings are errors."""
        quietly = ["-q", "-p", "no:cacheprovider", "-Werror"]
        return self._run("-m", "pytest", *quietly, *arguments, variables=variables)

    def python(self, *arguments: str) -> str:
        """Run a file of the project without pytest, and return what it says."""
        finished = self._run(*arguments)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout + finished.stderr

    def _run(
        self, *arguments: str, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=_environment(self._installed, variables or {}),
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    def passes(self, *arguments: str, **variables: str) -> str:
        finished = self.run(*arguments, variables=variables)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout

    def fails(self, *arguments: str, **variables: str) -> str:
        finished = self.run(*arguments, variables=variables)
        assert finished.returncode == 1, finished.stdout + finished.stderr
        return finished.stdout


def errors_in(output: str) -> list[str]:
    """Return what pytest prints of errors, less its own prefix."""
    return [line[1:].strip() for line in output.splitlines() if line.startswith("E ")]


def _install_entry_point(folder: Path) -> None:
    """Install what pip does of the package for pytest: its entry point, as `pyproject.toml` has it."""
    settings = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    points = settings["entry-points"]["pytest11"]
    metadata = folder / "spakky_tracing-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: spakky-tracing\nVersion: 0\n")
    lines = [f"{name} = {module}\n" for name, module in points.items()]
    (metadata / "entry_points.txt").write_text("".join(["[pytest11]\n", *lines]), encoding="utf-8")


def _environment(installed: Path, variables: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "SPAKKY_"))}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(installed), str(_SOURCES)]), **variables}
