"""What pages name is there: extras, targets of make, modules and what is in them, files."""

from __future__ import annotations

import importlib
import re
from functools import reduce
from typing import Final

import pytest

from architecture.project import settings
from docs.pages import ROOT, pages, text_of

TOP: Final = ["CHANGELOG.md", "CONTRIBUTING.md", "RATIONALE.md"]
FILE: Final = re.compile(r"`((?:docs|examples|src|tests|tools)/[\w./-]+\w)`")
NAME: Final = re.compile(r"`(spakky\.tracing(?:\.\w+)+)")
TARGET: Final = re.compile(r"(?:`|^ {4}|^)make ([a-z]+)", re.MULTILINE)
EXTRAS: Final = re.compile(r"spakky-tracing\[([\w,-]+)\]")


def named(pattern: re.Pattern[str]) -> list[object]:
    """Return each of what is named, with its page."""
    return [
        pytest.param(name, id=f"{page}-{name}")
        for page in [*TOP, *pages()]
        for name in sorted(set(pattern.findall(text_of(page))))
    ]


@pytest.mark.parametrize("extras", named(EXTRAS))
def test_what_is_installed_is_an_extra(extras: str) -> None:
    assert set(extras.split(",")) <= settings()["optional-dependencies"].keys()


@pytest.mark.parametrize("target", named(TARGET))
def test_what_is_made_is_a_target(target: str) -> None:
    assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("file", named(FILE))
def test_a_file_is_there(file: str) -> None:
    assert (ROOT / file).exists() or file.startswith("docs/<")


@pytest.mark.parametrize("name", named(NAME))
def test_a_name_is_there(name: str) -> None:
    """It is a module, or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 1, -1):
        try:
            module = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        reduce(getattr, parts[length:], module)
        return
    pytest.fail(f"{name} is neither a module nor in one")
