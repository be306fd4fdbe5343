"""A project of a user, and the fixture itself, also where the plugin is not installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from spakky.tracing.testing import recorded_traces
from testing.nested import Project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from spakky.tracing.testing import Traces


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    return Project(folder)


@pytest.fixture
def traces() -> Iterator[Traces]:
    with recorded_traces() as traces:
        yield traces
