"""What the project consists of, read from its files."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import spakky.tracing

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = Path(spakky.tracing.__file__).parent


def module_names(folder: str = "") -> list[str]:
    """Return the names of all public modules below a *folder* of the package, dotted."""
    files = [path.relative_to(PACKAGE.parents[1]) for path in (PACKAGE / folder).rglob("*.py")]
    parts = [path.with_suffix("").parts for path in files]
    public = [part[:-1] if part[-1] == "__init__" else part for part in parts]
    return sorted(".".join(part) for part in public if not any(name.startswith("_") for name in part))


def file_of(module: str) -> Path:
    """Return the source of a *module*."""
    path = PACKAGE.parents[1].joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def short_names(folder: str) -> list[str]:
    """Return the last parts of the names of the public modules in a *folder*."""
    names = [module.rpartition(".")[2] for module in module_names(folder)]
    return [name for name in names if name != folder]


def settings() -> dict[str, Any]:
    """Return what `pyproject.toml` says of the project."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


# kafka-python 3.0 reads its protocol by two functions that Python 3.11 and 3.12 call deprecated.
_IGNORED: Final = [f"-Wignore:{name} is deprecated:DeprecationWarning" for name in ("read_text", "open_text")]


def run(code: str, *paths: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run *code* in a new interpreter that finds *paths* first, and then what this one finds."""
    search = os.pathsep.join(map(str, [*paths, PACKAGE.parents[1], *filter(None, sys.path)]))
    return subprocess.run(
        [sys.executable, "-Werror", *_IGNORED, "-c", code],
        env={**os.environ, "PYTHONPATH": search, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
