"""A hook of mkdocs: pages that stay at the top of the repository are pages of the site, too.

There they say `docs/celery.md`; on the site that page is `celery.md`. So each link is seen from `docs/`.
"""

import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGES: Final = ("RATIONALE.md", "CHANGELOG.md", "CONTRIBUTING.md")
_LINK_INTO_DOCS: Final = re.compile(r"\]\(docs/")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, by their names in lower case."""
    top = Path(config.config_file_path).parent
    for name in PAGES:
        text = (top / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name.lower(), content=seen_from_docs(text)))
    return files


def seen_from_docs(text: str) -> str:
    """Return a page of the top folder with its links as the pages in `docs/` write them."""
    text = _LINK_INTO_DOCS.sub("](", text)
    for name in PAGES:
        text = re.sub(rf"\]\({re.escape(name)}(?=[)#])", f"]({name.lower()}", text)
    return text
