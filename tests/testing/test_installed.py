"""The plugin as a user gets it: `pip install spakky-tracing pytest` into an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SHOP = """
from spakky.tracing.carriers.mapping import MappingCarrier
from spakky.tracing.integrations import environ
from spakky.tracing.testing import CarrierContract

class TestMine(CarrierContract[dict[str, str]]):
    carrier = MappingCarrier()

    def native(self, headers):
        return dict(headers)

def test_a_child_gets_the_trace(traces):
    with traces.root():
        traces.message(environ.headers()).must_carry_the_current_trace()

def test_one_fails(traces):
    traces.span("process orders")
"""


def run(*command: str | Path, folder: Path = ROOT, code: int = 0) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert finished.returncode == code, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel, "pytest")
    return python


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "test_shop.py").write_text(SHOP, encoding="utf-8")
    return tmp_path


def test_nothing_else_is_needed(python: Path, folder: Path) -> None:
    output = run(python, "-Werror", "-m", "pytest", "-Werror", "test_shop.py", folder=folder, code=1)

    assert "plugins: spakky-tracing-" in output
    assert "1 failed, 31 passed" in output
    assert "AssertionError: no recorded span is 'process orders'" in output


def test_workers_of_xdist_have_it_too(python: Path, folder: Path) -> None:
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "pytest-xdist")

    output = run(python, "-m", "pytest", "-Werror", "-n2", "test_shop.py", folder=folder, code=1)

    assert "2 workers" in output
    assert "1 failed, 31 passed" in output
