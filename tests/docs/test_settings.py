"""`docs/settings.md` names all that can be set, and nothing else; its blocks run in `test_blocks.py`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from docs.pages import ROOT, text_of
from spakky.tracing.boundaries.options import Options

if TYPE_CHECKING:
    import pytest

PAGE: Final = text_of("docs/settings.md")
VARIABLE: Final = re.compile(r"\bSPAKKY_TRACING_[A-Z_]+\b")


def rows_of(heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without what is above its line."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [re.findall(r"[^|]+", line) for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def first_cells(heading: str) -> set[str]:
    return {row[0].strip("`") for row in rows_of(heading)}


def test_it_names_every_environment_variable_and_no_other() -> None:
    sources = (ROOT / "src").rglob("*.py")

    read = {name for source in sources for name in VARIABLE.findall(source.read_text(encoding="utf-8"))}

    assert first_cells("Environment variables") == read


def test_it_names_every_option_and_where_it_is_taken() -> None:
    assert first_cells("Options") == set(Options.__annotations__)


def test_it_names_the_setting_of_pytest(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.getini("spakky_tracing_leaks") == "error"
    assert "spakky_tracing_leaks" in first_cells("pytest")
