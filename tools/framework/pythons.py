"""The search for a Python that Spakky Framework runs on."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from brokers.unavailable import Unavailable

# What its packages ask for, and what their own dependencies have wheels for.
VERSIONS = ("3.13", "3.12")
# A virtual environment is made of these, and Debian may leave the second one out.
PROBE = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"


def find() -> Path:
    """Give a Python of the search path, of pyenv, or the one that runs this.

    Raises:
        Unavailable: There is none.
    """
    for python in _candidates():
        if _version(python) in VERSIONS:
            return python
    raise Unavailable(
        reason=f"there is no Python {' or '.join(reversed(VERSIONS))} with which an environment can be made",
        remedy="install one, so that it is on the path or pyenv has it",
    )


def _candidates() -> Iterator[Path]:
    yield Path(sys.executable)
    for version in VERSIONS:
        if found := shutil.which(f"python{version}"):
            yield Path(found)
        pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
        yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python"))


def _version(python: Path) -> str:
    """Tell which one it is; empty if it cannot be run, as pyenv's for a version that is not chosen."""
    try:
        ran = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, check=False, timeout=30)
    except OSError:
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""
