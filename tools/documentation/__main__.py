"""Builds the site, and fails if it warns of anything: `python -m documentation [FOLDER]`."""

import logging
import os
import sys
from pathlib import Path
from typing import Final

os.environ["NO_MKDOCS_2_WARNING"] = "1"  # of what a later major version will bring: it is not ours

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

PROJECT: Final = Path(__file__).parents[2]


def main(folder: str = ".site") -> None:
    """Build the site into a folder, and say where its first page is."""
    logging.basicConfig(format="%(levelname)s %(message)s")
    os.chdir(PROJECT)  # extensions are named from here
    config = load_config("mkdocs.yml", site_dir=folder)
    config.plugins.on_startup(command="build", dirty=False)
    try:
        build(config)
    except Abort as abort:
        sys.exit(f"{abort}; see above")
    print(f"site: {Path(config.site_dir) / 'index.html'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
