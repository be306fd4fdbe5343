"""Creates a virtual environment: `python3 tools/create_venv.py FOLDER`.

Debian ships Python without what that takes; as root, this installs it.
"""

import shutil
import subprocess
import sys

if sys.version_info < (3, 11):  # noqa: UP036 - whoever runs this with an older Python has to be told
    sys.exit("Python 3.11 or later is needed: name one, as in `make setup PYTHON=python3.12`.")

from brokers import debian
from brokers.search import print_to_stderr
from brokers.unavailable import Unavailable

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def main(folder: str) -> None:
    """Create it, or leave nothing behind and say why not."""
    excuse = create(folder)
    if excuse and install_what_debian_leaves_out():
        excuse = create(folder)
    if excuse:
        sys.exit(f"{sys.executable} -m venv failed:\n{excuse}")


def create(folder: str) -> str:
    """Create the environment and give an empty string, or what went wrong."""
    made = subprocess.run(
        [sys.executable, "-m", "venv", folder],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if made.returncode == 0:
        return ""
    shutil.rmtree(folder, ignore_errors=True)
    return made.stdout


def install_what_debian_leaves_out() -> bool:
    """Install the venv package of this version of Python, and tell whether that went well."""
    try:
        debian.install(f"python{VERSION}-venv", print_to_stderr)
    except Unavailable as refusal:
        print_to_stderr(refusal.reason)
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1])
