"""Where programs are."""

import os
import shutil
from pathlib import Path

# Debian puts servers where only root's search path leads.
SERVER_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/opt/homebrew/sbin")


def find_executable(name: str) -> Path | None:
    """Look for a program on the search path and where servers are installed."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *SERVER_FOLDERS]))
    return Path(found) if found else None
